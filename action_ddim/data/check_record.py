"""`CheckRecord`: which files of a data set were found valid, so that an unchanged one is not read for it again."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

RECORD_NAME = ".checked.json"
CHECK_VERSION = 1  # of what is checked: a record of another one is not believed
MAX_RECORD_BYTES = 1 << 26  # a megabyte remembers 10,000 files


class CheckRecord:
    """Size and times of each valid file of a folder, kept as JSON.

    It lies beside the data as `.checked.json`, or where that cannot be written as
    `$XDG_CACHE_HOME/action_ddim/<hash of the folder's path>.json` (by default in `~/.cache`). A record that is damaged or
    missing is as good as an empty one, and one that cannot be kept is not kept: the check is then made again. The time of
    a file's last change of status is remembered too, because an archive cannot carry it: a record that came with the data
    vouches for nothing.
    """

    def __init__(self, folder: Path):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
        name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
        self.paths = (folder / RECORD_NAME, cache / "action_ddim" / f"{name}.json")
        self._files: dict[str, list[int]] = {}
        for path in reversed(self.paths):
            self._files |= _load(path)

    def holds(self, path: Path) -> bool:
        """Say whether the file was found valid, and has not changed since."""
        return path.name in self._files and self._files[path.name] == fingerprint(path)

    def add(self, path: Path, checked: list[int]) -> None:
        """Remember a file as valid, by the fingerprint that it had before it was read."""
        self._files[path.name] = checked

    def save(self) -> None:
        """Write the record where it can be written."""
        content = json.dumps({"version": CHECK_VERSION, "files": self._files})
        for path in self.paths:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                _replace(path, content)
                return


def fingerprint(path: Path) -> list[int]:
    """Return a file's size in bytes, and the times of its last change, of content and of status, in ns."""
    try:
        status = path.stat()
    except OSError:
        return []  # whoever reads the file says what is wrong with it
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _load(path: Path) -> dict[str, list[int]]:
    try:
        if not path.is_file() or path.stat().st_size > MAX_RECORD_BYTES:  # a pipe or /dev/zero would not end
            return {}
        record = json.loads(path.read_bytes())
        return dict(record["files"]) if record["version"] == CHECK_VERSION else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _replace(path: Path, content: str) -> None:
    """Write a file beside where it belongs and rename it, so that two runs at once cannot mix their records."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.write(content)
            file.close()
            os.replace(file.name, path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
