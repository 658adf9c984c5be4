"""Which format a file has, and its reader."""

from collections.abc import Callable, Iterator
from pathlib import Path

from action_ddim.errors import UserError, first_line
from action_ddim.recordings.formats import mouse_log, strokes, studio
from action_ddim.recordings.formats.columns import Columns, read_table
from action_ddim.recordings.trace import Counts, Trace

Reader = Callable[[Path, Counts], Iterator[Trace]]
READERS: dict[str, Reader] = {
    "balabit": mouse_log.read_balabit,
    "sapimouse": mouse_log.read_sapimouse,
    "omniglot": strokes.read_omniglot,
    "strokes-json": strokes.read_strokes_json,
    "futo": strokes.read_futo,
    "svc": strokes.read_svc,
    "studio": studio.read_studio,
}
TABLES = ("csv", "parquet")
FORMATS = ("auto", *READERS, *TABLES)
HEAD_BYTES = 4096  # of a file tell its format


def read(path: Path, name: str, columns: Columns, counts: Counts) -> Iterator[Trace]:
    """Read a file of this format, a block of rows at a time.

    Raises:
        UserError: the file cannot be read; it names file, line where there is one, and reason.
    """
    try:
        if name in READERS:
            yield from READERS[name](path, counts)
        else:
            yield from read_table(path, counts, columns, is_parquet=name == "parquet")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text: {first_line(error)}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def detect(path: Path, columns: Columns) -> str | None:
    """Return the format of a file, None where it is no recording that is known.

    Raises:
        UserError: the file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror or error}") from error
    if head.startswith(b"PAR1"):
        return "parquet"
    try:
        text = head.decode("utf-8-sig", errors="strict" if len(head) < HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("//")]
    first, second = (*lines[:2], "", "")[:2]
    names = [name.strip().strip('"') for name in first.split(columns.delimiter)]
    if first == mouse_log.BALABIT_HEADER:
        return "balabit"
    if first == mouse_log.SAPIMOUSE_HEADER:
        return "sapimouse"
    if first == "START":
        return "omniglot"
    if first.startswith("{") and '"data"' in first and '"session"' in first:
        return "futo"
    if first.startswith("{") and f'"{studio.FORMAT}"' in first:
        return "studio"
    if path.suffix == ".json" and ('"x"' in text and '"y"' in text):
        return "strokes-json"
    if first.isdecimal() and len(second.split()) == 7:
        return "svc"
    return "csv" if set(columns.numbers) <= set(names) else None
