"""prepare-dataset from a folder or the digits to an artifact, with bad images and leaks on the way."""

import hashlib
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from numpy.typing import NDArray
from PIL import Image

from ns_core.config import DataConfig
from ns_core.data import prepare
from ns_core.data.images import decode, encode_png
from ns_core.data.index import SPLITS, DatasetIndex
from ns_core.data.reading import ShardReader
from ns_core.errors import UserError
from ns_core.stage import Stopped
from tests.factories import settled, stage_context

Result = dict[str, Any]


def _png(number: int) -> bytes:
    """A picture of its own for each number, 7 wide and 5 high."""
    return encode_png(np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8))


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 6, holdout and test of 2 a class, a pool of 8; all pictures differ."""
    root, number = tmp_path / "pictures", 0
    for part, count in {"labeled": 6, "holdout": 2, "test": 2}.items():
        for name in ("ant", "bee"):
            for image in range(count):
                _put(root / part / name / f"{image}.png", _png(number := number + 1))
    for image in range(8):
        _put(root / "unlabeled" / f"{image}.png", _png(number := number + 1))
    return root


def _config(root: Path, **settings: object) -> DataConfig:
    folders = {name: str(root / name) for name in ("labeled", "unlabeled", "holdout", "test")}
    return DataConfig.model_validate({"source": "folder", "shard_images": 5, **folders, **settings})


def _run(tmp_path: Path, config: DataConfig) -> tuple[Result, Path]:
    context = stage_context(tmp_path)
    return prepare.run(config, context), settled(context)


def _files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def _left_out(output: Path, name: str) -> list[tuple[str, str, str]]:
    return [(row["split"], row["path"], row["reason"]) for row in pq.read_table(output / name).to_pylist()]


def test_the_artifact_has_every_image_once_and_says_how_many(pictures: Path, tmp_path: Path) -> None:
    result, output = _run(tmp_path, _config(pictures))
    assert result == {
        "classes": 2,
        "class_names": ["ant", "bee"],
        "labeled": 12,
        "pool": 8,
        "holdout": 4,
        "test": 4,
        "corrupt": 0,
        "leaks": 0,
        "near_leaks": 0,
        "pool_groups": 0,
        "pool_look_alikes": 0,
        "images": 28,
        "shards": 3 + 2 + 1 + 1,
    }
    assert json.dumps(result)
    assert set(_files(output)) == {
        "index.parquet",
        "classes.json",
        "corrupt.parquet",
        "dropped.parquet",
        "duplicates.parquet",
        "hygiene.html",
        *(f"labeled-{n:06d}.tar" for n in range(3)),
        *(f"pool-{n:06d}.tar" for n in range(2)),
        "holdout-000000.tar",
        "test-000000.tar",
    }


def test_bytes_read_by_the_index_are_those_of_the_folder(pictures: Path, tmp_path: Path) -> None:
    _, output = _run(tmp_path, _config(pictures))
    index = DatasetIndex.load(output)
    assert index.class_names == ("ant", "bee")
    with ShardReader(output) as reader:
        for name in SPLITS:
            split = index.split(name)
            for row in range(len(split)):
                shard = split.shard_names[split.shard_codes[row]]
                data = reader.read(shard, int(split.offsets[row]), int(split.sizes[row]))
                assert data == (pictures / split.paths[row]).read_bytes()
                assert hashlib.sha256(data).hexdigest() == split.sha256[row]
                assert decode(data).shape == (split.heights[row], split.widths[row], 3) == (5, 7, 3)
                label = split.labels[row]
                assert label == (-1 if name == "pool" else ("ant", "bee").index(split.paths[row].split("/")[1]))


def test_webdataset_finds_the_same_samples_as_the_index(pictures: Path, tmp_path: Path) -> None:
    _, output = _run(tmp_path, _config(pictures))
    rows = {row["key"]: row for row in pq.read_table(output / "index.parquet").to_pylist()}
    for path in sorted(output.glob("*.tar")):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            row = rows.pop(sample["__key__"])
            assert row["shard"] == path.name
            assert row["sha256"] == hashlib.sha256(sample["png"]).hexdigest()
            assert ("cls" in sample) == (row["split"] != "pool")
            assert row["label"] == (int(sample["cls"]) if "cls" in sample else None)
    assert not rows


def test_the_same_input_gives_the_same_files_wherever_it_lies(pictures: Path, tmp_path: Path) -> None:
    _put(pictures / "unlabeled" / "bad.png", b"no picture")
    config = {"max_corrupt_fraction": 0.5}
    first, one = _run(tmp_path, _config(pictures, **config))
    moved = pictures.rename(tmp_path / "elsewhere")
    second, two = _run(tmp_path, _config(moved, **config))
    assert first == second
    assert _files(one) == _files(two)


def test_digits_become_a_dataset_that_is_the_same_each_time(tmp_path: Path) -> None:
    config = DataConfig(holdout_images=20, test_images=30, shard_images=400)
    result, one = _run(tmp_path, config)
    assert [result[split] for split in SPLITS] == [50, 1697, 20, 30]
    assert (result["classes"], result["leaks"], result["corrupt"], result["shards"]) == (10, 0, 0, 8)
    _, two = _run(tmp_path, config)
    assert _files(one) == _files(two)
    pool = DatasetIndex.load(one).split("pool")
    assert set(pool.labels) == {-1}
    assert set(pool.widths) == set(pool.heights) == {32}


def test_a_few_corrupt_images_are_counted_listed_and_skipped(pictures: Path, tmp_path: Path) -> None:
    whole = (pictures / "labeled/ant/0.png").read_bytes()
    _put(pictures / "labeled/ant/0.png", whole[: len(whole) // 2])
    _put(pictures / "unlabeled/3.png", b"")
    result, output = _run(tmp_path, _config(pictures, max_corrupt_fraction=0.1))
    assert (result["corrupt"], result["labeled"], result["pool"], result["images"]) == (2, 11, 7, 28)
    corrupt = _left_out(output, "corrupt.parquet")
    assert [row[:2] for row in corrupt] == [
        ("labeled", "labeled/ant/0.png"),
        ("pool", "unlabeled/3.png"),
    ]
    assert all(reason for _, _, reason in corrupt)
    index = DatasetIndex.load(output)
    assert "labeled/ant/0.png" not in index.split("labeled").paths
    assert "unlabeled/3.png" not in index.split("pool").paths


def test_more_corrupt_images_than_allowed_fail_with_count_share_files_and_setting(
    pictures: Path, tmp_path: Path
) -> None:
    for number in range(4):
        _put(pictures / "unlabeled" / f"{number}.png", b"broken")
    with pytest.raises(UserError) as caught:
        _run(tmp_path, _config(pictures, max_corrupt_fraction=0.1))
    message = str(caught.value)
    assert "4 of 28 images (14.29%)" in message
    assert "unlabeled/0.png (" in message
    assert "and 1 more" in message
    assert "data.max_corrupt_fraction (now 0.1)" in message
    assert "\n" not in message


def test_as_many_corrupt_images_as_allowed_pass(pictures: Path, tmp_path: Path) -> None:
    for number in range(7):
        _put(pictures / "unlabeled" / f"{number}.png", b"broken")
    assert _run(tmp_path, _config(pictures, max_corrupt_fraction=0.25))[0]["corrupt"] == 7


def test_a_class_whose_labelled_images_are_all_corrupt_is_named(pictures: Path, tmp_path: Path) -> None:
    for number in range(6):
        _put(pictures / "labeled" / "bee" / f"{number}.png", b"broken")
    with pytest.raises(UserError, match=r"class 'bee' has no labelled image left: labeled/bee/0\.png .*3 more"):
        _run(tmp_path, _config(pictures, max_corrupt_fraction=1.0))


@pytest.mark.parametrize("judged", ["holdout", "test"])
def test_copies_of_judged_images_leave_the_pool_and_the_labelled_split(
    pictures: Path, tmp_path: Path, judged: str
) -> None:
    copy = (pictures / judged / "ant" / "1.png").read_bytes()
    _put(pictures / "unlabeled" / "copy.png", copy)
    _put(pictures / "labeled" / "bee" / "copy.png", copy)
    result, output = _run(tmp_path, _config(pictures))
    assert (result["leaks"], result["labeled"], result["pool"], result[judged]) == (2, 12, 8, 4)
    assert _left_out(output, "dropped.parquet") == [
        ("labeled", "labeled/bee/copy.png", "same bytes"),
        ("pool", "unlabeled/copy.png", "same bytes"),
    ]
    index = DatasetIndex.load(output)
    judged_hashes = {*index.split("holdout").sha256, *index.split("test").sha256}
    assert not judged_hashes & {*index.split("labeled").sha256, *index.split("pool").sha256}


def test_an_image_of_holdout_and_test_stays_in_test_only(pictures: Path, tmp_path: Path) -> None:
    _put(pictures / "holdout/ant/copy.png", (pictures / "test/ant/0.png").read_bytes())
    result, output = _run(tmp_path, _config(pictures))
    assert (result["test"], result["holdout"], result["leaks"]) == (4, 4, 1)
    assert _left_out(output, "dropped.parquet") == [("holdout", "holdout/ant/copy.png", "same bytes")]


def test_copies_within_a_split_or_of_labelled_images_in_the_pool_are_no_leak(pictures: Path, tmp_path: Path) -> None:
    _put(pictures / "test/ant/again.png", (pictures / "test/ant/0.png").read_bytes())
    _put(pictures / "unlabeled/seen.png", (pictures / "labeled/ant/0.png").read_bytes())
    result, _ = _run(tmp_path, _config(pictures))
    assert (result["test"], result["pool"], result["leaks"]) == (5, 9, 0)


def test_a_class_that_is_wholly_a_copy_of_the_test_split_is_named(pictures: Path, tmp_path: Path) -> None:
    for number in range(6):
        _put(pictures / "labeled/ant" / f"{number}.png", (pictures / "test/ant/0.png").read_bytes())
    with pytest.raises(UserError, match=r"class 'ant' .*same bytes as a holdout or test image"):
        _run(tmp_path, _config(pictures))


def test_a_pool_of_nothing_but_copies_is_told(pictures: Path, tmp_path: Path) -> None:
    for number in range(8):
        _put(pictures / "unlabeled" / f"{number}.png", (pictures / "test/ant/0.png").read_bytes())
    with pytest.raises(UserError, match="the pool split has no image left"):
        _run(tmp_path, _config(pictures))


def test_sigterm_stops_the_stage(pictures: Path, tmp_path: Path) -> None:
    context = stage_context(tmp_path)
    context.stopping = lambda: True
    with pytest.raises(Stopped):
        prepare.run(_config(pictures), context)


def _photograph(number: int) -> NDArray[np.uint8]:
    """A picture of its own with the smooth shapes that a photograph has, 96 wide and 72 high."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC))


def _jpeg(pixels: NDArray[np.uint8], quality: int = 90, size: tuple[int, int] | None = None) -> bytes:
    image, buffer = Image.fromarray(pixels), BytesIO()
    (image.resize(size) if size else image).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize("judged", ["holdout", "test"])
def test_near_duplicates_of_judged_images_leave_the_pool_and_are_shown_beside_them(
    pictures: Path, tmp_path: Path, judged: str
) -> None:
    original = _photograph(1)
    _put(pictures / judged / "ant" / "photograph.png", encode_png(original))
    copies = {
        "encoded": _jpeg(original, 60),
        "smaller": _jpeg(original, 90, (86, 65)),
        "mirrored": _jpeg(original[:, ::-1]),
    }
    for name, data in copies.items():
        _put(pictures / "unlabeled" / f"{name}.jpg", data)
    _put(pictures / "unlabeled" / "other.jpg", _jpeg(_photograph(2)))
    result, output = _run(tmp_path, _config(pictures))
    assert (result["leaks"], result["near_leaks"], result["pool"]) == (3, 3, 9)
    assert _left_out(output, "dropped.parquet") == [
        ("pool", f"unlabeled/{name}.jpg", "near-duplicate") for name in sorted(copies)
    ]
    (twin,) = {row["twin"] for row in pq.read_table(output / "dropped.parquet").to_pylist()}
    index = DatasetIndex.load(output).split(judged)  # type: ignore[arg-type]
    assert dict(zip(index.keys, index.paths, strict=True))[twin] == f"{judged}/ant/photograph.png"
    page = (output / "hygiene.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 * len(copies)
    for name in copies:
        assert f"unlabeled/{name}.jpg" in page


def test_the_guard_against_near_duplicates_can_be_turned_off(pictures: Path, tmp_path: Path) -> None:
    _put(pictures / "test/ant/photograph.png", encode_png(_photograph(1)))
    _put(pictures / "unlabeled/encoded.jpg", _jpeg(_photograph(1), 60))
    assert _run(tmp_path, _config(pictures, near_duplicates=False))[0]["leaks"] == 0


def test_look_alikes_inside_the_pool_are_grouped_and_kept(pictures: Path, tmp_path: Path) -> None:
    for number, quality in enumerate((95, 90, 85)):
        _put(pictures / "unlabeled" / f"like-{number}.jpg", _jpeg(_photograph(3), quality))
    result, output = _run(tmp_path, _config(pictures))
    assert (result["pool"], result["pool_groups"], result["pool_look_alikes"]) == (11, 1, 3)
    pool = DatasetIndex.load(output).split("pool")
    paths = dict(zip(pool.keys, pool.paths, strict=True))
    rows = pq.read_table(output / "duplicates.parquet").to_pylist()
    assert [paths[row["key"]] for row in rows] == [f"unlabeled/like-{number}.jpg" for number in range(3)]
    assert {paths[row["group"]] for row in rows} == {"unlabeled/like-0.jpg"}


def test_larger_images_are_shrunk_to_the_short_side_and_smaller_ones_keep_their_bytes(
    pictures: Path, tmp_path: Path
) -> None:
    _put(pictures / "unlabeled/large.png", encode_png(_photograph(4)))
    _, output = _run(tmp_path, _config(pictures, resize=36))
    pool = DatasetIndex.load(output).split("pool")
    sizes = dict(zip(pool.paths, zip(pool.widths, pool.heights, strict=True), strict=True))
    assert sizes.pop("unlabeled/large.png") == (48, 36)
    assert set(sizes.values()) == {(7, 5)}
    row = list(pool.paths).index("unlabeled/large.png")
    with ShardReader(output) as reader:
        data = reader.read(pool.shard_names[pool.shard_codes[row]], int(pool.offsets[row]), int(pool.sizes[row]))
    assert data[:2] == b"\xff\xd8"
    assert decode(data).shape == (36, 48, 3)


def test_the_report_adds_up(pictures: Path, tmp_path: Path) -> None:
    _put(pictures / "unlabeled" / "copy.png", (pictures / "test/ant/0.png").read_bytes())
    _put(pictures / "unlabeled" / "broken.png", b"")
    _, output = _run(tmp_path, _config(pictures, max_corrupt_fraction=0.1))
    page = (output / "hygiene.html").read_text(encoding="utf-8")
    rows = [re.findall(r"<td>([^<]*)", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", page)]
    assert ["pool", "8", "1", "1", "10"] in rows
    assert ["all", "28", "1", "1", "30"] in rows
    assert ["pool", "corrupt", "empty file", "1"] in rows


def test_a_killed_attempt_is_gone_on_with_and_none_of_its_shards_is_written_again(
    pictures: Path, tmp_path: Path
) -> None:
    _put(pictures / "unlabeled" / "copy.png", (pictures / "test/ant/0.png").read_bytes())
    config = _config(pictures)
    whole, expected = _run(tmp_path / "whole", config)
    for stop_after in range(1, 7):  # of 7 parts: 3 labelled, 2 of the pool, holdout and test
        folder = tmp_path / f"stopped-{stop_after}"
        context, shards = stage_context(folder), folder / "store" / "stage" / "resume"
        context.stopping = lambda shards=shards, stop=stop_after: len(list(shards.glob("*.tar"))) >= stop  # type: ignore[misc]
        with pytest.raises(Stopped):
            prepare.run(config, context)
        before = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.tar")}
        assert len(before) == stop_after
        again = stage_context(folder)
        assert prepare.run(config, again) == whole
        assert {name: (shards / name).stat().st_mtime_ns for name in before} == before
        assert _files(settled(again)) == _files(expected)


def test_progress_ends_at_the_number_of_images(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _put(pictures / "unlabeled" / "copy.png", (pictures / "test/ant/0.png").read_bytes())
    _run(tmp_path, _config(pictures))
    last = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("@ns "))
    assert (last["done"], last["total"]) == (29, 29)
