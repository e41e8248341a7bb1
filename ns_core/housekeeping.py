"""What of a store nobody needs any more, and its removal.

In: a listing of the store, its `Lineage`, and the artifacts that somebody keeps. Out: `Item`s, each a folder or what is
left over in one, with the reason; `remove` takes one away.

An artifact stays that was kept, that is younger than the safety age by its newest object, or that another one which
stays was made of; so does a report on a checkpoint that stays. A folder in which anything is younger than that age is
left alone altogether: a worker may be at work there. So are folders whose record cannot be read.

What was made of others goes before them, and of an artifact the record goes first. So whatever kills a removal, every
record that is left is whole and its inputs are there; the files whose record is gone are what the next look calls left
over. Nothing is removed but what was seen: files of a worker that begins meanwhile have names of their own.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from ns_core.artifacts import TYPES, Record
from ns_core.errors import NotFound
from ns_core.fingerprint import SHORT
from ns_core.lineage import Lineage
from ns_core.resume import RESUME
from ns_core.storage import Storage

DAY = 86_400.0
UNFINISHED = 30 * DAY
"""Saved work of a stage that never ended is an interrupted run's: it goes on from there, often days later."""
RECORD = ".artifact.json"
DAMAGED = f"{RECORD}.damaged-"
_ATTEMPT, _PREFECT = "attempt-", "prefect-result.json"


@dataclass
class Part:
    """A file directly in an artifact's folder, or a folder there with all it holds."""

    name: str
    folder: bool
    size: int = 0
    objects: int = 0
    newest: float = 0.0
    """Unix seconds."""


@dataclass
class Folder:
    """What lies at `{stage}/{fingerprint[:12]}`."""

    name: str
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def newest(self) -> float:
        return max(part.newest for part in self.parts.values())

    @property
    def unfinished(self) -> bool:
        """Whether work lies there that no record names."""
        return RECORD not in self.parts and any(part.folder for part in self.parts.values())


@dataclass(frozen=True)
class Item:
    """Something to be removed."""

    kind: Literal["artifact", "leftover"]
    folder: str
    parts: tuple[Part, ...]
    """In the order in which they go."""
    reason: str
    attempt: str = ""
    """Of an artifact: the attempt that its record names."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.size for part in self.parts)

    @property
    def objects(self) -> int:
        return sum(part.objects for part in self.parts)

    @property
    def newest(self) -> float:
        """When it was last written to, in Unix seconds."""
        return max(part.newest for part in self.parts)


def survey(storage: Storage, prefix: str = "") -> dict[str, Folder]:
    """The artifacts' folders by name, from one listing; `prefix`: those below it. Memory holds a line for each part."""
    folders: dict[str, Folder] = {}
    for one in storage.objects(prefix):
        pieces = one.key.split("/", 3)
        if len(pieces) < 3 or pieces[0] not in TYPES or len(pieces[1]) != SHORT:
            continue
        folder = folders.setdefault("/".join(pieces[:2]), Folder("/".join(pieces[:2])))
        part = folder.parts.setdefault(pieces[2], Part(pieces[2], folder=len(pieces) > 3))
        part.size += one.size
        part.objects += 1
        part.newest = max(part.newest, one.modified)
    return folders


def reached(lineage: Lineage, kept: Collection[str]) -> set[str]:
    """What stays because `kept` does: all it was made of, and the reports on its checkpoints with all these need."""
    stays = lineage.ancestors(name for name in kept if name in lineage.made)
    while True:
        reports = {user for name in stays for role, user in lineage.uses(name) if role == "checkpoint"}
        if reports <= stays:
            return stays
        stays = lineage.ancestors(stays | reports)


def young(folders: Mapping[str, Folder], now: float, age: float) -> set[str]:
    """Folders that something was written to within the last `age` seconds."""
    return {name for name, folder in folders.items() if now - folder.newest < age}


def plan(folders: Mapping[str, Folder], lineage: Lineage, kept: Collection[str], now: float, age: float) -> list[Item]:
    """What can go, in the order in which it has to.

    `kept`: artifacts that stay whatever their age. `lineage` was read after `folders`: what it has more is new.
    `now`: Unix seconds; `age`: of safety, in seconds.
    """
    busy = young(folders, now, age) | (lineage.made.keys() - folders.keys())
    stays = reached(lineage, {*kept, *busy})
    idle = {name: folder for name, folder in folders.items() if name not in busy and name not in lineage.unreadable}
    items = [item for name in sorted(idle) for item in _leftovers(idle[name], lineage, stays | set(kept), now)]
    for name in lineage.latest_first(name for name in idle if name in lineage.made and name not in stays):
        first = [idle[name].parts[RECORD]]
        parts = (*first, *(part for part in idle[name].parts.values() if part is not first[0]))
        items.append(Item("artifact", name, parts, "no kept run reaches it", lineage.made[name].attempt))
    return items


def _leftovers(folder: Folder, lineage: Lineage, stays: Collection[str], now: float) -> Iterator[Item]:
    """What lies in a folder for nobody, unless the folder is to go as a whole."""
    made = lineage.made.get(folder.name)
    if made is None and RECORD in folder.parts:  # committed or removed since the records were read
        return
    if made is not None and folder.name not in stays:
        return
    for part in folder.parts.values():
        reason = ""
        if made is not None:
            if part.name.startswith(DAMAGED):
                reason = "a damaged record that was replaced"
            elif part.name == RESUME:
                reason = "saved work of an artifact that is complete"
            elif part.name.startswith(_ATTEMPT) and part.name != f"{_ATTEMPT}{made.attempt}":
                reason = "files that no record names"
        elif part.name == _PREFECT:
            reason = "Prefect's result without an artifact"
        elif part.name == RESUME:
            wanted = folder.name in stays or now - part.newest < UNFINISHED
            reason = "" if wanted else f"saved work that nobody went on from for {UNFINISHED / DAY:.0f} days"
        elif not (folder.name in stays and any(name.startswith(DAMAGED) for name in folder.parts)):
            # A damaged artifact of a kept run: whole files of it are taken over when it is computed again.
            reason = "a damaged record" if part.name.startswith(DAMAGED) else "files that no record names"
        if reason and (part.folder or part.name == _PREFECT or part.name.startswith(DAMAGED)):
            yield Item("leftover", folder.name, (part,), reason)


def changed(storage: Storage, item: Item, now: float, age: float) -> str:
    """What happened to an item since it was planned, in words; empty if nothing did."""
    folder = survey(storage, f"{item.folder}/").get(item.folder)
    if folder is None:
        return ""
    if now - folder.newest < age:
        return "it was written to meanwhile"
    if item.kind == "artifact":
        with suppress(NotFound, ValueError):
            record = Record.model_validate_json(storage.read(f"{item.folder}/{RECORD}"))
            return "" if record.attempt == item.attempt else "it was made anew meanwhile"
    return ""


def remove(storage: Storage, item: Item) -> None:
    """Takes an item away, its record first. Raises `OSError` when something of it stays."""
    for part in item.parts:
        place = f"{item.folder}/{part.name}"
        if part.folder:
            storage.delete_tree(f"{place}/")
        else:
            storage.delete(place)
    left = {part.name for part in survey(storage, f"{item.folder}/").get(item.folder, Folder("")).parts.values()}
    if kept := left & {part.name for part in item.parts}:
        raise OSError(
            f"{storage.uri}/{item.folder}: {', '.join(sorted(kept))} cannot be removed: check its permissions"
        )
