"""The tables are whole, and the numbers that the scripts compute come out as theirs."""

from typing import get_args

import numpy as np
import pytest

from ns_core import config
from ns_core.evaluation.corruptions.tables import LEVELS


def test_each_corruption_has_five_levels_at_each_tier() -> None:
    assert tuple(LEVELS) == get_args(config.CORRUPTIONS)
    for name, levels in LEVELS.items():
        assert tuple(levels) == (32, 64, 224, 299), name
        assert {len(row) for row in levels.values()} == {5}, name


@pytest.mark.parametrize("size", [32, 64])
def test_elastic_levels_are_multiples_of_the_side(size: int) -> None:
    assert LEVELS["elastic_transform"][size][1] == (
        size * 0.05,
        size * (0.2 if size == 32 else 0.3),
        size * (0.07 if size == 32 else 0.06),
    )


def test_photographs_are_bent_as_if_they_had_244_or_360_pixels() -> None:
    assert LEVELS["elastic_transform"][224][0] == (488, 244 * 0.7, 244 * 0.1)
    assert LEVELS["elastic_transform"][299][4] == (360 * 0.12, 360 * 0.01, 360 * 0.02)


def test_magnifications_are_those_of_arange() -> None:
    # By rounding the last step is there in arange(1, 1.06, .01), and is missing in arange(1, 1.16, .01).
    lengths = {size: [len(row) for row in LEVELS["zoom_blur"][size]] for size in LEVELS["zoom_blur"]}
    assert lengths[32] == lengths[64] == [len(np.arange(1, stop, 0.01)) for stop in (1.06, 1.11, 1.16, 1.21, 1.26)]
    steps = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    assert lengths[224] == lengths[299] == [len(np.arange(1, *step)) for step in steps]
    assert LEVELS["zoom_blur"][224][4] == tuple(np.arange(1, 1.31, 0.03))
