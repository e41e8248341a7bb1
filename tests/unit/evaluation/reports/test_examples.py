"""Examples for galleries: which images are chosen, and that the file gives back what was put in."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ns_core.evaluation.reports.examples import CHANGED, Example, collect, read_examples, write_examples
from ns_core.evaluation.results import Corruptions, RobustnessReport
from ns_core.evaluation.samples import Samples
from ns_core.evaluation.tables import Scene, Tables
from tests.evaluation_lists import Pictures, labels_of
from tests.evaluation_tables import predictions, written
from tests.robustness_reports import corruptions, student_report

TEST = Scene("clean", "test")
FOG, RAIN, SNOW, FROST = (Scene("corruptions", name, "5") for name in ("fog", "contrast", "snow", "frost"))


def pictures(shade: int, count: int = 6, broken: frozenset[int] = frozenset()) -> Pictures:
    """Picture i is grey, `shade` + i."""
    return Pictures(
        [np.full((8, 8, 3), shade + number, np.uint8) for number in range(count)], labels_of(count), broken=broken
    )


def shade(image: bytes) -> int:
    with Image.open(BytesIO(image)) as opened:
        return int(np.asarray(opened.convert("RGB"))[0, 0, 0])


def numbers(examples: list[Example], kind: str) -> list[int]:
    return [int(one.key[-3:]) for one in examples if one.kind == kind]


def collected(
    now: Tables, before: Tables | None, samples: Mapping[Scene, Samples], measured: Corruptions | None = None
) -> list[Example]:
    report: RobustnessReport = student_report(corruptions=measured)
    return collect(report, now, before, samples)


def test_fixed_and_broken_images_are_those_that_changed_sides_the_surest_first(tmp_path: Path) -> None:
    before = written(tmp_path / "before", {TEST: predictions([True, True, False, False, True, False])})
    confidence = [0.9, 0.5, 0.6, 0.8, 0.7, 0.99]
    after = written(tmp_path / "after", {TEST: predictions([True, False, True, True, False, False], confidence)})
    found = collected(after, before, {TEST: pictures(100)})
    assert numbers(found, "fixed") == [3, 2]
    assert numbers(found, "broken") == [4, 1]
    fixed, broken = found[0], found[2]
    assert (fixed.label, fixed.top1, fixed.baseline_top1) == (3, 3, 4)
    assert (broken.label, broken.top1, broken.baseline_top1) == (4, 5, 4)
    assert fixed.confidence == np.float32(0.8)
    assert shade(fixed.image) == 103
    assert fixed.scene == TEST
    assert not fixed.clean


def test_without_a_baseline_nothing_is_fixed_or_broken(tmp_path: Path) -> None:
    tables = written(tmp_path, {TEST: predictions([True, False])})
    assert collected(tables, None, {TEST: pictures(0)}) == []


def test_a_gallery_has_an_end_and_an_unreadable_picture_gives_its_place_to_the_next(tmp_path: Path) -> None:
    count = CHANGED + 6
    before = written(tmp_path / "before", {TEST: predictions([False] * count)})
    sure = list(np.linspace(0.9, 0.1, count))
    after = written(tmp_path / "after", {TEST: predictions([True] * count, sure, frozenset({1}))})
    found = collected(after, before, {TEST: pictures(0, count, frozenset({0}))})
    assert numbers(found, "fixed") == list(range(2, 2 + CHANGED))


def test_the_worst_corruptions_show_what_is_right_without_them_and_both_pictures(tmp_path: Path) -> None:
    tables = written(
        tmp_path,
        {
            TEST: predictions([True, True, False, True, True, True]),
            FOG: predictions([False, True, False, False, True, True], [0.2, 0.9, 0.9, 0.8, 0.9, 0.9]),
        },
    )
    measured = corruptions(1, errors={"fog": {"1": 0.1, "5": 0.5}}, means={"fog": 0.3})
    found = collected(tables, None, {TEST: pictures(50), FOG: pictures(200)}, measured)
    assert numbers(found, "worst") == [3, 0], "picture 2 is wrong without fog too"
    assert [shade(one.image) for one in found] == [203, 200]
    assert [shade(one.clean) for one in found] == [53, 50]
    assert {one.scene for one in found} == {FOG}
    assert {one.baseline_top1 for one in found} == {-1}


def test_three_corruptions_with_the_highest_mean_error_are_shown(tmp_path: Path) -> None:
    scenes = (FOG, RAIN, SNOW, FROST)
    tables = written(tmp_path, dict.fromkeys(scenes, predictions([False] * 6)))
    means = {"fog": 0.2, "contrast": 0.5, "snow": 0.9, "frost": 0.4}
    measured = corruptions(1, errors={name: {"5": error} for name, error in means.items()}, means=means)
    found = collected(tables, None, {scene: pictures(0) for scene in scenes}, measured)
    assert list(dict.fromkeys(one.scene for one in found)) == [SNOW, RAIN, FROST]
    assert not any(one.clean for one in found), "there are no clean images to show beside"


def test_a_scene_whose_pictures_are_not_at_hand_gives_no_examples(tmp_path: Path) -> None:
    tables = written(tmp_path, {FOG: predictions([False] * 6)})
    measured = corruptions(1, errors={"fog": {"5": 1.0}, "snow": {"5": 1.0}}, means={"fog": 1.0, "snow": 1.0})
    assert collected(tables, None, {}, measured) == []


def test_official_files_are_shown_rather_than_the_same_corruptions_made_on_the_fly(tmp_path: Path) -> None:
    official = FOG._replace(suite="imagenet_c")
    tables = written(tmp_path, dict.fromkeys((FOG, official), predictions([False] * 2)))
    measured = corruptions(1, errors={"fog": {"5": 1.0}}, means={"fog": 1.0})
    report = student_report(corruptions=measured, imagenet_c=measured)
    found = collect(report, tables, None, {FOG: pictures(0), official: pictures(0)})
    assert {one.scene for one in found} == {official}


def test_examples_are_read_as_they_were_written_from_paths_and_open_files(tmp_path: Path) -> None:
    names: dict[str, Any] = {"label": 3, "top1": 3, "confidence": float(np.float32(0.8)), "baseline_top1": -1}
    examples = [
        Example(TEST, "a/<b>.png", "fixed", image=b"\x89PNG", **names),
        Example(FOG, "c", "worst", image=b"\xff\xd8", clean=b"x", **names),
    ]
    path = tmp_path / "examples.parquet"
    write_examples(examples, path)
    assert read_examples(path) == examples
    assert read_examples(BytesIO(path.read_bytes())) == examples
    write_examples([], path)
    assert read_examples(path) == []
