"""Student against first teacher: figures, intervals and words, losses included."""

from pathlib import Path

import pytest

from ns_core.evaluation.figures.paired import mcnemar_p_value, paired_interval
from ns_core.evaluation.reports.comparison import Row, as_html, as_markdown, table, verdict, words
from ns_core.evaluation.reports.robustness_change import changes
from ns_core.evaluation.tables import Scene, Table, Tables
from tests.evaluation_tables import evaluation, first, predictions, sequences, written
from tests.page_parser import Page, markdown_rows

EPS = {"0": 50, "2": 40, "4": 30, "8": 20, "16": 10}
LESS = {"0": 54, "2": 40, "4": 31, "8": 10, "16": 0}


def compared(tmp_path: Path) -> dict[str, Row]:
    """A teacher against a student that is better but for attacks."""
    before = written(tmp_path / "before", evaluation(test=45, corrupted=30, flips=9, attacked=EPS))
    after = written(tmp_path / "after", evaluation(test=54, corrupted=42, flips=6, attacked=LESS))
    return {row.figure: row for row in changes(before, after)}


def test_clean_images_corruptions_sequences_and_attacks_have_a_row_each(tmp_path: Path) -> None:
    rows = compared(tmp_path)
    assert list(rows) == [
        "clean test images",
        "corruptions made on the fly",
        "perturbation sequences made on the fly",
        "FGSM at 4/255",
        "FGSM at 16/255",
        "PGD at 4/255",
        "PGD at 16/255",
    ]
    figures = {name: (round(row.before, 9), round(row.after, 9), row.verdict) for name, row in rows.items()}
    assert figures["clean test images"] == (0.75, 0.9, "better")
    assert figures["corruptions made on the fly"] == (0.5, 0.3, "better"), "saturate is an extra and in no mean"
    assert figures["perturbation sequences made on the fly"] == (0.3, 0.2, "better")
    assert figures["FGSM at 4/255"][2] == "not told apart"
    assert figures["PGD at 16/255"][2] == "worse"


def test_the_interval_of_single_images_is_the_paired_bootstrap_and_p_is_mcnemars(tmp_path: Path) -> None:
    row = compared(tmp_path)["clean test images"]
    old, new = (predictions([number < right for number in range(60)]).right for right in (45, 54))
    assert (row.low, row.high) == paired_interval(old, new)
    assert row.p_value == mcnemar_p_value(old, new)
    assert row.difference == pytest.approx(0.15)
    assert row.images == 60


def test_a_mean_over_variants_has_an_interval_over_source_images_and_no_p(tmp_path: Path) -> None:
    row = compared(tmp_path)["corruptions made on the fly"]
    assert row.p_value is None
    assert row.images == 60
    assert row.low < row.difference < row.high < 0
    assert row.difference == pytest.approx(-0.2)


def one_scene(folder: Path, scene: Scene, right: list[bool]) -> Tables:
    return written(folder, {scene: predictions(right)})


def test_an_image_that_one_of_the_two_could_not_read_is_left_out(tmp_path: Path) -> None:
    scene = Scene("clean", "test")
    before = written(tmp_path / "a", {scene: predictions([True] * 60, unreadable=frozenset({0}))})
    after = one_scene(tmp_path / "b", scene, [False] + [True] * 59)
    (row,) = changes(before, after)
    assert (row.images, row.before, row.after) == (59, 1.0, 1.0)


def test_what_only_one_of_the_two_has_is_not_compared(tmp_path: Path) -> None:
    before = written(
        tmp_path / "a",
        {Scene("clean", "test"): predictions([True] * 20), Scene("fgsm", "fgsm", "4"): predictions([True])},
    )
    after = written(
        tmp_path / "b",
        {Scene("perturbations", "tilt", "1"): sequences([1] * 20), Scene("fgsm", "fgsm", "8"): predictions([True])},
    )
    assert changes(before, after) == []


def corrupted(count: int, *scenes: tuple[str, str], few: str = "") -> dict[Scene, Table]:
    """So many right of 60 in each; `few`: a corruption of which only 20 images are there."""
    return {Scene("corruptions", *scene): predictions(first(count, 20 if scene[0] == few else 60)) for scene in scenes}


FOG, FROST, SNOW = ("fog", "5"), ("frost", "5"), ("snow", "5")


def test_a_corruption_that_one_of_the_two_lacks_or_left_out_is_in_neither_mean_and_the_row_says_so(
    tmp_path: Path,
) -> None:
    whole = written(tmp_path / "whole", corrupted(30, FOG, FROST, SNOW))
    lacks = written(tmp_path / "lacks", corrupted(45, FOG, FROST))
    left_out = written(tmp_path / "left out", corrupted(20, FOG, FROST, SNOW, few="snow"))
    for before, after in ((whole, lacks), (lacks, whole), (whole, left_out), (left_out, whole)):
        (row,) = changes(before, after)
        assert row.figure == "corruptions made on the fly (2 of 3 kinds)"
        assert row.images == 60
    (row,) = changes(whole, lacks)
    assert (row.before, row.after) == (0.5, 0.25)
    assert "More robust to corruptions made on the fly (2 of 3 kinds): " in words(row)


def test_a_severity_that_one_of_the_two_lacks_is_told_in_variants(tmp_path: Path) -> None:
    before = written(tmp_path / "a", corrupted(30, FOG, ("fog", "1"), FROST))
    (row,) = changes(before, written(tmp_path / "b", corrupted(45, FOG, FROST)))
    assert row.figure == "corruptions made on the fly (2 of 3 variants)"


def test_official_files_that_both_lack_are_told(tmp_path: Path) -> None:
    scenes = {Scene("imagenet_p", "tilt", "1"): sequences([3] * 20)}
    (row,) = changes(written(tmp_path / "a", scenes), written(tmp_path / "b", scenes))
    assert row.figure == "ImageNet-P (1 of 10 kinds)"


def test_a_mean_that_cannot_be_compared_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = written(tmp_path / "a", corrupted(30, FOG))
    assert changes(before, written(tmp_path / "b", corrupted(10, FOG, few="fog"))) == []
    assert "corruptions made on the fly: not compared" in caplog.text


def test_a_single_eps_is_the_strongest_and_has_one_row(tmp_path: Path) -> None:
    scene = Scene("fgsm", "fgsm", "2.5")
    rows = changes(one_scene(tmp_path / "a", scene, [True] * 20), one_scene(tmp_path / "b", scene, [True] * 20))
    assert [row.figure for row in rows] == ["FGSM at 2.5/255"]


@pytest.mark.parametrize(
    ("measure", "low", "high", "said"),
    [
        ("top-1 accuracy", 0.01, 0.03, "better"),
        ("top-1 accuracy", -0.03, -0.01, "worse"),
        ("top-1 accuracy", 0.0, 0.02, "not told apart"),
        ("mean top-1 error", 0.01, 0.03, "worse"),
        ("mean flip probability", -0.03, -0.01, "better"),
    ],
)
def test_less_error_and_fewer_flips_are_better(measure: str, low: float, high: float, said: str) -> None:
    assert verdict(measure, low, high) == said


def row(figure: str, measure: str, before: float, after: float, half: float = 0.02) -> Row:
    change = after - before
    low, high = change - half, change + half
    return Row.model_validate(
        {
            "figure": figure,
            "measure": measure,
            "before": before,
            "after": after,
            "difference": change,
            "low": low,
            "high": high,
            "p_value": None,
            "images": 400,
            "verdict": verdict(measure, low, high),
        }
    )


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (
            row("FGSM at 16/255", "top-1 accuracy", 0.234, 0.201),
            "Less robust under FGSM at 16/255: top-1 accuracy 20.1 % after 23.4 %, "
            "-3.3 points (95 % interval -5.3 to -1.3).",
        ),
        (
            row("corruptions made on the fly", "mean top-1 error", 0.4, 0.3),
            "More robust to corruptions made on the fly: mean top-1 error 30.0 % after 40.0 %, "
            "-10.0 points (95 % interval -12.0 to -8.0).",
        ),
        (
            row("ImageNet-P", "mean flip probability", 0.04, 0.05),
            "Less stable along ImageNet-P: mean flip probability 5.0 % after 4.0 %, "
            "+1.0 points (95 % interval -1.0 to +3.0); the interval holds 0, this may be chance.",
        ),
        (
            row("clean test images", "top-1 accuracy", 0.9, 0.9),
            "As accurate on clean test images: top-1 accuracy 90.0 % after 90.0 %, "
            "+0.0 points (95 % interval -2.0 to +2.0); the interval holds 0, this may be chance.",
        ),
    ],
)
def test_losses_are_called_losses_and_chance_is_called_chance(one: Row, sentence: str) -> None:
    assert words(one) == sentence


def test_both_forms_have_every_row_and_nothing_where_there_is_none(tmp_path: Path) -> None:
    rows = list(compared(tmp_path).values())
    page, text = Page("\n".join(as_html("A <head>", rows))), as_markdown("A <head>", rows)
    assert page.rows == markdown_rows(text) == [list(table(rows).heads), *(list(cells) for cells in table(rows).rows)]
    assert page.tags.count("li") == len(rows)
    assert r"## A \<head\>" in text
    assert (as_html("head", []), as_markdown("head", [])) == ([], "")
