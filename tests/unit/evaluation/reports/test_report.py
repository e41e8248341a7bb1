"""The report: what its sentences claim, and that both forms hold every figure and no foreign markup."""

import base64
import re
from typing import Any

import pytest

from ns_core.evaluation.reports.report import (
    ACCURACY,
    RunPaths,
    caption,
    champion,
    change,
    compared,
    figures_of,
    headline,
    percent,
    render_html,
    render_markdown,
    teacher_of,
)
from tests.example_document import example_document, supervised_document
from tests.page_parser import Page, markdown_rows

HOSTILE = '<script src="https://evil.example/x.js">|`*_a_*[b](https://evil.example)\n# c'


def with_verdicts(*verdicts: str) -> dict[str, Any]:
    """The example with other verdicts, one a generation."""
    document = example_document()
    for entry, verdict in zip(document["generations"], verdicts, strict=True):
        entry["gate"]["verdict"] = verdict
    return document


def many_generations(count: int) -> dict[str, Any]:
    document = example_document()
    one, stages = document["generations"][0], document["stages"][3:8]
    document["generations"] = [{**one, "index": index} for index in range(1, count + 1)]
    later = range(4, count + 1)
    document["stages"] += [{**stage, "generation": index} for index in later for stage in stages]
    return document


def test_the_teacher_of_a_generation_is_the_last_student_that_was_promoted() -> None:
    document = example_document()
    assert [teacher_of(document, generation) for generation in (1, 2, 3)] == [0, 1, 1]
    assert champion(document) == 3
    assert figures_of(document, 0) == document["first_teacher"]


def test_the_headline_compares_the_model_that_stands_with_the_first_teacher() -> None:
    assert headline(example_document()) == (
        "The student of generation 3 gained 7.5 points over the first teacher on the test split: 93.2 % after 85.8 %."
    )
    assert headline(with_verdicts("promote", "keep-teacher", "stop")).startswith(
        "The student of generation 1 gained 5.2 points"
    )


def test_the_headline_doubts_a_gain_whose_interval_holds_zero() -> None:
    sure = headline({**example_document(), "test_gain_interval": [0.04, 0.11]})
    assert "(95 % interval +4.0 to +11.0)" in sure
    assert "chance" not in sure
    assert "may be chance" in headline({**example_document(), "test_gain_interval": [-0.01, 0.11]})


def test_the_headline_claims_no_gain_where_no_student_was_promoted() -> None:
    text = headline(with_verdicts("keep-teacher", "keep-teacher", "stop"))
    assert "gained" not in text
    assert "No student replaced the first teacher" in text
    assert "85.8 %" in text
    assert "93.2 %" in text


def test_the_headline_of_a_run_without_generations_or_figures() -> None:
    assert headline(supervised_document()) == ("Supervised only: the first teacher reached 85.8 % on the test split.")
    unmeasured = example_document()
    unmeasured["first_teacher"]["test_top1"] = None
    assert "not measured" in headline(unmeasured)


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (0.045, "gained 4.5 points over"),
        (-0.005, "lost 0.5 points against"),
        (0.0004, "gained nothing over"),
        (-0.0004, "gained nothing over"),
    ],
)
def test_a_change_in_words(gain: float, words: str) -> None:
    assert change(gain) == words


def test_shares_as_percent() -> None:
    assert percent(0.9333) == "93.3 %"
    assert percent(0.9333, [0.9, 0.95]) == "93.3 % (90.0-95.0)"
    assert percent(None, [0.9, 0.95]) == "-"


def test_both_forms_show_each_teacher_and_student_with_all_figures() -> None:
    document = example_document()
    document["generations"][0]["student"]["test_interval"] = [0.878, 0.934]
    measured = ["ns_efficientnet_s", "90.3 %", "91.0 % (87.8-93.4)", "0.052", "30.1 %", "7.5 %", "22.2 %", "2.2 %"]
    wanted = [
        [
            "1",
            "teacher",
            "ns_efficientnet_xs",
            "85.0 %",
            "85.8 %",
            "0.071",
            "41.2 %",
            "10.3 %",
            "11.0 %",
            "1.1 %",
            "",
            "",
        ],
        ["1", "student", *measured, "812 / 1,100", "promote"],
        ["3", "teacher", *measured, "", ""],
    ]
    for rows in (Page(render_html(document, {})).rows, markdown_rows(render_markdown(document))):
        for row in wanted:
            assert row in rows


def test_both_forms_give_the_reason_of_each_verdict() -> None:
    document = example_document()
    page, text = Page(render_html(document, {})), render_markdown(document)
    for entry in document["generations"]:
        assert f"Generation {entry['index']}: {entry['gate']['reason']}" in page.words
        assert f"- Generation {entry['index']}: {entry['gate']['reason']}" in text.splitlines()


def test_both_forms_list_every_stage_and_their_sum() -> None:
    document = example_document()
    for rows in (Page(render_html(document, {})).rows, markdown_rows(render_markdown(document))):
        table = rows[next(number for number, row in enumerate(rows) if row[0] == "stage") + 1 :]
        assert len(table) == len(document["stages"]) + 1
        assert table[0] == ["prepare-dataset", "cached", document["stages"][0]["fingerprint"][:12], "0", "0.2"]
        assert table[-1] == ["all", "2 of 18 cached", "", "", "193.2"]


def test_both_forms_tell_the_student_against_the_first_teacher_and_call_a_loss_a_loss() -> None:
    document = example_document()
    head = "Robustness: the last standing student of generation 3 against the first teacher"
    loss = (
        "Less robust under FGSM at 16/255: top-1 accuracy 5.0 % after 11.0 %, -6.0 points (95 % interval -9.0 to -3.0)."
    )
    page, text = Page(render_html(document, {})), render_markdown(document)
    assert head in page.words
    assert f"## {head}" in text.splitlines()
    assert loss in page.words
    assert f"- {loss}" in text.splitlines()
    cells = ["worse", "11.0 %", "5.0 %", "-6.0", "-9.0 to -3.0", "0.002", "400"]
    for rows in (page.rows, markdown_rows(text)):
        assert ["FGSM at 16/255", "top-1 accuracy", *cells] in rows


def test_where_no_student_was_promoted_the_last_one_is_compared_and_that_is_said() -> None:
    document = with_verdicts("keep-teacher", "keep-teacher", "stop")
    assert compared(document) == 3
    assert compared(with_verdicts("promote", "keep-teacher", "stop")) == 1
    assert compared(supervised_document()) == 0
    head = "Robustness: the last student, which was not promoted, of generation 3 against the first teacher"
    assert head in Page(render_html(document, {})).words


def test_a_run_without_generations_compares_nothing() -> None:
    for text in (render_html(supervised_document(), {}), render_markdown(supervised_document())):
        assert "Robustness" not in text


def test_both_forms_say_what_test_and_corruption_figures_are_not_for() -> None:
    for text in (render_html(example_document(), {}), render_markdown(example_document())):
        assert "The test split is for this report only" in text
        assert "not comparable with published mCE" in text


def test_a_run_without_generations_has_one_row_and_dashes_for_what_was_not_measured() -> None:
    document = supervised_document()
    row = ["0", "first teacher", "ns_efficientnet_xs", "85.0 %", "85.8 %", "0.071", "-", "-", "-", "-", "", ""]
    for rows in (Page(render_html(document, {})).rows, markdown_rows(render_markdown(document))):
        assert rows[1] == row
        assert rows[2][0] == "stage"


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere() -> None:
    page = Page(render_html(example_document(), {ACCURACY: b"png", "confidence_histogram-g1": b"\x00"}))
    assert not page.open, "every tag is closed"
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"url\(|@import|https?:", render_html(example_document(), {}))


def test_pictures_are_inside_the_page_with_accuracy_first() -> None:
    pictures = {"confidence_histogram-g1": b"first given", ACCURACY: b"first shown"}
    page = Page(render_html(example_document(), pictures))
    held = [base64.b64decode(link.partition(",")[2]) for link in page.links]
    assert held == [b"first shown", b"first given"]
    assert page.words.count("Confidence histogram, generation 1") == 1
    assert caption(ACCURACY) == "Accuracy by generation"


def test_the_page_leads_to_those_of_the_selections_that_lie_beside_it() -> None:
    page = Page(render_html(example_document(), {}, [1, 3]))
    paths = RunPaths("digits-20261123-080000-0000")
    assert [f"{paths.folder}/{link}" for link in page.links] == [paths.selection(1), paths.selection(3)]
    assert "What was selected for generation 3" in page.words


def test_the_page_leads_to_those_of_the_evaluations_that_lie_beside_it() -> None:
    page = Page(render_html(example_document(), {}, [1], [0, 3]))
    assert page.links == ["selection-g1.html", "robustness-g0.html", "robustness-g3.html"]
    assert {"Robustness of the first teacher", "Robustness of the student of generation 3"} <= set(page.words)


def hostile_document() -> dict[str, Any]:
    document = example_document()
    document["recipe"] = document["run_id"] = document["first_teacher"]["model"] = HOSTILE
    document["generations"][0]["gate"]["reason"] = document["stages"][0]["stage"] = HOSTILE
    return document


def test_names_cannot_bring_markup_into_the_page() -> None:
    clean, page = Page(render_html(example_document(), {})), Page(render_html(hostile_document(), {}))
    assert page.tags == clean.tags
    assert page.links == clean.links
    assert HOSTILE in "".join(page.words)


def test_names_cannot_bring_markup_into_markdown() -> None:
    clean, text = render_markdown(example_document()), render_markdown(hostile_document())
    assert len(text.splitlines()) == len(clean.splitlines())
    assert [len(row) for row in markdown_rows(text)] == [len(row) for row in markdown_rows(clean)]
    assert not re.search(r"(?<!\\)[<>`*\[]", text)
    assert r"\_a\_" in text
    assert "ns_efficientnet_m" in text, "an underscore inside a word means nothing to Markdown and stays"


def test_the_markdown_of_the_longest_run_fits_into_a_prefect_artifact() -> None:
    assert len(render_markdown(many_generations(50)).encode()) < 50_000
