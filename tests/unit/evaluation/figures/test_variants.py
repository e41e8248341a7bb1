"""Scenes aligned by image: every image in every variant, in one order, and nothing left out unsaid."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ns_core.evaluation.figures.variants import Readable, Variants, called, paired
from ns_core.evaluation.tables import Predictions, Scene, Tables
from tests.scene_tables import CLASSES, keys, predictions, saved, unreadable

FOG, SNOW, MILD = (Scene("corruptions", name, level) for name, level in (("fog", "3"), ("snow", "3"), ("fog", "1")))


def of(numbers: list[int], wrong: set[int]) -> Predictions:
    """Images by number, wrong where told."""
    columns = {"key": np.array([f"k{one}" for one in numbers], object), "label": np.array(numbers) % CLASSES}
    return predictions([one not in wrong for one in numbers], **columns)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@settings(max_examples=40)
@given(
    order=st.permutations(range(30)), lost=st.sets(st.integers(0, 29), max_size=3), wrong=st.sets(st.integers(0, 29))
)
def test_variants_align_by_key_whatever_the_order(
    folder: Path, order: list[int], lost: set[int], wrong: set[int]
) -> None:
    there = [one for one in order if one not in lost]
    tables = saved(folder, {FOG: of(list(range(30)), wrong), SNOW: of(there, wrong)})
    found = Variants.read(Readable(tables), [FOG, SNOW])
    assert found is not None
    assert found.key.tolist() == [f"k{one}" for one in range(30) if one not in lost]
    assert np.array_equal(found.values[:, 0], found.values[:, 1])
    assert found.values[:, 0, 0].tolist() == [float(one in wrong) for one in range(30) if one not in lost]
    assert [gap.images for gap in found.gaps] == ([len(lost)] if lost else [])


def test_means_are_by_corruption_over_its_severities(tmp_path: Path) -> None:
    tables = saved(tmp_path, {MILD: of([0, 1], set()), FOG: of([0, 1], {1}), SNOW: of([0, 1], {0, 1})})
    found = Variants.read(Readable(tables), [MILD, SNOW, FOG])
    assert found is not None
    assert found.groups() == {"fog": [0, 2], "snow": [1]}
    assert found.means().tolist() == [[0, 1], [0.5, 1]]


def test_scenes_without_a_common_image_have_no_variants(tmp_path: Path) -> None:
    tables = saved(tmp_path, {FOG: of([0, 1], set()), SNOW: of([2, 3], set())})
    assert Variants.read(Readable(tables), [FOG, SNOW]) is None
    assert Variants.read(Readable(tables), []) is None


def test_two_images_of_one_name_are_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="same key"):
        Variants.read(Readable(saved(tmp_path, {FOG: of([0, 0], set())})), [FOG])


def test_a_pair_has_the_scenes_and_common_images_of_the_first(tmp_path: Path) -> None:
    ours = saved(tmp_path / "ours", {FOG: of(list(range(20)), {3})})
    theirs = saved(tmp_path / "theirs", {SNOW: of(list(range(1, 20)), set()), FOG: of(list(range(1, 20)), {5})})
    both = paired(*(_read(each) for each in (ours, theirs)))
    assert both is not None
    assert [each.key.tolist() for each in both] == [keys(20)[1:].tolist()] * 2
    assert [list(each.scenes) for each in both] == [[FOG], [FOG]]
    assert [np.flatnonzero(each.values[:, 0, 0]).tolist() for each in both] == [[2], [4]]
    assert paired(_read(theirs), _read(ours)) is None, "it lacks a scene"


def _read(tables: Tables) -> Variants:
    found = Variants.read(Readable(tables), tables.scenes)
    assert found is not None
    return found


def test_unreadable_images_are_told_once_a_scene_with_the_first_reason(tmp_path: Path) -> None:
    table = unreadable(unreadable(of(list(range(9)), set()), [5], "second"), [2, 7], "first")
    source = Readable(saved(tmp_path, {FOG: table}))
    for _ in range(2):
        found = source.predictions(FOG)
        assert found is not None
        assert len(found) == 6
    assert [(gap.suite, gap.what, gap.reason, gap.images) for gap in source.gaps] == [
        ("corruptions", "fog 3", "first", 3)
    ]


def test_scenes_are_called_as_a_person_would() -> None:
    scenes = [Scene("clean", "test"), FOG, Scene("pgd", "pgd", "0"), Scene("imagenet_o", "out")]
    assert [called(scene) for scene in scenes] == ["test", "fog 3", "eps 0", "out"]
