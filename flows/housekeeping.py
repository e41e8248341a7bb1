"""What `noisy-student gc` does: lists the artifacts that no kept run reaches, and on --yes removes them.

In: a `Choice`, a store, MLflow's address. Out: a table on standard output, with --json one object. What stays, and in
which order the rest goes, is in `ns_core.housekeeping`. Imports no Prefect.

A run is dropped by renaming its `run.json` to `dropped.json`, before anything else: however the removal ends, the next
`gc` takes the run for dropped and goes on. Before each artifact goes, its folder, the finished runs and MLflow are
looked at again. A run that begins meanwhile, finds an old artifact and is not in MLflow may still lose it: its worker
then says so, and a retry computes it again.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import environment
from flows.housekeeping_view import print_plan
from flows.run_documents import HeldRun, held_runs, run_keys
from ns_core.errors import StageFailed, Unreachable, UserError
from ns_core.evaluation.reports.report import RunPaths, find_run
from ns_core.housekeeping import DAY, Folder, Item, changed, plan, reached, remove, survey, young
from ns_core.lineage import Lineage, read_lineage
from ns_core.registry import Registry, open_registry
from ns_core.storage import Storage, open_storage


@dataclass(frozen=True)
class Choice:
    """What a person asked for."""

    keep: tuple[str, ...] = ()
    """Runs; all others are dropped. Empty: all are kept."""
    drop: tuple[str, ...] = ()
    days: float = 1.0
    """The safety age."""
    registry: bool = True
    """Whether MLflow is asked."""
    yes: bool = False


@dataclass
class Kept:
    """Who keeps what, at one moment."""

    runs: list[HeldRun]
    dropped: frozenset[str]
    documents: list[str]
    """Keys of the finished runs' documents, by which a new one shows."""
    underway: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)


@dataclass
class Outcome:
    """What became of the items that were to go."""

    removed: list[Item] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def collect(choice: Choice, store: str, home: Path, *, as_json: bool) -> int:
    """Lists, and removes if so chosen. Raises `UserError` where it is not known what is in use, `StageFailed` where
    something cannot be removed."""
    if not 0 <= choice.days < float("inf"):
        raise UserError(f"--older-than {choice.days}: give a number of days, 0 or more")
    storage, now = open_storage(store), time.time()
    with _registry(choice, environment.default_tracking(home)) as (registry, away):
        dropped = _dropped(storage, choice, registry)
        kept = _kept(storage, dropped, registry)
        # In this order, an artifact that is committed meanwhile is known to stay.
        folders = survey(storage)
        lineage = read_lineage(storage)
        items = plan(folders, lineage, kept.folders, now, choice.days * DAY)
        obstacles = [*away, *_obstacles(storage, lineage, folders, kept, now, choice)]
        outcome = Outcome()
        if choice.yes:
            if obstacles:
                raise UserError(f"nothing was removed: {obstacles[0]}")
            outcome = _carry_out(storage, items, lineage, kept, choice, registry)
    document = _document(storage, kept, lineage, items, choice, now)
    document |= {"obstacles": obstacles, "skipped": outcome.skipped, "failed": outcome.failed}
    document |= {
        "removed": {"artifacts_and_leftovers": len(outcome.removed), "bytes": sum(i.size for i in outcome.removed)}
    }
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        print_plan(document, sys.stdout)
    if outcome.failed:
        raise StageFailed(f"{len(outcome.failed)} could not be removed: {next(iter(outcome.failed.values()))}")
    return 0


def marker(run: str) -> str:
    """The key that says that a run was dropped; it holds what was the run's document."""
    return f"{RunPaths(run).folder}/dropped.json"


@contextmanager
def _registry(choice: Choice, uri: str) -> Iterator[tuple[Registry | None, list[str]]]:
    """MLflow, or None and why it was not asked though it should have been."""
    if not choice.registry:
        yield None, []
        return
    with open_registry(uri, environment.EXPERIMENT) as registry:
        try:
            if registry is not None:
                registry.registered()
        except Unreachable as error:
            yield None, [f"{error}; or add --without-registry, if no registered model points into this store"]
            return
        yield registry, []


def _dropped(storage: Storage, choice: Choice, registry: Registry | None) -> frozenset[str]:
    """The runs that go: those that were dropped before, too. Raises `UserError` for a name that is none."""
    before = {key.split("/")[1] for key in storage.list("runs/") if key == marker(key.split("/")[1])}
    underway = {one.run_id for one in registry.underway()} if registry and choice.drop else set()
    named = {name if name in before | underway else find_run(storage, name) for name in choice.drop}
    if choice.keep:
        keep = {find_run(storage, name) for name in choice.keep}
        named |= {key.split("/")[1] for key in run_keys(storage)} - keep
    return frozenset(before | named)


def _kept(storage: Storage, dropped: frozenset[str], registry: Registry | None) -> Kept:
    """Who keeps what now."""
    documents = [key for key in run_keys(storage) if key.split("/")[1] not in dropped]
    kept = Kept([run for run in held_runs(storage) if run.run_id not in dropped], dropped, documents)
    kept.folders = {folder for run in kept.runs for folder in run.folders}
    if registry is not None:
        kept.folders |= {one.folder for one in registry.registered() if one.aliases}
        running = [one for one in registry.underway() if one.run_id not in dropped]
        kept.underway = sorted(one.run_id for one in running)
        kept.folders |= {folder for one in running for folder in one.folders}
    return kept


def _obstacles(
    storage: Storage, lineage: Lineage, folders: dict[str, Folder], kept: Kept, now: float, choice: Choice
) -> list[str]:
    """Why it cannot be known what is in use."""
    found = []
    for folder, why in lineage.unreadable.items():
        found.append(
            f"{storage.uri}/{folder}: its record cannot be read ({why}), so what it was made of is not known; run its "
            "recipe again, or remove the folder"
        )
    busy = sorted(name for name in young(folders, now, choice.days * DAY) if folders[name].unfinished)
    if busy and not kept.underway:
        found.append(
            f"a stage is at work on {busy[0]}, or was within {choice.days:g} days, and MLflow has no run that says "
            "what it is made of: wait until it has ended"
        )
    return found


def _carry_out(
    storage: Storage, items: list[Item], lineage: Lineage, kept: Kept, choice: Choice, registry: Registry | None
) -> Outcome:
    """Drops runs, removes items in their order, then the folders of the dropped runs."""
    for run in kept.dropped:
        if storage.size(RunPaths(run).document) is not None:
            storage.move(RunPaths(run).document, marker(run))
    outcome, needed = Outcome(), set[str]()
    for item in items:
        why = "what was made of it stays" if item.folder in needed else ""
        if why := why or _why_not(storage, item, lineage, kept, choice, registry):
            outcome.skipped[item.folder] = why
            needed |= lineage.ancestors([item.folder] if item.folder in lineage.made else [])
            continue
        try:
            remove(storage, item)
            outcome.removed.append(item)
        except OSError as error:
            outcome.failed[item.folder] = str(error)
            needed |= lineage.ancestors([item.folder] if item.folder in lineage.made else [])
    for run in kept.dropped:
        for key in storage.list(f"{RunPaths(run).folder}/"):
            if key != marker(run):
                storage.delete(key)
        storage.delete(marker(run))
        storage.delete_tree(f"{RunPaths(run).folder}/")
    return outcome


def _why_not(
    storage: Storage, item: Item, lineage: Lineage, before: Kept, choice: Choice, registry: Registry | None
) -> str:
    """Why an item has to stay after all, in words; empty if it may go."""
    if why := changed(storage, item, time.time(), choice.days * DAY):
        return why
    if item.kind == "leftover":
        return ""
    documents = [key for key in run_keys(storage) if key.split("/")[1] not in before.dropped]
    if documents == before.documents and registry is None:
        return ""
    now = _kept(storage, before.dropped, registry)
    if now.folders <= before.folders:
        return ""
    return "a run reaches it since" if item.folder in reached(lineage, now.folders) | now.folders else ""


def _document(
    storage: Storage, kept: Kept, lineage: Lineage, items: list[Item], choice: Choice, now: float
) -> dict[str, Any]:
    """What --json prints: sizes in bytes, ages in days."""
    going = sum(item.kind == "artifact" for item in items)
    return {
        "store": storage.uri,
        "yes": choice.yes,
        "older_than_days": choice.days,
        "kept_runs": [run.run_id for run in kept.runs],
        "runs_underway": kept.underway,
        "dropped_runs": sorted(kept.dropped),
        "artifacts": len(lineage.made),
        "artifacts_that_stay": len(lineage.made) - going,
        "items": [
            {
                "kind": item.kind,
                "folder": item.folder,
                "parts": [part.name for part in item.parts],
                "reason": item.reason,
                "objects": item.objects,
                "bytes": item.size,
                "age_days": round((now - item.newest) / DAY, 2),
            }
            for item in items
        ],
        "bytes": sum(item.size for item in items),
    }
