"""Labels of artifacts as arrays: joined by key, without what could not be read, a large pool by a sample."""

from io import BytesIO
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_core.audit import reading
from ns_core.data.pseudo_labels import label_table
from ns_core.errors import StageFailed

CLASSES = 3


class Files(dict[str, bytes]):
    def add(self, name: str, first: int, count: int, unreadable: tuple[int, ...] = (), **more: pa.Array) -> None:
        """Row r of key k is predicted as class k % 3."""
        numbers = np.arange(first, first + count)
        keys = pa.array([f"k{number:05d}" for number in numbers])
        texts = pa.table({"key": keys, "sha256": keys})
        logits = np.eye(CLASSES, dtype=np.float32)[numbers % CLASSES] * 2
        table = label_table(texts, logits, 0.5, unreadable=dict.fromkeys(unreadable, "truncated"))
        for column, values in more.items():
            table = table.append_column(column, values)
        stream = BytesIO()
        pq.write_table(table, stream)
        self[name] = stream.getvalue()

    def open(self, name: str) -> BinaryIO:
        return BytesIO(self[name])


def test_a_fold_is_joined_by_key_and_unreadable_images_count_for_nothing() -> None:
    files = Files()
    files.add("labels-b.parquet", 3, 3)
    files.add("labels-a.parquet", 0, 3, unreadable=(1,))
    labels = {f"k{number:05d}": 2 for number in range(6)}
    labels["k00004"] = 1
    found = reading.fold(files.open, ["labels-b.parquet", "labels-a.parquet"], labels, 7)
    assert found.top1.tolist() == [0, 1, 2, 0, 2]
    assert found.label.tolist() == [2, 1, 2, 2, 2]
    assert found.right.tolist() == [False, True, True, False, True]
    assert set(found.fold.tolist()) == {7}
    assert (found.calibrated > found.confidence).all(), "T = 0.5 makes it surer"


def test_a_key_that_is_no_labelled_image_stops_the_audit() -> None:
    files = Files()
    files.add("labels-a.parquet", 0, 2)
    with pytest.raises(StageFailed, match="k00001 is no labelled image"):
        reading.fold(files.open, ["labels-a.parquet"], {"k00000": 0}, 0)


def test_the_holdout_brings_its_own_labels() -> None:
    files = Files()
    files.add("holdout.parquet", 0, 4, label=pa.array([0, 1, 1, 0], pa.int32()))
    found, probabilities = reading.holdout(files.open, CLASSES)
    assert found.right.tolist() == [True, True, False, True]
    assert probabilities.shape == (4, CLASSES)
    assert probabilities.max(axis=1) == pytest.approx(found.confidence, abs=1e-3)


def test_a_small_pool_is_read_whole_and_a_large_one_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files()
    for shard in range(4):
        files.add(f"labels-{shard}.parquet", 100 * shard, 100, unreadable=(0,))
    names = sorted(files)
    whole = reading.pool(files.open, names, 400, CLASSES)
    assert (len(whole.top1), whole.images) == (396, 400)
    monkeypatch.setattr(reading, "SAMPLED", 40)
    some = reading.pool(files.open, names, 400, CLASSES)
    assert (len(some.top1), some.images, some.probabilities.shape) == (40, 400, (40, CLASSES))
    again = reading.pool(files.open, names, 400, CLASSES)
    assert some.confidence.tolist() == again.confidence.tolist()


def test_a_pool_without_a_readable_image_is_told() -> None:
    files = Files()
    files.add("labels-0.parquet", 0, 1, unreadable=(0,))
    with pytest.raises(StageFailed, match="nothing to audit"):
        reading.pool(files.open, sorted(files), 1, CLASSES)
