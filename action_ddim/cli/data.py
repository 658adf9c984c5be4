"""The verbs for data: `generate`, `import`, `inspect` and `push-data`."""

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from action_ddim.actions import IDLE_MODES, MIN_SEQ_LEN
from action_ddim.cli.inputs import OneLineParser, check_at_least, screen_size
from action_ddim.cli.outputs import check_new_folder, check_output
from action_ddim.errors import RunError, UserError
from augmentation.gestures import ACTION_TYPES, GestureConfig, write_gestures

if TYPE_CHECKING:
    from action_ddim.recordings.convert import ImportSummary


def generate(argv: list[str], prog: str | None) -> None:
    """Write synthetic gestures."""
    arguments = vars(_generate_parser(prog).parse_args(argv))
    writing = {name: arguments.pop(name) for name in ("output_dir", "sequences_per_file", "overwrite")}
    config = GestureConfig(**arguments)
    write_gestures(config, **writing)
    print(f"{config.num_sequences} sequences of {config.sequence_length} steps are in {writing['output_dir']}")


def _generate_parser(prog: str | None) -> argparse.ArgumentParser:
    default = GestureConfig()
    parser = OneLineParser(
        prog=prog,
        description="Write synthetic gestures: clicks, swipes, drags and others.",
    )
    add = parser.add_argument
    add("--output_dir", required=True, help="folder to write, made if missing")
    add("--num_sequences", type=int, default=default.num_sequences, help="how many to write")
    help_text = "one or several; mixed: 27%% clicks, the rest swipes"
    add("--action_type", nargs="+", choices=ACTION_TYPES, default=default.action_type, help=help_text)
    help_text = "shares of several action types, in any unit; by default all the same"
    add("--weights", nargs="+", type=float, default=argparse.SUPPRESS, help=help_text)
    add("--human", action="store_true", help="as a hand does it: strokes bend, are corrected, and tremble")
    help_text = "size of the screen, to whose pixels places are rounded; by default it has none, and is square"
    add("--screen", type=screen_size, metavar="WxH", default=argparse.SUPPRESS, help=help_text)
    add("--min_delta_t_pct", type=float, default=default.min_delta_t_pct, help="shortest press, fraction of the length")
    add("--max_delta_t_pct", type=float, default=default.max_delta_t_pct, help="longest press, fraction of the length")
    add("--sequence_length", type=int, default=default.sequence_length, help="time steps a sequence")
    add("--sequences_per_file", type=int, default=1000, help="sequences a file")
    add("--seed", type=int, default=default.seed, help="the same seed gives the same sequences")
    add("--idle", choices=IDLE_MODES, default=default.idle, help="outside the press: hold the place, or x = y = 0")
    add("--overwrite", action="store_true", help="replace the data set in the folder")
    return parser


def import_data(argv: list[str], prog: str | None) -> None:
    """Turn recordings into training and validation data."""
    from action_ddim.recordings.convert import ImportConfig, import_recordings
    from action_ddim.recordings.formats.columns import Columns

    arguments = vars(_import_parser(prog).parse_args(argv))
    out, overwrite, sources = (arguments.pop(name) for name in ("out", "overwrite", "sources"))
    columns = Columns(**{item.name: arguments.pop(item.name) for item in fields(Columns) if item.name in arguments})
    summary = import_recordings(ImportConfig(tuple(sources), **arguments, columns=columns), out, overwrite=overwrite)
    print("\n".join(_import_lines(summary, out)))
    if summary.unread:
        faults = "; ".join(summary.unread[:5])
        raise RunError(f"{len(summary.unread)} files were left out: {faults}; all others are in {out}")


def _import_parser(prog: str | None) -> argparse.ArgumentParser:
    from action_ddim.recordings.convert import ImportConfig
    from action_ddim.recordings.formats.columns import PLACE_UNITS, TIME_UNITS, Columns
    from action_ddim.recordings.formats.detect import FORMATS
    from action_ddim.recordings.split import SPLITS_BY
    from action_ddim.recordings.windows import WINDOWS

    parser = OneLineParser(prog=prog, description=import_data.__doc__)
    default, columns = ImportConfig(()), Columns()
    add = parser.add_argument
    add("sources", metavar="SOURCE", nargs="+", type=Path, help="file, or folder that is searched for them")
    add("--out", required=True, type=Path, help="folder for train/ and val/, made if missing")
    add("--format", choices=FORMATS, default=default.format, help="auto finds that of each file")
    add("--rate", type=float, default=default.rate, help="steps a second; beyond what the device delivers they lie on lines")
    add("--seq_len", type=int, default=default.seq_len, help="steps a window")
    help_text = "moving: where anything moves or is pressed; press: one around each press; all: those at rest too"
    add("--windows", choices=WINDOWS, default=default.windows, help=help_text)
    add("--val_fraction", type=float, default=default.val_fraction, help="share of the windows that is held out")
    help_text = "what is never on both sides; who names no user counts by session, then by file"
    add("--split_by", choices=SPLITS_BY, default=default.split_by, help=help_text)
    help_text = "size in the unit of x and y; auto: what the file says, else as far as the places of each person reach"
    add("--screen", type=_screen_or_auto, metavar="WxH|auto", default="auto", help=help_text)
    add("--idle", choices=IDLE_MODES, default=default.idle, help="outside a press: hold the place, or x = y = 0")
    add("--max_gap", type=float, default=default.max_gap, help="seconds without a row at which no window goes on")
    add("--min_rate", type=float, default=default.min_rate, help="rows a second of motion; slower recordings are left out")
    add("--seed", type=int, default=default.seed, help="of the split, and of where windows around presses lie")
    add("--strict", action="store_true", help="end at the first file that cannot be read")
    add("--overwrite", action="store_true", help="replace the data sets in --out")
    table = parser.add_argument_group("CSV and Parquet")
    for name in ("time", "x", "y", "press"):
        table.add_argument(f"--{name}_column", default=getattr(columns, f"{name}_column"), help=f"holds {name}")
    for name in ("user", "session"):
        table.add_argument(f"--{name}_column", default=argparse.SUPPRESS, help=f"holds the {name}; by default none does")
    table.add_argument("--time_unit", choices=TIME_UNITS, default=columns.time_unit, help="of the time column")
    help_text = "of x and y: pixels of a screen, or fractions of it"
    table.add_argument("--place_unit", choices=PLACE_UNITS, default=columns.place_unit, help=help_text)
    table.add_argument("--delimiter", default=columns.delimiter, help="between the values of a CSV row")
    return parser


def _screen_or_auto(text: str) -> tuple[int, int] | None:
    return None if text == "auto" else screen_size(text)


def _import_lines(summary: "ImportSummary", out: Path) -> list[str]:
    """Say what an import came to: every row that was dropped or changed, with its reason."""
    from action_ddim.recordings.cleaning import CHANGED, DROPPED
    from action_ddim.recordings.convert import TIME_IN_DOUBT
    from action_ddim.recordings.windows import LEFT_OUT

    counts = summary.counts
    lines = [f"{len(summary.files)} files, {counts.rows:,} rows, of which {counts.dropped.total():,} were dropped"]
    if summary.skipped:
        more = ", ..." if len(summary.skipped) > 1 else ""
        lines[0] += f"; {len(summary.skipped)} other files are no recordings ({summary.skipped[0].name}{more})"
    if summary.time_in_doubt:
        lines.append(f"  most rows were dropped: {TIME_IN_DOUBT}")
    tables = {"dropped": (counts.dropped, DROPPED), "changed": (counts.changed, CHANGED)}
    tables["windows left out"] = (counts.windows_dropped, LEFT_OUT)
    for title, (counted, reasons) in tables.items():
        lines += [f"  {title} {count:>9,}  {name}: {reasons[name]}" for name, count in counted.most_common()]
    for split, number in summary.num_groups.items():
        if number:
            lines.append(f"{summary.count(split):,} windows of {number} groups are in {out / split}")
    return lines


def inspect(argv: list[str], prog: str | None) -> None:
    """Say what data holds, and what looks wrong in it."""
    parser = OneLineParser(prog=prog, description=inspect.__doc__)
    add = parser.add_argument
    add("folder", metavar="DIR", help="folder of *_actions.npy")
    add("other", metavar="DIR2", nargs="?", help="one to set beside it, such as the validation data")
    add("--rate", type=float, help="steps a second, for times in ms; by default what dataset.json says")
    add("--seq_len", type=int, help="steps a window; by default what dataset.json says, else 250")
    add("--out", type=Path, help="folder to write report.json and report.html to, made if missing")
    add("--num", type=int, default=15, help="random windows on the page, of each folder")
    add("--seed", type=int, default=0, help="of the random windows")
    add("--overwrite", action="store_true", help="replace files that exist")
    args = parser.parse_args(argv)
    for name, least in (("seq_len", MIN_SEQ_LEN), ("num", 1), ("seed", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise UserError(f"--{name} is {getattr(args, name)}; give at least {least}")
    if args.rate is not None and not 0 < args.rate < math.inf:
        raise UserError(f"--rate is {args.rate:g}; give a number of steps a second above 0")
    from action_ddim.data.inspection import find_rate, open_to_inspect
    from action_ddim.data.inspection import inspect as inspect_data
    from action_ddim.evaluation.data_report import pictures, tables, write_data_report
    from action_ddim.evaluation.page import HTML_NAME, JSON_NAME

    if args.out:
        for name in (JSON_NAME, HTML_NAME):
            check_output("--out", args.out / name, args.overwrite)
    opened = [open_to_inspect(folder, args.seq_len) for folder in (args.folder, args.other) if folder]
    rates = [find_rate(data, args.rate) for data, _ in opened]
    found = [inspect_data(data, rate, faults) for (data, faults), rate in zip(opened, rates, strict=True)]
    print("\n\n".join(table.to_text() for table in tables(found)))
    if args.out:
        write_data_report(args.out, found, [picture for one in found for picture in pictures(one, args.num, args.seed)])
        print(f"\nreport: {args.out / HTML_NAME}   numbers: {args.out / JSON_NAME}")


def push_data(argv: list[str], prog: str | None) -> None:
    """Upload data to the Hugging Face Hub."""
    parser = OneLineParser(prog=prog, description=push_data.__doc__)
    add = parser.add_argument
    add("folder", metavar="DIR", help="folder of *_actions.npy, or one with such folders: train, val, test")
    add("name", metavar="ORG/NAME", help="its name on the Hub")
    add("--private", action="store_true", help="for you and ORG alone, where it is not there yet")
    add("--seq_len", type=int, help="steps a sequence; by default what dataset.json says, else 250")
    add("--out", type=Path, help="folder to write it to instead, made if missing; one that is empty otherwise")
    args = parser.parse_args(argv)
    check_at_least(args, MIN_SEQ_LEN, "seq_len")
    from action_ddim.data.hub_dataset import check_upload, open_splits, upload, write_layout
    from action_ddim.evaluation.dataset_card import dataset_card

    if args.out is None:
        check_upload(args.name)
    else:
        check_new_folder("--out", args.out)
    splits = open_splits(args.folder, args.seq_len)
    card = dataset_card(args.name, splits)
    counted = " and ".join(f"{len(data)} sequences ({split})" for split, data in splits.items())
    try:
        if args.out is None:
            print(f"{counted} are at {upload(splits, card, args.name, private=args.private)}")
        else:
            write_layout(splits, card, args.out)
            print(f"{counted} are in {args.out}; --dataset_name {args.out} trains on them")
    except OSError as error:
        raise UserError(f"--out {args.out or 'in TMPDIR'} cannot be written: {error.strerror or error}") from error
