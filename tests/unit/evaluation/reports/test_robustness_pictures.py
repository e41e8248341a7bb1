"""Pictures of an evaluation: PNG files of a readable size that show the data they were given."""

from pathlib import Path

import numpy as np
import pytest

from ns_core.evaluation.reports import robustness_pictures as pictures
from ns_core.evaluation.results import Accuracy, Corruptions, Perturbations
from tests.drawings import Draw, pixels
from tests.robustness_reports import accuracy, corruptions, estimate, perturbations, student_report, teacher_report

NOW, BEFORE = student_report(), teacher_report()
ERRORS, FLIPS, CLEAN = corruptions(1.0), perturbations(1.0), accuracy(0.91)
OTHER_ERRORS, OTHER_FLIPS, OTHER_CLEAN = corruptions(1.3), perturbations(1.4), accuracy(0.85, ece=0.08)


def severity(now: Corruptions, before: Corruptions | None = None) -> Draw:
    return lambda path: pictures.severity_curves(path, now, before)


def bars(now: Corruptions, before: Corruptions | None = None, student: str = "this checkpoint") -> Draw:
    return lambda path: pictures.corruption_bars(path, now, before, ("baseline", student))


def flips(now: Perturbations, before: Perturbations | None = None) -> Draw:
    return lambda path: pictures.flip_bars(path, now, before)


def classes(worst: int = 20, alone: bool = False) -> Draw:
    return lambda path: pictures.class_bars(path, NOW, None if alone else BEFORE, worst)


def attacks(alone: bool = False) -> Draw:
    return lambda path: pictures.attack_curves(path, NOW.attacks, {} if alone else BEFORE.attacks)


def confidence(now: Accuracy, before: Accuracy | None = None) -> Draw:
    return lambda path: pictures.confidence_curves(path, now, before)


CHARTS: dict[str, tuple[Draw, Draw]] = {
    "curves by severity": (severity(ERRORS, OTHER_ERRORS), severity(OTHER_ERRORS, OTHER_ERRORS)),
    "curves without a baseline": (severity(ERRORS), severity(ERRORS, OTHER_ERRORS)),
    "bars of corruptions": (bars(ERRORS, OTHER_ERRORS), bars(OTHER_ERRORS, ERRORS)),
    "bars without a baseline": (bars(ERRORS), bars(OTHER_ERRORS)),
    "bars by other names": (bars(ERRORS, OTHER_ERRORS, "the student"), bars(ERRORS, OTHER_ERRORS)),
    "bars of perturbations": (flips(FLIPS, OTHER_FLIPS), flips(FLIPS)),
    "bars of classes": (classes(), classes(worst=3)),
    "bars of classes without a baseline": (classes(alone=True), classes()),
    "curves of attacks": (attacks(), attacks(alone=True)),
    "calibration": (confidence(CLEAN, OTHER_CLEAN), confidence(OTHER_CLEAN, CLEAN)),
    "calibration without a baseline": (confidence(CLEAN), confidence(CLEAN, OTHER_CLEAN)),
}
"""Name -> a chart, and one of other data."""


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_png_about_900_pixels_wide_that_shows_its_data(tmp_path: Path, name: str) -> None:
    chart, other = (pixels(tmp_path, draw) for draw in CHARTS[name])
    height, width, _ = chart.shape
    assert 850 <= width <= 950
    assert 250 <= height <= 1000
    assert chart.shape != other.shape or (chart != other).any()


def test_the_same_data_give_the_same_picture(tmp_path: Path) -> None:
    draw = severity(ERRORS, OTHER_ERRORS)
    np.testing.assert_array_equal(pixels(tmp_path, draw), pixels(tmp_path, draw))


def test_two_networks_are_compared_on_the_corruptions_that_both_have(tmp_path: Path) -> None:
    means = {**OTHER_ERRORS.means, "unknown": 1.0}
    np.testing.assert_array_equal(
        pixels(tmp_path, bars(ERRORS, OTHER_ERRORS)),
        pixels(tmp_path, bars(ERRORS, OTHER_ERRORS.model_copy(update={"means": means}))),
    )


def test_means_over_other_severities_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(pictures, "titles", lambda axes, title, explanation: titles.append(title))
    errors = {**OTHER_ERRORS.errors, "fog": {"5": 1.0}}
    pixels(tmp_path, bars(ERRORS, OTHER_ERRORS.model_copy(update={"errors": errors})))
    nothing = {name: {"1": levels["1"]} for name, levels in OTHER_ERRORS.errors.items()}
    pixels(tmp_path, bars(ERRORS, OTHER_ERRORS.model_copy(update={"errors": nothing})))
    assert titles == ["This checkpoint errs less under 14 of 14 kinds of corruption", "15 kinds of corruption"]


def test_a_mean_error_over_other_severities_is_not_in_the_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(pictures, "_heading", lambda figure, title, explanation: titles.append(title))
    errors = {**OTHER_ERRORS.errors, "fog": {"5": 1.0}}
    pixels(tmp_path, severity(ERRORS, OTHER_ERRORS))
    pixels(tmp_path, severity(ERRORS, OTHER_ERRORS.model_copy(update={"errors": errors})))
    assert ["the baseline's" in title for title in titles] == [True, False]


def test_classes_are_compared_on_the_same_clean_images_only(tmp_path: Path) -> None:
    alone = pixels(tmp_path, classes(alone=True))
    assert NOW.test
    unpaired = NOW.model_copy(update={"test": NOW.test.model_copy(update={"against_baseline": None})})
    other_split = BEFORE.model_copy(update={"images": BEFORE.test, "test": None})
    folder = BEFORE.model_copy(update={"images": accuracy(0.1)})
    same = pixels(tmp_path, classes())
    for now, before, wanted in ((unpaired, BEFORE, alone), (NOW, other_split, alone), (NOW, folder, same)):
        found = pixels(tmp_path, lambda path, now=now, before=before: pictures.class_bars(path, now, before, 20))  # type: ignore[misc]
        np.testing.assert_array_equal(found, wanted)


def test_a_severity_that_is_missing_leaves_a_gap_and_no_error(tmp_path: Path) -> None:
    errors = {**ERRORS.errors, "fog": {"1": 0.1, "5": 0.5}, "frost": {"3": 0.4}}
    part = ERRORS.model_copy(update={"errors": errors, "mean_error": None})
    assert (pixels(tmp_path, severity(part, OTHER_ERRORS)) != pixels(tmp_path, severity(ERRORS, OTHER_ERRORS))).any()


def test_a_baseline_that_was_attacked_otherwise_leaves_its_part_out(tmp_path: Path) -> None:
    """Of AutoAttack, which it did not face, there is our point alone: as without any baseline for it."""
    other = {"autoattack": NOW.attacks["fgsm"].model_copy(update={"top1": {"4": estimate(0.1)}})}
    beside = {**BEFORE.attacks, "autoattack": other["autoattack"].model_copy(update={"top1": {"8": estimate(0.9)}})}
    part, without, whole = (
        pixels(tmp_path, lambda path, before=before: pictures.attack_curves(path, {**NOW.attacks, **other}, before))  # type: ignore[misc]
        for before in (beside, BEFORE.attacks, {**BEFORE.attacks, **other})
    )
    np.testing.assert_array_equal(part, without)
    assert (whole != without).any(), "where it faced the same, it is drawn"
