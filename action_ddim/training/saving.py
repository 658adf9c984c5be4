"""How a run is saved while it is under way, and its model uploaded: what fails is said in one line, and the run goes on."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from action_ddim.errors import UserError, is_first_process
from action_ddim.pretrained import load_pipeline
from action_ddim.training.checkpoint import (
    WriteError,
    checkpoints_to_delete,
    list_checkpoints,
    on_main,
    update_of,
    write_checkpoint,
)
from action_ddim.training.config import TrainConfig
from action_ddim.training.monitoring import card_files
from action_ddim.training.progress import Progress
from action_ddim.training.resume import is_own
from action_ddim.training.run import Run
from action_ddim.training.run_folder import RunFolder


def save(run: Run) -> bool:
    """Write `pipeline/` anew, then a checkpoint; say where that fails, and return whether it did not."""
    # A checkpoint comes last: what was done before it is not done again.
    saved = save_pipeline(run, run.folder.pipeline)
    with write_failures_said(f"a checkpoint after update {run.update}"):
        save_checkpoint(run)
        return saved
    return False


def save_checkpoint(run: Run) -> None:
    """Write `checkpoint-<update>`, then remove those beyond the limit. MUST be called on every rank.

    Raises:
        WriteError: it cannot be written; the checkpoints before it are as they were.
    """
    accelerator, folder = run.accelerator, run.folder
    run.tally.look()
    tensors = {
        "ema.safetensors": run.ema.state_dict(),
        "epoch.safetensors": run.tally.state(accelerator.gather, accelerator.num_processes, accelerator.device),
    }
    texts = {"progress.json": Progress.of(run).to_json(), "metrics.csv": folder.metrics_text()}
    final = folder.checkpoint(run.update)
    on_main(accelerator, lambda: spare(run, final))
    write_checkpoint(accelerator, final, tensors, texts)
    folder.last_checkpoint = final
    if run.config.checkpoints_total_limit:
        on_main(accelerator, lambda: prune(run))


def spare(run: Run, final: Path) -> None:
    """Set aside what has the name of a checkpoint that is about to be written, and is somebody else's."""
    if final.exists() and not is_own(run, final):
        print(f"{final} is not of this run, and set aside as {run.folder.set_aside(final)}")


def prune(run: Run) -> None:
    """Remove those of this run's checkpoints that are beyond the limit; the last one is the newest, and stays."""
    older = [path for path in list_checkpoints(run.folder.path) if update_of(path) < run.update and is_own(run, path)]
    newest = run.folder.checkpoint(run.update)
    run.folder.delete(checkpoints_to_delete([*older, newest], run.config.checkpoints_total_limit))


def save_pipeline(run: Run, final: Path, row: Mapping[str, float] | None = None) -> bool:
    """Replace a pipeline folder by the averaged weights; say where that fails, and return whether it did not.

    Its card says how good they are: as `row` does, or by default as the last epoch was.
    """

    def write() -> None:
        with run.ema.averaged():
            run.folder.save_pipeline(run.pipeline, final, card_files(run, row))

    with write_failures_said(str(final)):
        on_main(run.accelerator, write)
        return True
    return False


def check_upload(config: TrainConfig) -> None:
    """Raise a UserError where `--push_to_hub` asks for what cannot be: a name that is none, or no key to the Hub."""
    if config.hub_model_id is None or not is_first_process():
        return
    try:
        validate_repo_id(config.hub_model_id)
    except HFValidationError as error:
        raise UserError(f"--hub_model_id is {config.hub_model_id!r}, no name that the Hub takes; give ORG/NAME") from error
    if get_token() is None:
        raise UserError(
            "--push_to_hub needs a token of the Hugging Face Hub, and there is none here; `hf auth login` asks for it"
        )


def upload(config: TrainConfig, run_folder: RunFolder) -> None:
    """Upload `pipeline/`, with its code, where that is asked for; say where it fails, and how it is done later."""
    folder, name = str(run_folder.pipeline), config.hub_model_id
    if name is None or not is_first_process():
        return
    try:
        print(f"uploaded: {load_pipeline(folder, 'cpu').push_to_hub(name)}")
    except Exception as error:  # no network, no right to it, no room: errors of the Hub's client and of those below it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        later = f"ActionDDIMPipeline.from_pretrained({folder!r}).push_to_hub({name!r})"
        print(f"warning: the model could not be uploaded ({reason}); `{later}` does it later", file=sys.stderr)


@contextmanager
def write_failures_said(what: str) -> Iterator[None]:
    """Say in a line what could not be written, and go on: the run is worth more than one file of it."""
    try:
        yield
    except (WriteError, OSError) as error:
        if is_first_process():
            print(f"{what} could not be written ({error}); is the disk full? The run goes on", file=sys.stderr)
