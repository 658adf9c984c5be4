"""CSV and Parquet files, read a block of rows at a time by pyarrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from action_ddim.errors import UserError, first_line
from action_ddim.recordings.trace import Counts

if TYPE_CHECKING:
    from pyarrow import RecordBatch

# pyarrow is an extra: it is imported where it is used.

BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 1 << 16
INSTALL = 'needs pyarrow: pip install "action-ddim[recordings]"'


def read_csv(path: Path, numbers: list[str], words: list[str], counts: Counts, delimiter: str = ",") -> Iterator["RecordBatch"]:
    """Return blocks with these columns, float64 and text. Rows with too few or too many values are dropped and counted.

    Raises:
        UserError: a column is missing, or a value in one of `numbers` is none; it names file, column and row.
    """
    try:
        import pyarrow as pa
        from pyarrow import csv
    except ImportError as error:
        raise UserError(f"{path} {INSTALL}") from error

    def drop(row: csv.InvalidRow) -> str:
        counts.rows += 1
        counts.drop("malformed", 1)
        return "skip"

    types = dict.fromkeys(numbers, pa.float64()) | dict.fromkeys(words, pa.string())
    # `time, x, y` has a space before x.
    header = _header(path, delimiter)
    spelled = {name.strip(): name for name in header} | {name: name for name in header}
    columns = {spelled.get(name, name): kind for name, kind in types.items()}
    try:
        # Rows have numbers, for messages, where one thread parses.
        for batch in csv.open_csv(
            path,
            csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            csv.ParseOptions(delimiter=delimiter, invalid_row_handler=drop),
            csv.ConvertOptions(column_types=columns, include_columns=[*columns]),
        ):
            yield batch.rename_columns([*types])
    except pa.ArrowKeyError as error:
        raise _missing(path, [*spelled], [*types]) from error
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error


def read_parquet(path: Path, numbers: list[str], words: list[str]) -> Iterator["RecordBatch"]:
    """Return blocks with these columns, as `read_csv` does."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path} {INSTALL}") from error
    types = dict.fromkeys(numbers, pa.float64()) | dict.fromkeys(words, pa.string())
    schema = pa.schema(list(types.items()))
    try:
        with parquet.ParquetFile(path) as file:
            missing = [name for name in types if name not in file.schema_arrow.names]
            if missing:
                raise _missing(path, file.schema_arrow.names, missing)
            for batch in file.iter_batches(BLOCK_ROWS, columns=[*types]):
                yield batch.select([*types]).cast(schema, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error


def _header(path: Path, delimiter: str) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return [name.strip('"') for name in file.readline().rstrip("\r\n").split(delimiter)]


def _missing(path: Path, there: list[str], wanted: list[str]) -> UserError:
    missing = next(name for name in wanted if name not in there)
    return UserError(f"{path} has no column {missing!r}, but {', '.join(there[:10])}; name columns by --x_column and its like")
