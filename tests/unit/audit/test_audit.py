"""The whole document and its page, from a teacher whose truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ns_core.audit.audit import Audit, Material, audited
from ns_core.audit.figures import HOLDOUT, HeldOut, joined
from ns_core.audit.page import PICTURES, remarks, render_html, render_markdown, title
from ns_core.audit.reading import Pool
from ns_core.evaluation.reports.gallery import Thumbnail
from ns_core.evaluation.reports.selection_classes import ClassFigures

NAMES = ("cat", "dog", "<script>alert(1)</script>")
CLASSES = len(NAMES)
PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89\x00\x00\x00"
    b"\rIDATx\x9cc\xf8\xff\xff?\x00\x05\xfe\x02\xfe\xa75\x81\x84\x00\x00\x00\x00IEND\xaeB`\x82"
)


class Teacher:
    """Posteriors of points around three corners, exact under an even prior; the truth of its pool is kept."""

    def __init__(self, seed: int, prior: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)) -> None:
        self.rng, self.prior = np.random.default_rng(seed), prior

    def says(self, images: int, even: bool) -> tuple[np.ndarray, np.ndarray]:
        label = np.arange(images) % CLASSES if even else self.rng.choice(CLASSES, images, p=self.prior)
        powers = np.exp(2 * self.rng.normal(np.eye(CLASSES)[label] * 2, 1.0))
        return label.astype(np.int32), powers / powers.sum(axis=1, keepdims=True)

    def held(self, images: int, fold: int = HOLDOUT) -> tuple[HeldOut, np.ndarray]:
        label, said = self.says(images, even=True)
        top = said.max(axis=1)
        return HeldOut(label, said.argmax(axis=1), top, top, np.full(images, fold)), said


def material(seed: int, folds: int = 3, threshold: float = 0.7, **options: tuple[float, ...]) -> tuple[Material, float]:
    """What an audit goes by, and the true precision of its selection."""
    teacher = Teacher(seed, **options)
    holdout, probabilities = teacher.held(300)
    label, said = teacher.says(1000, even=False)
    top1, confidence = said.argmax(axis=1).astype(np.int32), said.max(axis=1)
    cuts, selected = np.full(CLASSES, threshold), []
    for one in range(CLASSES):
        mine = np.sort(confidence[(top1 == one) & (confidence >= threshold)])[::-1]
        kept = min(200, len(mine))
        cuts[one] = mine[kept - 1] if kept < len(mine) else threshold
        dropped = {"below_threshold": 0, "class_full": len(mine) - kept, "duplicate": 0}
        cut, rows = float(mine[kept - 1]), 2 * kept if one == 0 else kept
        selected.append(ClassFigures(one, NAMES[one], int((top1 == one).sum()), kept, rows, dropped, cut, 0.9))
    truth = float((label == top1)[confidence >= cuts[top1]].mean())
    made = Material(
        run_id="a-run",
        selection="0" * 64,
        recipe="test",
        seed=seed,
        class_names=NAMES,
        settings={"threshold": threshold, "confidence": "raw"},
        selected=selected,
        holdout=holdout,
        holdout_probabilities=probabilities,
        temperature=1.0,
        folds=[teacher.held(30, fold)[0] for fold in range(folds)],
        folds_on_holdout=[0.9] * folds,
        pool=Pool(top1, confidence, confidence, said, 1000),
    )
    return made, truth


def test_the_true_precision_of_the_selection_lies_in_the_interval_of_19_of_20_audits() -> None:
    """The pool's make-up is another and is estimated, and every class is cut at a confidence of its own."""
    inside = 0
    for seed in range(60):
        given, truth = material(seed, prior=(0.6, 0.3, 0.1))
        found = audited(given, 0.9).precision
        inside += found.low <= truth <= found.high
    assert inside >= 55


def test_the_curve_of_a_class_is_of_what_is_taken_for_it() -> None:
    given, _ = material(9)
    for one in audited(given, 0.9).classes:
        held = joined([given.holdout, *given.folds])
        mine = held.top1 == one.label
        assert one.curve[0].precision.images == mine.sum()
        assert one.curve[0].images == one.pool
        last = one.curve[-1]
        there = given.pool.confidence[given.pool.top1 == one.label] >= last.threshold
        assert last.images == there.sum()


def test_a_shifted_pool_is_found_and_said() -> None:
    found = audited(material(1, prior=(0.6, 0.3, 0.1))[0], 0.9)
    assert found.shift.pool == pytest.approx([0.6, 0.3, 0.1], abs=0.08)
    assert found.shift.p_value < 0.01
    assert any("made up otherwise" in one for one in remarks(found))
    same = audited(material(1)[0], 0.9)
    assert same.shift.distance < 0.05
    assert not any("made up otherwise" in one for one in remarks(same))


def test_figures_are_told_by_source_and_the_holdout_alone_will_do() -> None:
    both = audited(material(2)[0], 0.9)
    assert both.held_out == {"holdout": 300, "folds": 90}
    assert both.by_source.keys() == {"holdout", "folds"}
    assert both.precision.images == sum(one.images for one in both.by_source.values())
    alone = audited(material(2, folds=0)[0], 0.9)
    assert alone.by_source.keys() == {"holdout"}
    assert alone.precision == alone.by_source["holdout"]
    assert both.precision.high - both.precision.low < alone.precision.high - alone.precision.low


def test_rows_count_repeats_and_found_is_a_share_of_the_class() -> None:
    found = audited(material(3)[0], 0.9)
    assert (found.kept, found.rows) == (sum(one.kept for one in found.classes), found.kept + found.classes[0].kept)
    values = [one.precision.value or 0 for one in found.classes]
    assert found.seen == pytest.approx(
        np.average(values, weights=[2 * found.classes[0].kept, *(one.kept for one in found.classes[1:])])
    )
    assert all(one.found is not None and 0.3 < one.found <= 1 for one in found.classes)


def test_images_that_are_too_sure_for_a_band_tell_nothing_of_it() -> None:
    given, _ = material(3)
    banded = audited(Material(**{**vars(given), "settings": {**given.settings, "max_confidence": 0.9}}), 0.9)
    held = joined([given.holdout, *given.folds])
    cuts = np.array([one.cut for one in banded.classes])
    inside = (held.confidence >= cuts[held.top1]) & (held.confidence < 0.9)
    assert banded.precision.images == inside.sum() > 0
    assert audited(given, 0.9).precision.images > 2 * inside.sum()


def test_a_selection_by_thresholds_of_classes_is_audited_at_those() -> None:
    given, _ = material(8, threshold=0.5)
    short = {**given.selected[0].dropped, "class_full": 0}
    selected = [
        replace(given.selected[0], threshold=0.8, dropped=short),
        given.selected[1],
        replace(given.selected[2], kept=0, rows=0, cut=None, mean=None),
    ]
    settings = {**given.settings, "target_precision": 0.9}
    found = audited(replace(given, selected=selected, settings=settings), 0.9)
    held = joined([given.holdout, *given.folds])
    assert [one.cut for one in found.classes] == [0.8, given.selected[1].cut, None]
    assert found.classes[0].precision.images == ((held.top1 == 0) & (held.confidence >= 0.8)).sum()
    assert Audit.model_validate_json(found.model_dump_json()) == found
    text = render_markdown(found)
    assert "its own threshold (select.target_precision=0.9)" in text.replace("\\", "")
    assert "select.threshold (0.5)" not in text


def test_classes_of_which_nothing_was_held_out_are_named_and_an_empty_class_has_no_figures() -> None:
    given, _ = material(4, folds=0)
    known = given.holdout.label != 1
    one = Material(
        **{
            **vars(given),
            "holdout": given.holdout.where(known),
            "holdout_probabilities": given.holdout_probabilities[known],
        }
    )
    found = audited(one, 0.9)
    assert any("Nothing was held out of 1 classes: dog" in note for note in found.shift.notes)


def test_the_document_survives_json() -> None:
    found = audited(material(5)[0], 0.9)
    assert Audit.model_validate_json(found.model_dump_json()) == found


def test_the_page_escapes_names_and_shows_what_is_kept_and_dropped() -> None:
    found = audited(material(6)[0], 0.9)
    shots = {0: [Thumbnail("surest kept", 0.99, PIXEL), Thumbnail("below_threshold", 0.6, PIXEL)]}
    text = render_html(found, {"precision": PIXEL}, shots)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "dropped: below threshold" in text
    assert text.count("data:image/png") == 3
    assert title(found) in text.replace("&#x27;", "'")
    markdown = render_markdown(found)
    assert "## By class" in markdown
    assert "<script>" not in markdown.replace("\\<script", "")


def test_every_picture_can_be_made(tmp_path: Path) -> None:
    from ns_core.audit import pictures

    found = audited(material(7)[0], 0.9)
    for name in PICTURES:
        getattr(pictures, name)(tmp_path / f"{name}.png", found)
        assert (tmp_path / f"{name}.png").stat().st_size > 2000


def test_no_confidence_of_a_class_that_is_full_lies_below_its_last_image() -> None:
    found = audited(material(8, threshold=0.5)[0], 0.9)
    full = [one for one in found.classes if one.kept == 200]
    assert full
    assert all(one.cut > 0.5 for one in full)
