"""How a run ends where it is told to, or cannot go on: always in one line, with what is kept."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from accelerate import Accelerator

from action_ddim.errors import RunError, RunStopped, UserError
from action_ddim.training import tracking
from action_ddim.training.interruption import REASONS, exit_code
from action_ddim.training.run import Run
from action_ddim.training.run_folder import RunFolder
from action_ddim.training.saving import save

MEMORY_ADVICE = "reduce --batch_size (32, 16, 8, 4), --d_model (64, 32) or --data_memory_gb, or use --device cpu"
SETTLING_S = 0.2
RESUME_ADVICE = "--resume_from_checkpoint latest goes on from there"


def stop(run: Run, reason: int) -> NoReturn:
    """Save the run and end it."""
    saved = save(run)
    end(run.accelerator)
    where = f"after update {run.update} ({REASONS[reason]})"
    if not saved:
        raise RunStopped(f"the run stops {where} and could not be saved; {last_checkpoint(run.folder)}", exit_code(reason))
    raise RunStopped(
        f"the run stops {where}; {last_checkpoint(run.folder)}, {RESUME_ADVICE}",
        exit_code(reason),
    )


def end(accelerator: Accelerator) -> None:
    """Close the trackers, and the connections between processes. MUST be called on every rank."""
    tracking.finish_trackers(accelerator)
    accelerator.end_training()


def last_checkpoint(folder: RunFolder) -> str:
    """Say which checkpoint there is to go back to."""
    return f"the last good checkpoint is {folder.last_checkpoint}" if folder.last_checkpoint else "there is no checkpoint yet"


@contextmanager
def data_failures_rescued(run: Run) -> Iterator[None]:
    """Save the run where its data can no longer be read, and end it in one line that says so."""
    try:
        yield
    except (UserError, RunError, OSError) as error:
        # With several processes, the others do not come here: they are waiting for each other elsewhere.
        if run.accelerator.num_processes == 1 and is_at_update(run):
            save(run)
        raise RunError(f"{error}; {last_checkpoint(run.folder)}") from error


@contextmanager
def threads_settled() -> Iterator[None]:
    """Give gloo's threads a moment after the last exchange between processes.

    One of them may still be about to let go of a tensor, for which it needs Python's lock. When the model goes, at the end
    of the run, its process group waits for that thread, and holds the lock: the process would never end. (A barrier does not
    help: it takes the tensor over.)
    """
    try:
        yield
    finally:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            time.sleep(SETTLING_S)


@contextmanager
def failures_explained(folder: RunFolder) -> Iterator[None]:
    """Turn running out of memory into a RunError that names the flags that help."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not out_of_memory and not re.search("out of memory|can't allocate memory|not enough memory", str(error)):
            raise
        raise RunError(f"out of memory; {MEMORY_ADVICE}; {last_checkpoint(folder)}") from error


def is_at_update(run: Run) -> bool:
    """Say whether no batch waits for its update, so that the run can be saved."""
    return run.batch % run.config.gradient_accumulation_steps == 0 or run.batch == len(run.loader)
