"""A checkpoint: the full state of a run after an update, written so that one which has its name is whole.

    checkpoint-000790/               after 790 updates
      model.safetensors              the weights as trained
      ema.safetensors                their moving average
      optimizer.bin, scheduler.bin   Accelerate's save_state; scaler.pt too with fp16
      random_states_0.pkl, ...       random states of each process
      epoch.safetensors              losses (of each process) and gradient norms of the epoch that is under way
      metrics.csv                    the rows of the epochs that are complete, and of one that --max_train_steps cut short
      progress.json                  epochs, batches and updates done, the settings, early stopping, the tracker's run
      manifest.json                  sha256 and size of every file above

It is written as `.action_ddim.partial`, which no pattern for checkpoints matches, flushed to the disk, and renamed; only
then are old ones removed. It *verifies* where the manifest lists every file, and every file is as the manifest says.
Nothing in it is unpickled but through `weights_only=True`: Accelerate loads .bin, .pt and .pkl so, the rest is safetensors
and text.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import save_file

from action_ddim import atomic

PARTIAL = ".action_ddim.partial"  # what has it is ours, to be written over and removed; `.partial` alone may be anybody's
MANIFEST = "manifest.json"
# A full disk is an OSError to Python, a RuntimeError to torch.save, a SafetensorError to safetensors.
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


class WriteError(Exception):
    """Something could not be written, on this rank or another; what was there before is as it was."""


def write_checkpoint(
    accelerator: Accelerator, final: Path, tensors: Mapping[str, dict[str, torch.Tensor]], texts: Mapping[str, str]
) -> None:
    """Write the state that Accelerate has prepared, with more files of tensors and of text. MUST be called on every rank.

    Raises:
        WriteError: the disk is full, or another fault, on all ranks alike; there is no half checkpoint.
    """
    partial = final.with_name(PARTIAL)

    def add_and_publish() -> None:
        for name, state in tensors.items():
            save_file(state, partial / name)
        for name, text in texts.items():
            (partial / name).write_text(text, newline="")
        manifest = {name: describe(partial / name) for name in file_names(partial)}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        atomic.put_in_place(partial, final)

    try:
        on_main(accelerator, lambda: shutil.rmtree(partial, ignore_errors=True))
        together(accelerator, lambda: accelerator.save_state(str(partial)))
        on_main(accelerator, add_and_publish)
    except WriteError:
        on_main(accelerator, lambda: shutil.rmtree(partial, ignore_errors=True))
        raise


def together(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Write something on every rank, and wait for all; where it fails on one, raise a WriteError on every one."""
    error = None
    try:
        work()
    except WRITE_ERRORS as caught:
        error = caught
    failed = torch.tensor([error is not None], device=accelerator.device)
    if accelerator.gather(failed).any():
        reason = getattr(error, "strerror", None) or str(error or "on another process").splitlines()[0]
        raise WriteError(reason) from error


def on_main(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Write something on the main process while the others wait, as `together` does."""
    together(accelerator, work if accelerator.is_main_process else lambda: None)


def file_names(checkpoint: Path) -> set[str]:
    """Return the files of a checkpoint but its manifest, relative to it."""
    paths = (path for path in checkpoint.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(checkpoint).as_posix() for path in paths} - {MANIFEST}


def describe(path: Path) -> dict:
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def find_damage(checkpoint: Path, *, sums: bool = True) -> str | None:
    """Say what is wrong with a checkpoint, None where it verifies. Reads nothing outside its folder.

    Without `sums`, it goes by names and sizes, and reads no more than the manifest.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return f"{MANIFEST} cannot be read"
    names = file_names(checkpoint)
    if names != listed.keys():
        name = min(names ^ listed.keys())
        return f"{name} is {'not in the manifest' if name in names else 'missing'}"
    for name, (size, digest) in sorted(listed.items()):
        path = checkpoint / name
        if path.is_symlink() or not path.is_file():
            return f"{name} is not a file"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if sums and describe(path)["sha256"] != digest:
            return f"{name} differs from its sha256"
    return None


def checkpoint_name(update: int) -> str:
    return f"checkpoint-{update:06d}"


def update_of(checkpoint: Path) -> int:
    """Return the number of updates in a checkpoint's name, -1 where it is not as a run names one: `checkpoint-500` is not."""
    match = re.fullmatch(r"checkpoint-(\d{6}|[1-9]\d{6,})", checkpoint.name, re.ASCII)
    return int(match[1]) if match else -1


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first, whether they verify or not."""
    return sorted((path for path in folder.glob("checkpoint-*") if update_of(path) >= 0 and path.is_dir()), key=update_of)


def checkpoints_to_delete(checkpoints: list[Path], limit: int | None) -> list[Path]:
    """Return which of the checkpoints, oldest first, are beyond the limit."""
    return checkpoints[: max(0, len(checkpoints) - limit)] if limit else []
