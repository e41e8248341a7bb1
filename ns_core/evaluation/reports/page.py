"""What the reports of a run are written with: HTML pages that need nothing else, and tables as Markdown.

In: plain text and pictures. Out: text in which a name can bring no markup of its own. Loads neither numpy,
matplotlib nor torch.
"""

import base64
import html
import re
from collections.abc import Sequence
from string import Template
from typing import NamedTuple

_PAGE = """<!doctype html>
<html lang="en"><head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1d1d1f; --quiet: #63636a; --line: #d9d9de; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e9e9ec; --quiet: #a3a3ab; --line: #3c3c42; --paper: #17171a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.3; margin: 0; text-wrap: balance; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; overflow-wrap: anywhere; }
p, li, figcaption { color: var(--quiet); }
a { color: inherit; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; vertical-align: bottom; }
td { min-width: 5rem; } .number { min-width: 0; text-align: right; white-space: nowrap; }
figure { margin: 1.5rem 0; } img { max-width: 100%; background: #fff; border-radius: 6px; }
.strips { display: flex; flex-wrap: wrap; gap: .5rem 1.75rem; margin-bottom: .5rem; }
.strip p { margin: 0; font-size: .8rem; }
.strip div { display: flex; flex-wrap: wrap; gap: .35rem; }
.strip figure { margin: 0; }
.strip img { display: block; margin: 0 auto .2rem; width: 64px; height: 64px; object-fit: contain; background: none;
  border-radius: 3px; }
.strip figcaption { font-size: .75rem; max-width: 6rem; overflow-wrap: anywhere; text-align: center;
  font-variant-numeric: tabular-nums; }
</style>
</head><body>
$body
</body></html>
"""


class Table(NamedTuple):
    """Heads and rows, as plain text; from column `words` on they are figures and stand at the right."""

    words: int
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


def page(title: str, body: Sequence[str]) -> str:
    """A whole page: style inside, no script, no request. `body`: markup, of which empty parts are left out."""
    return Template(_PAGE).substitute(title=html.escape(title), body="\n".join(filter(None, body)))


def html_figure(caption: str, png: bytes) -> str:
    """A picture inside the page, with its caption below."""
    text = html.escape(caption)
    return f"<figure>{html_image(png, caption)}<figcaption>{text}</figcaption></figure>"


def html_image(data: bytes, text: str) -> str:
    """A PNG or JPEG file as an image inside the page; `text` is said where it cannot be seen."""
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    inside = base64.b64encode(data).decode("ascii")
    return f'<img src="data:image/{kind};base64,{inside}" alt="{html.escape(text)}">'


def html_table(table: Table) -> str:
    """A table that scrolls sideways by itself where the window is narrow."""

    def row(tag: str, cells: Sequence[str]) -> str:
        words = [f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells[: table.words]]
        numbers = [f'<{tag} class="number">{html.escape(cell)}</{tag}>' for cell in cells[table.words :]]
        return f"<tr>{''.join(words + numbers)}</tr>"

    body = "\n".join(row("td", cells) for cells in table.rows)
    return f'<div class="wide"><table>\n{row("th", table.heads)}\n{body}\n</table></div>'


def html_list(items: Sequence[str]) -> str:
    """A bullet for each sentence; nothing where there is none."""
    return f"<ul>\n{''.join(f'<li>{html.escape(item)}</li>' for item in items)}\n</ul>" if items else ""


def markdown_table(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, its columns in line in a terminal too."""
    cells = [[plain(cell) for cell in row] for row in (table.heads, *table.rows)]
    widths = [max(2, *map(len, column)) for column in zip(*cells, strict=True)]  # a rule of a colon alone is none
    sides = ["<" if column < table.words else ">" for column in range(len(widths))]
    lines = [" | ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)) for row in cells]
    rule = " | ".join("-" * (w - 1) + ("-" if s == "<" else ":") for s, w in zip(sides, widths, strict=True))
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


def plain(text: str) -> str:
    """Text of one line in which Markdown finds nothing to act on."""
    return re.sub(r"[\\`*\[\]<>&|#~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))
