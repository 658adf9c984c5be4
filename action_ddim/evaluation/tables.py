"""Tables of numbers, written once and shown on the terminal, in Markdown and in HTML."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from action_ddim.evaluation.metrics import TARGETS

# What Markdown reads as more than itself; an underscore between letters or digits is none of it.
MARKDOWN = re.compile(r"[\\`*|\[\]~]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9])")


def escape_markdown(text: str) -> str:
    """Return a text that shows as it is in a cell of a Markdown table, on one line."""
    return MARKDOWN.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


@dataclass(frozen=True)
class Table:
    """Cells under a title, texts all; the first column names the row. A note below says what the numbers mean."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def to_text(self) -> str:
        """Return the table for a terminal: names to the left, numbers to the right."""
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in (self.columns, *self.rows)
        ]
        return "\n".join(line.rstrip() for line in (self.title, *lines, *filter(None, [self.note])))

    def to_markdown(self) -> str:
        """Return the table as GitHub writes it, without title and note; every cell is escaped, and on one line."""
        rows = (self.columns, ("---",) + ("---:",) * (len(self.columns) - 1), *self.rows)
        return "\n".join(f"| {' | '.join(map(escape_markdown, row))} |" for row in rows)

    def to_html(self) -> str:
        """Return a `<section>`; every cell is escaped, and one that says `met` or `not met` bears it as its class."""

        def cells(row: tuple[str, ...], tag: str) -> str:
            marks = {"met": ' class="met"', "not met": ' class="missed"'}
            return "".join(f"<{tag}{marks.get(cell, '')}>{html.escape(cell)}</{tag}>" for cell in row)

        body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in self.rows)
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        return (
            f'<section><h2>{html.escape(self.title)}</h2>\n<div class="scroll"><table>\n<thead><tr>{cells(self.columns, "th")}'
            f"</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n{note}</section>"
        )


def name_values(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as texts; what lies within one is named `outer.inner`, and a list is its items."""
    named: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            named |= {f"{name}.{inner}": text for inner, text in name_values(value).items()}
        else:
            named[name] = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return named


def targets_table(metrics: Mapping[str, float]) -> Table:
    """Return the documented targets, a row each, with what was measured and whether it meets them."""
    rows = tuple(
        (
            target.name,
            " / ".join(f"{metrics[name]:.4g}" for name in target.metrics),
            target.wanted,
            "met" if target.is_met(metrics) else "not met",
        )
        for target in TARGETS
    )
    met = sum(target.is_met(metrics) for target in TARGETS)
    return Table("Documented targets", ("metric", "value", "target", ""), rows, f"{met} of {len(TARGETS)} targets met")
