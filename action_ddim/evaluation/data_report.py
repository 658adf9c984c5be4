"""What an inspection of data says, one folder or two side by side, for a terminal, as `report.json` and as `report.html`."""

import html
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from action_ddim import __version__
from action_ddim.data.dataset import ActionDataset
from action_ddim.data.features import GESTURE_TYPES, REST
from action_ddim.data.inspection import MAX_NAMED, SUSPICIONS, Inspection, find_shared
from action_ddim.evaluation import plots
from action_ddim.evaluation.page import Picture, to_page, write_both
from action_ddim.evaluation.tables import Table

SHOWN, SHOWN_FAULTS = 5, 10  # places of a kind, and faults, in a table; report.json has more


def tables(found: Sequence[Inspection]) -> list[Table]:
    """Return the tables of one inspection, or of two beside each other, in order."""
    columns = ("", *(str(one.data.folder) for one in found))
    shares = tuple((name, *(f"{100 * one.gesture_shares[name]:.1f} %" for one in found)) for name in GESTURE_TYPES)
    return [
        *_fault_tables(found),
        Table("Windows", columns, _size_rows(found)),
        Table(
            "Figures",
            columns,
            tuple((name, *(_figure(name, one.figures.get(name)) for one in found)) for name in _figure_names(found)),
            "Lengths of presses that begin and end within a window; speeds in screens, of the steps that move; rests are steps"
            f" of less than {REST:g} screens, exact ones repeat their place; variance over time within windows, and of their"
            " means. Percentiles are p5, p50 and p95.",
        ),
        Table("Gesture types", columns, shares, "Shares of the windows."),
        *_suspicion_tables(found, columns),
    ]


def _fault_tables(found: Sequence[Inspection]) -> list[Table]:
    made = []
    for one in found:
        rows = tuple((fault,) for fault in one.faults[:SHOWN_FAULTS])
        more = len(one.faults) - len(rows)
        note = f"And {more:,} more. " if more else ""
        note += "Training refuses this folder; what can be read is below."
        made += [Table(f"What is wrong in {one.data.folder}", ("fault",), rows, note)] if rows else []
    return made


def _size_rows(found: Sequence[Inspection]) -> tuple[tuple[str, ...], ...]:
    rows = {
        "files": [f"{len(one.data.files):,}" for one in found],
        "windows": [f"{len(one.data):,}" for one in found],
        "steps a window": [f"{one.data.seq_len}" for one in found],
        "rate [Hz]": [f"{one.rate_hz:g}" if one.rate_hz else "not known" for one in found],
        "that repeat an earlier one": [f"{len(one.repeats):,}" for one in found],
    }
    if len(found) == 2:
        rows[f"that are in {found[0].data.folder} too"] = ["", f"{len(find_shared(*found)):,}"]
    return tuple((name, *cells) for name, cells in rows.items())


def _figure_names(found: Sequence[Inspection]) -> list[str]:
    """Return the names of all figures in order; those of two rates, and of none, stand below each other."""
    first, *others = (list(one.figures) for one in found)
    return [*first, *(name for names in others for name in names if name not in first)]


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if name.endswith("share") else f"{value:.4g}"


def _suspicion_tables(found: Sequence[Inspection], columns: tuple[str, ...]) -> list[Table]:
    """Return how many windows are suspicious, and where the first of them lie."""
    kinds = [name for name in SUSPICIONS if any(one.suspicious[name] for one in found)]
    counts = tuple(
        (name, *(f"{one.suspicious[name]:,} ({100 * one.suspicious[name] / len(one.data):.1f} %)" for one in found))
        for name in kinds
    )
    note = " ".join(f"{name.capitalize()}: {SUSPICIONS[name]}." for name in kinds) or "None."
    made = [Table("Suspicious windows", columns, counts, note)]
    places = {name: [_first(one.data, one.named[name]) for one in found] for name in kinds}
    if any(len(one.repeats) for one in found):
        places["repeats"] = [
            ", ".join(" is ".join(_names(one.data, pair)) for pair in one.repeats[:SHOWN]) + _dots(one.repeats) for one in found
        ]
    if len(found) == 2 and len(shared := find_shared(*found)):
        places[f"in {columns[1]} too"] = ["", _first(found[1].data, shared)]
    rows = tuple((name, *cells) for name, cells in places.items())
    return [*made, Table("Where they are", columns, rows, "The file, and the index of the window in it.")] if rows else made


def _first(data: ActionDataset, indices: np.ndarray) -> str:
    """Name the first of the windows, by file."""
    by_file = groupby(data.locate(indices[:SHOWN]), key=itemgetter(0))
    return "; ".join(f"{file} {', '.join(str(index) for _, index in places)}" for file, places in by_file) + _dots(indices)


def _dots(indices: np.ndarray) -> str:
    return ", ..." if len(indices) > SHOWN else ""


def _names(data: ActionDataset, indices: Sequence[int] | np.ndarray) -> list[str]:
    return [f"{file} {index}" for file, index in data.locate(indices)]


def pictures(found: Inspection, num: int, seed: int) -> list[Picture]:
    """Draw a sheet of random windows, and where there are suspicious ones, one of the first of each kind."""
    data = found.data
    chosen = np.sort(np.random.default_rng(seed).choice(len(data), min(num, len(data)), replace=False))
    first = {name: indices[0] for name, indices in found.named.items() if len(indices)}
    sheets = [(f"Windows of {data.folder}", f"Drawn at random, seed {seed}", chosen, _names(data, chosen))]
    if first:
        indices = np.array(list(first.values()))
        names = [f"{kind} ({place})" for kind, place in zip(first, _names(data, indices), strict=True)]
        sheets.append((f"Suspicious windows of {data.folder}", "The first of each kind", indices, names))
    drawn = []
    for title, caption, indices, names in sheets:
        figure = plots.plot_samples(data.read(indices).numpy())
        png = plots.image_to_png(plots.figure_to_image(figure))
        drawn.append(Picture(title, f"{caption}; row by row: {', '.join(names)}.", png))
    return drawn


def to_json(found: Sequence[Inspection]) -> dict:
    """Return what `report.json` holds: all but the digests, windows as (file, index in it), the first of each kind."""
    folders = [
        {
            "folder": str(one.data.folder),
            "files": len(one.data.files),
            "windows": len(one.data),
            "seq_len": one.data.seq_len,
            "rate_hz": one.rate_hz,
            "faults": one.faults,
            "figures": one.figures,
            "gesture_shares": one.gesture_shares,
            "suspicious": one.suspicious,
            "named": {name: one.data.locate(indices) for name, indices in one.named.items()},
            "repeats": len(one.repeats),
            "repeats_named": [one.data.locate(pair) for pair in one.repeats[:MAX_NAMED]],
        }
        for one in found
    ]
    if len(found) == 1:
        return {"action_ddim": __version__, "folders": folders}
    shared = find_shared(*found)
    named = found[1].data.locate(shared[:MAX_NAMED])
    return {"action_ddim": __version__, "folders": folders, "shared": len(shared), "shared_named": named}


def write_data_report(folder: Path, found: Sequence[Inspection], drawn: Sequence[Picture]) -> None:
    """Write `report.json` and `report.html` to a folder, made if missing.

    Raises:
        UserError: they cannot be written.
    """
    folders = [str(one.data.folder) for one in found]
    names = " and ".join(f"<code>{html.escape(name)}</code>" for name in folders)
    introduction = f"<p>{names}; action_ddim {__version__}.</p>"
    write_both(folder, to_json(found), to_page(", ".join(folders), "What the data holds", introduction, tables(found), drawn))
