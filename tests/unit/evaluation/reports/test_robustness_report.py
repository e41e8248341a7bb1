"""The report of an evaluation: every figure, what it may be compared with, what is missing, and no foreign markup."""

import base64
import re
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from ns_core.evaluation.reports.examples import Example
from ns_core.evaluation.reports.robustness_report import Evaluated, render_html, render_markdown
from ns_core.evaluation.reports.robustness_tables import suites, verdicts
from ns_core.evaluation.results import RobustnessReport
from ns_core.evaluation.tables import Scene
from tests.page_parser import Page, markdown_rows
from tests.robustness_reports import (
    GAPS,
    estimate,
    official_report,
    paired,
    student_report,
    teacher_report,
)

HOSTILE = '<script src="https://evil.example/x.js">|`*_a_*[b](https://evil.example)\n# c'
FOG = Scene("corruptions", "fog", "5")
REASON = "Promoted the student: +5.3 points of accuracy on 300 holdout images."


def evaluated(report: RobustnessReport | None = None, baseline: RobustnessReport | None = None) -> Evaluated:
    report = report or student_report()
    return Evaluated("digits-20261123-080000-0000", 2, "e" * 64, report, baseline, {"reason": REASON})


def shot(kind: Any, scene: Scene = FOG, clean: bytes = b"", key: str = "a/b.png") -> Example:
    image = BytesIO()
    Image.new("RGB", (4, 4)).save(image, "png")
    return Example(scene, key, kind, 3, 2, 0.98765, 4, image.getvalue(), clean)


EXAMPLES = [shot("fixed"), shot("broken"), shot("worst", clean=b"\xff\xd8 jpeg"), shot("worst")]


def both_forms(one: Evaluated) -> tuple[list[list[str]], list[list[str]]]:
    return Page(render_html(one, {}, [])).rows, markdown_rows(render_markdown(one))


def row_of(report: RobustnessReport, suite: str, figure: str) -> dict[str, str]:
    table = suites(report)
    (found,) = [row for row in table.rows if (row[0], row[1]) == (suite, figure)]
    return dict(zip(table.heads, found, strict=True))


def test_the_title_tells_clean_corrupted_perturbed_and_attacked_accuracy() -> None:
    assert evaluated().title == (
        "ns_efficientnet_s at 32 pixels: 91.0 % on clean images, 31.2 % mean error under corruptions made on the fly, "
        "flips in 6.5 % of frame pairs of perturbations made on the fly, 5.0 % under FGSM at 16/255, "
        "1.0 % under PGD at 16/255."
    )


def test_a_suite_has_its_figure_its_interval_and_its_difference_from_the_baseline() -> None:
    wanted = ["91.0 %", "89.0 to 93.0", "400", "+5.2", "+3.2 to +7.2", "0.004"]
    for rows in both_forms(evaluated()):
        assert ["clean, test", "top-1 accuracy", "this data only", *wanted] in rows


def test_a_figure_without_a_baseline_has_dashes() -> None:
    row = row_of(teacher_report(), "clean, test", "top-1 accuracy")
    assert [row[head] for head in ("against the baseline", "95 % interval of that", "p")] == ["-", "-", "-"]


def test_what_is_made_on_the_fly_compares_runs_only_whatever_its_normaliser() -> None:
    report = student_report()
    mean = row_of(report, "corruptions", "mean top-1 error (lower is better)")
    assert mean["comparable with"] == "made on the fly: compares runs with each other only"
    relative = row_of(report, "corruptions", "mean CE to the baseline's 100 (lower is better)")
    assert relative["value"] == "76.9"
    assert relative["comparable with"] == "relative to the baseline's errors: compares runs with each other only"
    flips = row_of(report, "perturbations", "mean flip probability (lower is better)")
    assert flips["comparable with"] == "made on the fly: compares runs with each other only"
    assert not any("published" in row[2] or "mCE" in row[1] or "mFR" in row[1] for row in suites(report).rows)


def test_whole_official_files_are_comparable_with_what_is_published() -> None:
    report = official_report()
    assert row_of(report, "ImageNet-C", "mCE (lower is better)")["comparable with"] == (
        "official files, AlexNet-normalised: comparable with published mCE"
    )
    assert row_of(report, "ImageNet-P", "mFR (lower is better)")["comparable with"] == (
        "official files, AlexNet-normalised: comparable with published mFR"
    )
    subset = row_of(report, "ImageNet-A", "top-1 accuracy, 200 classes")
    assert subset["comparable with"] == "official files, usual protocol: comparable with published top-1"
    assert row_of(report, "ImageNet-A", "clean top-1, same 200 classes")["value"] == "92.0 %"
    assert row_of(report, "ImageNet-A", "lost against clean images")["value"] == "+32.0 points"


@pytest.mark.parametrize("how", [{"budget": {"imagenet_a": 500}}, {"gaps": [GAPS[0].model_copy()]}])
def test_a_draw_of_official_files_or_one_with_gaps_is_not_comparable(how: dict[str, Any]) -> None:
    if "gaps" in how:
        how = {"gaps": [GAPS[0].model_copy(update={"suite": "imagenet_a"})]}
    row = row_of(official_report(**how), "ImageNet-A", "top-1 accuracy, 200 classes")
    assert row["comparable with"] == "official files, but not all of them: not comparable with published top-1"


def test_subsets_that_are_not_whole_are_not_comparable_though_no_gap_tells_it() -> None:
    whole = official_report()
    assert whole.imagenet_o
    part = {"comparable": False}
    subsets = {name: one.model_copy(update=part) for name, one in whole.subsets.items()}
    report = official_report(subsets=subsets, imagenet_o=whole.imagenet_o.model_copy(update=part))
    for suite, figure, published in (
        ("ImageNet-A", "top-1 accuracy, 200 classes", "top-1"),
        ("ImageNet-O", "AUPR of unknown classes", "AUPR"),
    ):
        assert row_of(report, suite, figure)["comparable with"] == (
            f"official files, but not all of them: not comparable with published {published}"
        )
        assert row_of(whole, suite, figure)["comparable with"].endswith(
            f"protocol: comparable with published {published}"
        )


def test_a_top_5_distance_is_never_the_published_one() -> None:
    row = row_of(official_report(), "ImageNet-P", "mean T5D, not normalised (lower is better)")
    assert row["comparable with"] == "official files, not normalised: not comparable with published mT5D"
    made = row_of(student_report(), "perturbations", "mean T5D, not normalised (lower is better)")
    assert made["comparable with"] == "made on the fly: compares runs with each other only"


def test_an_mce_of_part_of_the_files_is_not_comparable() -> None:
    whole = official_report().imagenet_c
    assert whole
    report = official_report(imagenet_c=whole.model_copy(update={"comparable": False}))
    assert row_of(report, "ImageNet-C", "mCE (lower is better)")["comparable with"].endswith(
        "not comparable with published mCE"
    )
    mean = row_of(report, "ImageNet-C", "mean top-1 error (lower is better)")
    assert mean["comparable with"].endswith("not comparable with published mean error")


def test_losses_are_told_as_losses_and_less_error_as_a_gain() -> None:
    told = verdicts(student_report())
    assert "FGSM (top-1 at eps 16/255, -6.0 points)" in told["worse"]
    assert "corruptions (mean top-1 error, -7.0 points)" in told["better"]
    assert "PGD (top-1 at eps 16/255, +1.0 points)" in told["not told apart"]
    text = render_markdown(evaluated())
    assert "- Worse than the baseline: FGSM (top-1 at eps 16/255, -6.0 points)." in text
    more_errors = student_report().corruptions
    assert more_errors
    worse = student_report(corruptions=more_errors.model_copy(update={"against_baseline": paired(0.07)}))
    assert "corruptions (mean top-1 error, +7.0 points)" in verdicts(worse)["worse"]


def test_gaps_and_budgets_stand_before_the_figures() -> None:
    report = official_report(gaps=GAPS, budget={"imagenet_p": 500})
    for rows in both_forms(evaluated(report)):
        heads = [row[0] for row in rows]
        assert rows[0] == ["suite", "not measured", "because", "how much"]
        assert rows[1] == ["ImageNet-C", "fog 3", "the folder fog/3 is not there", "all of it"]
        assert rows[2] == ["ImageNet-P", "tilt", "3 clips end early", "3 images"]
        assert heads.index("clean, own images") > 2
    for text in ("".join(Page(render_html(evaluated(report), {}, [])).words), render_markdown(evaluated(report))):
        assert "2 things could not be measured" in text
        assert "Seeded draws, not everything there is (the intervals allow for it): 500 for ImageNet-P." in text


def test_without_gaps_nothing_is_said_of_them() -> None:
    assert "Not measured" not in Page(render_html(evaluated(), {}, [])).words


def test_both_forms_have_errors_by_severity_and_flips_beside_the_baselines() -> None:
    for rows in both_forms(evaluated(baseline=teacher_report())):
        assert ["gaussian noise", "2.0 %", "4.0 %", "6.0 %", "8.0 %", "10.0 %", "6.0 %", "7.8 %", "-"] in rows
        assert ["tilt", "10.0 %", "14.0 %", "-", "80.0 %", "2.00"] in rows


def test_both_forms_have_every_eps_and_the_settings_of_the_attacks() -> None:
    for rows in both_forms(evaluated()):
        assert ["FGSM", "eps 4/255", "41.0 %", "38.0 to 44.0", "400", "-1.0", "-4.0 to +2.0", "0.004"] in rows
        assert ["PGD", "eps 8/255", "8.0 %", "5.0 to 11.0", "400", "-", "-", "-"] in rows
        assert ["setting", "FGSM", "PGD"] in rows
        assert ["steps", "1", "10"] in rows
        assert ["norm", "Linf", "Linf"] in rows


def test_both_forms_tell_calibration_flips_and_where_the_report_comes_from() -> None:
    for rows in both_forms(evaluated()):
        assert ["test", "99.0 %", "91.0 %", "0.041", "0.062", "0.310", "0.140", "0.021", "0.979"] in rows
        assert ["test", "1.2 %", "6.5 %"] in rows
    text = render_markdown(evaluated())
    assert f"- Run digits-20261123-080000-0000, generation 2, evaluate-robustness {'e' * 12}." in text
    assert f"- The baseline is evaluate-robustness {'b' * 12}, on the same images." in text
    assert f"Gate: {REASON}" in "".join(Page(render_html(evaluated(), {}, [])).words)
    assert "- There is no baseline to compare with." in render_markdown(evaluated(teacher_report()))


def test_galleries_show_corruptions_fixed_and_broken_images_in_words() -> None:
    page = Page(render_html(evaluated(), {"Chart": b"\x89PNG chart"}, EXAMPLES))
    held = [base64.b64decode(link.partition(",")[2]) for link in page.links]
    assert held[0] == b"\x89PNG chart"
    assert len(held) == 1 + 3 + 2, "two of the worst, one of them with its clean picture; one fixed, one broken"
    assert held[1] == b"\xff\xd8 jpeg", "above the corrupted one"
    words = page.words
    assert "fog, severity 5: 64.0 % error" in words
    assert words.count("cat, 0.987; is dog") == 3
    assert words.count("cat, 0.987; before: eel") == 1
    assert words.index("The worst corruptions") < words.index("Fixed images") < words.index("Broken images")


def test_galleries_without_examples_are_not_there() -> None:
    words = Page(render_html(evaluated(), {}, [shot("broken")])).words
    assert "Broken images" in words
    assert not {"Fixed images", "The worst corruptions"} & set(words)


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere() -> None:
    text = render_html(evaluated(official_report(gaps=GAPS)), {"Chart": b"png"}, [shot("fixed")])
    page = Page(text)
    assert not page.open, "every tag is closed"
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("data:image/") for link in page.links)
    assert not re.search(r"url\(|@import|https?:", text)


def hostile() -> Evaluated:
    names = [f"{number}{HOSTILE}" for number, _ in enumerate(student_report().class_names)]
    gaps = [GAPS[0].model_copy(update={"what": HOSTILE, "reason": HOSTILE})]
    report = student_report(model=HOSTILE, class_names=names, gaps=gaps)
    return Evaluated(HOSTILE, 2, "e" * 64, report, None, {"reason": HOSTILE})


def test_names_of_files_and_classes_cannot_bring_markup_into_the_page() -> None:
    tame = evaluated(student_report(gaps=GAPS[:1]))
    clean = Page(render_html(tame, {"Chart": b"x"}, [shot("worst", key="a", clean=b"c")]))
    page = Page(render_html(hostile(), {"Chart": b"x"}, [shot("worst", key=HOSTILE, clean=b"c")]))
    assert page.tags == clean.tags
    assert page.links == clean.links
    assert HOSTILE in "".join(page.words)


def test_names_cannot_bring_markup_into_markdown() -> None:
    clean, text = render_markdown(evaluated(student_report(gaps=GAPS[:1]))), render_markdown(hostile())
    assert len(text.splitlines()) == len(clean.splitlines())
    assert [len(row) for row in markdown_rows(text)] == [len(row) for row in markdown_rows(clean)]
    assert not re.search(r"(?<!\\)[<>`*\[]", text)


def test_the_markdown_of_all_suites_fits_into_a_prefect_artifact() -> None:
    parts = student_report(gaps=GAPS * 20)
    whole = official_report(**{name: getattr(parts, name) for name in ("corruptions", "perturbations", "gaps")})
    assert len(render_markdown(evaluated(whole, whole)).encode()) < 50_000


def test_an_evaluation_of_nothing_is_a_report_that_says_so() -> None:
    empty = RobustnessReport(model="net", size=32, class_names=["a"])
    assert evaluated(empty).title == "net at 32 pixels: nothing was measured."
    assert not Page(render_html(evaluated(empty), {}, [])).rows


def test_an_unknown_label_is_not_named() -> None:
    one = shot("broken")
    stranger = Example(one.scene, one.key, "broken", -1, one.top1, one.confidence, -1, one.image)
    assert "cat, 0.987" in Page(render_html(evaluated(), {}, [stranger])).words


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    report = student_report(test=student_report().test)
    assert report.test
    nothing = report.test.model_copy(update={"against_baseline": paired(-0.0001), "top1": estimate(0.9)})
    row = row_of(student_report(test=nothing), "clean, test", "top-1 accuracy")
    assert row["against the baseline"] == "+0.0"
