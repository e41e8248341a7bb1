"""The student's targets: from the selection or from a better teacher's labels of it, in memory or in a file."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from ns_core.config import StudentConfig
from ns_core.data.index import DatasetIndex, SplitIndex
from ns_core.data.pseudo_labels import dense, label_file, label_table
from ns_core.data.rows import OneHot
from ns_core.errors import StageFailed, UserError
from ns_core.stage import StageContext, Stopped
from ns_core.storage import open_storage
from ns_core.storage.ranged import RemoteFiles
from ns_core.training import pseudo_labels, train_noisy_student
from ns_core.training.losses import pseudo_targets
from tests.factories import training_context

CLASSES = 10
KEPT = np.arange(5, 1500, 7)
"""Rows of the pool that are selected: 214 of its 1,587, from all four shards."""
EVERY = np.arange(len(KEPT))
both_forms = pytest.mark.parametrize("top_k", [0, 3])

Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def pool(digits_folder: Path) -> SplitIndex:
    return DatasetIndex.load(digits_folder).split("pool")


def logits(seed: int) -> NDArray[np.float32]:
    """float32[N,10], spread so that some probabilities are 0 in fp16."""
    drawn: NDArray[np.float32] = np.random.default_rng(seed).normal(0, 5, (len(KEPT), CLASSES)).astype(np.float32)
    return drawn


def texts(pool: SplitIndex) -> pa.Table:
    return pa.table({"key": pool.keys[KEPT], "sha256": pool.sha256[KEPT]})


def labelled(pool: SplitIndex, seed: int, top_k: int) -> pa.Table:
    return label_table(texts(pool), logits(seed), top_k=top_k)


def selection(folder: Path, pool: SplitIndex, top_k: int = 0) -> Path:
    """As filter-and-balance leaves it, in row groups of 50, with the labels that `logits(0)` give."""
    table = labelled(pool, 0, top_k).drop_columns(["reason", "calibrated"])
    places = {
        "shard": pa.array([pool.shard_names[code] for code in pool.shard_codes[KEPT]]),
        "offset": pa.array(pool.offsets[KEPT]),
        "size": pa.array(pool.sizes[KEPT]),
        "copies": pa.array(np.ones(len(KEPT), np.int32)),
    }
    for name, column in places.items():
        table = table.append_column(name, column)
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "selection.parquet", row_group_size=50)
    return folder


def same(table: pa.Table) -> pa.Table:
    return table


def relabelled(
    folder: Path, pool: SplitIndex, top_k: int = 0, unreadable: tuple[int, ...] = (), change: Change = same
) -> Path:
    """As infer-unlabeled leaves the labels `logits(1)` of the selection, with a `change` to those of the last shard."""
    folder.mkdir(parents=True)
    whole = label_table(texts(pool), logits(1), top_k=top_k, unreadable=dict.fromkeys(unreadable, "truncated"))
    for code, shard in enumerate(pool.shard_names):
        table = whole.take(pa.array(np.flatnonzero(pool.shard_codes[KEPT] == code)))
        pq.write_table(change(table) if shard == pool.shard_names[-1] else table, folder / label_file(shard))
    return folder


def targets(context: StageContext, **settings: Any) -> tuple[NDArray[np.float32], int]:
    """float32[N,10] of all rows, asked for in parts, and how many labels could not be had."""
    config = StudentConfig(**settings)
    rows, unread = train_noisy_student.selected_rows(config, context, CLASSES)
    return np.concatenate([rows.targets[part] for part in np.array_split(EVERY, 7)]), unread


def expected(pool: SplitIndex, seed: int, top_k: int, temperature: float = 1.0) -> NDArray[np.float32]:
    """The whole table at once, by way of the float32 array that the labels stand for."""
    labels = torch.from_numpy(dense(labelled(pool, seed, top_k), CLASSES))
    made: NDArray[np.float32] = pseudo_targets(labels, "soft", temperature).numpy()
    return made


@both_forms
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_targets_made_on_demand_are_to_the_bit_those_of_the_whole_table(
    tmp_path: Path, pool: SplitIndex, top_k: int, temperature: float
) -> None:
    context = training_context(tmp_path, selection=selection(tmp_path / "selection", pool, top_k))
    found, unread = targets(context, temperature=temperature)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected(pool, 0, top_k, temperature))
    assert np.allclose(found.sum(axis=1), 1, atol=1e-6)
    assert unread == 0


def test_a_part_of_many_classes_is_as_the_whole() -> None:
    """More numbers than torch leaves to one thread."""
    rng = np.random.default_rng(0)
    records = np.empty(100, [("probabilities", np.float16, (1000,))])
    records["probabilities"] = rng.dirichlet(np.full(1000, 0.02), 100)
    whole = pseudo_targets(torch.from_numpy(records["probabilities"]).float(), "soft", 1.0).numpy()
    rows = rng.permutation(100)
    assert np.array_equal(pseudo_labels.SoftTargets(records, 1000, 1.0)[rows], whole[rows])
    assert pseudo_labels.SoftTargets(records, 1000, 1.0)[rows[:0]].shape == (0, 1000)


@both_forms
@pytest.mark.parametrize("source", ["selection", "labels"])
def test_a_hard_label_is_the_most_probable_class(tmp_path: Path, pool: SplitIndex, top_k: int, source: str) -> None:
    inputs = {"selection": selection(tmp_path / "selection", pool, top_k)}
    if source == "labels":
        inputs["labels"] = relabelled(tmp_path / "labels", pool, top_k)
    found, _ = targets(training_context(tmp_path, **inputs), labels="hard", label_smoothing=0.2)
    best = logits(int(source == "labels")).argmax(axis=1).astype(np.int32)
    assert np.array_equal(found, OneHot(best, CLASSES, 0.2)[EVERY])


@both_forms
def test_another_teachers_labels_are_joined_by_key_in_whatever_order(
    tmp_path: Path, pool: SplitIndex, top_k: int
) -> None:
    def shuffled(table: pa.Table) -> pa.Table:
        return table.take(pa.array(np.random.default_rng(3).permutation(table.num_rows)))

    context = training_context(
        tmp_path,
        selection=selection(tmp_path / "selection", pool, top_k),
        labels=relabelled(tmp_path / "labels", pool, top_k, change=shuffled),
    )
    found, unread = targets(context)
    assert np.array_equal(found, expected(pool, 1, top_k))
    assert not np.array_equal(found, expected(pool, 0, top_k))
    assert unread == 0


@both_forms
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_an_image_that_could_not_be_read_keeps_the_selections_label_and_is_counted(
    tmp_path: Path, pool: SplitIndex, top_k: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    lost = [0, 60, 213]
    context = training_context(
        tmp_path,
        selection=selection(tmp_path / "selection", pool, top_k),
        labels=relabelled(tmp_path / "labels", pool, top_k, unreadable=tuple(lost)),
    )
    with caplog.at_level(logging.WARNING):
        found, unread = targets(context, labels=kind)
    wanted, old = (
        (expected(pool, seed, top_k) if kind == "soft" else OneHot(_best(seed), CLASSES, 0.1)[EVERY]) for seed in (1, 0)
    )
    wanted[lost] = old[lost]
    assert np.array_equal(found, wanted)
    assert unread == 3
    assert "3 of 214 images could not be labelled anew and keep their labels" in caplog.text


def _best(seed: int) -> NDArray[np.int32]:
    return np.asarray(logits(seed).argmax(axis=1), np.int32)


def _foreign(table: pa.Table) -> pa.Table:
    keys = ["of another pool", *table["key"].to_pylist()[1:]]
    return table.set_column(0, "key", pa.array(keys))


def _twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 1), table.slice(0, table.num_rows - 1)])


def _other_bytes(table: pa.Table) -> pa.Table:
    return table.set_column(1, "sha256", pa.array(["0" * 64, *table["sha256"].to_pylist()[1:]]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.slice(1), "not of exactly the"),
        (_foreign, "not of exactly the"),
        (_twice, "not of exactly the"),
        (_other_bytes, "of other bytes than were selected"),
        (lambda table: table.drop_columns(["probabilities"]), "in different forms"),
    ],
    ids=["missing", "foreign", "twice", "other-bytes", "other-form"],
)
def test_labels_of_other_images_are_refused_in_a_line_that_names_the_shard(
    tmp_path: Path, pool: SplitIndex, change: Change, words: str
) -> None:
    context = training_context(
        tmp_path,
        selection=selection(tmp_path / "selection", pool),
        labels=relabelled(tmp_path / "labels", pool, change=change),
    )
    with pytest.raises(StageFailed, match=words) as raised:
        targets(context)
    assert Path(pool.shard_names[-1]).stem in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("harm", "words"), [("missing", "are missing"), ("more", "are of no shard")])
def test_a_label_file_too_many_or_too_few_is_named(tmp_path: Path, pool: SplitIndex, harm: str, words: str) -> None:
    labels = relabelled(tmp_path / "labels", pool)
    odd = labels / (label_file(pool.shard_names[1]) if harm == "missing" else "labels-more.parquet")
    if harm == "missing":
        odd.unlink()
    else:
        odd.write_bytes((labels / label_file(pool.shard_names[1])).read_bytes())
    context = training_context(tmp_path, selection=selection(tmp_path / "selection", pool), labels=labels)
    with pytest.raises(StageFailed, match=f"{odd.name} {words}"):
        targets(context)


def test_labels_in_a_remote_store_are_read_where_they_lie(tmp_path: Path, pool: SplitIndex) -> None:
    folder = relabelled(tmp_path / "remote" / "labels", pool)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    (tmp_path / "empty").mkdir()
    context = training_context(tmp_path, selection=selection(tmp_path / "selection", pool), labels=tmp_path / "empty")
    context.remote = {"labels": RemoteFiles(open_storage(str(tmp_path / "remote")), "labels", sizes)}
    assert np.array_equal(targets(context)[0], expected(pool, 1, 0))


class TestInAFile:
    """What does not fit into `MEMORY_BYTES`."""

    @pytest.fixture(autouse=True)
    def no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pseudo_labels, "MEMORY_BYTES", 1000)

    @pytest.fixture
    def context(self, tmp_path: Path, pool: SplitIndex) -> StageContext:
        made = training_context(
            tmp_path,
            selection=selection(tmp_path / "selection", pool),
            labels=relabelled(tmp_path / "labels", pool, unreadable=(4,)),
        )
        return replace(made, cache=tmp_path / "cache")

    def files(self, context: StageContext) -> list[Path]:
        return [path for path in context.cache.rglob("*") if path.is_file()]

    @both_forms
    @pytest.mark.parametrize("anew", [False, True])
    def test_targets_are_the_same(self, tmp_path: Path, pool: SplitIndex, top_k: int, anew: bool) -> None:
        inputs = {"selection": selection(tmp_path / "selection", pool, top_k)}
        if anew:
            inputs["labels"] = relabelled(tmp_path / "labels", pool, top_k)
        context = replace(training_context(tmp_path, **inputs), cache=tmp_path / "cache")
        found, _ = targets(context, temperature=0.7)
        assert np.array_equal(found, expected(pool, int(anew), top_k, 0.7))
        (file,) = self.files(context)
        assert file.stat().st_size < len(KEPT) * 2 * CLASSES + 100

    def test_the_next_attempt_and_another_process_of_the_machine_find_it_filled(
        self, context: StageContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, unread = targets(context)
        monkeypatch.setattr(pseudo_labels._Source, "read", lambda *_: pytest.fail("read again"))
        again, same = targets(context)
        assert np.array_equal(again, first)
        assert (unread, same) == (1, 1)

    def test_an_attempt_that_was_cut_off_while_filling_leaves_nothing_that_counts(
        self, context: StageContext, pool: SplitIndex
    ) -> None:
        asked = iter([False, False, True])
        with pytest.raises(Stopped):
            targets(replace(context, stopping=lambda: next(asked)))
        wanted = expected(pool, 1, 0)
        wanted[4] = expected(pool, 0, 0)[4]
        assert np.array_equal(targets(context)[0], wanted)

    def test_of_two_at_once_one_fills_and_the_other_waits(
        self, context: StageContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fills, read = list[int](), pseudo_labels._Source.read

        def counted(source: Any, kept: Any, of: Any) -> int:
            fills.append(1)
            return read(source, kept, of)

        monkeypatch.setattr(pseudo_labels._Source, "read", counted)
        found: list[NDArray[np.float32]] = []
        threads = [Thread(target=lambda: found.append(targets(context)[0])) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(fills) == 1
        assert np.array_equal(found[0], found[1])

    def test_it_is_gone_when_the_student_is_done_and_who_still_reads_it_may(
        self, context: StageContext, pool: SplitIndex
    ) -> None:
        rows, _ = train_noisy_student.selected_rows(StudentConfig(), context, CLASSES)
        pseudo_labels.forget(context)
        assert self.files(context) == []
        assert np.array_equal(rows.targets[np.array([0])], expected(pool, 1, 0)[:1])
        pseudo_labels.forget(context)

    def test_a_disk_that_is_full_is_one_line_before_anything_is_read(
        self, context: StageContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.posix_fallocate", full)
        with pytest.raises(UserError, match=r"no room for 0\.0 GB of soft labels \(No space left on device\): free"):
            targets(context)
        assert self.files(context) == []
