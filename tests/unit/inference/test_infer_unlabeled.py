"""Labelling shard by shard: a gate before it, files that know whether they are whole, and parts that add up."""

import itertools
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ns_core.artifacts import file_entry
from ns_core.config import InferConfig, TeacherConfig
from ns_core.data.dataset import Images
from ns_core.data.image_source import eval_batches
from ns_core.data.index import CLASSES, INDEX, SCHEMA, DatasetIndex
from ns_core.data.pseudo_labels import dense, label_file
from ns_core.data.rows import OneHot, rows_of
from ns_core.errors import StageFailed, UserError
from ns_core.inference import infer_unlabeled, watched
from ns_core.inference.labelling import Labelled, Labeller
from ns_core.models.checkpoint import CARD, ModelCard, load_checkpoint, save_checkpoint
from ns_core.models.factory import create_network
from ns_core.models.predict import Predictor
from ns_core.models.temperature import negative_log_likelihood
from ns_core.stage import MARK, StageContext, Stopped
from ns_core.training import train_teacher
from tests.artifact_builders import flip
from tests.factories import TINY, TINY_MODEL, settled, training_context

Make = Callable[..., StageContext]
SHARDS = 4


@pytest.fixture(scope="module")
def teacher(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Trained for two seconds, and its result: a third of the holdout is right, where a tenth would be by chance."""
    context = training_context(tmp_path_factory.mktemp("teacher"), dataset=digits_folder)
    settings = {**TINY, "model": TINY_MODEL, "steps": 100, "epoch_steps": 100, "ema_decay": 0.95}
    result = train_teacher.run(TeacherConfig(**settings), context)
    return context.output, result


@pytest.fixture
def attempt(digits_folder: Path, teacher: tuple[Path, dict[str, Any]], tmp_path: Path) -> Make:
    """The context of one more attempt; of `name` its own store, `changed` its inputs."""

    def make(name: str = "store", part: tuple[int, int] | None = None, **changed: Path) -> StageContext:
        context = training_context(tmp_path / name, **{"dataset": digits_folder, "teacher": teacher[0], **changed})
        context.results, context.part = {"teacher": teacher[1]}, part
        return context

    return make


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the labeller was for."""
    counts: list[int] = []

    class Recording(Labeller):
        def label(self, rows: Any, part: slice | None = None) -> Labelled:
            found = super().label(rows, part)
            counts.append(len(found.logits))
            return found

    monkeypatch.setattr(infer_unlabeled, "Labeller", Recording)
    return counts


def _run(context: StageContext, **settings: Any) -> dict[str, Any]:
    return infer_unlabeled.run(InferConfig(**{"batch_size": 64, **settings}), context)


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = [row for file in folder.glob("labels-*.parquet") for row in pq.read_table(file).to_pylist()]
    return sorted(rows, key=lambda row: str(row["key"]))


def _damaged_pool(digits_folder: Path, folder: Path, images: list[int]) -> tuple[Path, list[str]]:
    """A copy of the digits in which these images of the pool are no pictures, and their keys."""
    shutil.copytree(digits_folder, folder)
    pool = DatasetIndex.load(folder).split("pool")
    for row in images:
        with (folder / pool.shard_names[pool.shard_codes[row]]).open("r+b") as stream:
            stream.seek(int(pool.offsets[row]))
            stream.write(b"no picture")
    return folder, [str(pool.keys[row]) for row in images]


def test_every_image_of_the_pool_is_labelled_once_with_its_hash(digits_folder: Path, attempt: Make) -> None:
    context = attempt()
    result = _run(context)
    pool = DatasetIndex.load(digits_folder).split("pool")
    rows = _rows(settled(context))
    expected = dict(zip(pool.keys.tolist(), pool.sha256.tolist(), strict=True))
    assert {row["key"]: row["sha256"] for row in rows} == expected
    assert len(rows) == result["images"] == len(pool)
    assert context.adopted.keys() == {"holdout.parquet", *map(label_file, pool.shard_names)}
    assert result["predicted_per_class"] == np.bincount([row["top1"] for row in rows], minlength=10).tolist()
    histogram = np.histogram([row["confidence"] for row in rows], 20, (0, 1))[0]
    assert result["confidence"] == histogram.tolist()
    assert (result["shards"], result["unreadable"], result["mean_kept_mass"]) == (SHARDS, 0, None)


def test_labels_are_those_of_the_network_on_clean_pictures(
    digits_folder: Path, teacher: tuple[Path, dict[str, Any]], attempt: Make
) -> None:
    context = attempt()
    _run(context)
    images = Images.open(context)
    network, card = load_checkpoint(teacher[0])
    pool = images.index.split("pool")
    batches = eval_batches(images.source, rows_of(pool, OneHot(pool.labels, 10)), (card.test_size, card.crop_pct), 97)
    plain = Predictor(network, card, torch.device("cpu"))
    expected = dict(zip(pool.keys, np.concatenate([plain.probabilities(batch) for batch in batches]), strict=True))
    for row in _rows(settled(context)):
        np.testing.assert_allclose(row["probabilities"], expected[row["key"]], atol=5e-4)


def test_the_holdout_is_kept_with_its_labels_and_the_temperature_fits_it(
    digits_folder: Path, teacher: tuple[Path, dict[str, Any]], attempt: Make
) -> None:
    context = attempt()
    result = _run(context)
    holdout = DatasetIndex.load(digits_folder).split("holdout")
    table = pq.read_table(settled(context) / "holdout.parquet")
    assert dict(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True)) == dict(
        zip(holdout.keys, holdout.labels.tolist(), strict=True)
    )
    right = np.mean(table["top1"].to_numpy() == table["label"].to_numpy())
    assert right == result["holdout_top1"] == pytest.approx(teacher[1]["holdout_top1"], abs=2 / 60 + 1e-9)
    logits = np.log(dense(table, 10) + 1e-7)
    for name, temperature in (("holdout_nll", 1.0), ("holdout_nll_calibrated", result["temperature"])):
        likelihood = negative_log_likelihood(logits, table["label"].to_numpy(), temperature)
        assert result[name] == pytest.approx(likelihood, abs=0.01)
    assert result["holdout_nll_calibrated"] < result["holdout_nll"]
    cooled = torch.from_numpy(logits / result["temperature"]).softmax(dim=1).amax(dim=1)
    np.testing.assert_allclose(table["calibrated"].to_numpy(), cooled.numpy(), atol=5e-3)


def test_top_k_labels_and_embeddings_are_kept_where_a_recipe_asks(attempt: Make) -> None:
    full, short = attempt("full"), attempt("short")
    _run(full)
    result = _run(short, top_k=3, embeddings=True)
    rows = _rows(settled(short))
    for row, whole in zip(rows, _rows(settled(full)), strict=True):
        assert row["probabilities"] == sorted(whole["probabilities"], reverse=True)[:3]
        assert row["probabilities"] == [whole["probabilities"][label] for label in row["classes"]]
    assert result["mean_kept_mass"] == pytest.approx(np.mean([row["kept_mass"] for row in rows]), abs=1e-6)
    assert len({len(row["embedding"]) for row in rows}) == 1
    assert np.isfinite([row["embedding"] for row in rows]).all()


def test_two_runs_give_the_same_bytes_and_checksums_of_pages(attempt: Make) -> None:
    first, second = attempt("first"), attempt("second")
    assert _run(first) == _run(second, batch_size=64)
    assert first.adopted == second.adopted
    name = next(name for name in first.adopted if name.startswith("labels-"))
    data = bytearray((settled(first) / name).read_bytes())
    data[100] ^= 1
    (first.output / name).write_bytes(data)
    with pytest.raises(OSError, match=r"(?i)crc"):
        pq.read_table(first.output / name, page_checksum_verification=True)


def test_shards_of_a_persons_own_give_the_labels_of_their_images(
    digits_folder: Path, attempt: Make, tmp_path: Path
) -> None:
    dataset, root = tmp_path / "dataset", tmp_path / "own"
    dataset.mkdir()
    shutil.copy(digits_folder / CLASSES, dataset)
    rows = pq.read_table(digits_folder / INDEX).to_pylist()
    for row in rows:
        if row["split"] == "pool":
            path = root / row["shard"].removesuffix(".tar") / "000.tar"
            if not path.exists():
                path.parent.mkdir(parents=True)
                shutil.copy(digits_folder / row["shard"], path)
            row["shard"] = f"unlabeled/{path.relative_to(root)}"
        else:
            shutil.copy(digits_folder / row["shard"], dataset)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), dataset / INDEX)
    ours, theirs = attempt("ours"), attempt("theirs", dataset=dataset)
    theirs.places = {"unlabeled": str(root)}
    _run(ours)
    assert _run(theirs)["shards"] == SHARDS
    assert _rows(settled(theirs)) == _rows(settled(ours))


def test_of_a_selection_its_images_alone_are_labelled_wherever_they_lie(
    digits_folder: Path, attempt: Make, tmp_path: Path
) -> None:
    pool, selection = DatasetIndex.load(digits_folder).split("pool"), tmp_path / "selection"
    selection.mkdir()
    chosen = np.random.default_rng(0).permutation(len(pool))[:300]
    data, places = b"", []
    for row in chosen:
        shard, offset, size = pool.shard_names[pool.shard_codes[row]], int(pool.offsets[row]), int(pool.sizes[row])
        if row % 2:  # half of them were written out
            picture = (digits_folder / shard).read_bytes()[offset : offset + size]
            shard, offset, data = "selected/selected-000000.tar", len(data), data + picture
        places.append((str(pool.keys[row]), str(pool.sha256[row]), shard, offset, size))
    (selection / "selected-000000.tar").write_bytes(data)
    columns = zip(("key", "sha256", "shard", "offset", "size"), zip(*places, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), selection / "selection.parquet")
    all_of_them, some = attempt("all"), attempt("some", selection=selection)
    some.places = {"selected": str(selection)}
    _run(all_of_them)
    result = _run(some)
    wanted = {str(pool.keys[row]) for row in chosen}
    rows = _rows(settled(some))
    assert result["images"] == len(rows) == 300
    for row, whole in zip(rows, [row for row in _rows(settled(all_of_them)) if row["key"] in wanted], strict=True):
        assert (row["key"], row["sha256"], row["top1"]) == (whole["key"], whole["sha256"], whole["top1"])
        np.testing.assert_allclose(row["probabilities"], whole["probabilities"], atol=5e-4)


@pytest.mark.parametrize("files", [0, 3])
def test_after_sigterm_whole_shards_are_kept_and_the_others_done_later(
    attempt: Make, labelled: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    monkeypatch.setattr(watched, "_SECONDS", 0.0)  # it looks after each batch: one of the holdout, three of a shard
    alone, cut = attempt("alone"), attempt()
    expected = _run(alone, batch_size=150)
    calls = itertools.count()
    cut.stopping = lambda: next(calls) == 1 + 3 * files + 2
    with pytest.raises(Stopped):
        _run(cut, batch_size=150)
    known = {name for name in cut.resume.names() if name.startswith("labels-")}
    assert len(known) == files
    labelled.clear()
    last = attempt()
    with caplog.at_level(logging.INFO):
        assert _run(last, batch_size=150) == expected
    assert last.adopted == alone.adopted
    assert sum(labelled) == 1587 - 400 * files
    assert (f"going on: {files} of {SHARDS} shards are labelled already" in caplog.text) == (files > 0)


@pytest.mark.parametrize("name", ["labels-pool-000002", "holdout"])
def test_a_saved_file_that_was_damaged_is_told_and_made_again(
    attempt: Make, labelled: list[int], caplog: pytest.LogCaptureFixture, tmp_path: Path, name: str
) -> None:
    first = attempt()
    result = _run(first)
    (file,) = (tmp_path / "store" / "store" / "stage" / "resume").glob(f"{name}.*.parquet")
    flip(file)
    labelled.clear()
    second = attempt()
    assert _run(second) == result
    assert second.adopted == first.adopted
    assert sum(labelled) == (60 if name == "holdout" else 400)
    assert f"{file.name} is damaged" in caplog.text


def test_of_a_damaged_artifact_the_whole_files_are_kept(
    attempt: Make, labelled: list[int], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    first = attempt()
    result = _run(first)
    store, lost = tmp_path / "store" / "store" / "stage", "labels-pool-000001.parquet"
    (store / "attempt-old").mkdir()
    for name, file in first.adopted.items():
        (store / "resume" / file.saved).rename(store / "attempt-old" / name)
    whole = {
        name: replace(file, saved=name, folder="attempt-old") for name, file in first.adopted.items() if name != lost
    }
    labelled.clear()
    second = attempt()
    second.salvage = lambda: whole
    assert _run(second) == result
    assert sum(labelled) == 400
    assert second.adopted == {**whole, lost: first.adopted[lost]}
    assert f"3 of 4 files are kept; computed again: {lost}" in caplog.text


@pytest.mark.parametrize("parts", [3, 6])
def test_parts_label_each_shard_once_and_one_that_comes_after_them_labels_none(
    attempt: Make, labelled: list[int], parts: int
) -> None:
    alone = attempt("alone")
    expected = _run(alone)
    labelled.clear()
    for number in range(parts):
        context = attempt(part=(number, parts))
        assert _run(context) == {}
        assert not context.adopted
        assert not list(context.output.iterdir())
    assert sum(labelled) == 1587 + 60
    labelled.clear()
    last = attempt()
    result = _run(last)
    assert labelled == []
    assert result == expected
    assert last.adopted == alone.adopted


def test_a_shard_that_two_workers_have_saved_counts_once(attempt: Make, tmp_path: Path) -> None:
    """On GPUs their bytes may differ."""
    first = attempt()
    _run(first)
    resume = tmp_path / "store" / "store" / "stage" / "resume"
    (file,) = resume.glob("labels-pool-000000.*.parquet")
    table = pq.read_table(file)
    other = tmp_path / "other.parquet"
    pq.write_table(table, other, compression="none")
    other.rename(resume / f"labels-pool-000000.{file_entry(other).sha256}.parquet")
    contexts = [attempt(), attempt()]
    for context in contexts:
        assert _run(context)["images"] == 1587
    assert contexts[0].adopted == contexts[1].adopted


def test_unreadable_images_have_a_row_with_the_reason(digits_folder: Path, attempt: Make, tmp_path: Path) -> None:
    folder, keys = _damaged_pool(digits_folder, tmp_path / "damaged", [3, 600, 601])
    good, context = attempt("good"), attempt(dataset=folder)
    _run(good)
    result = _run(context, max_bad_fraction=0.01)
    rows = {row["key"]: row for row in _rows(settled(context))}
    expected = {row["key"]: row for row in _rows(settled(good))}
    assert {key for key, row in rows.items() if row["reason"] is not None} == set(keys)
    assert all(rows[key]["top1"] is rows[key]["confidence"] is rows[key]["margin"] is None for key in keys)
    assert {key: row for key, row in rows.items() if key not in keys} == {
        key: row for key, row in expected.items() if key not in keys
    }
    assert (result["images"], result["unreadable"], result["unreadable_keys"]) == (1587, 3, keys)
    assert sum(result["predicted_per_class"]) == sum(result["confidence"]) == 1584


def test_too_many_unreadable_images_fail_the_stage_until_their_bytes_are_back(
    digits_folder: Path, attempt: Make, tmp_path: Path
) -> None:
    folder, keys = _damaged_pool(digits_folder, tmp_path / "damaged", [3, 5])
    for _ in range(2):
        with pytest.raises(StageFailed, match=rf"2 of 1587 images .*max_bad_fraction=0\.001: {keys[0]} \(.*{keys[1]}"):
            _run(attempt(dataset=folder))
    for file in digits_folder.glob("*.tar"):
        shutil.copy(file, folder)
    assert _run(attempt(dataset=folder))["unreadable"] == 0


def test_a_teacher_whose_record_says_otherwise_labels_nothing(attempt: Make, labelled: list[int]) -> None:
    context = attempt()
    context.results = {"teacher": {"holdout_top1": 0.9}}
    with pytest.raises(UserError, match=r"on 60 images, where its record says 0\.9000"):
        _run(context)
    assert sum(labelled) == 60
    assert not context.resume.names()
    assert _run(context, holdout_tolerance=1.0)["images"] == 1587
    with pytest.raises(UserError, match="where its record says"):
        _run(context)


def _fresh_teacher(folder: Path, class_names: tuple[str, ...] = tuple("0123456789")) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    card = ModelCard(model=TINY_MODEL, class_names=class_names, train_size=16, test_size=16, crop_pct=1)
    save_checkpoint(folder, create_network(TINY_MODEL, len(class_names)), card)
    return folder


def test_a_teacher_at_chance_level_labels_nothing(attempt: Make, tmp_path: Path) -> None:
    context = attempt(teacher=_fresh_teacher(tmp_path / "fresh"))
    context.results = {}
    with pytest.raises(UserError, match=r"at chance level on the holdout \(.* of 60 images, 10 classes\)"):
        _run(context)


def test_a_teacher_that_predicts_too_few_classes_is_stopped_with_the_setting(attempt: Make) -> None:
    with pytest.raises(UserError, match=r"infer\.min_entropy=1"):
        _run(attempt(), min_entropy=1.0)


def test_a_teacher_of_other_classes_is_refused(attempt: Make, tmp_path: Path) -> None:
    other = _fresh_teacher(tmp_path / "other", tuple("012345678X"))
    with pytest.raises(UserError, match="class 9 is 'X' to the teacher"):
        _run(attempt(teacher=other))


def test_weights_that_are_not_the_cards_are_no_teacher(
    attempt: Make, teacher: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Another preprocessing than that of training shows on the holdout."""
    folder = Path(shutil.copytree(teacher[0], tmp_path / "shifted"))
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    (folder / CARD).write_text(json.dumps({**card, "mean": [0, 0, 0], "std": [9, 9, 9]}), encoding="utf-8")
    with pytest.raises(UserError, match="where its record says"):
        _run(attempt(teacher=folder))


def test_a_dataset_without_a_pool_is_told(digits_folder: Path, attempt: Make, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(digits_folder, tmp_path / "labelled-only"))
    rows = [row for row in pq.read_table(folder / INDEX).to_pylist() if row["split"] != "pool"]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / INDEX)
    with pytest.raises(UserError, match=r"the dataset has no pool.*data\.unlabeled"):
        _run(attempt(dataset=folder))


def test_speed_wait_and_end_are_points_of_curves(attempt: Make, capsys: pytest.CaptureFixture[str]) -> None:
    context = attempt()
    _run(context)
    told = capsys.readouterr().out
    events = [json.loads(line.removeprefix(MARK)) for line in told.splitlines() if line.startswith(MARK)]
    points = {(event["key"], event["step"]): event["value"] for event in events if event["event"] == "metric"}
    assert sorted({step for _, step in points}) == [400, 800, 1200, 1587]
    assert {key for key, _ in points} == {"infer/images_per_second", "infer/data_wait", "infer/seconds_left"}
    assert points["infer/seconds_left", 1587] == 0
    assert points["infer/images_per_second", 400] > 0
    assert not context.history, "the artifact's files say nothing of the time that they took"
    assert '"done": 0, "total": 1587' in told
    assert '"done": 1587, "total": 1587' in told
    assert "images/s, data wait" in told


def test_a_noised_teacher_goes_through_the_gate_without_its_noise(attempt: Make) -> None:
    clean, noised = attempt("clean"), attempt("noised")
    plain, moved = _run(clean), _run(noised, dropout=0.5, stochastic_depth=0.2, seed=3)
    of_holdout = [name for name in plain if name.startswith("holdout_") or name == "temperature"]
    assert {name: moved[name] for name in of_holdout} == {name: plain[name] for name in of_holdout}
    one, two = _rows(settled(clean)), _rows(settled(noised))
    assert [row["key"] for row in one] == [row["key"] for row in two]
    confidences = [np.array([row["confidence"] for row in rows]) for rows in (one, two)]
    assert (np.abs(confidences[0] - confidences[1]) > 1e-4).mean() > 0.9
    again = attempt("again")
    _run(again, dropout=0.5, stochastic_depth=0.2, seed=3, batch_size=64)
    assert _rows(settled(again)) == two
