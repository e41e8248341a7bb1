"""A store with the artifacts of a run of two generations, made by hand, for tests of lineage and housekeeping.

Images: l0, l1 labelled; p0, p1, p2 in the pool, of which generation 1 selects p0, and generation 2 p0 and p1; h0
holdout; t0 test. The student of generation 2 starts from its teacher's weights.
"""

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ns_core.artifacts import Paths, Record, commit
from ns_core.data.index import IndexRow, Split, write_index
from ns_core.fingerprint import digest
from ns_core.storage import Storage
from tests.artifact_builders import record, written

RUN = "digits-20261122-221500-3fa9"
SPLITS: dict[str, Split] = {
    **dict.fromkeys(("h0",), "holdout"),
    **dict.fromkeys(("l0", "l1"), "labeled"),
    **dict.fromkeys(("p0", "p1", "p2"), "pool"),
    **dict.fromkeys(("t0",), "test"),
}
DATASET, TEACHER, LABELS = "prepare-dataset", "train-teacher", "infer-unlabeled"
SELECTION, STUDENT, FINETUNED = "filter-and-balance", "train-noisy-student", "finetune-at-test-resolution"
REPORT = "evaluate-robustness"


def hash_of(key: str) -> str:
    """The content hash of an image."""
    return sha256(key.encode()).hexdigest()


class Maker:
    """Commits artifacts of a few bytes to a store; their files are left in `folder`."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.storage, self._folder = storage, folder

    def artifact(
        self, stage: str, name: str, files: Mapping[str, bytes] | None = None, **inputs: "Record | str"
    ) -> Record:
        """One called `name`, which is its identity, made of artifacts or digests."""
        fingerprints = {role: one if isinstance(one, str) else one.fingerprint for role, one in inputs.items()}
        paths = Paths(stage, digest({"stage": stage, "name": name, "inputs": fingerprints}))
        result = {"kept": 1} if stage == SELECTION else {"holdout_top1": 0.5}
        update = {"inputs": fingerprints, "result": result, "science": {"source": "folder"}}
        own = self._folder / name
        written(own, dict(files or {"file": name.encode()}))
        return commit(self.storage, record(paths).model_copy(update=update), own)

    def dataset(self, name: str, splits: Mapping[str, Split], content: Mapping[str, str] | None = None) -> Record:
        """`content`: key -> what its bytes are, where that is not the key."""
        rows = [_row(key, split, (content or {}).get(key, key)) for key, split in splits.items()]
        self._folder.mkdir(parents=True, exist_ok=True)
        index, left_out = self._folder / f"{name}.index", self._folder / f"{name}.dropped"
        write_index(index, rows)
        pq.write_table(pa.table({"split": ["pool"], "key": ["leaked"]}), left_out)
        files = {"index.parquet": index.read_bytes(), "dropped.parquet": left_out.read_bytes()}
        return self.artifact(DATASET, name, files, source=digest(name))

    def selection(self, name: str, keys: list[str], dataset: Record, labels: Record) -> Record:
        table = self._folder / f"{name}.parquet"
        pq.write_table(pa.table({"key": keys, "copies": [1] * len(keys)}), table)
        files = {"selection.parquet": table.read_bytes()}
        return self.artifact(SELECTION, name, files, dataset=dataset, pseudo_labels=labels)


def _row(key: str, split: Split, content: str) -> IndexRow:
    return IndexRow(
        key=key,
        split=split,
        shard=f"{split}-000000.tar",
        offset=512,
        size=1,
        label=None if split == "pool" else 0,
        width=8,
        height=8,
        sha256=hash_of(content),
        path=f"/images/{key}.png",
    )


def generations(maker: Maker, dataset: Record, mark: str = "") -> dict[str, Record]:
    """The artifacts of a run of two generations by name: `teacher`, `report0`, ..., `finetuned2`, `report2`."""
    made = {"dataset": dataset}
    made["teacher"] = maker.artifact(TEACHER, f"teacher{mark}", dataset=dataset)
    made["report0"] = maker.artifact(REPORT, f"report0{mark}", dataset=dataset, checkpoint=made["teacher"])
    teacher, before = made["teacher"], made["report0"]
    for index, keys in ((1, ["p0"]), (2, ["p0", "p1"])):
        labels = maker.artifact(LABELS, f"labels{index}{mark}", dataset=dataset, teacher=teacher)
        selection = maker.selection(f"selection{index}{mark}", keys, dataset, labels)
        start = {"teacher": teacher} if index == 2 else {}
        name = f"student{index}{mark}"
        student = maker.artifact(STUDENT, name, dataset=dataset, selection=selection, **start)
        teacher = maker.artifact(FINETUNED, f"finetuned{index}{mark}", dataset=dataset, student=student)
        inputs = {"dataset": dataset, "checkpoint": teacher, "baseline": before}
        before = maker.artifact(REPORT, f"report{index}{mark}", **inputs)
        made |= {f"labels{index}": labels, f"selection{index}": selection, f"student{index}": student}
        made |= {f"finetuned{index}": teacher, f"report{index}": before}
    return made


def finish(storage: Storage, made: Mapping[str, Record], run: str = RUN) -> None:
    """Writes the documents of a run that ended with these artifacts, both students promoted."""
    stages = [
        {"stage": one.stage, "generation": int(name[-1]) if name[-1].isdigit() else 0, "fingerprint": one.fingerprint}
        for name, one in made.items()
    ]
    gates: list[dict[str, Any]] = [{"index": index, "gate": {"verdict": "promote"}} for index in (1, 2)]
    document = {"run_id": run, "recipe": "digits", "seed": 7, "stages": stages, "generations": gates}
    storage.put_bytes(f"runs/{run}/report.html", b"page")
    storage.put_bytes(f"runs/{run}/run.json", json.dumps(document).encode())


def run_of_two(storage: Storage, folder: Path, mark: str = "", run: str = RUN) -> dict[str, Record]:
    """A dataset, the artifacts of a run on it, and its documents."""
    maker = Maker(storage, folder)
    made = generations(maker, maker.dataset(f"dataset{mark}", SPLITS), mark)
    finish(storage, made, run)
    return made


def names(made: Mapping[str, Record], *wanted: str) -> set[str]:
    """The folders of some artifacts; of all if none is named."""
    return {one.paths.folder for name, one in made.items() if not wanted or name in wanted}


def age(root: Path, days: float) -> None:
    """Everything below a local store was last written so long ago."""
    for path in root.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - days * 86_400
            os.utime(path, (then, then))
