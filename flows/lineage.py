"""What `noisy-student lineage` answers: where an artifact comes from, what became of it, and who saw given images.

In: a person's words, a store, MLflow's address where a model is asked for. Out: a tree, or the answer to a takedown
(`ns_core.takedown` has its rules), on standard output; with --json one object. Imports no Prefect.
"""

import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import environment
from flows.lineage_view import print_takedown, print_tree
from flows.run_documents import HeldRun, checkpoint_of, held_runs, holders
from ns_core.artifacts import TYPES
from ns_core.errors import UserError
from ns_core.evaluation.reports.report import find_run
from ns_core.lineage import Lineage, read_lineage
from ns_core.registry import open_registry
from ns_core.storage import Storage, open_storage

_MODEL = re.compile(r"[^/:]+(@[^/:@]+|/[0-9]+)")
_COLUMNS = ("key", "sha256")
_LISTED = 1000
"""Images and words in a JSON document at most; their numbers are exact."""


def show(subject: str, keys: str, store: str, home: Path, *, as_json: bool) -> int:
    """Answers on standard output. Raises `UserError`."""
    if not subject and not keys:
        raise UserError("lineage: name an artifact, a run or a model, or give images by --keys FILE")
    storage = open_storage(store)
    words = read_words(keys) if keys else []
    lineage = read_lineage(storage)
    for folder, why in lineage.unreadable.items():
        sys.stderr.write(f"{folder}: its record cannot be read ({why}); what it was made of is not known\n")
    runs = held_runs(storage)
    name = find_subject(subject, storage, lineage, runs, home) if subject else ""
    document: dict[str, Any] = {"store": storage.uri, "unreadable": dict(lineage.unreadable)}
    if name:
        document |= tree_document(name, lineage, holders(runs))
    if keys:
        document |= {"takedown": takedown_document(storage, lineage, words, name, runs)}
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
    elif keys:
        print_takedown(document["takedown"], sys.stdout)
    else:
        print_tree(document, sys.stdout)
    return 0


def find_subject(text: str, storage: Storage, lineage: Lineage, runs: Sequence[HeldRun], home: Path) -> str:
    """The artifact that a person's words stand for. Raises `UserError` with what there is."""
    text = text.removeprefix(f"{storage.uri}/").rstrip("/")
    if text.split("/")[0] not in TYPES and _MODEL.fullmatch(text):
        return _of_model(text, storage, lineage, home)
    if "/" in text:
        return lineage.find("/".join(text.split("/")[:2]))
    run, _, role = text.partition(":")
    found = find_run(storage, run)
    name = checkpoint_of(next(one for one in runs if one.run_id == found), role)
    if name not in lineage.made:
        raise UserError(f"{storage.uri} has no {name} of run {found}: run its recipe again to make it anew")
    return name


def tree_document(name: str, lineage: Lineage, held: dict[str, list[str]]) -> dict[str, Any]:
    """An artifact, what it was made of and what was made of it: names, and under `artifacts` what is known of each."""
    before, after = lineage.ancestors([name] if name in lineage.made else []), lineage.descendants([name])
    return {
        "artifact": name,
        "made_of": sorted(before - {name}),
        "made_into": sorted(after - {name}),
        "missing": sorted({one.name for each in before for one in lineage.inputs(each) if one.kind == "missing"}),
        "artifacts": {each: _described(each, lineage, held) for each in sorted({name, *before, *after})},
    }


def takedown_document(
    storage: Storage, lineage: Lineage, words: Sequence[str], name: str, runs: Sequence[HeldRun]
) -> dict[str, Any]:
    """Which models saw the images, and what to run again; `name`: as far as this artifact has to do with them."""
    from ns_core.takedown import take_down

    within = frozenset(lineage.ancestors([name]) | lineage.descendants([name])) if name else None
    found = take_down(storage, lineage, words, within)
    affected = [run for run in runs if found.affected & run.folders.keys()]
    held = {folder for run in affected for folder in run.folders}
    return {
        "asked": len(words),
        "unknown": len(found.unknown),
        "unknown_words": found.unknown[:_LISTED],
        "datasets": [
            {
                "dataset": hit.dataset,
                "source": lineage.made[hit.dataset].source,
                **{split: hit.count(split) for split in ("labeled", "pool", "holdout", "test")},
                "left_out": hit.left_out,
                "selected": dict(hit.selected),
                "images": hit.images.slice(0, _LISTED).to_pylist(),
            }
            for hit in found.hits
        ],
        "direct": found.direct,
        "indirect": found.indirect,
        "judged": found.judged,
        "untold": found.untold,
        "runs": [{"run": run.run_id, "command": run.command} for run in affected],
        "in_no_run": sorted(found.affected - held),
    }


def read_words(place: str) -> list[str]:
    """Keys and hashes of a file, or of standard input for `-`. Raises `UserError` when it holds none."""
    try:
        if place.endswith(".parquet"):
            words = _of_parquet(Path(place))
        elif place == "-":
            words = _of_lines(sys.stdin)
        else:
            with Path(place).expanduser().open(encoding="utf-8", newline="") as lines:
                words = _of_lines(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--keys: cannot read {place}: {getattr(error, 'strerror', None) or 'no text'}") from None
    if not words:
        raise UserError(f"--keys: {place} names no image: write one key or sha256 a line")
    return words


def _of_lines(lines: Iterable[str]) -> list[str]:
    """A table if its first line names one of `_COLUMNS`, else a word a line."""
    words, columns = list[str](), list[int]()
    table = False
    for number, line in enumerate(lines):
        text = line.strip().removeprefix("\ufeff")
        if number == 0:
            heads = [head.strip().lower() for head in next(csv.reader([text]), [])]
            columns = [place for place, head in enumerate(heads) if head in _COLUMNS]
            table = bool(columns)
            if table:
                continue
        if table:
            row = next(csv.reader([text]), [])
            words += [row[place] for place in columns if place < len(row) and row[place]]
        elif text:
            words.append(text)
    return words


def _of_parquet(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = [name for name in pq.read_schema(path).names if name in _COLUMNS]
        table = pq.read_table(path, columns=columns)
    except pa.ArrowInvalid as error:
        raise UserError(f"--keys: {path} is no Parquet file: {error}") from None
    if not columns:
        raise UserError(f"--keys: {path} has neither a column `key` nor `sha256`")
    return [str(word) for name in columns for word in table[name].to_pylist() if word]


def _of_model(text: str, storage: Storage, lineage: Lineage, home: Path) -> str:
    with open_registry(environment.default_tracking(home), environment.EXPERIMENT) as registry:
        if registry is None:
            raise UserError(f"'{text}' is a model of MLflow, and there is none: set NS_TRACKING_URI")
        model = registry.model(text)
    if model.root != storage.uri:
        raise UserError(f"model {text} lies in another store: add --store {model.root}")
    if model.folder not in lineage.made:
        raise UserError(f"model {text} points at {model.folder}, which {storage.uri} has no more")
    return model.folder


def _described(name: str, lineage: Lineage, held: dict[str, list[str]]) -> dict[str, Any]:
    """What is known of an artifact; of one without a readable record, who uses it."""
    uses = [{"role": role, "artifact": user} for role, user in lineage.uses(name)]
    made = lineage.made.get(name)
    if made is None:
        return {"runs": held.get(name, []), "inputs": [], "uses": uses}
    inputs = [one._asdict() for one in lineage.inputs(name)]
    return {**asdict(made), "runs": held.get(name, []), "inputs": inputs, "uses": uses}
