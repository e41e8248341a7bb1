"""Shards: plain tar, the same bytes each time, read alike by tar, by webdataset and by offset."""

import hashlib
import os
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import webdataset

from ns_core.data.index import IndexRow, Split
from ns_core.data.shards import ShardImage, ShardWriter, shard_name


def _image(key: str, label: int | None = 0, size: int = 700, suffix: str = "png") -> ShardImage:
    """Bytes that differ by key; no picture, which a writer need not know."""
    data = (hashlib.sha256(key.encode()).digest() * (size // 32 + 1))[:size]
    return ShardImage(key, suffix, data, label, 4, 3, hashlib.sha256(data).hexdigest(), f"labeled/{key}")


def _write(
    folder: Path, images: Sequence[ShardImage], split: Split = "labeled", limit: int = 1 << 30
) -> list[IndexRow]:
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, split, 0, limit) as writer:
        return [writer.add(image) for image in images]


def _samples(path: Path) -> list[dict[str, Any]]:
    return list(webdataset.WebDataset(str(path), shardshuffle=False))


# Sizes around the tar block, and an empty member, are where an offset would go wrong.
IMAGES = [
    _image(f"image-{number}", number % 3, size, suffix)
    for number, (size, suffix) in enumerate(
        [(1, "png"), (511, "bmp"), (512, "jpg"), (513, "jpeg"), (10_240, "webp"), (0, "tif"), (99_999, "gif")]
    )
]


def test_the_same_images_give_the_same_bytes_at_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "a", IMAGES)
    later = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    _write(tmp_path / "b", IMAGES)
    name = shard_name("labeled", 0)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_headers_carry_no_time_and_nobody(tmp_path: Path) -> None:
    _write(tmp_path, IMAGES)
    with tarfile.open(tmp_path / "labeled-000000.tar") as shard:
        members = shard.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o444)}
    assert not any(member.pax_headers for member in members)


def test_offsets_point_at_the_bytes_that_tar_finds(tmp_path: Path) -> None:
    rows = _write(tmp_path, IMAGES)
    descriptor = os.open(tmp_path / "labeled-000000.tar", os.O_RDONLY)
    with tarfile.open(tmp_path / "labeled-000000.tar") as shard:
        for row, image in zip(rows, IMAGES, strict=True):
            member = shard.getmember(f"{image.key}.{image.suffix}")
            assert (row["offset"], row["size"]) == (member.offset_data, member.size)
            assert os.pread(descriptor, row["size"], row["offset"]) == image.data
    os.close(descriptor)


def test_webdataset_reads_keys_labels_and_bytes_as_the_index_has_them(tmp_path: Path) -> None:
    rows = _write(tmp_path, IMAGES)
    samples = _samples(tmp_path / "labeled-000000.tar")
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    for sample, row, image in zip(samples, rows, IMAGES, strict=True):
        assert sample[image.suffix] == image.data
        assert int(sample["cls"]) == row["label"] == image.label
        assert row["sha256"] == hashlib.sha256(sample[image.suffix]).hexdigest()


def test_webdataset_decodes_the_label_to_its_number(tmp_path: Path) -> None:
    _write(tmp_path, [_image("a", 12)])
    dataset = webdataset.WebDataset(str(tmp_path / "labeled-000000.tar"), shardshuffle=False)
    assert [sample["cls"] for sample in dataset.decode(only="cls")] == [12]


def test_a_pool_sample_has_no_label_member(tmp_path: Path) -> None:
    rows = _write(tmp_path, [_image("a", None), _image("b", None)], split="pool")
    assert [row["label"] for row in rows] == [None, None]
    assert [set(sample) & {"png", "cls"} for sample in _samples(tmp_path / "pool-000000.tar")] == [{"png"}] * 2


def test_a_pool_image_with_a_label_and_a_labelled_one_without_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "pool", 0, 1) as pool, pytest.raises(AssertionError):
        pool.add(_image("a", 1))
    with ShardWriter(tmp_path, "test", 0, 1) as test, pytest.raises(AssertionError):
        test.add(_image("a", None))


def test_a_shard_is_closed_by_the_image_that_fills_it(tmp_path: Path) -> None:
    rows = _write(tmp_path, IMAGES, limit=6_000)
    # A sample of a few bytes takes 2,048: two headers and two blocks; the first three come to 6,144.
    assert [row["shard"] for row in rows] == [shard_name("labeled", 0, n) for n in (0, 0, 0, 1, 1, 2, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "labeled-000000.tar",
        "labeled-000000_1.tar",
        "labeled-000000_2.tar",
    ]
    for row, image in zip(rows, IMAGES, strict=True):
        with (tmp_path / row["shard"]).open("rb") as shard:
            shard.seek(row["offset"])
            assert shard.read(row["size"]) == image.data


def test_the_writer_names_its_shards(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "labeled", 7, 1) as writer:
        assert writer.names == []
        for key in "abc":
            writer.add(_image(key))
        assert writer.names == ["labeled-000007.tar", "labeled-000007_1.tar", "labeled-000007_2.tar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == writer.names


def test_nothing_written_leaves_no_file(tmp_path: Path) -> None:
    _write(tmp_path, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["a.b", "", "a/b", "ä", "a b", "x" * 81])
def test_a_key_that_webdataset_or_tar_would_change_is_refused(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path, "labeled", 0, 1) as writer, pytest.raises(ValueError, match="only letters"):
        writer.add(_image(key))


def test_the_longest_key_still_fits_a_plain_header(tmp_path: Path) -> None:
    _write(tmp_path, [_image("x" * 80, suffix="jpeg")])
    assert [sample["__key__"] for sample in _samples(tmp_path / "labeled-000000.tar")] == ["x" * 80]


@pytest.mark.parametrize("second", ["b", "a"])
def test_keys_have_to_ascend_so_none_comes_twice(tmp_path: Path, second: str) -> None:
    with ShardWriter(tmp_path, "labeled", 0, 1) as writer:
        writer.add(_image("b"))
        with pytest.raises(ValueError, match="must ascend"):
            writer.add(_image(second))
