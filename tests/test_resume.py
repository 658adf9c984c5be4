"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""

import json
import os
import signal
from contextlib import contextmanager

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from action_ddim.errors import RunStopped

from .conftest import rows, timeless

# 12 sequences in batches of 2: 6 batches, an update of 4 and one of 2, or three of 2; dropout draws from the global generator.
SETTINGS = {"batch_size": 2, "dropout": 0.1, "lr": 1e-3, "num_epochs": 2, "plot_epochs": 0, "ema_decay": 0.9}


@contextmanager
def signal_after(update: int, number: int = signal.SIGTERM):
    """Send this process a signal after so many optimizer steps."""
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1
        if steps == update:
            os.kill(os.getpid(), number)

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()


def last_checkpoint(folder):
    return max(folder.glob("checkpoint-*"))


def state(folder) -> dict:
    """Return the sha256 of everything in the last checkpoint, but where times are: weights, moments, schedule, random states."""
    manifest = json.loads((last_checkpoint(folder) / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest.items() if name != "metrics.csv"}


@pytest.mark.parametrize("accumulation", [1, 4])
def test_stopped_after_any_update_and_resumed_it_is_the_run_that_never_stopped(run, accumulation):
    settings = {**SETTINGS, "gradient_accumulation_steps": accumulation}
    whole = run("whole", **settings)
    updates = int(rows(whole)[-1]["update"])
    for update in range(1, updates, 2):
        name = f"stopped_{update}"
        with signal_after(update), pytest.raises(RunStopped, match=f"after update {update} \\(SIGTERM\\)"):
            run(name, **settings)
        folder = run(name, resume_from_checkpoint="latest", **settings)
        assert state(folder) == state(whole)
        assert timeless(folder) == timeless(whole)
