"""A threshold for each class by a wanted precision: against a count over a list, and through the stage."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from ns_core.config import Recipe, SelectConfig
from ns_core.data.index import SplitIndex
from ns_core.data.pseudo_labels import label_table
from ns_core.errors import StageFailed, UserError
from ns_core.selection import filter_and_balance
from ns_core.selection.class_thresholds import HOLDOUT_FILE
from ns_core.selection.precision import RISK, Lowest, lowest, needed_images
from ns_core.stage import StageContext
from tests.factories import hashed_probabilities, stage_context

IMAGES, CLASSES, HELD = 120, 4, 600
CONFIG = SelectConfig(threshold=0.3, per_class=12, max_copies=3, seed=1, target_precision=0.9)
TEMPERATURE = 2.0


def counted(confidence: Sequence[float], right: Sequence[bool], target: float) -> Lowest:
    """By every confidence that occurs, from the highest down; the chance of as many right answers is binomial."""
    assured = estimated = None
    walking = True
    for cut in sorted(set(confidence), reverse=True):
        above = [one for sure, one in zip(confidence, right, strict=True) if sure >= cut]
        if sum(above) >= target * len(above) - 1e-12:
            estimated = cut
        if target ** len(above) <= RISK and walking:
            walking = bool(binom.sf(sum(above) - 1, len(above), target) <= RISK)
            assured = cut if walking else assured
    return Lowest(assured, estimated)


@settings(max_examples=200, deadline=None)
@given(
    images=st.lists(st.tuples(st.integers(1, 12), st.sampled_from([True, True, True, True, False])), max_size=60),
    target=st.sampled_from([0.55, 0.7, 0.8, 0.95]),
)
def test_a_threshold_is_the_one_that_counting_finds(images: list[tuple[int, bool]], target: float) -> None:
    confidence, right = [number / 16 for number, _ in images], [one for _, one in images]
    found = lowest(np.array(confidence), np.array(right, bool), np.ones(len(images)), target)
    assert found == counted(confidence, right, target)


def truth(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """True classes of held-out images: what is taken for class 0 always is, for 1 and 2 when the teacher is sure, for 3
    never."""
    top1, sure = scores.argmax(axis=1), scores.max(axis=1)
    right = (top1 == 0) | ((top1 == 1) & (sure > 0.6)) | ((top1 == 2) & (sure > 0.8))
    return np.where(right, top1, (top1 + 1) % CLASSES).astype(np.int32)


def hold_out(labels: Path, temperature: float = TEMPERATURE) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Writes `holdout.parquet`, as infer-unlabeled does; what the teacher says of its images, and the true classes."""
    keys = np.array([f"held-{number}" for number in range(HELD)], object)
    scores = hashed_probabilities(keys, CLASSES)
    table = label_table(pa.table({"key": keys, "sha256": ["0" * 64] * HELD}), np.log(scores), temperature)
    pq.write_table(table.append_column("label", pa.array(truth(scores), pa.int32())), labels / HOLDOUT_FILE)
    return scores, truth(scores)


def selected(config: SelectConfig, context: StageContext) -> tuple[dict[str, Any], list[Any], list[Any], list[Any]]:
    """The result, and the rows of the selection, of what was dropped, and of the classes."""
    result = filter_and_balance.run(config, context)
    names = ("selection", "dropped", "classes")
    selection, dropped, classes = (pq.read_table(context.output / f"{name}.parquet").to_pylist() for name in names)
    return result, selection, dropped, classes


@pytest.fixture
def context(tmp_path: Path, dataset: Path, labels: Path) -> StageContext:
    hold_out(labels)
    return stage_context(tmp_path, {"dataset": dataset, "pseudo_labels": labels})


@pytest.mark.parametrize("rule", ["estimated", "assured"])
@pytest.mark.parametrize("confidence", ["raw", "calibrated"])
def test_each_class_is_kept_down_to_its_own_threshold_and_the_totals_add_up(
    context: StageContext, labels: Path, rule: str, confidence: str
) -> None:
    config = SelectConfig.parse({**CONFIG.model_dump(), "target_rule": rule, "confidence": confidence})
    result, selection, dropped, classes = selected(config, context)
    table = pq.read_table(labels / HOLDOUT_FILE)
    top1, label = table["top1"].to_numpy(), table["label"].to_numpy()
    sure = table["confidence" if confidence == "raw" else "calibrated"].to_numpy()
    wanted = [
        getattr(counted(sure[top1 == one].tolist(), (label == top1)[top1 == one].tolist(), 0.9), rule)
        for one in range(CLASSES)
    ]
    assert wanted[3] is None
    assert wanted[0] is not None
    floored = [None if one is None else max(one, float(np.float32(0.3))) for one in wanted]
    assert result["threshold_per_class"] == floored == [row["threshold"] for row in classes]
    assert result["classes_without_threshold"] == sum(one is None for one in wanted)
    assert len({one for one in floored if one is not None}) > 1, "classes of thresholds of their own"
    for row in selection:
        assert row["confidence"] >= floored[row["top1"]]
    for row in dropped:
        lowest_of = floored[row["top1"]]
        assert (row["reason"] == "below_threshold") == (lowest_of is None or row["confidence"] < lowest_of)
    reasons = Counter(row["reason"] for row in dropped)
    assert result["came_in"] == IMAGES == len(selection) + reasons.total()
    assert [row["below_threshold"] for row in classes] == result["dropped_per_class"]["below_threshold"]
    assert sum(row["below_threshold"] for row in classes) == reasons["below_threshold"] > 0


def test_classes_in_which_it_is_not_shown_are_named_and_nothing_is_kept_of_them(
    context: StageContext, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, _, _, classes = selected(CONFIG, context)
    assert classes[3]["pool"] > 0 == classes[3]["kept"]
    assert "target_precision=0.9 (estimated) is shown for no confidence in 1 of 4 classes (class 3)" in caplog.text


def test_no_threshold_of_a_class_lies_below_the_one_for_all(context: StageContext) -> None:
    result, selection, _, _ = selected(CONFIG.model_copy(update={"threshold": 0.85}), context)
    assert min(one for one in result["threshold_per_class"] if one is not None) == np.float32(0.85)
    assert all(row["confidence"] >= np.float32(0.85) for row in selection)


def test_in_a_band_the_precision_is_that_of_the_band(context: StageContext) -> None:
    """What is surer is left out of the selection, and so tells nothing: class 2 is right only there."""
    result, selection, _, _ = selected(CONFIG.model_copy(update={"max_confidence": 0.8}), context)
    assert [one is None for one in result["threshold_per_class"]] == [False, False, True, True]
    assert {row["top1"] for row in selection} == {0, 1}


def test_without_a_wanted_precision_the_holdout_is_not_asked(context: StageContext, labels: Path) -> None:
    (labels / HOLDOUT_FILE).unlink()
    result, _, _, classes = selected(CONFIG.model_copy(update={"target_precision": 0.0}), context)
    assert "threshold_per_class" not in result
    assert "threshold" not in classes[0]


def test_a_precision_that_is_shown_nowhere_is_one_line_that_says_what_it_takes(context: StageContext) -> None:
    needed = needed_images(0.999)
    assert needed > HELD
    asked = CONFIG.model_copy(update={"target_precision": 0.999, "target_rule": "assured"})
    with pytest.raises(UserError, match=rf"\(assured\) is shown for none of the 4 classes .* it takes {needed} images"):
        filter_and_balance.run(asked, context)


def test_labels_without_a_holdout_or_of_other_classes_are_refused(context: StageContext, labels: Path) -> None:
    table = pq.read_table(labels / HOLDOUT_FILE)
    pq.write_table(table.set_column(len(table.column_names) - 1, "label", pa.array([CLASSES] * HELD)), labels / "other")
    (labels / "other").replace(labels / HOLDOUT_FILE)
    with pytest.raises(StageFailed, match="knows other classes"):
        filter_and_balance.run(CONFIG, context)
    (labels / HOLDOUT_FILE).unlink()
    with pytest.raises(StageFailed, match=r"has no holdout\.parquet"):
        filter_and_balance.run(CONFIG, context)


def test_a_pool_with_nothing_sure_enough_is_one_line(context: StageContext, pool: SplitIndex, labels: Path) -> None:
    table = pq.read_table(labels / HOLDOUT_FILE)
    sure = pa.array(np.ones(HELD), pa.float32())
    pq.write_table(table.set_column(table.column_names.index("confidence"), "confidence", sure), labels / "other")
    (labels / "other").replace(labels / HOLDOUT_FILE)
    with pytest.raises(UserError, match=f"keeps none of the {len(pool)} pseudo-labels: none is as confident"):
        filter_and_balance.run(CONFIG, context)


def test_how_it_is_shown_is_refused_without_what_is_shown() -> None:
    with pytest.raises(UserError, match=r"select: target_rule=assured says how target_precision is shown"):
        Recipe().override(["select.target_rule=assured"])
    assert not {"target_precision", "target_rule"} & SelectConfig().science().keys()
    assert CONFIG.science()["target_precision"] == 0.9
