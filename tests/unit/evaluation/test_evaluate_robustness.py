"""evaluate-robustness on a tiny checkpoint: what the report holds, that batches do not matter, and the gate."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ns_core.config import EvaluateConfig
from ns_core.data.image_source import ImageSource, eval_batches
from ns_core.data.index import DatasetIndex, Split
from ns_core.data.reading import ShardReader
from ns_core.data.rows import OneHot, rows_of
from ns_core.errors import StageFailed
from ns_core.evaluation import evaluate_robustness
from ns_core.evaluation.attacks import fgsm
from ns_core.evaluation.evaluate_robustness import PREDICTIONS, REPORT, subset
from ns_core.models.checkpoint import ModelCard, Normalize, load_checkpoint, save_checkpoint
from ns_core.models.factory import create_network
from ns_core.models.predict import Predictor
from ns_core.stage import StageContext, Stopped
from tests.factories import TINY_MODEL, training_context

SMALL: dict[str, Any] = {
    "corruptions": ("gaussian_noise", "brightness"),
    "severities": (1, 5),
    "fgsm_eps": (0.0, 8.0),
    "max_images": 60,
    "seed": 3,
}


def _pictures(dataset: Path, split: Split) -> NDArray[np.uint8]:
    """uint8[N,32,32,3], in the order of the index."""
    part = DatasetIndex.load(dataset).split(split)
    with ShardReader(dataset) as reader:
        rows = rows_of(part, OneHot(part.labels, 10))
        (images,) = eval_batches(ImageSource(reader), rows, (32, 1.0), len(rows))
    return images


def _checkpoint(folder: Path, dataset: Path, seed: int) -> Path:
    """Fresh weights with BatchNorm statistics of the test images, so that the answers differ among them."""
    names = tuple("0123456789")
    card = ModelCard(model=TINY_MODEL, class_names=names, train_size=32, test_size=32, crop_pct=1)
    torch.manual_seed(seed)
    network = create_network(TINY_MODEL, 10, bn_momentum=1.0).train()
    with torch.no_grad():
        network(Normalize(card)(torch.from_numpy(_pictures(dataset, "test"))))
    folder.mkdir()
    save_checkpoint(folder, network, card)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("checkpoint") / "first", digits_folder, seed=0)


def _run(folder: Path, config: dict[str, Any], **inputs: Path) -> tuple[dict[str, Any], dict[str, Any], StageContext]:
    """Headline, report, and the context of the run."""
    context = training_context(folder, **inputs)
    headline = evaluate_robustness.run(EvaluateConfig(**config), context)
    return headline, json.loads((context.output / REPORT).read_text()), context


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path, checkpoint: Path) -> Path:
    """The report of a teacher."""
    _, _, context = _run(tmp_path_factory.mktemp("base"), SMALL, dataset=digits_folder, checkpoint=checkpoint)
    return context.output


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    limit=st.integers(1, 90),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_draw_is_stratified_as_far_as_the_classes_last(labels: list[int], limit: int, seed: int) -> None:
    columns = np.array(labels, np.int32)
    rows = subset(columns, limit, seed)
    assert len(rows) == min(limit, len(labels))
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, subset(columns, limit, seed))
    there, drawn = Counter(labels), Counter(columns[rows].tolist())
    most = max(drawn.values())
    assert all(drawn[label] >= min(most - 1, there[label]) for label in there)


def test_another_seed_draws_other_images_and_every_image_can_be_drawn() -> None:
    labels = np.repeat(np.arange(4, dtype=np.int32), 10)
    draws = [subset(labels, 8, seed) for seed in range(200)]
    assert len({draw.tobytes() for draw in draws}) > 190
    assert set(np.concatenate(draws)) == set(range(40))


def test_a_report_holds_accuracy_corruptions_attacks_and_calibration(
    digits_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    headline, report, context = _run(tmp_path, SMALL, dataset=digits_folder, checkpoint=checkpoint)
    assert set(report) == {"holdout", "test", "corruptions", "fgsm_top1", "settings", "mean_corruption_error"}
    assert {name: set(levels) for name, levels in report["corruptions"].items()} == {
        "gaussian_noise": {"1", "5"},
        "brightness": {"1", "5"},
    }
    assert set(report["fgsm_top1"]) == {"0", "8"}
    assert report["settings"] == {"images": 60, "size": 32, "comparable_with_published_mce": False}
    for split, images in (("holdout", 60), ("test", 100)):
        part = report[split]
        assert set(part) == {"images", "top1", "interval", "ece", "nll", "brier", "per_class"}
        assert part["images"] == images
        assert part["interval"][0] <= part["top1"] <= part["interval"][1]
        assert len(part["per_class"]) == 10
    errors = [value for levels in report["corruptions"].values() for value in levels.values()]
    assert report["mean_corruption_error"] == pytest.approx(np.mean(errors))
    assert headline["test_top1"] == report["test"]["top1"]
    assert headline["fgsm_strongest_top1"] == report["fgsm_top1"]["8"]
    assert headline["gate"] is None
    assert context.history == []


def test_accuracy_is_that_of_the_probabilities_that_are_kept(digits_folder: Path, baseline: Path) -> None:
    """And these are those of the predict path."""
    report, index = json.loads((baseline / REPORT).read_text()), DatasetIndex.load(digits_folder)
    kept = np.load(baseline / PREDICTIONS)
    assert kept["holdout_keys"].tolist() == index.split("holdout").keys.tolist()
    for name in ("holdout", "test"):
        labels = index.split(name).labels
        assert report[name]["top1"] == (kept[name].argmax(axis=1) == labels).mean()
        assert np.allclose(kept[name].sum(axis=1), 1, atol=1e-5)


def test_errors_do_not_depend_on_the_size_of_a_batch(digits_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The noise of an image hangs on its key: not on its place in a batch, nor on what came before."""
    inputs = {"dataset": digits_folder, "checkpoint": checkpoint}
    small = _run(tmp_path / "7", {**SMALL, "batch_size": 7}, **inputs)[1]
    large = _run(tmp_path / "256", {**SMALL, "batch_size": 256}, **inputs)[1]
    assert small["corruptions"] == large["corruptions"]
    assert small["fgsm_top1"] == large["fgsm_top1"]
    assert small["test"]["top1"] == large["test"]["top1"]
    fewer = {**SMALL, "corruptions": ("brightness",), "severities": (5,)}
    alone = _run(tmp_path / "alone", fewer, **inputs)[1]
    assert alone["corruptions"]["brightness"]["5"] == large["corruptions"]["brightness"]["5"]


def test_an_image_that_is_wrong_when_clean_counts_as_wrong_under_attack(
    digits_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Strong attacks undo some mistakes by chance; counted alone, their accuracy would be too high."""
    eps = (0.0, 8.0, 32.0, 64.0, 128.0, 255.0)
    config = {**SMALL, "corruptions": (), "fgsm_eps": eps, "max_images": 100}
    _, report, _ = _run(tmp_path, config, dataset=digits_folder, checkpoint=checkpoint)
    predictor = Predictor(*load_checkpoint(checkpoint), torch.device("cpu"))
    pixels = torch.tensor(_pictures(digits_folder, "test")).permute(0, 3, 1, 2).float() / 255
    truth = torch.tensor(DatasetIndex.load(digits_folder).split("test").labels, dtype=torch.long)
    clean = predictor(pixels).argmax(dim=1) == truth
    undone = 0
    for strength in eps:
        attacked = predictor(fgsm(predictor, pixels, truth, strength / 255)).argmax(dim=1) == truth
        undone += int((attacked & ~clean).sum())
        assert report["fgsm_top1"][f"{strength:g}"] == pytest.approx((clean & attacked).double().mean().item())
    assert undone > 0
    assert report["fgsm_top1"]["0"] == report["test"]["top1"]


def test_only_a_baseline_brings_the_gate_and_errors_relative_to_the_teacher(
    digits_folder: Path, baseline: Path, tmp_path: Path
) -> None:
    other = _checkpoint(tmp_path / "other", digits_folder, seed=1)
    inputs = {"dataset": digits_folder, "checkpoint": other, "baseline": baseline}
    headline, report, _ = _run(tmp_path / "student", SMALL, **inputs)
    teacher = json.loads((baseline / REPORT).read_text())
    assert report["gate"]["holdout_gain"] == pytest.approx(report["holdout"]["top1"] - teacher["holdout"]["top1"])
    assert report["gate"]["verdict"] in ("promote", "keep-teacher", "stop")
    assert headline["gate"] == report["gate"]
    for name, relative in report["corruption_error_vs_teacher"].items():
        expected = sum(report["corruptions"][name].values()) / sum(teacher["corruptions"][name].values())
        assert relative == pytest.approx(expected)
    mean = np.mean(list(report["corruption_error_vs_teacher"].values()))
    assert headline["mean_corruption_error_vs_teacher"] == pytest.approx(mean)


def test_a_checkpoint_against_its_own_report_has_as_many_errors_and_no_gain(
    digits_folder: Path, checkpoint: Path, baseline: Path, tmp_path: Path
) -> None:
    inputs = {"dataset": digits_folder, "checkpoint": checkpoint, "baseline": baseline}
    _, report, _ = _run(tmp_path, {**SMALL, "min_gain": 0.0}, **inputs)
    assert report["corruption_error_vs_teacher"] == {"gaussian_noise": 1, "brightness": 1}
    assert (report["gate"]["holdout_gain"], report["gate"]["p_value"]) == (0, 1)
    assert report["gate"]["verdict"] == "promote"
    strict = {**SMALL, "min_gain": 0.01, "corruptions": (), "fgsm_eps": ()}
    headline, report, _ = _run(tmp_path, strict, **inputs)
    assert report["gate"]["verdict"] == "keep-teacher"
    assert headline["mean_corruption_error"] is headline["mean_corruption_error_vs_teacher"] is None
    assert headline["fgsm_strongest_top1"] is None


def test_a_baseline_of_another_holdout_is_refused(
    digits_folder: Path, checkpoint: Path, baseline: Path, tmp_path: Path
) -> None:
    other = tmp_path / "baseline"
    other.mkdir()
    (other / REPORT).write_bytes((baseline / REPORT).read_bytes())
    arrays = dict(np.load(baseline / PREDICTIONS))
    arrays["holdout_keys"] = arrays["holdout_keys"][::-1]
    np.savez(other / PREDICTIONS, **arrays)
    inputs = {"dataset": digits_folder, "checkpoint": checkpoint, "baseline": other}
    with pytest.raises(StageFailed, match="the baseline was evaluated on another holdout"):
        _run(tmp_path / "student", {**SMALL, "corruptions": (), "fgsm_eps": ()}, **inputs)


def test_sigterm_stops_the_stage_between_two_batches(digits_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder, checkpoint=checkpoint)
    context.stopping = lambda: True
    with pytest.raises(Stopped):
        evaluate_robustness.run(EvaluateConfig(**SMALL), context)


def test_progress_ends_at_its_total(
    digits_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path, SMALL, dataset=digits_folder, checkpoint=checkpoint)
    last = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("@ns "))
    assert last["done"] == last["total"] == 60 + 100 + (2 * 2 + 2) * 60
