"""The files that verbs write: looked at before any work, and never left half written."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from action_ddim.actions import NUM_CHANNELS
from action_ddim.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_output(flag: str, path: Path, overwrite: bool) -> None:
    """Raise a UserError where a file is in the way, or its folder could not be made, before any work."""
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise UserError(f"{flag} {path} exists; name another, or add --overwrite")
    check_writable(flag, path)


def check_writable(flag: str, path: Path) -> None:
    """Raise a UserError where the place does not exist and cannot be made, or must not be written to."""
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written in {existing}; name another place")


def write_actions(path: Path, shape: tuple[int, ...], seq_len: int, batches: Iterable[np.ndarray]) -> np.ndarray:
    """Write batches `(B, L, 3)` as they come to one file of this shape; return it mapped as `(N, L, 3)`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        sequences, first = file.reshape(-1, seq_len, NUM_CHANNELS), 0
        for batch in batches:
            sequences[first : first + len(batch)] = batch
            first += len(batch)
        file.flush()
        partial.replace(path)
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return sequences


def write_plot(path: Path | None, draw: Callable[[], "Figure"]) -> None:
    """Draw a figure and write it as PNG, and say so; nothing without a path."""
    if path is None:
        return
    from action_ddim import plots

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(plots.image_to_png(plots.figure_to_image(draw())))
    except OSError as error:
        raise UserError(f"--plot {path} cannot be written: {error.strerror or error}") from error
    print(f"picture: {path}")
