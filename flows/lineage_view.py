"""Shows lineage to the person at the terminal: a tree of artifacts, or which models saw given images.

In: the documents that `noisy-student lineage --json` prints. Out: text on one stream.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

_SHOWN_PATHS = 3
_BACK, _FORWARD = ("inputs", "name"), ("uses", "artifact")
"""Where a direction lies in an artifact's description, and what names the next one there."""


def print_tree(document: Mapping[str, Any], stream: TextIO) -> None:
    """What the artifact was made of, then what was made of it; what comes twice is spelled out once."""
    name = document["artifact"]
    tree = Tree(_label(document, name))
    for title, way, empty in (("made of", _BACK, "nothing"), ("made into", _FORWARD, "nothing so far")):
        branch = tree.add(Text(title, style="bold"))
        if not document["artifacts"][name][way[0]]:
            branch.add(empty)
        _grow(branch, document, name, way, {name})
    _console(stream).print(tree)


def _grow(branch: Tree, document: Mapping[str, Any], name: str, way: tuple[str, str], seen: set[str]) -> None:
    following, naming = way
    for one in document["artifacts"][name][following]:
        next_name, kind = one[naming], one.get("kind", "artifact")
        label = Text(f"{one['role']}: ", style="dim")
        if kind == "missing":
            branch.add(label + Text(f"{next_name}  missing from this store", style="red"))
        elif kind == "source":
            branch.add(label + Text(f"{next_name[:12]}  no artifact: a digest of what was read", style="dim"))
        elif next_name in seen:
            branch.add(label + Text(f"{next_name}  (see above)"))
        else:
            seen.add(next_name)
            _grow(branch.add(label + _label(document, next_name)), document, next_name, way, seen)


def _label(document: Mapping[str, Any], name: str) -> Text:
    """`stage/0123456789ab  holdout_top1 0.93  digits-20261122-221500-3fa9 g1`."""
    one = document["artifacts"][name]
    label = Text(name, style="bold")
    if name in document["unreadable"] or "figures" not in one:
        return label + Text("  its record is not here or cannot be read", style="red")
    figures = (f"{key} {_short(value)}" for key, value in one["figures"].items())
    label += Text(f"  {', '.join(figures)}", style="not bold")
    return label + Text(f"  [{', '.join(one['runs']) or 'in no finished run'}]", style="not bold dim")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_takedown(document: Mapping[str, Any], stream: TextIO) -> None:
    """Where the images are, who saw them, and what to do."""
    console = _console(stream)
    for line in (*_images(document), *_models(document), *_remedy(document)):
        console.print(line, markup=False, soft_wrap=True)


def _images(document: Mapping[str, Any]) -> Iterator[str]:
    found = document["asked"] - document["unknown"]
    yield f"{found:,} of {document['asked']:,} words name images of this store."
    if document["unknown_words"]:
        yield f"In no dataset: {', '.join(document['unknown_words'][:5])}{', ...' if document['unknown'] > 5 else ''}"
    for one in document["datasets"]:
        splits = ", ".join(f"{one[split]:,} {split}" for split in ("labeled", "pool", "holdout", "test") if one[split])
        left_out = f"; {one['left_out']:,} were left out of it as corrupt or as leaks" if one["left_out"] else ""
        yield f"{one['dataset']} (source {one['source'] or 'unknown'}): {splits or 'none'}{left_out}"
        for selection, count in one["selected"].items():
            yield f"  {count:,} of the pool were selected by {selection}"


def _models(document: Mapping[str, Any]) -> Iterator[str]:
    if not document["direct"] and not document["indirect"]:
        yield "No model of this store was trained on them."
    if document["direct"]:
        yield "\nTrained on them:"
    for name, reasons in document["direct"].items():
        yield f"  {name}: {'; '.join(reasons)}"
    if document["indirect"]:
        yield "Descend from such, through pseudo-labels or a selection:"
    yield from (f"  {name}" for name in document["indirect"])
    if document["judged"]:
        yield "Not trained on, but chosen or measured with them (holdout or test images):"
    yield from (f"  {name}: {', '.join(splits)}" for name, splits in document["judged"].items())
    if document["untold"]:
        yield "Cannot be told:"
    yield from (f"  {name}: {why}" for name, why in document["untold"].items())


def _remedy(document: Mapping[str, Any]) -> Iterator[str]:
    if not document["datasets"]:
        return
    yield "\nTo be rid of them:"
    paths = [image["path"] for one in document["datasets"] for image in one["images"]]
    shown = f" ({', '.join(paths[:_SHOWN_PATHS])}{', ...' if len(paths) > _SHOWN_PATHS else ''})" if paths else ""
    yield f"  1. take the images out of the source{shown}"
    if document["runs"]:
        yield "  2. prepare it again and train without them, with the --set of each run, which is in MLflow:"
    for run in document["runs"]:
        yield f"       {run['command']}    (instead of {run['run']})"
    if document["in_no_run"]:
        yield f"     in no finished run, made again by none of these: {', '.join(document['in_no_run'])}"
    drop = " ".join(["--drop", *(run["run"] for run in document["runs"]), ""]) if document["runs"] else ""
    yield f"  {3 if document['runs'] else 2}. remove what was made of them: noisy-student gc {drop}--yes"


def _console(stream: TextIO) -> Console:
    terminal = stream.isatty()
    longest = 1000 if not terminal else None  # a name that is broken cannot be copied
    return Console(file=stream, width=longest, highlight=False)
