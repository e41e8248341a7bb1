"""The report of an evaluation: what is said of the baseline and of AlexNet, and what is not compared with them."""

from ns_core.evaluation.reports.robustness_report import render_html, render_markdown
from ns_core.evaluation.results import Gap
from tests.page_parser import Page
from tests.robustness_reports import GAPS, corruptions, official_report, perturbations, student_report, teacher_report
from tests.unit.evaluation.reports.test_robustness_report import both_forms, evaluated


def test_comparisons_that_could_not_be_made_are_not_told_as_figures_that_are_missing() -> None:
    lost = Gap(suite="baseline", what="imagenet_c", reason="it was not evaluated on the same images and variants")
    text = render_markdown(evaluated(student_report(gaps=[lost])))
    assert f"evaluate-robustness {'b' * 12}, in part on other images or without a ratio, see Not measured." in text
    assert "- 1 comparison with the baseline could not be made: see Not measured." in text
    assert "Incomplete" not in text
    both = render_markdown(evaluated(student_report(gaps=[lost, lost, GAPS[0]])))
    assert "- Incomplete: 1 thing could not be measured" in both
    assert "- 2 comparisons with the baseline could not be made" in both


def test_a_baseline_of_other_images_is_not_beside_this_checkpoint() -> None:
    report = student_report(corruptions=corruptions(1.0), perturbations=perturbations(1.0))
    for rows in both_forms(evaluated(report, teacher_report())):
        assert ["gaussian noise", "2.0 %", "4.0 %", "6.0 %", "8.0 %", "10.0 %", "6.0 %", "-", "-"] in rows
        assert ["tilt", "10.0 %", "-", "-", "80.0 %", "2.00"] in rows


def test_a_baselines_mean_over_other_severities_is_not_beside_this_checkpoints() -> None:
    before = teacher_report()
    assert before.corruptions
    errors = {**before.corruptions.errors, "gaussian_noise": {"1": 0.01}}
    before = before.model_copy(update={"corruptions": before.corruptions.model_copy(update={"errors": errors})})
    for rows in both_forms(evaluated(baseline=before)):
        assert ["gaussian noise", "2.0 %", "4.0 %", "6.0 %", "8.0 %", "10.0 %", "6.0 %", "-", "-"] in rows


def test_an_mfr_by_alexnet_says_where_its_constants_are_from() -> None:
    note = "its ten flip probabilities are recalled from the paper's table and not yet confirmed by a run of AlexNet"
    assert note in render_markdown(evaluated(official_report()))
    assert note in "".join(Page(render_html(evaluated(official_report()), {}, [])).words)
    assert note not in render_markdown(evaluated())
