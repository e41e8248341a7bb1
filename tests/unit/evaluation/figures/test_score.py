"""A whole report from tables: which figure rests on what, and that nothing is missing without being told."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ns_core.config import EvaluateConfig
from ns_core.config.evaluation import OfficialSets
from ns_core.errors import StageFailed, UserError
from ns_core.evaluation.figures.corruption_error import official as official_corruptions
from ns_core.evaluation.figures.facts import Facts
from ns_core.evaluation.figures.flip_rate import official as official_perturbations
from ns_core.evaluation.figures.gate import GateLimits
from ns_core.evaluation.figures.score import gate_of, headline, score
from ns_core.evaluation.results import Gap, RobustnessReport
from ns_core.evaluation.sets.imagenet_index import synsets
from ns_core.evaluation.tables import Scene, Table
from tests.scene_tables import CLASSES, keys, predictions, saved, sequences, unreadable

HOLDOUT, TEST = Scene("clean", "holdout"), Scene("clean", "test")
FOG = [Scene("corruptions", "fog", level) for level in ("1", "5")]
SNOW = [Scene("corruptions", "snow", level) for level in ("1", "5")]
TILT = Scene("perturbations", "tilt", "1")
FGSM = {eps: Scene("fgsm", "fgsm", eps) for eps in ("0", "16")}
PGD = Scene("pgd", "pgd", "2")

SMALL: dict[str, Any] = {
    "corruptions": ("fog", "snow"),
    "severities": (1, 5),
    "perturbations": ("tilt",),
    "fgsm_eps": (0.0, 16.0),
    "pgd_eps": (2.0,),
}


def facts(config: Mapping[str, Any] = SMALL, **rest: Any) -> Facts:
    names = [str(number) for number in range(CLASSES)]
    told: dict[str, Any] = {"lengths": {"holdout": 100, "test": 100}, "class_names": names, **rest}
    return Facts(model="tiny", size=32, config=EvaluateConfig(**config), **told)


def right(wrong: int, images: int = 100) -> Any:
    """All but the first `wrong`."""
    return np.arange(images) >= wrong


def evaluation(worse: int = 0) -> dict[Scene, Table]:
    """Everything that `SMALL` asks for, on 100 images; every figure worse by so many of them."""
    return {
        HOLDOUT: predictions(right(10 + worse)),
        TEST: predictions(right(20 + worse)),
        **{scene: predictions(right(30 + worse)) for scene in FOG},
        **{scene: predictions(right(40 + worse)) for scene in SNOW},
        TILT: sequences(np.full(100, 3 + worse)),
        FGSM["0"]: predictions(right(20 + worse)),
        FGSM["16"]: predictions(right(60 + worse)),
        PGD: predictions(right(50 + worse)),
    }


def test_a_report_holds_every_figure_that_was_asked_for_and_survives_json(tmp_path: Path) -> None:
    settings = {"fgsm": {"steps": 1}}
    report = score(saved(tmp_path, evaluation()), facts(attack_settings=settings))
    assert report.gaps == []
    assert report.holdout is not None
    assert report.test is not None
    assert (report.holdout.top1.value, report.test.top1.value) == (0.9, 0.8)
    assert report.corruptions is not None
    assert report.corruptions.errors == {"snow": {"1": 0.4, "5": 0.4}, "fog": {"1": 0.3, "5": 0.3}}
    assert report.corruptions.mean_error is not None
    assert report.corruptions.mean_error.value == pytest.approx(0.35)
    assert not report.corruptions.comparable
    assert report.perturbations is not None
    assert report.perturbations.flip_probability == {"tilt": pytest.approx(0.1)}
    assert {eps: one.value for eps, one in report.attacks["fgsm"].top1.items()} == {"0": 0.8, "16": 0.4}
    assert (report.attacks["fgsm"].settings, report.attacks["fgsm"].images) == ({"steps": 1}, 100)
    assert list(report.attacks) == ["fgsm", "pgd"]
    assert (report.images, report.imagenet_c, report.subsets, report.baseline) == (None, None, {}, "")
    assert RobustnessReport.model_validate_json(report.model_dump_json()) == report


def test_an_accuracy_tells_all_that_its_predictions_do(tmp_path: Path) -> None:
    report = score(saved(tmp_path, {TEST: predictions(right(20, 400))}), facts({"corruptions": ()}))
    test = report.test
    assert test is not None
    assert (test.top1.low, test.top1.high) == (pytest.approx(0.924, abs=1e-3), pytest.approx(0.967, abs=1e-3))
    assert test.top5 == 1.0
    assert test.ece == pytest.approx(0.05)
    assert test.reliability == [pytest.approx((0.9, 0.95, 400))]
    assert test.rms_calibration_error is not None
    assert test.nll == pytest.approx(-(0.95 * math.log(0.9) + 0.05 * math.log(0.1)))
    assert test.brier == pytest.approx(0.95 * 0.02 + 0.05 * (0.82 - 0.2 + 1))
    assert test.aurc == pytest.approx(1 - test.aurra)
    assert test.risk_coverage[-1] == (1.0, pytest.approx(0.05))
    assert test.per_class == pytest.approx([0.95] * 10)
    assert test.balanced == pytest.approx(0.95)
    assert test.confused == [(label, (label + 1) % 10, 2) for label in range(10)]


def test_unreadable_images_count_in_no_figure_and_are_gaps(tmp_path: Path) -> None:
    scenes = evaluation()
    scenes[TEST] = unreadable(predictions(right(20)), [0, 1, 99], reason="truncated JPEG")
    report = score(saved(tmp_path, scenes), facts())
    assert report.test is not None
    assert (report.test.top1.value, report.test.top1.images) == (79 / 97, 97)
    assert report.gaps == [Gap(suite="clean", what="test", reason="truncated JPEG", images=3)]


def test_a_scene_that_nobody_could_read_is_a_gap_and_no_figure(tmp_path: Path) -> None:
    scenes = evaluation()
    scenes[TEST] = unreadable(predictions(right(20)), list(range(100)))
    report = score(saved(tmp_path, scenes), facts())
    assert report.test is None
    assert report.gaps == [Gap(suite="clean", what="test", reason="truncated", images=100)]


@pytest.mark.parametrize(
    ("scene", "suite", "what"),
    [
        (HOLDOUT, "clean", "holdout"),
        (FOG[1], "corruptions", "fog 5"),
        (TILT, "perturbations", "tilt"),
        (FGSM["16"], "fgsm", "eps 16"),
        (PGD, "pgd", "eps 2"),
    ],
)
def test_whatever_was_asked_for_and_is_not_there_is_a_gap(tmp_path: Path, scene: Scene, suite: str, what: str) -> None:
    scenes = evaluation()
    del scenes[scene]
    report = score(saved(tmp_path, scenes), facts())
    assert [(gap.suite, gap.what, gap.images) for gap in report.gaps] == [(suite, what, 0)]


def test_a_gap_that_is_known_by_a_better_reason_is_told_once(tmp_path: Path) -> None:
    scenes = evaluation()
    for scene in FOG:
        del scenes[scene]
    planned = Gap(suite="corruptions", what="fog", reason="the folder is not there")
    report = score(saved(tmp_path, scenes), facts(gaps=[planned]))
    assert report.gaps == [planned]
    assert report.corruptions is not None
    assert report.corruptions.missing == ["fog"]


def test_without_a_split_to_work_on_nothing_is_asked_of_it(tmp_path: Path) -> None:
    report = score(saved(tmp_path, {HOLDOUT: predictions(right(3))}), facts(lengths={"holdout": 100}))
    assert (report.test, report.corruptions, report.perturbations, report.attacks) == (None, None, None, {})
    assert report.gaps == []


def test_a_baseline_is_compared_image_by_image_everywhere(tmp_path: Path) -> None:
    before = saved(tmp_path / "before", evaluation(worse=5))
    told = facts(baseline=before, baseline_fingerprint="f" * 64)
    report = score(saved(tmp_path / "after", evaluation()), told)
    assert (report.gaps, report.baseline) == ([], "f" * 64)
    assert report.test is not None
    assert report.test.against_baseline is not None
    assert report.test.against_baseline.difference.value == pytest.approx(0.05)
    assert report.test.against_baseline.positive_flips == 0.05
    assert report.test.against_baseline.p_value == pytest.approx(2 / 2**5)
    assert report.corruptions is not None
    assert (report.corruptions.normaliser, report.corruptions.ce) == (
        "baseline",
        {"snow": pytest.approx(100 * 40 / 45), "fog": pytest.approx(100 * 30 / 35)},
    )
    assert report.corruptions.relative_mce == pytest.approx(100)
    assert report.perturbations is not None
    assert report.perturbations.fr == {"tilt": pytest.approx(100 * 3 / 8)}
    assert set(report.attacks["fgsm"].against_baseline) == {"0", "16"}
    line = headline(report, None)
    assert line["mean_corruption_error_vs_teacher"] == pytest.approx((40 / 45 + 30 / 35) / 2)
    assert line["mean_flip_probability_vs_teacher"] == pytest.approx(3 / 8)


def test_a_baseline_on_other_images_is_a_gap_and_no_comparison(tmp_path: Path) -> None:
    other = {TEST: predictions(right(5), key=keys(100, "other"))}
    told = facts({"corruptions": (), "perturbations": (), "fgsm_eps": (), "pgd_eps": ()}, lengths={"test": 100})
    told = Facts(**{**vars(told), "baseline": saved(tmp_path / "before", other)})
    report = score(saved(tmp_path / "after", {TEST: predictions(right(20))}), told)
    assert report.test is not None
    assert report.test.against_baseline is None
    assert [(gap.suite, gap.what) for gap in report.gaps] == [("baseline", "clean test")]


def test_a_baseline_of_other_classes_is_refused(tmp_path: Path) -> None:
    tables = saved(tmp_path, {TEST: predictions(right(20))})
    other = RobustnessReport(model="tiny", size=32, class_names=["cat", "dog"])
    with pytest.raises(UserError, match=r"other classes \(2\)"):
        score(tables, facts(baseline=tables, baseline_report=other))


def test_official_sets_have_their_own_rules(tmp_path: Path) -> None:
    folders = OfficialSets(imagenet_a="a", imagenet_o="o", imagenet_c="c", imagenet_p="p", images="i")
    config = {"official": folders, "corruptions": (), "perturbations": (), "fgsm_eps": (), "pgd_eps": ()}
    few = {"label": np.arange(60) % 4}
    scenes: dict[Scene, Table] = {
        Scene("clean", "images"): predictions(right(10)),
        Scene("imagenet_a", "imagenet_a"): predictions(right(45, 60), **few),
        Scene("imagenet_a", "clean"): predictions(right(6, 60), **few),
        Scene("imagenet_o", "out"): predictions(
            np.zeros(30, bool), label=np.full(30, -1), confidence=np.linspace(0.1, 0.5, 30)
        ),
        Scene("imagenet_o", "clean"): predictions(right(2, 50), confidence=np.linspace(0.4, 1, 50)),
        **{scene: predictions(right(30)) for scene in official_corruptions("imagenet_c").scenes},
        **{scene: sequences(np.full(100, 3)) for scene in official_perturbations("imagenet_p").scenes},
    }
    told = {"lengths": {"images": 100}, "choices": {"imagenet_a": 4}, "class_names": synsets()}
    report = score(saved(tmp_path, scenes), facts(config, **told))
    assert report.gaps == []
    subset = report.subsets["imagenet_a"]
    assert subset.clean is not None
    assert (subset.classes, subset.accuracy.top1.value, subset.clean.top1.value) == (4, 0.25, 0.9)
    assert (subset.gap, subset.accuracy.top5) == (pytest.approx(0.65), None)
    assert report.imagenet_o is not None
    assert (report.imagenet_o.unknown, report.imagenet_o.known) == (30, 50)
    assert 0.9 < report.imagenet_o.auroc.value < 1
    assert report.imagenet_c is not None
    assert report.imagenet_p is not None
    assert (report.imagenet_c.normaliser, report.imagenet_p.normaliser) == ("AlexNet", "AlexNet")
    assert report.imagenet_c.relative_mce is not None
    line = headline(report, None)
    assert line["imagenet_a_top1"] == 0.25
    assert line["imagenet_c_mce"] == report.imagenet_c.mce.value if report.imagenet_c.mce else False
    assert line["imagenet_p_mfr"] == report.imagenet_p.mfr.value if report.imagenet_p.mfr else False


def test_an_official_set_that_was_given_and_not_measured_is_all_gaps(tmp_path: Path) -> None:
    folders = OfficialSets(imagenet_a="a", imagenet_o="o", imagenet_c="c", cifar10_p="p")
    config = {"official": folders, "corruptions": (), "perturbations": (), "fgsm_eps": (), "pgd_eps": ()}
    report = score(saved(tmp_path, {}), facts(config, lengths={}))
    told = {(gap.suite, gap.what) for gap in report.gaps}
    assert {("imagenet_a", "imagenet_a"), ("imagenet_o", "out"), ("imagenet_o", "clean")} < told
    assert sum(suite == "imagenet_c" for suite, _ in told) == 15
    assert sum(suite == "cifar10_p" for suite, _ in told) == 10
    assert report.imagenet_c is not None
    assert (report.imagenet_c.mean_error, report.imagenet_c.mce, report.imagenet_c.images) == (None, None, 0)


def test_a_budget_is_told_where_it_leaves_images_out(tmp_path: Path) -> None:
    config = {**SMALL, "max_images": 100, "max_sequences": 50, "max_attacked": 30}
    report = score(saved(tmp_path, evaluation()), facts(config))
    assert report.budget == {"perturbations": 50, "fgsm": 30, "pgd": 30}


def test_the_headline_has_every_name_and_none_for_what_was_not_measured(tmp_path: Path) -> None:
    line = headline(score(saved(tmp_path / "whole", evaluation()), facts()), None)
    assert (line["fgsm_top1"], line["fgsm_strongest_top1"]) == ({"0": 0.8, "16": 0.4}, 0.4)
    assert (line["pgd_top1"], line["pgd_strongest_top1"]) == ({"2": 0.5}, 0.5)
    assert (line["holdout_top1"], line["test_top1"], line["gaps"], line["gate"]) == (0.9, 0.8, 0, None)
    assert line["ece"] == pytest.approx(0.1)
    assert line["holdout_ece"] == pytest.approx(0.0, abs=1e-6)
    low, high = line["test_interval"]
    assert low < 0.8 < high
    assert line["mean_corruption_error"] == pytest.approx(0.35)
    assert line["mean_flip_probability"] == pytest.approx(0.1)
    nothing = headline(score(saved(tmp_path / "nothing", {}), facts(lengths={})), None)
    assert set(nothing) == set(line)
    assert {name for name, value in nothing.items() if value is not None} == {"fgsm_top1", "pgd_top1", "gaps"}


def test_the_gate_decides_on_the_holdout_images_that_both_could_read(tmp_path: Path) -> None:
    student = saved(tmp_path / "student", {HOLDOUT: unreadable(predictions(right(4)), [99])})
    teacher = saved(tmp_path / "teacher", {HOLDOUT: unreadable(predictions(right(10)), [98])})
    decision = gate_of(student, teacher, GateLimits())
    assert decision is not None
    assert decision.verdict == "promote"
    assert decision.holdout_gain == pytest.approx(6 / 98)
    document = headline(RobustnessReport(model="", size=1, class_names=[]), decision)["gate"]
    assert isinstance(document, dict)
    assert document["interval"] == list(decision.interval)
    assert document["verdict"] == "promote"


def test_there_is_no_gate_without_a_teacher_or_a_holdout(tmp_path: Path) -> None:
    holdout = saved(tmp_path / "holdout", {HOLDOUT: predictions(right(4))})
    test = saved(tmp_path / "test", {TEST: predictions(right(4))})
    assert gate_of(holdout, None, GateLimits()) is None
    assert gate_of(holdout, test, GateLimits()) is None
    assert gate_of(test, holdout, GateLimits()) is None


def test_a_teacher_of_another_holdout_stops_the_stage(tmp_path: Path) -> None:
    here = saved(tmp_path / "here", {HOLDOUT: predictions(right(4))})
    there = saved(tmp_path / "there", {HOLDOUT: predictions(right(4), key=keys(100, "other"))})
    with pytest.raises(StageFailed, match="another holdout"):
        gate_of(here, there, GateLimits())


def test_a_report_is_a_pure_function_of_the_tables(tmp_path: Path) -> None:
    told = facts(baseline=saved(tmp_path / "before", evaluation(worse=5)))
    tables = saved(tmp_path / "after", evaluation())
    assert score(tables, told) == score(tables, told)
