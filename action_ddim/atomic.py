"""Files and folders that are there whole or not at all, also when the process or the machine dies in the middle.

What is new is written under another name, flushed to the disk, and then takes its name in one step of the file system. On
Linux a folder changes places with its predecessor in one step too, so that at every instant the name holds the old or the
new one, whole. Elsewhere the old one steps aside first, to `.<name>.action_ddim.old`; a kill in that instant leaves the
name empty, and `recover` brings the old one back.
"""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from action_ddim.errors import UserError

OLD = ".action_ddim.old"  # what has it is ours, to be brought back or removed; `.old` alone may be anybody's backup
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>


def write_text(path: Path, text: str) -> None:
    """Write a file, replacing the one of that name in one step.

    Raises:
        OSError: it cannot be written; the file of that name is as before.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def written_whole(flag: str, path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its name once it is whole, and of which nothing is left where it does not become so.

    Raises:
        UserError: it cannot be written, in one line that names the flag.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def put_in_place(partial: Path, final: Path) -> None:
    """Flush a finished folder and give it its final name, in the place of a folder that has it."""
    for path in sorted(partial.rglob("*")):
        sync(path)
    sync(partial)
    if not final.exists():
        partial.rename(final)
    elif exchange(partial, final):
        shutil.rmtree(partial)
    else:
        old = final.with_name(f".{final.name}{OLD}")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        partial.rename(final)
        shutil.rmtree(old)
    sync(final.parent)


def recover(parent: Path) -> None:
    """Bring back the folders that `put_in_place` had moved aside when it was killed."""
    for old in parent.glob(f".*{OLD}"):
        final = old.with_name(old.name.removeprefix(".").removesuffix(OLD))
        if old.is_symlink() or not old.is_dir():
            continue  # we put folders there
        if final.exists():
            shutil.rmtree(old)
        else:
            old.rename(final)


def free_name(path: Path) -> Path:
    """Return a path, or where something has that name, the first of `path.1`, `path.2`, ... that nothing has.

    Raises:
        OSError: the file system takes no such name.
    """
    name, number = path, 0
    with suppress(FileNotFoundError):
        while name.lstat():
            number += 1
            name = path.with_name(f"{path.name}.{number}")
    return name


def exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step; say whether this system and file system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    return rename is not None and rename(AT_FDCWD, bytes(first), AT_FDCWD, bytes(second), RENAME_EXCHANGE) == 0


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name != "posix":
        return  # elsewhere a folder cannot be opened
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
