"""Flips and top-5 distances against the definition, written out as ImageNet-P/test.py has it."""

import math
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import rankdata

from ns_core.evaluation.figures.stability import stability

Logits = npt.NDArray[np.float32]


def _pairs(frames: int, against_first: bool, step: int) -> list[tuple[int, int]]:
    """The official loop: within each of `step` interleaved sub-sequences, every frame with its reference."""
    pairs = []
    for start in range(1 if against_first else step):
        reference = start
        for frame in range(start, frames, 1 if against_first else step)[1:]:
            pairs.append((reference, frame))
            reference = reference if against_first else frame
    return pairs


def defined_flips(logits: Logits, against_first: bool, step: int) -> list[int]:
    predictions = [int(np.argmax(frame)) for frame in logits]
    return [int(predictions[a] != predictions[b]) for a, b in _pairs(len(logits), against_first, step)]


def defined_t5d(logits: Logits, against_first: bool, step: int) -> float:
    """Through whole permutations of ranks, whose composition is compared with the identity."""
    classes = logits.shape[1]
    capped = np.cumsum([0] + [1] * 5 + [0] * (classes - 6))[:classes]
    ranks = [rankdata(-frame, method="ordinal").astype(int) for frame in logits]
    distances = []
    for a, b in _pairs(len(logits), against_first, step):
        moved = ranks[b][np.argsort(ranks[a])]
        distances.append(np.sum(np.abs(capped[:5] - capped[moved - 1][:5])))
    return float(np.mean(distances))


@pytest.mark.parametrize("against_first", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("classes", [5, 6, 7, 10, 1000])
def test_random_predictions_score_as_the_definition_says(against_first: bool, step: int, classes: int) -> None:
    rng = np.random.default_rng(classes + step)
    scene, noise = rng.standard_normal((1, classes)), rng.standard_normal((31, classes))
    unrest = rng.choice([0.05, 1.5], (31, 1))
    unrest[0] = 0.05
    logits = (scene + unrest * noise).astype(np.float32)
    flips = defined_flips(logits, against_first, step)
    result = stability(logits, 0, against_first, step)
    assert 0 < sum(flips) < len(flips), "the example shows nothing when all or none flip"
    assert (result.frames, result.compared, result.flips) == (31, len(flips), sum(flips))
    assert result.t5d == pytest.approx(defined_t5d(logits, against_first, step), abs=1e-12)


@given(
    logits=arrays.arrays(
        np.float32,
        st.tuples(st.integers(4, 9), st.integers(5, 12)),
        elements=st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1.0, 2.0]),
    ),
    against_first=st.booleans(),
    step=st.sampled_from([1, 3]),
)
def test_equal_and_infinite_logits_are_ranked_by_class_number(logits: Logits, against_first: bool, step: int) -> None:
    result = stability(logits, 0, against_first, step)
    assert result.flips == sum(defined_flips(logits, against_first, step))
    assert result.t5d == pytest.approx(defined_t5d(logits, against_first, step), abs=1e-12)


def test_a_swap_of_first_and_second_is_a_distance_of_two() -> None:
    logits = np.float32([[9, 8, 7, 6, 5, 4], [8, 9, 7, 6, 5, 4]])
    assert stability(logits, 1, against_first=False) == (2, 1, 1, 1, 2.0)


def test_a_wholly_new_top_five_is_the_largest_distance() -> None:
    logits = np.float32([[9] * 5 + [0] * 5, [0] * 5 + [9] * 5])
    assert stability(logits, 0, against_first=False).t5d == 5 + 4 + 3 + 2 + 1


def test_noise_is_compared_with_the_first_frame_whatever_the_step() -> None:
    classes = [0, 1, 1, 0, 1]
    logits = np.eye(6, dtype=np.float32)[classes]
    assert stability(logits, 0, against_first=True, step=3)[:4] == (5, 2, 4, 3)
    assert stability(logits, 0, against_first=False)[:4] == (5, 2, 4, 3)
    assert stability(logits, 0, against_first=False, step=3)[:4] == (5, 2, 2, 0)


def test_an_unknown_label_is_right_on_no_frame() -> None:
    assert stability(np.zeros((4, 6), np.float32), -1, against_first=True).right == 0


def test_fewer_than_five_classes_have_flips_and_no_top_five_distance() -> None:
    logits = np.float32([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    result = stability(logits, 1, against_first=False)
    assert result[:4] == (3, 1, 2, 2)
    assert math.isnan(result.t5d)


def test_a_sequence_without_a_pair_compares_nothing() -> None:
    result = stability(np.zeros((2, 6), np.float32), 0, against_first=False, step=3)
    assert result[:4] == (2, 2, 0, 0)
    assert math.isnan(result.t5d)


def test_the_logits_are_left_as_they_were() -> None:
    logits = np.random.default_rng(0).standard_normal((31, 10)).astype(np.float32)
    before = logits.copy()
    stability(logits, 0, against_first=True)
    np.testing.assert_array_equal(logits, before)


def test_scoring_and_perturbing_load_no_torch() -> None:
    code = (
        "import sys, ns_core.evaluation.figures.stability, ns_core.evaluation.perturbations; "
        "print([name for name in ('torch', 'timm') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
