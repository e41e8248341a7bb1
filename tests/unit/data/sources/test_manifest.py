"""Lists of images: splits, classes, identity, and every mistake with file and line."""

import random
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_core.config import DataConfig
from ns_core.data.sources import content_digest, open_source
from ns_core.errors import UserError
from tests.unit.data.sources.reading import count, labels, mistake, paths, put, samples, splits

Rows = list[tuple[str, ...]]


def _write(file: Path, columns: str, rows: Rows) -> None:
    """A list, and the images it names."""
    names = columns.split(",")
    if file.suffix == ".csv":
        file.write_text("\n".join([columns, *(",".join(row) for row in rows)]) + "\n")
    else:
        values = {name: [row[n] for row in rows] for n, name in enumerate(names)}
        pq.write_table(pa.table(values), file)


def _labelled(images: int = 12) -> Rows:
    return [(f"img/{n:02d}.jpg", ("ant", "bee", "cat")[n % 3]) for n in range(images)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve labelled images of three classes, five unlabelled."""
    for n in range(12):
        put(tmp_path / f"img/{n:02d}.jpg", b"%d" % n)
    for n in range(5):
        put(tmp_path / f"pool/{n}.png", b"pool %d" % n)
    _write(tmp_path / "labeled.csv", "path,label", _labelled())
    _write(tmp_path / "unlabeled.csv", "path", [(f"pool/{n}.png",) for n in range(5)])
    return tmp_path


def _config(root: Path, **settings: object) -> DataConfig:
    places = {"labeled": str(root / "labeled.csv"), "unlabeled": str(root / "unlabeled.csv")}
    return DataConfig.model_validate({"source": "manifest", **places, **settings})


def test_lists_are_split_by_fraction_and_read(root: Path) -> None:
    source = open_source(_config(root, holdout_fraction=0.25, test_fraction=0.25))
    assert source.class_names == ("ant", "bee", "cat")
    assert count(source) == {"labeled": 6, "pool": 5, "holdout": 3, "test": 3}
    for split in ("labeled", "holdout", "test"):
        for sample in samples(source, split):
            number = int(sample.path[-6:-4])
            assert (sample.path, sample.label, sample.suffix) == (f"labeled/img/{number:02d}.jpg", number % 3, "jpg")
            assert sample.read() == b"%d" % number
    assert paths(source, "pool") == [f"unlabeled/pool/{n}.png" for n in range(5)]


def test_the_order_of_a_list_its_format_and_its_other_columns_change_nothing(root: Path) -> None:
    before, digest = splits(open_source(_config(root))), content_digest(_config(root))
    rows = [(path, "x", label) for path, label in _labelled()]
    random.Random(0).shuffle(rows)
    for name in ("other.csv", "other.parquet"):
        _write(root / name, "path,note,label", rows)
        config = _config(root, labeled=str(root / name))
        assert splits(open_source(config)) == before
        assert content_digest(config) == digest


def test_parts_of_lists_hold_no_more_than_a_shard(root: Path) -> None:
    whole, cut = (open_source(_config(root, shard_images=images)) for images in (1000, 2))
    assert splits(whole) == splits(cut)
    assert [part.images for part in cut.parts["pool"]] == [2, 2, 1]


def test_given_splits_are_taken_with_all_their_words(root: Path) -> None:
    words = ["train", "labeled", "labeled"] + ["val", "holdout", "val"] + ["test"] * 3 + ["pool", "unlabeled", "pool"]
    rows = [(*row, word) for row, word in zip(_labelled(), words, strict=True)]
    rows[9] = ("img/09.jpg", "", "pool")  # an unlabelled image needs no label
    _write(root / "labeled.csv", "path,label,split", rows)
    source = open_source(_config(root))
    assert {split: paths(source, split) for split in ("labeled", "holdout", "test")} == {
        split: [f"labeled/img/{first + n:02d}.jpg" for n in range(3)]
        for first, split in ((0, "labeled"), (3, "holdout"), (6, "test"))
    }
    assert paths(source, "pool")[:4] == [
        "labeled/img/09.jpg",
        "labeled/img/10.jpg",
        "labeled/img/11.jpg",
        "unlabeled/pool/0.png",
    ]
    assert [sample.key for sample in samples(source, "pool")] == [f"pool-{n:09d}" for n in range(8)]
    assert count(open_source(_config(root, unlabeled="")))["pool"] == 3


def test_lists_of_their_own_give_holdout_and_test(root: Path) -> None:
    _write(root / "holdout.csv", "path,label", _labelled()[:3])
    _write(root / "test.parquet", "path,label", _labelled()[3:6])
    config = _config(root, holdout=str(root / "holdout.csv"), test=str(root / "test.parquet"))
    source = open_source(config)
    assert count(source) == {"labeled": 12, "pool": 5, "holdout": 3, "test": 3}
    assert labels(source, "test") == {0: 1, 1: 1, 2: 1}
    assert paths(source, "holdout")[0] == "holdout/img/00.jpg"


@pytest.mark.parametrize("text", [True, False])
def test_integer_labels_are_sorted_as_numbers(root: Path, text: bool) -> None:
    values = ["10", "9", "-1"] * 4
    table = {"path": [row[0] for row in _labelled()], "label": values if text else list(map(int, values))}
    pq.write_table(pa.table(table), root / "numbers.parquet")
    source = open_source(_config(root, labeled=str(root / "numbers.parquet")))
    assert source.class_names == ("-1", "9", "10")
    assert {s.label for s in samples(source, "labeled") if int(s.path[-6:-4]) % 3 == 0} == {2}


def test_one_word_among_integers_makes_all_labels_names(root: Path) -> None:
    _write(
        root / "labeled.csv",
        "path,label",
        [(path, {"ant": "10", "bee": "9", "cat": "x"}[label]) for path, label in _labelled()],
    )
    assert open_source(_config(root)).class_names == ("10", "9", "x")


def test_paths_may_be_absolute_and_are_the_same_image_then(root: Path) -> None:
    before = splits(open_source(_config(root)))
    _write(
        root / "labeled.csv", "path,label", [(str(root / "img" / ".." / path), label) for path, label in _labelled()]
    )
    assert splits(open_source(_config(root))) == before
    elsewhere = root / "lists"
    elsewhere.mkdir()
    _write(elsewhere / "labeled.csv", "path,label", [(str(root / path), label) for path, label in _labelled()])
    source = open_source(_config(root, labeled=str(elsewhere / "labeled.csv")))
    assert samples(source, "labeled")[0].read()


def test_the_digest_moves_along_and_knows_bytes_labels_and_splits(root: Path) -> None:
    before = content_digest(_config(root))
    moved = root.rename(root.with_name(f"{root.name}-moved"))
    assert content_digest(_config(moved)) == before
    put(moved / "pool/3.png", b"other")
    other_bytes = content_digest(_config(moved))
    put(moved / "pool/3.png", b"pool 3")
    rows = _labelled()
    _write(moved / "labeled.csv", "path,label", [(rows[0][0], "bee"), *rows[1:]])
    other_label = content_digest(_config(moved))
    _write(moved / "labeled.csv", "path,label,split", [(*row, "train") for row in rows])
    other_split = content_digest(_config(moved))
    assert len({before, other_bytes, other_label, other_split}) == 4
    _write(moved / "labeled.csv", "path,label", rows)
    assert content_digest(_config(moved)) == before


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        ("file,label", _labelled(), "labeled.csv has no column 'path'"),
        ("path,labels", _labelled(), "has no column 'label' (did you mean 'labels'?)"),
        ("path,label", [*_labelled(), ("img/00.jpg", "")], "labeled.csv, line 14: the label is empty"),
        ("path,label", [*_labelled(), ("", "ant")], "labeled.csv, line 14: the path is empty"),
        ("path,label", [*_labelled(), ("x.jpg", "ant")], "labeled.csv, line 14: "),
        (
            "path,label",
            [*_labelled(), ("img/../img/03.jpg", "ant")],
            "line 14: img/03.jpg is there twice, first in line 5",
        ),
        ("path,label", [("", ""), *_labelled(), ("", "ant")], "labeled.csv, line 2: the label is empty"),
        ("path,label", [(path, "ant") for path, _ in _labelled()], "has one class, 'ant'"),
        ("path,label", [*_labelled()[:9], ("img/09.jpg", "fly")], "class 'fly' has 1 image(s), too few to split"),
        ("path,label", [], "has no rows"),
        ("path,label,split", [(*row, "trian") for row in _labelled()], "line 2: split 'trian' (did you mean 'train'?)"),
        ("path,label,split", [(*row, "pool") for row in _labelled()], "has no row of the split 'labeled'"),
        (
            "path,label,split",
            [(*row, "test" if n == 1 else "train") for n, row in enumerate(_labelled())],
            "the split test has no image of class 'ant'",
        ),
        (
            "path,label,split",
            [
                (path, "fly" if n == 4 else label, "val" if n < 6 else "train")
                for n, (path, label) in enumerate(_labelled())
            ],
            "line 6: no labelled image has the class 'fly'",
        ),
    ],
)
def test_a_mistake_in_a_list_is_told_with_its_line(root: Path, columns: str, rows: Rows, message: str) -> None:
    _write(root / "labeled.csv", columns, rows)
    assert message in mistake(_config(root))


def test_a_labelled_image_that_is_not_there_is_told_with_its_line(root: Path) -> None:
    (root / "img/07.jpg").unlink()
    assert f"labeled.csv, line 9: {root}/img/07.jpg is not there" in mistake(_config(root))


def test_blank_lines_do_not_shift_the_line_that_is_named(root: Path) -> None:
    lines = (root / "labeled.csv").read_text().splitlines()
    (root / "labeled.csv").write_text("\n".join([lines[0], "", *lines[1:4], "", "img/04.jpg,", *lines[6:]]))
    assert "line 7: the label is empty" in mistake(_config(root))


def test_a_row_of_parquet_is_counted_from_0(root: Path) -> None:
    pq.write_table(pa.table({"path": ["img/00.jpg", "img/01.jpg"], "label": ["ant", None]}), root / "a.parquet")
    assert "a.parquet, row 1: the label is empty" in mistake(_config(root, labeled=str(root / "a.parquet")))


def test_a_column_of_fractions_is_told(root: Path) -> None:
    pq.write_table(pa.table({"path": ["img/00.jpg"], "label": [1.5]}), root / "a.parquet")
    assert "column 'label' holds double" in mistake(_config(root, labeled=str(root / "a.parquet")))


def test_an_unlabelled_image_that_is_not_there_is_told_when_it_is_read(root: Path) -> None:
    (root / "pool/2.png").unlink()
    pool = samples(open_source(_config(root)), "pool")
    with pytest.raises(UserError, match=r"pool/2\.png: is gone"):
        pool[2].read()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labeled": ""}, "data.labeled is not set"),
        ({"unlabeled": ""}, "data.unlabeled is not set"),
        ({"labeled": "nowhere.csv"}, "data.labeled: nowhere.csv does not exist"),
        ({"unlabeled": "list.txt"}, "data.unlabeled: list.txt is neither .csv nor .parquet"),
    ],
)
def test_a_list_that_cannot_be_opened_is_told(root: Path, settings: dict[str, str], message: str) -> None:
    assert message in mistake(_config(root, **settings))


@pytest.mark.parametrize(
    ("name", "content"), [("bad.csv", b"path,label\na,b,c\n"), ("bad.parquet", b"PAR1"), ("e.csv", b"")]
)
def test_a_file_that_is_no_list_is_told(root: Path, name: str, content: bytes) -> None:
    put(root / name, content)
    assert f"{name} cannot be read: " in mistake(_config(root, labeled=str(root / name)))


def test_a_split_that_is_given_twice_is_told(root: Path) -> None:
    _write(
        root / "labeled.csv",
        "path,label,split",
        [(*row, ("train", "test")[n % 2]) for n, row in enumerate(_labelled())],
    )
    _write(root / "test.csv", "path,label", _labelled()[:3])
    assert "data.test is set, and" in mistake(_config(root, test=str(root / "test.csv")))


def test_a_million_paths_stay_far_below_400_megabytes(root: Path) -> None:
    images = 50_000
    _write(root / "unlabeled.csv", "path", [(f"some/folder/of/images/{n:012d}.jpg",) for n in range(images)])
    tracemalloc.start()
    source = open_source(_config(root))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count(source)["pool"] == images
    assert peak / images < 300, "bytes for each, of 41 characters"
