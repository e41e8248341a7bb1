"""Which figures are the published ones, and what of a baseline was made in another way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ns_core.config import EvaluateConfig
from ns_core.config.evaluation import OfficialSets
from ns_core.evaluation.figures.baselines import OFFICIAL_CHOICES, OFFICIAL_IMAGES, OFFICIAL_KNOWN
from ns_core.evaluation.figures.corruption_error import official as official_corruptions
from ns_core.evaluation.figures.facts import Facts
from ns_core.evaluation.figures.flip_rate import official as official_perturbations
from ns_core.evaluation.figures.score import headline, score
from ns_core.evaluation.results import Attack, Gap, RobustnessReport
from ns_core.evaluation.sets.imagenet_index import synsets
from ns_core.evaluation.tables import Scene, Table
from tests.scene_tables import CLASSES, predictions, saved, sequences, unreadable

NAMES = tuple(str(number) for number in range(CLASSES))
NOTHING: dict[str, Any] = {"corruptions": (), "perturbations": (), "fgsm_eps": (), "pgd_eps": ()}
SUBSET = Scene("imagenet_a", "imagenet_a")
OUT, KNOWN = Scene("imagenet_o", "out"), Scene("imagenet_o", "clean")


def facts(names: Sequence[str] = NAMES, config: Mapping[str, Any] | None = None, **rest: Any) -> Facts:
    return Facts(
        model="tiny", size=32, class_names=names, config=EvaluateConfig(**{**NOTHING, **(config or {})}), **rest
    )


def right(images: int, wrong: int = 10) -> Any:
    return np.arange(images) >= wrong


@pytest.mark.parametrize(
    ("images", "lost", "rest", "published"),
    [
        (60, [], {}, True),
        (59, [], {}, False),
        (60, [3], {}, False),
        (60, [], {"gaps": [Gap(suite="imagenet_a", what="2 class folders", reason="unknown", images=5)]}, False),
        (60, [], {"gaps": [Gap(suite="imagenet_r", what="of another set", reason="unknown", images=5)]}, True),
        (60, [], {"config": {"max_official": 60}}, False),
        (60, [], {"choices": {"imagenet_a": 199}}, False),
    ],
)
def test_a_natural_set_is_the_published_figure_only_when_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    lost: list[int],
    rest: dict[str, Any],
    published: bool,
) -> None:
    monkeypatch.setitem(OFFICIAL_IMAGES, "imagenet_a", 60)
    tables = saved(tmp_path, {SUBSET: unreadable(predictions(right(images)), lost)})
    config = {"official": OfficialSets(imagenet_a="a"), **rest.pop("config", {})}
    told = facts(config=config, **{"choices": {"imagenet_a": 200}, **rest})
    assert score(tables, told).subsets["imagenet_a"].comparable is published


def test_the_sizes_of_the_official_sets_are_those_of_their_files() -> None:
    sizes = {suite: OFFICIAL_IMAGES[suite] for suite in OFFICIAL_CHOICES}
    assert sizes == {
        "imagenet_a": 7_500,
        "imagenet_r": 30_000,
        "imagenet_v2": 10_000,
        "imagenet_sketch": 50_889,
        "imagenet_o": 2_000,
    }
    assert 50 * OFFICIAL_CHOICES["imagenet_o"] == OFFICIAL_KNOWN


@pytest.mark.parametrize(
    ("unknown", "known", "published"), [(2_000, 10_000, True), (1_999, 10_000, False), (2_000, 9_999, False)]
)
def test_imagenet_o_is_the_published_figure_only_with_all_unknown_and_all_known_images(
    tmp_path: Path, unknown: int, known: int, published: bool
) -> None:
    scenes: dict[Scene, Table] = {
        OUT: predictions(
            np.zeros(unknown, bool), label=np.full(unknown, -1), confidence=np.linspace(0.1, 0.5, unknown)
        ),
        KNOWN: predictions(right(known), confidence=np.linspace(0.4, 1, known)),
    }
    told = facts(config={"official": OfficialSets(imagenet_o="o")}, choices={"imagenet_o": 200})
    found = score(saved(tmp_path, scenes), told).imagenet_o
    assert found is not None
    assert found.comparable is published


def test_classes_of_a_set_are_those_that_the_network_chose_among_not_those_drawn(tmp_path: Path) -> None:
    few = {"label": np.arange(60) % 4}
    tables = saved(tmp_path, {SUBSET: predictions(right(60), **few)})
    config = {"official": OfficialSets(imagenet_a="a")}
    for choices, top5 in ((10, 1.0), (5, None)):
        subset = score(tables, facts(config=config, choices={"imagenet_a": choices})).subsets["imagenet_a"]
        assert (subset.classes, subset.accuracy.top5) == (choices, top5)
    unmasked = score(tables, facts(config=config)).subsets["imagenet_a"]
    assert (unmasked.classes, unmasked.accuracy.top5) == (CLASSES, 1.0)


def benchmarks(wrong: int) -> dict[Scene, Table]:
    """ImageNet-C and -P, all scenes."""
    return {
        **{scene: predictions(right(50, wrong)) for scene in official_corruptions("imagenet_c").scenes},
        **{scene: sequences(np.full(50, wrong)) for scene in official_perturbations("imagenet_p").scenes},
    }


OTHER = {
    "10 classes": (NAMES, {}),
    "1,001 classes": ((*synsets(), "another"), {}),
    "64 pixels": (synsets(), {"imagenet_c": {(64, 64)}, "imagenet_p": {(224, 224), (64, 64)}}),
}


@pytest.mark.parametrize("other", OTHER)
def test_other_classes_or_sizes_than_imagenets_are_never_held_against_alexnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    for suite in ("imagenet_c", "imagenet_p"):
        monkeypatch.setitem(OFFICIAL_IMAGES, suite, 50)
    names, sizes = OTHER[other]
    config = {"official": OfficialSets(imagenet_c="c", imagenet_p="p")}
    tables, before = saved(tmp_path / "after", benchmarks(10)), saved(tmp_path / "before", benchmarks(20))
    for baseline, normaliser, value in ((None, None, None), (before, "baseline", 50)):
        report = score(tables, facts(names, config, sizes=sizes, baseline=baseline))
        made, moved = report.imagenet_c, report.imagenet_p
        assert made is not None
        assert moved is not None
        assert (made.normaliser, moved.normaliser) == (normaliser, normaliser)
        assert (made.comparable, moved.comparable) == (False, False)
        means = [one and one.value for one in (made.mce, moved.mfr)]
        assert means == ([None, None] if value is None else pytest.approx([value, value]))
        line = headline(report, None)
        assert (line["imagenet_c_mce"], line["imagenet_p_mfr"]) == (None, None)


def test_imagenets_classes_in_any_order_on_official_files_are_held_against_alexnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for suite in ("imagenet_c", "imagenet_p"):
        monkeypatch.setitem(OFFICIAL_IMAGES, suite, 50)
    config = {"official": OfficialSets(imagenet_c="c", imagenet_p="p")}
    sizes = {"imagenet_c": {(224, 224)}, "imagenet_p": {(224, 224)}}
    report = score(saved(tmp_path, benchmarks(10)), facts(synsets()[::-1], config, sizes=sizes))
    for made in (report.imagenet_c, report.imagenet_p):
        assert made is not None
        assert (made.normaliser, made.comparable) == ("AlexNet", True)
    assert headline(report, None)["imagenet_c_mce"] is not None


def reported(**fields: Any) -> RobustnessReport:
    """A baseline's report."""
    return RobustnessReport(model="tiny", size=32, class_names=list(NAMES), **fields)


@pytest.mark.parametrize(
    ("settings", "same"), [({"steps": 10, "size": 64}, True), ({"steps": 20, "size": 32}, False), ({"size": 32}, False)]
)
def test_a_baseline_attacked_with_other_settings_is_a_gap_and_no_comparison(
    tmp_path: Path, settings: dict[str, Any], same: bool
) -> None:
    scenes = [Scene("pgd", "pgd", eps) for eps in ("2", "4")]
    ours, theirs = (
        saved(tmp_path / str(wrong), {scene: predictions(right(50, wrong)) for scene in scenes}) for wrong in (10, 20)
    )
    before = reported(attacks={"pgd": Attack(top1={}, settings=settings, images=50)})
    told = facts(
        config={"pgd_eps": (2.0, 4.0)},
        lengths={"test": 50},
        attack_settings={"pgd": {"steps": 10, "size": 32}},
        baseline=theirs,
        baseline_report=before,
    )
    report = score(ours, told)
    gap = Gap(suite="baseline", what="pgd", reason="it was attacked with other settings")
    assert set(report.attacks["pgd"].top1) == {"2", "4"}
    assert set(report.attacks["pgd"].against_baseline) == ({"2", "4"} if same else set())
    assert [one for one in report.gaps if one.suite == "baseline" and "test" not in one.what] == ([] if same else [gap])


@pytest.mark.parametrize(
    ("names", "before", "same"),
    [
        (("fog", "frost"), "photographs", True),
        (("fog", "frost"), "drawn", False),
        (("fog", "snow"), "drawn", True),
    ],
)
def test_a_baseline_whose_frost_was_made_in_another_way_is_no_ground_for_corruptions(
    tmp_path: Path, names: tuple[str, str], before: str, same: bool
) -> None:
    test = Scene("clean", "test")
    scenes = [test, *(Scene("corruptions", name, "3") for name in names), Scene("perturbations", "tilt", "1")]
    ours, theirs = (
        saved(
            tmp_path / str(wrong),
            {
                scene: sequences(np.full(50, wrong))
                if scene.suite == "perturbations"
                else predictions(right(50, wrong))
                for scene in scenes
            },
        )
        for wrong in (10, 20)
    )
    config = {"corruptions": names, "severities": (3,), "frost": "photographs", "perturbations": ("tilt",)}
    told = facts(config=config, lengths={"test": 50}, baseline=theirs, baseline_report=reported(frost=before))
    report = score(ours, told)
    assert report.frost == "photographs"
    made, moved = report.corruptions, report.perturbations
    assert made is not None
    assert moved is not None
    assert (made.normaliser, made.against_baseline is not None) == (("baseline", True) if same else (None, False))
    assert (moved.normaliser, moved.against_baseline is not None) == ("baseline", True)
    gap = Gap(suite="baseline", what="corruptions", reason="its frost was made in another way")
    assert report.gaps == ([] if same else [gap])
