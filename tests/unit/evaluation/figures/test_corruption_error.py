"""CE, mCE and relative mCE: published figures from published raw errors, and tables end to end."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ns_core.evaluation.figures.baselines import (
    ALEXNET_ERRORS,
    CLEAN_ERROR,
    OFFICIAL_IMAGES,
    SEVERITIES,
    alexnet_means,
    counted_corruptions,
)
from ns_core.evaluation.figures.corruption_error import Asked, corruptions, missing_names, official, relative_mce
from ns_core.evaluation.figures.relative import ratios
from ns_core.evaluation.figures.variants import Readable
from ns_core.evaluation.tables import Predictions, Scene
from tests.scene_tables import keys, predictions, saved, unreadable

WSL_32X48D = (
    *(36.587, 38.436, 39.808, 39.116, 54.818, 37.5, 44.494, 39.666),
    *(37.804, 29.916, 18.376, 32.11, 40.259, 25.626, 26.9),
)
"""Mean top-1 error in percent of ResNeXt-101 32x48d WSL on each corruption (eminorhan/resnext-wsl)."""

SHARES = {name: 0.2 + 0.03 * number for number, name in enumerate(counted_corruptions())}


def test_stored_errors_of_resnext_wsl_give_the_mce_that_noisy_student_quotes() -> None:
    errors = {name: value / 100 for name, value in zip(counted_corruptions(), WSL_32X48D, strict=True)}
    found = ratios(errors, alexnet_means(dict.fromkeys(errors, SEVERITIES)))
    assert len(found) == 15
    assert np.mean(list(found.values())) == pytest.approx(45.697, abs=5e-4)


def test_alexnet_itself_has_100_everywhere() -> None:
    means = alexnet_means(dict.fromkeys(ALEXNET_ERRORS, SEVERITIES))
    assert ratios(means, means) == pytest.approx(dict.fromkeys(means, 100.0))
    assert relative_mce(means, CLEAN_ERROR, means, CLEAN_ERROR) == pytest.approx(100)


def test_relative_mce_is_the_ratio_of_what_corruption_adds() -> None:
    means, normaliser = {"fog": 0.4, "snow": 0.6}, {"fog": 0.8, "snow": 0.5}
    assert relative_mce(means, 0.2, normaliser, 0.3) == pytest.approx(100 * (0.2 / 0.5 + 0.4 / 0.2) / 2)


def test_a_normaliser_that_corruption_costs_nothing_has_no_relative_mce() -> None:
    assert relative_mce({"fog": 0.4}, 0.2, {"fog": 0.3}, 0.299) is None
    assert relative_mce({"fog": 0.4}, 0.2, {"fog": 0.2}, 0.3) is None
    assert relative_mce({}, 0.2, {}, 0.3) is None


def test_a_corruption_that_the_normaliser_makes_no_mistake_on_has_no_ratio() -> None:
    assert ratios({"fog": 0.1, "snow": 0.2}, {"fog": 0.0, "snow": 0.4}) == {"snow": pytest.approx(50)}


@given(st.sets(st.sampled_from(["fog 1", "fog 2", "fog 3", "snow 1", "snow 2", "snow 3"])))
def test_what_is_missing_is_named_once_and_as_a_whole_where_it_is_whole(there: set[str]) -> None:
    asked = [Scene("c", name, level) for name in ("fog", "snow") for level in "123"]
    missing = missing_names(asked, [scene for scene in asked if f"{scene.name} {scene.level}" in there])
    for name in ("fog", "snow"):
        levels = [level for level in "123" if f"{name} {level}" in there]
        lost = [f"{name} {level}" for level in "123" if level not in levels]
        assert [each for each in missing if each.startswith(name)] == (lost if levels else [name])


def wrong(scene: Scene, images: int, share: float, seed: int = 0) -> NDArray[np.bool_]:
    """Which images a network gets wrong in a scene; seeded by it."""
    rng = np.random.default_rng([seed, *scene.name.encode(), int(scene.level)])
    return rng.random(images) < share


def benchmark(suite: str, images: int = 60, seed: int = 0, scale: float = 1) -> dict[Scene, Predictions]:
    """Every counted scene of a suite."""
    return {
        scene: predictions(~wrong(scene, images, scale * SHARES[scene.name], seed)) for scene in official(suite).scenes
    }


def errors_of(scenes: dict[Scene, Predictions], name: str) -> float:
    return float(np.mean([1 - table.right.mean() for scene, table in scenes.items() if scene.name == name]))


def test_imagenet_c_is_normalised_by_alexnet_and_the_extra_four_are_in_no_mean(tmp_path: Path) -> None:
    scenes = benchmark("imagenet_c")
    extra = {Scene("imagenet_c", "spatter", "3"): predictions(np.zeros(60, bool))}
    found, gaps = corruptions(official("imagenet_c"), Readable(saved(tmp_path, scenes | extra)), None)
    by_hand = {name: errors_of(scenes, name) for name in counted_corruptions()}
    assert found.mean_error is not None
    assert found.mce is not None
    assert found.mean_error.value == pytest.approx(np.mean(list(by_hand.values())))
    assert found.mean_top1 == pytest.approx(1 - found.mean_error.value)
    ce = {name: 100 * error / np.mean(ALEXNET_ERRORS[name]) for name, error in by_hand.items()}
    assert found.ce == pytest.approx(ce)
    assert found.mce.value == pytest.approx(np.mean(list(ce.values())))
    assert found.mce.low < found.mce.value < found.mce.high
    assert (found.normaliser, found.extra, found.errors["spatter"]) == ("AlexNet", ["spatter"], {"3": 1.0})
    assert list(found.errors)[:15] == list(counted_corruptions())
    assert list(found.errors["fog"]) == list(SEVERITIES)
    assert not found.comparable, "60 images are not the benchmark"
    assert (found.missing, gaps, found.relative_mce) == ([], [], None)


@pytest.mark.parametrize(("images", "lost", "published"), [(60, 0, True), (59, 0, False), (60, 1, False)])
def test_only_whole_official_files_of_all_images_are_the_published_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, lost: int, published: bool
) -> None:
    monkeypatch.setitem(OFFICIAL_IMAGES, "imagenet_c", 60)
    scenes = dict(list(benchmark("imagenet_c", images).items())[lost:])
    found, _ = corruptions(official("imagenet_c"), Readable(saved(tmp_path, scenes)), None)
    assert found.comparable is published


def test_relative_mce_of_imagenet_c_wants_the_same_images_clean(tmp_path: Path) -> None:
    scenes = benchmark("imagenet_c")
    asked = official("imagenet_c", [Scene("clean", "images")])
    clean = predictions(np.arange(70) >= 7, key=keys(70))
    tables = saved(tmp_path / "with", {**scenes, Scene("clean", "images"): clean})
    found, _ = corruptions(asked, Readable(tables), None)
    lost = [
        (errors_of(scenes, name) - 7 / 60) / (np.mean(ALEXNET_ERRORS[name]) - CLEAN_ERROR)
        for name in counted_corruptions()
    ]
    assert found.relative_mce == pytest.approx(100 * np.mean(lost))
    for number, others in enumerate((predictions(np.ones(70, bool), key=keys(70, "other")), unreadable(clean, [59]))):
        tables = saved(tmp_path / f"without {number}", {**scenes, Scene("clean", "images"): others})
        assert corruptions(asked, Readable(tables), None)[0].relative_mce is None, "one of 60 is lacking, or all"


def test_a_missing_scene_takes_mce_away_and_not_the_rest(tmp_path: Path) -> None:
    scenes = benchmark("imagenet_c")
    lost = {scene for scene in scenes if scene.name == "fog" or scene == Scene("imagenet_c", "snow", "2")}
    scenes = {scene: table for scene, table in scenes.items() if scene not in lost}
    found, _ = corruptions(official("imagenet_c"), Readable(saved(tmp_path, scenes)), None)
    assert found.missing == ["snow 2", "fog"]
    assert (found.mce, found.relative_mce, found.comparable) == (None, None, False)
    assert found.mean_error is not None
    rest = [errors_of(scenes, name) for name in counted_corruptions() if name != "fog"]
    assert found.mean_error.value == pytest.approx(np.mean(rest))
    alexnet = np.mean([ALEXNET_ERRORS["snow"][level] for level in (0, 2, 3, 4)])
    assert found.ce["snow"] == pytest.approx(100 * errors_of(scenes, "snow") / alexnet), "the same severities of both"


def test_images_that_one_variant_lacks_stay_out_of_all(tmp_path: Path) -> None:
    names, images = ("fog", "snow"), 40
    scenes = {Scene("corruptions", name, "1"): predictions(np.arange(images) >= 10) for name in names}
    scenes[Scene("corruptions", "fog", "1")] = unreadable(scenes[Scene("corruptions", "fog", "1")], [0, 1])
    source = Readable(saved(tmp_path, scenes))
    found, gaps = corruptions(Asked("corruptions", list(scenes)), source, None)
    assert found.images == 38
    assert found.errors == {"snow": {"1": 8 / 38}, "fog": {"1": 8 / 38}}
    assert [(gap.what, gap.images) for gap in source.gaps] == [("fog 1", 2)]
    assert [gap.images for gap in gaps] == [2]


def test_a_scene_with_too_few_images_is_left_out_whole_and_named(tmp_path: Path) -> None:
    scenes = {
        Scene("corruptions", "fog", "1"): predictions(np.zeros(10, bool)),
        Scene("corruptions", "snow", "1"): predictions(np.ones(40, bool)),
    }
    found, gaps = corruptions(Asked("corruptions", list(scenes)), Readable(saved(tmp_path, scenes)), None)
    assert (found.images, found.errors, found.missing) == (40, {"snow": {"1": 0.0}}, ["fog"])
    assert [(gap.what, gap.reason) for gap in gaps] == [("fog 1", "only 10 of 40 images: left out")]


def test_on_the_fly_the_baseline_is_the_normaliser_and_never_alexnet(tmp_path: Path) -> None:
    ours, theirs = benchmark("cifar10_c", seed=1), benchmark("cifar10_c", seed=2, scale=1.3)
    asked = official("cifar10_c")
    alone, _ = corruptions(asked, Readable(saved(tmp_path / "ours", ours)), None)
    assert (alone.normaliser, alone.ce, alone.mce) == (None, {}, None)
    baseline = Readable(saved(tmp_path / "theirs", theirs))
    found, gaps = corruptions(asked, Readable(saved(tmp_path / "ours", ours)), baseline)
    ce = {name: 100 * errors_of(ours, name) / errors_of(theirs, name) for name in counted_corruptions()}
    assert (found.normaliser, gaps) == ("baseline", [])
    assert found.ce == pytest.approx(ce)
    assert found.mce is not None
    assert found.mce.value == pytest.approx(np.mean(list(ce.values())))
    assert found.against_baseline is not None
    means = [np.mean([errors_of(each, name) for name in counted_corruptions()]) for each in (ours, theirs)]
    assert found.against_baseline.difference.value == pytest.approx(means[0] - means[1])
    assert found.against_baseline.difference.high < 0
    assert found.against_baseline.p_value is None


def test_relative_mce_on_the_fly_is_of_the_same_images_clean_in_both(tmp_path: Path) -> None:
    fog, clean = Scene("corruptions", "fog", "3"), Scene("clean", "test")
    rights = {"ours": (20, 10), "theirs": (30, 15)}
    tables = {
        name: saved(
            tmp_path / name,
            {fog: predictions(np.arange(50) >= bad), clean: predictions(np.arange(80) >= before, key=keys(80))},
        )
        for name, (bad, before) in rights.items()
    }
    asked = Asked("corruptions", [fog], [clean])
    found, _ = corruptions(asked, Readable(tables["ours"]), Readable(tables["theirs"]))
    assert found.relative_mce == pytest.approx(100 * (20 - 10) / (30 - 15))


def test_relative_mce_on_the_fly_leaves_out_what_either_has_not_clean(tmp_path: Path) -> None:
    fog, clean = Scene("corruptions", "fog", "3"), Scene("clean", "test")
    # Clean mistakes are the first images: two of ours cannot be read here, three others of the baseline there.
    tables = [
        saved(tmp_path / str(bad), {fog: predictions(np.arange(50) >= bad), clean: unreadable(before, lost)})
        for bad, before, lost in (
            (20, predictions(np.arange(50) >= 10), [0, 1]),
            (30, predictions(np.arange(50) >= 15), [2, 12, 40]),
        )
    ]
    found, _ = corruptions(Asked("corruptions", [fog], [clean]), *map(Readable, tables))
    assert found.relative_mce == pytest.approx(100 * (20 / 50 - 7 / 45) / (30 / 50 - 11 / 45))


def test_where_the_baseline_makes_no_mistake_there_is_no_mean_of_ratios(tmp_path: Path) -> None:
    scenes = [Scene("corruptions", name, "1") for name in ("fog", "snow")]
    ours = {scene: predictions(np.arange(30) >= 3) for scene in scenes}
    theirs = {**ours, scenes[0]: predictions(np.ones(30, bool))}
    tables = [Readable(saved(tmp_path / str(n), each)) for n, each in enumerate((ours, theirs))]
    found, gaps = corruptions(Asked("corruptions", scenes), *tables)
    assert (found.ce, found.mce) == ({"snow": pytest.approx(100)}, None)
    assert [(gap.suite, gap.what) for gap in gaps] == [("baseline", "corruptions fog")]
    assert found.against_baseline is not None


@pytest.mark.parametrize("how", ["other images", "a scene less"])
def test_a_baseline_of_other_images_or_fewer_scenes_is_not_compared(tmp_path: Path, how: str) -> None:
    scenes = [Scene("corruptions", name, "1") for name in ("fog", "snow")]
    ours = {scene: predictions(np.arange(30) >= 3) for scene in scenes}
    theirs = {scene: predictions(np.arange(30) >= 3, key=keys(30, "other")) for scene in scenes}
    if how == "a scene less":
        theirs = {scenes[0]: ours[scenes[0]]}
    tables = [Readable(saved(tmp_path / str(n), each)) for n, each in enumerate((ours, theirs))]
    found, gaps = corruptions(Asked("corruptions", scenes), *tables)
    assert (found.normaliser, found.mce, found.against_baseline) == (None, None, None)
    assert [(gap.suite, gap.what) for gap in gaps] == [("baseline", "corruptions")]


def test_another_label_of_an_image_in_the_baseline_is_our_mistake(tmp_path: Path) -> None:
    fog = Scene("corruptions", "fog", "1")
    right = np.arange(30) >= 3
    ours, theirs = predictions(right), predictions(right, label=np.zeros(30))
    tables = [Readable(saved(tmp_path / str(n), {fog: each})) for n, each in enumerate((ours, theirs))]
    with pytest.raises(AssertionError, match="another label"):
        corruptions(Asked("corruptions", [fog]), *tables)
