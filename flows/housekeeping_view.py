"""Shows a person what housekeeping removes, or has removed.

In: the document that `noisy-student gc --json` prints. Out: a table and a few lines on one stream.
"""

from collections.abc import Mapping
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PLAIN_WIDTH = 160
"""Columns where no terminal says how many there are."""


def print_plan(document: Mapping[str, Any], stream: TextIO) -> None:
    """The items with sizes, ages and reasons, their sum, who keeps the rest, and what comes next."""
    console = Console(file=stream, width=None if stream.isatty() else _PLAIN_WIDTH, highlight=False)
    if document["items"]:
        console.print(_table(document["items"]))
    for line in _lines(document):
        console.print(line, markup=False, soft_wrap=True)


def _table(items: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for head in ("artifact", "what", "why"):
        table.add_column(head, overflow="fold")
    for head in ("files", "size", "days"):
        table.add_column(head, justify="right")
    for item in items:
        what = "all" if item["kind"] == "artifact" else ", ".join(item["parts"])
        figures = (f"{item['objects']:,}", _size(item["bytes"]), f"{item['age_days']:.1f}")
        table.add_row(*(Text(text) for text in (item["folder"], what, item["reason"], *figures)))
    return table


def _lines(document: Mapping[str, Any]) -> list[str]:
    items, runs, days = document["items"], document["kept_runs"], document["older_than_days"]
    if not document["artifacts"] and not items:
        return ["The store is empty."]
    lines = [
        f"{len(items)} to remove, {_size(document['bytes'])}. {document['artifacts_that_stay']} of "
        f"{document['artifacts']} artifacts stay: finished runs ({len(runs)}) or runs under way "
        f"({len(document['runs_underway'])}) need them, the model registry does, or they are younger than "
        f"{'a day' if days == 1 else f'{days:g} days'}."
    ]
    if document["dropped_runs"]:
        lines.append(f"Dropped: {', '.join(document['dropped_runs'])}")
    lines += [f"Left alone: {folder}: {why}" for folder, why in document["skipped"].items()]
    lines += [f"Not removed: {why}" for why in document["failed"].values()]
    if document["yes"]:
        done = document["removed"]
        lines.append(f"Removed {done['artifacts_and_leftovers']}, {_size(done['bytes'])}.")
    else:
        lines += [f"--yes would remove nothing: {why}" for why in document["obstacles"]]
        if not document["obstacles"] and (items or document["dropped_runs"]):
            lines.append("Nothing was removed: add --yes to do it.")
    return lines


def _size(count: int) -> str:
    """Bytes in words: `12.3 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
