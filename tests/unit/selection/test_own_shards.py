"""Shards of a selection's own: the images they hold, and what becomes of them when the stage is cut off."""

import hashlib
import logging
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ns_core.artifacts import file_entry
from ns_core.config import SelectConfig
from ns_core.data.reading import ShardReader
from ns_core.resume import Adopted
from ns_core.selection import filter_and_balance
from ns_core.stage import StageContext, Stopped
from tests.artifact_builders import flip
from tests.factories import settled, stage_context
from tests.pool_tables import labelled, write_dataset, write_labels, write_shards

IMAGES, CLASSES, SHARD = 2400, 3, 500
CONFIG = SelectConfig(threshold=0.4, per_class=600, max_copies=2, materialize=True, shard_megabytes=1, seed=3)
"""Keeps some 1,440 images of 1.5 kB with their headers: three shards."""


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    images = write_shards(tmp_path / "dataset", IMAGES, SHARD)
    random = np.random.default_rng(0)
    top1, confidence = random.integers(0, CLASSES, IMAGES), random.random(IMAGES).astype(np.float32)
    return {
        "dataset": write_dataset(tmp_path / "dataset", images, CLASSES, SHARD),
        "pseudo_labels": write_labels(
            tmp_path / "labels", labelled(images, top1.astype(np.int32), confidence, CLASSES), SHARD
        ),
    }


def _manifest(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "selection.parquet").to_pylist()
    return rows


def test_shards_hold_the_bytes_of_the_selected_images_and_the_manifest_says_where(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    context = stage_context(tmp_path, inputs)
    result = filter_and_balance.run(CONFIG, context)
    folder = settled(context)
    rows = _manifest(folder)
    assert len(context.adopted) == 3 == len(list(folder.glob("*.tar")))
    with ShardReader(inputs["dataset"], {"selected": str(folder)}) as reader:
        for row in rows:
            data = reader.read(row["shard"], row["offset"], row["size"])
            assert hashlib.sha256(data).hexdigest() == row["sha256"]
    members = list[str]()
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            members += tar.getnames()
    assert sorted(members) == sorted(f"{row['key']}.jpg" for row in rows)
    assert members != sorted(members), "they are shuffled"
    assert len(rows) == result["kept"]


def test_but_for_the_places_the_selection_is_that_over_the_pools_shards(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    context, plain = stage_context(tmp_path, inputs), stage_context(tmp_path, inputs)
    same = filter_and_balance.run(CONFIG, context)
    assert filter_and_balance.run(CONFIG.model_copy(update={"materialize": False}), plain) == same
    for row, other in zip(_manifest(context.output), _manifest(plain.output), strict=True):
        assert row["shard"].startswith("selected/selected-00000")
        assert {**row, "shard": other["shard"], "offset": other["offset"]} == other
    for name in ("dropped.parquet", "classes.parquet"):
        assert (context.output / name).read_bytes() == (plain.output / name).read_bytes()


def _stopped_after(inputs: dict[str, Path], tmp_path: Path, shards: int) -> StageContext:
    """An attempt that SIGTERM reaches once so many shards are saved."""
    context = stage_context(tmp_path, inputs)
    context.stopping = lambda: len(context.resume.names()) >= shards
    with pytest.raises(Stopped):
        filter_and_balance.run(CONFIG, context)
    assert len(context.resume.names()) == shards
    return context


def _inodes(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (tmp_path / "store" / "stage" / "resume").iterdir()}


def test_an_attempt_after_a_killed_one_writes_the_missing_shards_only(
    inputs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noisy_student")
    _stopped_after(inputs, tmp_path, 2)
    before = _inodes(tmp_path)
    again = stage_context(tmp_path, inputs)
    result = filter_and_balance.run(CONFIG, again)
    assert "going on: 2 of 3 shards are written already" in caplog.messages
    assert before.items() <= _inodes(tmp_path).items()
    undisturbed = stage_context(tmp_path / "other", inputs)
    assert filter_and_balance.run(CONFIG, undisturbed) == result
    assert again.adopted == undisturbed.adopted
    assert (again.output / "selection.parquet").read_bytes() == (undisturbed.output / "selection.parquet").read_bytes()


def _cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-512])


@pytest.mark.parametrize("damage", [flip, _cut_short])
def test_a_shard_that_was_damaged_on_disk_is_written_again_and_said_so(
    inputs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    _stopped_after(inputs, tmp_path, 2)
    (saved,) = (tmp_path / "store" / "stage" / "resume").glob("selected-000001.*")
    damage(saved)
    again = stage_context(tmp_path, inputs)
    filter_and_balance.run(CONFIG, again)
    assert f"{saved.name} is damaged: its bytes are not those of its name; made again" in caplog.messages
    for name, file in again.adopted.items():
        entry = file_entry(settled(again) / name)
        assert (file.size, file.sha256) == (entry.size, entry.sha256)


def test_whole_shards_of_a_damaged_artifact_are_taken_as_they_are(inputs: dict[str, Path], tmp_path: Path) -> None:
    first = stage_context(tmp_path, inputs)
    filter_and_balance.run(CONFIG, first)
    name = "selected-000001.tar"
    kept = Adopted(name, first.adopted[name].size, first.adopted[name].sha256, "attempt-before")
    again = stage_context(tmp_path / "again", inputs)
    again.salvage = partial(dict, {name: kept, "selection.parquet": Adopted("selection.parquet", 3, "0" * 64, "x")})
    filter_and_balance.run(CONFIG, again)
    assert again.adopted == {**first.adopted, name: kept}
    assert len(again.resume.names()) == 2
