"""The selection engine against an oracle over a list, row for row, and what it is independent of."""

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ns_core.errors import StageFailed
from ns_core.selection.engine import REASONS, Classes, Limits, Rule, select
from ns_core.selection.statements import CODES, connect, fine_bins, hundredths
from tests.selection_oracle import Asked, Result, Row, oracle

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("reason", pa.string()),
        ("top1", pa.int32()),
        ("confidence", pa.float32()),
        ("margin", pa.float32()),
    ]
)
ONE, ZERO = np.float32(1), np.float32(0)
ODD_VALUES = [
    ZERO,
    np.float32(1e-45),
    np.nextafter(np.float32(0.3), ZERO),
    np.float32(0.3),
    np.nextafter(np.float32(0.3), ONE),
    np.nextafter(np.float32(0.7), ZERO),
    np.float32(0.7),
    np.float32(0.29),
    np.nextafter(ONE, ZERO),
    ONE,
]


def digest(content: object) -> str:
    """As a label table has it."""
    return hashlib.sha256(str(content).encode()).hexdigest()


def write_files(folder: Path, files: list[list[Row]]) -> list[Path]:
    """Label tables, each in row groups of five rows."""
    paths = []
    for number, rows in enumerate(files):
        columns = {
            "key": [row.key for row in rows],
            "sha256": [row.sha256 for row in rows],
            "reason": ["truncated" if row.confidence is None else None for row in rows],
            "top1": [row.top1 for row in rows],
            "confidence": [row.confidence for row in rows],
            "margin": [row.margin for row in rows],
        }
        paths.append(folder / f"labels-{number:06d}.parquet")
        pq.write_table(pa.table(columns, schema=SCHEMA), paths[-1], row_group_size=5, compression="zstd")
    return paths


def chosen(files: list[list[Row]], asked: Asked) -> tuple[Result, Classes]:
    """What the engine says of each key, and its counts."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_files(folder, files)
        twins: Path | str | None = {"keep": None, "bytes": "bytes", "near": folder / "twins.parquet"}[asked.duplicates]
        group = pa.array(asked.twins.values(), pa.int64())
        pq.write_table(pa.table({"key": pa.array(asked.twins, pa.string()), "group": group}), folder / "twins.parquet")
        result: Result = {}
        by_class = None if asked.by_class is None else np.array(asked.by_class, np.float32)
        rule = Rule(*asked[:5], *asked[7:10], by_class)
        with select(paths, rule, twins, Limits(1 << 28, 2, folder)) as selection:
            for number, rows in enumerate(files):
                outcome, copies = selection.of(number)
                assert (outcome.dtype, copies.dtype) == (np.int8, np.int32)
                for row, code, times in zip(rows, outcome, copies, strict=True):
                    result[row.key] = (REASONS[code], int(times))
            return result, selection.classes


def in_files(rows: list[Row], cuts: list[int]) -> list[list[Row]]:
    """The rows divided at these places; some files may be empty."""
    places = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    return [rows[start:end] for start, end in pairwise(places)]


@st.composite
def pools(draw: st.DrawFn) -> list[Row]:
    """Few values of everything, so that ties are the rule, saturated confidences common and some bytes equal."""
    classes = draw(st.sampled_from([[0], [0, 1, 5], [2, 3]]))
    confidences = draw(
        st.sampled_from(
            [
                st.integers(20, 34).map(lambda i: np.float32(i / 100)),
                st.sampled_from(ODD_VALUES),
                st.just(ONE),
                st.floats(0, 1, width=32).map(np.float32),
            ]
        )
    )
    margins = draw(st.sampled_from([st.just(ZERO), st.sampled_from([ZERO, np.float32(17.25), np.float32(3e38)])]))
    contents = draw(st.sampled_from([st.integers(0, 8), st.integers(0, 10**6)]))
    rows = []
    for number in range(draw(st.integers(0, 50))):
        key, sha256 = f"image {draw(st.integers(0, 9))}-{number}", digest(draw(contents))
        if draw(st.integers(0, 15)) == 0:
            rows.append(Row(key, sha256, None, None, None))
        else:
            rows.append(Row(key, sha256, draw(st.sampled_from(classes)), draw(confidences), draw(margins)))
    return rows


@st.composite
def questions(draw: st.DrawFn, rows: list[Row]) -> Asked:
    """A rule, with groups of twins among the rows."""
    keys = [row.key for row in rows]
    threshold = draw(st.sampled_from([0.0, 0.25, 0.3, 0.305, 0.7, 1.0]))
    own = st.sampled_from([threshold, *(one for one in (0.3, 0.31, 0.7) if one > threshold), np.inf])
    twins = draw(st.dictionaries(st.sampled_from(keys), st.integers(0, 4), max_size=15)) if keys else {}
    return Asked(
        threshold,
        draw(st.integers(1, 14)),
        draw(st.integers(1, 6)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.booleans()),
        draw(st.sampled_from(["keep", "bytes", "near"])),
        twins,
        draw(st.sampled_from([1.0, 1.0, 0.3, 0.31, 0.7])),
        draw(st.sampled_from([1.0, 1.0, 0.9, 0.5, 1e-9])),
        draw(st.integers(0, 9)),
        draw(st.none() | st.tuples(*[own] * 6)),
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=pools())
def test_every_row_has_the_outcome_and_the_copies_that_the_oracle_gives_it(
    data: st.DataObject, rows: list[Row]
) -> None:
    asked = data.draw(questions(rows))
    files = in_files(rows, data.draw(st.lists(st.integers(0, 50), max_size=3)))
    result, classes = chosen(files, asked)
    assert result == oracle(rows, asked)
    by_class = {row.key: row.top1 for row in rows}
    outside = ("below_threshold", "too_confident", "not_sampled")
    columns = {("kept",): classes.kept, outside: classes.below_threshold, ("duplicate",): classes.duplicates}
    for names, column in columns.items():
        counted = Counter(by_class[key] for key, (outcome, _) in result.items() if outcome in names)
        assert counted == {label: count for label, count in enumerate(column.tolist()) if count}
    assert classes.rows.sum() == sum(times for _, times in result.values())
    assert np.array_equal(classes.predicted, classes.eligible + classes.below_threshold + classes.duplicates)
    assert classes.predicted.sum() == sum(row.confidence is not None for row in rows)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), rows=pools())
def test_neither_the_order_of_rows_nor_how_files_divide_them_changes_anything(
    data: st.DataObject, rows: list[Row]
) -> None:
    asked = data.draw(questions(rows))
    shuffled = in_files(data.draw(st.permutations(rows)), data.draw(st.lists(st.integers(0, 50), max_size=5)))
    (first, counts), (second, others) = chosen([rows], asked), chosen(shuffled, asked)
    assert first == second
    for name, column in vars(counts).items():
        assert np.array_equal(column, getattr(others, name))


def image(number: int, top1: int, confidence: float, margin: float = 1.0) -> Row:
    """Of content of its own."""
    return Row(f"image-{number:06d}", digest(number), top1, np.float32(confidence), np.float32(margin))


def test_the_threshold_is_inclusive_at_the_precision_of_the_table() -> None:
    """0.3 is not a float32: the nearest one is larger than it, 0.7's is smaller, and both pass their threshold."""
    for official in (False, True):
        for threshold in (0.3, 0.7):
            at = np.float32(threshold)
            values = [np.nextafter(at, ZERO), at, np.nextafter(at, ONE)]
            rows = [image(number, 0, value) for number, value in enumerate(values)]
            result, _ = chosen([rows], Asked(threshold, 3, 1, 0, official))
            outcomes = [result[row.key][0] for row in rows]
            assert outcomes[0] == "below_threshold"
            assert "below_threshold" not in outcomes[1:]


def test_each_class_is_cut_at_a_threshold_of_its_own_and_one_without_loses_all() -> None:
    rows = [image(10 * label + number, label, (number + 1) / 10) for label in range(3) for number in range(9)]
    for official in (False, True):
        asked = Asked(0.1, 99, 1, 0, official, by_class=(0.3, 0.75, np.inf))
        result, classes = chosen([rows[:5], rows[5:]], asked)
        kept = [round(float(row.confidence), 1) for row in rows if row.confidence and result[row.key][1]]
        assert kept == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.8, 0.9]
        assert {outcome for outcome, times in result.values() if not times} == {"below_threshold"}
        assert classes.kept.tolist() == [7, 2, 0]
        assert classes.below_threshold.tolist() == [2, 7, 9]


def test_equal_rows_of_a_saturated_teacher_are_cut_exactly_by_content_hash() -> None:
    """The official code draws at random from such a class, with the expected count only."""
    rows = [image(number, 0, 1.0) for number in range(3000)]
    result, _ = chosen([rows], Asked(0.3, 1300, 1, 0, False))
    kept = sorted(row.sha256 for row in rows if result[row.key][1])
    assert kept == sorted(row.sha256 for row in rows)[:1300]


def test_equal_bytes_are_cut_by_key() -> None:
    rows = [image(number, 0, 1.0)._replace(sha256=digest("same")) for number in range(50)]
    result, _ = chosen([rows[25:], rows[:25]], Asked(0.3, 20, 1, 0, False))
    assert [row.key for row in rows if result[row.key][1]] == [row.key for row in rows[:20]]


def test_odd_copies_go_to_other_images_under_another_seed() -> None:
    rows = [image(number, 0, 0.9) for number in range(20)]
    drawn = [
        frozenset(key for key, (_, times) in chosen([rows], Asked(0.3, 25, 3, seed, False))[0].items() if times == 2)
        for seed in range(12)
    ]
    assert {len(keys) for keys in drawn} == {5}
    assert len(set(drawn)) > 9


def test_the_official_rule_keeps_a_rich_class_in_expectation_only() -> None:
    """As section 3.1 of the paper wants 1,000 images, of 3,000 in the bin: each stays with probability 1/3."""
    rows = [image(number, 0, 0.955) for number in range(3000)] + [image(5000 + n, 0, 0.945) for n in range(50)]
    result, classes = chosen([rows], Asked(0.3, 1000, 5, 0, True))
    kept = sum(times for _, times in result.values())
    assert abs(kept - 1000) < 4 * np.sqrt(3000 * 2 / 9)
    assert kept == classes.kept[0] == classes.rows[0]
    assert classes.cut[0] == np.float32(0.95)
    assert {result[row.key] for row in rows[3000:]} == {("class_full", 0)}


def test_nothing_comes_of_nothing() -> None:
    for files in ([], [[]], [[Row("image", digest(0), None, None, None)]]):
        result, classes = chosen(files, Asked(0.3, 5, 2, 0, False, "bytes"))
        assert set(result.values()) <= {("corrupt", 0)}
        assert len(classes.kept) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("confidence", np.nan), ("confidence", np.inf), ("confidence", 1.1), ("confidence", -0.1), ("margin", np.nan)],
)
def test_numbers_that_no_teacher_gives_fail_the_stage(tmp_path: Path, name: str, value: float) -> None:
    files = write_files(tmp_path, [[image(0, 0, 0.5), image(1, 0, 0.5)._replace(**{name: np.float32(value)})]])
    with pytest.raises(StageFailed, match="1 labels have a class, confidence or margin"):
        select(files, Rule(0.3, 5, 2, 0, False), None, Limits(1 << 28, 1, tmp_path))
    assert list(tmp_path.iterdir()) == files, "nothing is left in the scratch"


def test_the_scratch_is_gone_after_the_selection(tmp_path: Path) -> None:
    files = write_files(tmp_path, [[image(number, 0, 0.5) for number in range(9)]])
    with select(files, Rule(0.3, 5, 2, 0, False), None, Limits(1 << 28, 1, tmp_path)) as selection:
        assert len(list(tmp_path.iterdir())) == 2
        assert (selection.of(0).outcome == 0).sum() == 5
    assert list(tmp_path.iterdir()) == files


def _all_edges() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    near_one = ONE - np.float32(2) ** -rng.uniform(1, 26, 100_000).astype(np.float32)
    hundredth = (np.arange(101) / 100).astype(np.float32)
    around = np.concatenate([np.nextafter(hundredth, ZERO), hundredth, np.nextafter(hundredth, ONE)])
    values: NDArray[np.float32] = np.unique(
        np.concatenate([rng.random(100_000, np.float32), near_one, around, np.array(ODD_VALUES)])
    )
    return values[values <= 1]


def test_bins_ascend_with_confidence_and_margin_and_fit_their_codes(tmp_path: Path) -> None:
    confidence = _all_edges()
    margin = np.sort(np.random.default_rng(1).exponential(60, 2000).astype(np.float32))
    margin[-1] = np.finfo(np.float32).max
    columns = [np.concatenate([confidence, np.ones_like(margin)]), np.concatenate([np.zeros_like(confidence), margin])]
    with connect(1 << 28, 1, tmp_path) as connection:
        connection.register(
            "points", pa.table({"n": np.arange(len(columns[0])), "confidence": columns[0], "margin": columns[1]})
        )
        found = connection.execute(f"SELECT {fine_bins()} AS bin FROM points ORDER BY n").fetchnumpy()["bin"]
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0
    assert found.max() <= CODES - 2
    assert len(np.unique(found[confidence.searchsorted(0.999) : len(confidence)])) > 300, "finer towards 1"


def test_the_official_bins_have_their_edges_at_float32_hundredths(tmp_path: Path) -> None:
    confidence = _all_edges()
    with connect(1 << 28, 1, tmp_path) as connection:
        connection.register("points", pa.table({"n": np.arange(len(confidence)), "confidence": confidence}))
        found = connection.execute(f"SELECT {hundredths()} AS bin FROM points ORDER BY n").fetchnumpy()["bin"]
    edges = (np.arange(101) / 100).astype(np.float32)
    assert np.array_equal(found, np.searchsorted(edges, confidence, side="right") - 1)
