"""A share of the pool and a band of confidences: what they leave out, what they leave alone, and who is told."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ns_core.config import Recipe, SelectConfig
from ns_core.data.index import DatasetIndex
from ns_core.errors import UserError
from ns_core.selection import filter_and_balance
from tests.factories import hashed_probabilities, label_folder, pool_without_pictures, stage_context
from tests.golden.regenerate import recorded

IMAGES, CLASSES = 2000, 4
ALL = {"threshold": 0.0, "per_class": IMAGES, "max_copies": 1}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pool of its own with labels drawn from hashes."""
    folder = tmp_path_factory.mktemp("pool")
    dataset = pool_without_pictures(folder / "dataset", images=IMAGES, classes=CLASSES)
    scores = hashed_probabilities(DatasetIndex.load(dataset).split("pool").keys, classes=CLASSES)
    return {"dataset": dataset, "pseudo_labels": label_folder(folder / "labels", dataset, scores)}


def selected(places: dict[str, Path], folder: Path, **settings: Any) -> tuple[dict[str, Any], set[str], Counter[str]]:
    """The result, the keys that are kept, and how many were dropped for each reason."""
    context = stage_context(folder, dict(places))
    result: dict[str, Any] = filter_and_balance.run(SelectConfig.model_validate({**ALL, **settings}), context)
    kept = pq.read_table(context.output / "selection.parquet")
    dropped = pq.read_table(context.output / "dropped.parquet", columns=["reason"])["reason"].to_pylist()
    classes = pq.read_table(context.output / "classes.parquet")
    for reason in set(result["dropped"]) - {"corrupt", "leak"}:
        assert pc.sum(classes[reason]).as_py() == result["dropped"][reason] == dropped.count(reason)
    return result, set(kept["key"].to_pylist()), Counter(dropped)


def test_a_smaller_share_lies_within_a_larger_one_and_each_is_about_as_large_as_it_says(
    places: dict[str, Path], tmp_path: Path
) -> None:
    larger = None
    for fraction in (1.0, 0.5, 1 / 8, 1 / 32):
        result, kept, dropped = selected(places, tmp_path / str(fraction), pool_fraction=fraction)
        deviation = np.sqrt(IMAGES * fraction * (1 - fraction))
        assert abs(len(kept) - IMAGES * fraction) <= 4 * deviation
        assert dropped["not_sampled"] == IMAGES - len(kept)
        assert ("not_sampled" in result["dropped"]) == (fraction < 1)
        assert larger is None or kept < larger
        larger = kept


def test_another_seed_is_another_share(places: dict[str, Path], tmp_path: Path) -> None:
    shares = [selected(places, tmp_path / str(seed), pool_fraction=0.1, pool_seed=seed)[1] for seed in (0, 0, 1)]
    assert shares[0] == shares[1]
    assert len(shares[0] & shares[2]) < 0.25 * len(shares[0])


def test_bands_that_meet_divide_the_pool(places: dict[str, Path], tmp_path: Path) -> None:
    everything = selected(places, tmp_path / "all")[1]
    edges = (0.0, 0.4, 0.6, 0.8, 1.0)
    bands = [selected(places, tmp_path / str(low), threshold=low, max_confidence=high) for low, high in pairwise(edges)]
    assert Counter(key for _, kept, _ in bands for key in kept) == Counter(everything)
    for result, kept, dropped in bands:
        assert result["kept"] == len(kept) > 0
        assert result["came_in"] == len(kept) + dropped.total()
    assert ["too_confident" in result["dropped"] for result, _, _ in bands] == [True, True, True, False]


def test_a_band_with_nothing_in_it_is_one_line_that_names_the_settings(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"threshold=0\.0, max_confidence=0\.01 and pool_fraction=1 keep none of the 2"):
        selected(places, tmp_path, max_confidence=0.01)


@pytest.mark.parametrize(("threshold", "highest"), [(0.6, 0.6), (0.6, 0.5)])
def test_a_band_that_can_hold_nothing_is_refused(threshold: float, highest: float) -> None:
    with pytest.raises(UserError, match=r"leaves nothing above threshold 0\.6: raise it"):
        SelectConfig.parse({"threshold": threshold, "max_confidence": highest})


def test_a_share_is_the_same_in_all_generations_and_another_for_another_seed() -> None:
    def seeds(recipe: Recipe) -> set[int]:
        return {recipe.for_generation(generation).select.pool_seed for generation in (1, 2, 3)}

    part = SelectConfig(pool_fraction=0.5, pool_seed=3)
    assert (seeds(Recipe(select=part)), seeds(Recipe(seed=4, select=part))) == ({3}, {7})
    assert seeds(Recipe(seed=4)) == {0}, "of the whole pool nothing is drawn"


def test_settings_that_were_added_are_no_part_of_an_identity_until_they_are_set() -> None:
    assert not {"max_confidence", "pool_fraction", "pool_seed"} & SelectConfig().science().keys()
    assert "student_ratios" not in Recipe().science()
    assert SelectConfig(pool_fraction=0.5).science() == SelectConfig().science() | {"pool_fraction": 0.5}
    assert Recipe(student_ratios=(14, 28)).science()["student_ratios"] == [14, 28]
    result = recorded("selection.json")
    assert isinstance(result, dict)
    assert "not_sampled" not in str(result), "results of old settings have no new reasons"
