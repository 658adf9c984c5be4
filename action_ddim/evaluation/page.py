"""Tables and pictures as a page of HTML that needs no other file, and the same numbers beside it as JSON."""

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from action_ddim.atomic import written_whole
from action_ddim.evaluation.tables import Table

JSON_NAME, HTML_NAME = "report.json", "report.html"
STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; background: #fff; color: #1c2430;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; padding-top: .8rem; border-top: 1px solid #d9dee6; }
p { max-width: 46rem; color: #465164; margin: .4rem 0; }
code { overflow-wrap: anywhere; }
.verdict { display: inline-block; margin: .6rem 0 0; padding: .25rem .8rem; border-radius: 1rem; font-weight: 600; }
.verdict.met { background: #d9f2e6; } .verdict.missed { background: #fde3d3; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #e6eaf0; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; color: #465164; }
td.met { color: #00664a; font-weight: 600; } td.missed { color: #a34100; font-weight: 600; }
@media (max-width: 40rem) { body { padding: 1rem; } th, td { padding: .3rem .45rem; } }
figure { margin: 0; } img { max-width: 100%; height: auto; display: block; }
figcaption { color: #465164; margin-top: .3rem; }
"""


@dataclass(frozen=True)
class Picture:
    """A figure as a PNG file, with the text above and below it."""

    title: str
    caption: str
    png: bytes


def to_page(name: str, heading: str, introduction: str, tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    """Return a page with its figures within; `introduction` is HTML, all else is text."""
    figures = "\n".join(
        f"<section><h2>{html.escape(picture.title)}</h2><figure>"
        f'<img alt="{html.escape(picture.title)}" src="data:image/png;base64,{base64.b64encode(picture.png).decode()}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure></section>"
        for picture in pictures
    )
    body = "\n".join(table.to_html() for table in tables)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>action_ddim: {html.escape(name)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(heading)}</h1>
{introduction}
{body}
{figures}
</body>
</html>
"""


def write_both(folder: Path, content: dict, page: str) -> None:
    """Write `report.json` and `report.html` to a folder, made if missing.

    Raises:
        UserError: they cannot be written.
    """
    # JSON has no NaN: what is not a number is null.
    content = json.loads(json.dumps(content), parse_constant=lambda constant: None)
    numbers = json.dumps(content, indent=2, allow_nan=False) + "\n"
    for name, text in ((JSON_NAME, numbers), (HTML_NAME, page)):
        with written_whole("--out", folder / name) as file:
            file.write(text.encode())
