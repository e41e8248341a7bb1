"""The report of a selection: both forms hold every figure, say what they leave out, and take no foreign markup."""

import base64
import re
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from ns_core.data.index import INDEX
from ns_core.evaluation.reports.gallery import Thumbnail, thumbnails
from ns_core.evaluation.reports.selection_classes import ClassFigures, read_classes
from ns_core.evaluation.reports.selection_report import (
    ALL_CLASSES,
    WORST_CLASSES,
    Selected,
    render_html,
    render_markdown,
    share,
)
from ns_core.evaluation.reports.selection_survey import JUDGED, LEAST_SURE, SUREST, survey
from ns_core.evaluation.reports.strips import confident
from tests.page_parser import Page, markdown_rows
from tests.selection_builders import SETTINGS, Built, built

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
HOSTILE = '<script src="https://evil.example/x.js">|`*_a_*[b](https://evil.example)\n# c'
RUN = "digits-20261123-080000-0000"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return built(tmp_path_factory.mktemp("pool"), 400, NAMES)


@pytest.fixture(scope="module")
def selected(pool: Built) -> Selected:
    files = [pool.selection / "selection.parquet", pool.selection / "dropped.parquet", pool.dataset / INDEX]
    found = survey(*(partial(path.open, "rb") for path in files), len(NAMES), range(len(NAMES)))
    with (pool.selection / "classes.parquet").open("rb") as file:
        classes = read_classes(file)
    return Selected(RUN, 2, "a" * 64, SETTINGS, pool.result, classes, found)


def both(selected: Selected) -> list[list[list[str]]]:
    """The rows of the tables of either form."""
    return [Page(render_html(selected, {}, {})).rows, markdown_rows(render_markdown(selected))]


def table(rows: list[list[str]], head: str) -> list[list[str]]:
    """The rows of the table whose first head is `head`."""
    start = next(number for number, row in enumerate(rows) if row[0] == head) + 1
    width = len(rows[start])
    return [row for row in rows[start:] if len(row) == width]


def test_outcomes_add_up_to_what_came_in(selected: Selected, pool: Built) -> None:
    for rows in both(selected):
        outcomes = table(rows, "outcome")
        counts = [int(row[2].replace(",", "")) for row in outcomes]
        assert sum(counts[:-1]) == counts[-1] == pool.result["came_in"]
        assert outcomes[0] == ["kept", "the surest of their class", f"{pool.result['kept']:,}", outcomes[0][3]]
        shares = [float(row[3].removesuffix(" %")) for row in outcomes]
        assert sum(shares[:-1]) == pytest.approx(100, abs=0.3)
        assert [row[0] for row in outcomes[1:-1]] == [
            f"dropped: {reason}" for reason in ("below threshold", "class full", "duplicate", "corrupt", "leak")
        ]


def test_a_band_and_a_share_of_the_pool_are_told_with_what_they_left_out(selected: Selected, pool: Built) -> None:
    dropped = {**pool.result["dropped"], "too_confident": 4, "not_sampled": 1500}
    result = {**pool.result, "dropped": dropped, "came_in": pool.result["came_in"] + 1504}
    asked = replace(selected, settings={**SETTINGS, "max_confidence": 0.9, "pool_fraction": 1 / 8}, result=result)
    for rows in both(asked):
        outcomes = table(rows, "outcome")
        assert [row[:3] for row in outcomes[-3:-1]] == [
            ["dropped: too confident", "as confident as 0.9 or more", "4"],
            ["dropped: not sampled", "12.5 % of the pool were drawn, without it", "1,500"],
        ]
        counts = [int(row[2].replace(",", "")) for row in outcomes]
        assert sum(counts[:-1]) == counts[-1]


def test_thresholds_of_classes_are_told_and_those_without_one(selected: Selected) -> None:
    own = [replace(one, threshold=None if one.name == "hen" else 0.6 + one.label / 100) for one in selected.classes]
    settings = {**SETTINGS, "target_precision": 0.95, "target_rule": "assured"}
    asked = replace(
        selected, settings=settings, classes=own, result={**selected.result, "classes_without_threshold": 1}
    )
    for rows in both(asked):
        assert table(rows, "outcome")[1][1] == "less confident than its class's threshold"
        assert {row[0]: row[-3] for row in table(rows, "class")} == {one.name: confident(one.threshold) for one in own}
    text = render_markdown(asked)
    assert "for a precision of 95 % in each class, assured on the holdout" in text
    assert "Of 1 classes that show it nowhere nothing is kept" in text
    assert "in each class" not in render_markdown(selected)


def test_every_class_has_a_row_with_its_figures_the_worst_first(selected: Selected) -> None:
    one = next(one for one in selected.classes if one.name == "gnu")
    dropped = [str(one.dropped[reason]) for reason in JUDGED]
    row = ["gnu", str(one.pool), str(one.kept), str(one.rows), f"{one.rows / one.kept:.2f}", *dropped]
    for rows in both(selected):
        classes = table(rows, "class")
        assert sorted(row[0] for row in classes) == sorted(NAMES)
        assert classes[0][:5] == ["hen", str(selected.classes[7].pool), "0", "0", "-"]
        assert [*row, confident(one.cut), confident(one.mean)] in classes


def test_both_forms_say_how_often_images_are_seen(selected: Selected, pool: Built) -> None:
    result, kept = pool.result, pool.copies[pool.copies > 0]
    for text in ("".join(Page(render_html(selected, {}, {})).words), render_markdown(selected)):
        assert f"The student sees {result['rows']:,} rows: each kept image {result['duplication']:.2f} times" in text
        assert (
            f"{(kept > 1).sum():,} images, {100 * (kept > 1).mean():.1f} % of those kept, are repeated, at most "
            in text
        )
        assert f"Effective number of unique images: {result['effective_images']:,.0f}, " in text
        assert "Classes of which nothing was kept (1): hen." in text


def many(selected: Selected, count: int) -> Selected:
    """As many classes, each with one image more than the one before."""
    classes = [
        ClassFigures(label, f"class-{label}", 5000, label + 1, label + 1, dict.fromkeys(JUDGED, 0), 0.5, 0.6)
        for label in range(count)
    ]
    return replace(selected, classes=classes)


def test_up_to_a_hundred_classes_are_all_in_the_table(selected: Selected) -> None:
    for rows in both(many(selected, ALL_CLASSES)):
        assert len(table(rows, "class")) == ALL_CLASSES
    assert "more classes" not in render_markdown(many(selected, ALL_CLASSES))


def test_of_more_classes_the_worst_are_and_the_number_of_the_others_is_told(selected: Selected) -> None:
    for rows in both(many(selected, 1000)):
        assert [row[0] for row in table(rows, "class")] == [f"class-{label}" for label in range(WORST_CLASSES)]
    for text in (render_html(many(selected, 1000), {}, {}), render_markdown(many(selected, 1000))):
        assert "980 more classes" in text
        assert "and 994 more" in text, "the sentence of the fewest kept names five of those that are not full"


def test_figures_have_separators_and_shares_one_decimal(selected: Selected) -> None:
    large = replace(selected, result={**selected.result, "kept": 81_000_000, "came_in": 300_000_000})
    for rows in both(large):
        assert table(rows, "outcome")[0][2:] == ["81,000,000", "27.0 %"]
    assert share(1, 3) == "33.3 %"
    assert share(0, 0) == "-"


@pytest.mark.parametrize(
    ("confidence", "text"),
    [(0.9996, "0.999"), (1.0, "1.000"), (0.8999999761581421, "0.900"), (0.0, "0.000"), (None, "-")],
)
def test_a_confidence_short_of_one_is_not_shown_as_one(confidence: float | None, text: str) -> None:
    assert confident(confidence) == text


def shots(selected: Selected, pool: Built) -> dict[int, list[Thumbnail]]:
    def read(shard: str, offset: int, size: int) -> bytes:
        return (pool.dataset / shard).read_bytes()[offset : offset + size]

    return thumbnails(selected.survey.examples, read)


def test_examples_stand_below_their_class_with_confidence_and_reason(selected: Selected, pool: Built) -> None:
    made = shots(selected, pool)
    text = render_html(selected, {}, made)
    page = Page(text)
    held = [base64.b64decode(link.partition(",")[2]) for link in page.links]
    wanted = [shot.image for label in _order(text) for shot in made[label]]
    assert held == wanted
    assert len(held) == len(selected.survey.examples)
    first = made[0][0]
    assert f'alt="ant, surest kept, confidence {confident(first.confidence)}"' in text
    assert {SUREST, LEAST_SURE, "dropped: class full", "dropped: duplicate"} <= set(page.words)


def _order(text: str) -> list[int]:
    return [NAMES.index(name) for name in re.findall(r"<h3>(\w+)</h3>", text)]


def test_classes_without_examples_are_counted(selected: Selected, pool: Built) -> None:
    made = shots(selected, pool)
    text = render_html(selected, {}, {label: made[label] for label in (0, 7)})
    assert _order(text) == [7, 0]
    assert "6 more have no examples here" in text
    assert "no examples here" not in render_html(selected, {}, made)
    assert "Examples, kept and dropped" not in render_html(selected, {}, {})


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(selected: Selected, pool: Built) -> None:
    text = render_html(selected, {"a picture": b"png"}, shots(selected, pool))
    page = Page(text)
    assert not page.open, "every tag is closed"
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(re.match(r"data:image/(png|jpeg);base64,", link) for link in page.links)
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text


def test_names_cannot_bring_markup_into_either_form(selected: Selected, pool: Built) -> None:
    made = shots(selected, pool)
    hostile = [replace(one, name=HOSTILE) if one.label in (0, 7) else one for one in selected.classes]
    other = replace(selected, run_id=HOSTILE, classes=hostile)
    clean, page = Page(render_html(selected, {}, made)), Page(render_html(other, {}, made))
    assert page.tags == clean.tags
    assert page.links == clean.links
    assert HOSTILE in "".join(page.words)
    markdown = render_markdown(other)
    assert len(markdown_rows(markdown)) == len(markdown_rows(render_markdown(selected)))
    assert not re.search(r"(?<!\\)(<script|\[b\]|`)", markdown)


def test_the_settings_are_told(selected: Selected) -> None:
    settings: dict[str, Any] = {**SETTINGS, "per_class": 130_000, "confidence": "calibrated"}
    for text in (render_html(replace(selected, settings=settings), {}, {}), render_markdown(selected)):
        assert "threshold 0.6" in text
    assert "after temperature scaling" in render_html(replace(selected, settings=settings), {}, {})
    assert "130,000 images a class" in render_markdown(replace(selected, settings=settings))


def test_the_page_of_a_selection_without_repeats_says_so(selected: Selected) -> None:
    once = replace(selected, survey=replace(selected.survey, copies=selected.survey.copies[:2]))
    assert "No image is repeated." in render_markdown(once)


def test_thumbnails_are_of_the_bytes_at_their_place(selected: Selected, pool: Built) -> None:

    numbers: dict[int, list[int]] = {}
    for label, made in shots(selected, pool).items():
        for shot in made:
            if shot.group == SUREST:
                with Image.open(BytesIO(shot.image)) as image:
                    red, green, _ = image.convert("RGB").getpixel((5, 5))
                numbers.setdefault(label, []).append(red + 256 * green)
    for label, mine in numbers.items():
        assert all(pool.top1[number] == label and pool.outcome[number] == 0 for number in mine)
