"""The student's batches: both streams in each, and targets as the recipe says."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ns_core.config import StudentConfig
from ns_core.data.index import DatasetIndex, SplitIndex
from ns_core.data.loader import Batch
from ns_core.data.pseudo_labels import label_file, label_table
from ns_core.data.rows import OneHot
from ns_core.training import pseudo_labels, train_noisy_student
from ns_core.training.feed import Fed
from ns_core.training.trainer import Trainer
from tests.factories import TINY, TINY_MODEL, selection_folder, training_context

KEPT = 12
COPIES = np.array([1, 3, 2] * 4, np.int32)
"""24 rows of 12 images."""


def _config(**settings: Any) -> StudentConfig:
    return StudentConfig(**{**TINY, "model": TINY_MODEL, "batch_size": 4, "ratio": 3, "steps": 4, **settings})


@pytest.fixture
def pool(digits_folder: Path) -> SplitIndex:
    return DatasetIndex.load(digits_folder).split("pool")


@pytest.fixture
def probabilities() -> NDArray[np.float16]:
    """fp16[12,10], rows that sum to 1 only nearly."""
    scores = np.random.default_rng(0).random((KEPT, 10)).astype(np.float32) ** 4
    half: NDArray[np.float16] = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float16)
    return half


@pytest.fixture
def selection(tmp_path: Path, pool: SplitIndex, probabilities: NDArray[np.float16]) -> Path:
    """Every hundredth image of the pool."""
    return selection_folder(tmp_path / "selection", pool, np.arange(KEPT) * 100, probabilities, COPIES)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches that the trainer was given."""
    batches: list[Batch] = []

    class Recording(Trainer):
        def _update(self, fed: Fed) -> None:
            batches.append(fed.batch)
            super()._update(fed)

    monkeypatch.setattr(train_noisy_student, "Trainer", Recording)
    return batches


def test_every_batch_holds_labelled_and_selected_images_at_the_ratio(
    digits_folder: Path, selection: Path, pool: SplitIndex, seen: list[Batch], tmp_path: Path
) -> None:
    context = training_context(tmp_path, dataset=digits_folder, selection=selection)
    result = train_noisy_student.run(_config(), context)
    assert (result["pseudo_rows"], result["ratio"], result["steps"]) == (24, 3, 4)
    labelled, chosen = (
        set(DatasetIndex.load(digits_folder).split("labeled").keys),
        set(pool.keys[np.arange(KEPT) * 100]),
    )
    assert len(seen) == 4
    for batch in seen:
        assert batch.labelled == 4
        assert len(batch.keys) == len(batch.images) == 16
        assert labelled.issuperset(batch.keys[:4])
        assert chosen.issuperset(batch.keys[4:])


def test_an_image_stands_as_often_as_it_has_copies(
    digits_folder: Path, selection: Path, pool: SplitIndex, seen: list[Batch], tmp_path: Path
) -> None:
    """Two epochs of 24 rows in batches of 12."""
    train_noisy_student.run(_config(), training_context(tmp_path, dataset=digits_folder, selection=selection))
    for first in (0, 2):
        counted = Counter(key for batch in seen[first : first + 2] for key in batch.keys[batch.labelled :])
        assert counted == Counter(dict(zip(pool.keys[np.arange(KEPT) * 100], COPIES.tolist(), strict=True)))


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_label_smoothing_is_on_labels_and_hard_pseudo_labels_and_never_on_soft_ones(
    digits_folder: Path,
    selection: Path,
    pool: SplitIndex,
    probabilities: NDArray[np.float16],
    seen: list[Batch],
    tmp_path: Path,
    kind: str,
) -> None:
    config = _config(labels=kind, label_smoothing=0.2, steps=2)
    train_noisy_student.run(config, training_context(tmp_path, dataset=digits_folder, selection=selection))
    split = DatasetIndex.load(digits_folder).split("labeled")
    targets = dict(zip(split.keys, OneHot(split.labels, 10, 0.2)[np.arange(len(split))], strict=True))
    exact = probabilities.astype(np.float64)
    pseudo = exact / exact.sum(axis=1, keepdims=True)
    if kind == "hard":
        pseudo = 0.8 * np.eye(10)[exact.argmax(axis=1)] + 0.02
    targets |= dict(zip(pool.keys[np.arange(KEPT) * 100], pseudo, strict=True))
    for batch in seen:
        assert batch.targets.dtype == np.float32
        assert np.allclose(batch.targets, np.stack([targets[key] for key in batch.keys]), atol=1e-6)


def test_temperature_sharpens_the_soft_labels(
    selection: Path, probabilities: NDArray[np.float16], tmp_path: Path
) -> None:
    context = training_context(tmp_path, selection=selection)
    rows, _ = train_noisy_student.selected_rows(_config(temperature=0.5), context, 10)
    squared = probabilities.astype(np.float64) ** 2
    expected = squared / squared.sum(axis=1, keepdims=True)
    assert np.allclose(rows.targets[np.arange(KEPT)], expected, atol=1e-6)
    assert len(rows) == len(rows.offsets) == len(rows.shard_codes) == KEPT
    assert rows.positions == 24


@pytest.mark.parametrize("loss", ["official", "algorithm1"])
def test_the_form_of_the_loss_reaches_the_training(
    digits_folder: Path, selection: Path, tmp_path: Path, loss: str
) -> None:
    curves = {}
    for form in ("concat", loss):
        context = training_context(tmp_path / form, dataset=digits_folder, selection=selection)
        train_noisy_student.run(_config(loss=form, steps=1), context)
        (curves[form],) = [point["value"] for point in context.history if point["key"] == "train/loss"]
    factor = curves[loss] / curves["concat"]
    assert factor == pytest.approx(4, rel=1e-5) if loss == "official" else 1.5 < factor < 2.5


def test_labels_of_another_teacher_reach_the_batches_and_leave_nothing_in_the_cache(
    digits_folder: Path,
    selection: Path,
    pool: SplitIndex,
    seen: list[Batch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through the file that labels go into which memory does not hold."""
    monkeypatch.setattr(pseudo_labels, "MEMORY_BYTES", 100)
    rows = np.arange(KEPT) * 100
    table = pq.read_table(selection / "selection.parquet")
    pq.write_table(table.append_column("sha256", pa.array(pool.sha256[rows])), selection / "selection.parquet")
    scores = np.random.default_rng(1).normal(0, 3, (KEPT, 10)).astype(np.float32)
    labels = label_table(pa.table({"key": pool.keys[rows], "sha256": pool.sha256[rows]}), scores, unreadable={3: "cut"})
    (tmp_path / "labels").mkdir()
    for code in np.unique(pool.shard_codes[rows]):
        mine = labels.filter(pa.array(pool.shard_codes[rows] == code))
        pq.write_table(mine, tmp_path / "labels" / label_file(pool.shard_names[code]))
    context = training_context(tmp_path, dataset=digits_folder, selection=selection, labels=tmp_path / "labels")
    context.cache = tmp_path / "cache"
    result = train_noisy_student.run(_config(), context)
    assert result["unread_labels"] == 1
    powers = np.exp(scores.astype(np.float64))
    wanted = dict(zip(pool.keys[rows], powers / powers.sum(axis=1, keepdims=True), strict=True))
    del wanted[pool.keys[rows[3]]]
    found = [(key, target) for batch in seen for key, target in zip(batch.keys[4:], batch.targets[4:], strict=True)]
    assert all(np.allclose(target, wanted[key], atol=1e-3) for key, target in found if key in wanted)
    assert wanted.keys() < {key for key, _ in found}
    assert not [path for path in context.cache.rglob("*") if path.is_file()]
