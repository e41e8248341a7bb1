"""Selected images in shards of their own: the bytes that tarfile would write, in an order of the seed's."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import simplejpeg
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ns_core.data.patience import Patience
from ns_core.data.reading import ARTIFACT, ShardReader
from ns_core.data.remote_shard import ShortShard
from ns_core.data.shard_cache import ShardCache
from ns_core.data.shards import ShardImage, ShardWriter
from ns_core.data.tar_headers import archive_size, padded
from ns_core.selection.copying import suffix
from ns_core.selection.materialize import Images, Layout, choose_reading, plan, shard_name, write_shard
from tests.scripted_s3 import ScriptedS3

STARTS = {
    "jpg": b"\xff\xd8\xff",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF89a",
    "bmp": b"BM",
    "tif": b"II*\0",
    "webp": b"RIFF\0\0\0\0WEBP",
    "img": b"",
}
"""Of each kind of image; none of the tests has a whole one."""
LIMIT = 20_000


def _content(key: str, size: int, kind: str) -> bytes:
    """`size` bytes that differ by key and begin like an image of the kind."""
    noise = hashlib.shake_128(key.encode()).digest(size)
    start = STARTS[kind] if size >= 16 else b""
    return start + noise[len(start) :] if kind != "img" else b"?" * min(size, 12) + noise[12:]


def _pool(folder: Path, contents: Sequence[tuple[str, bytes]], shards: int, places: Sequence[str] = ("",)) -> Images:
    """Local shards below the folder, in turn in these places (`labeled/`: a folder of that name), and their images."""
    names, codes, offsets = [], [], []
    for number in range(shards):
        place = places[number % len(places)]
        (folder / place).mkdir(parents=True, exist_ok=True)
        name = f"{place}pool-{number:06d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, data in contents[number::shards]:
                member = tarfile.TarInfo(f"{key}.jpg")
                member.size = len(data)
                offsets.append(tar.offset + tarfile.BLOCKSIZE)
                tar.addfile(member, io.BytesIO(data))
                codes.append(number)
        names.append(name)
    ordered = [one for number in range(shards) for one in contents[number::shards]]
    sizes = np.array([len(data) for _, data in ordered], np.int64)
    keys = pa.array([key for key, _ in ordered], pa.large_string())
    return Images(tuple(names), np.array(codes, np.int32), np.array(offsets, np.int64), sizes, keys)


def _some(count: int, size: int = 3000) -> list[tuple[str, bytes]]:
    kinds = list(STARTS)
    return [(f"pool-{n:09d}", _content(str(n), size + 37 * n % 900, kinds[n % len(kinds)])) for n in range(count)]


def _write(layout: Layout, reader: ShardReader, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / shard_name(number) for number in range(len(layout))]
    for number, path in enumerate(paths):
        write_shard(layout, number, reader, path)
    return paths


def _as_tarfile_would(layout: Layout, number: int, contents: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.TarFile(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key in layout.images.keys.take(pa.array(layout.rows(number))).to_pylist():
            member = tarfile.TarInfo(f"{key}.{suffix(contents[key][:12])}")
            member.size, member.mode, member.mtime = len(contents[key]), 0o444, 0
            tar.addfile(member, io.BytesIO(contents[key]))
    return archive.getvalue()


SIZES = st.one_of(st.sampled_from([1, 11, 12, 511, 512, 513, 1024, 10_240, 40_000]), st.integers(1, 3000))
KEYS = st.text("abcXYZ019_-", min_size=1, max_size=80)


@settings(max_examples=60, deadline=None)
@given(
    images=st.dictionaries(KEYS, st.tuples(SIZES, st.sampled_from(list(STARTS))), min_size=1, max_size=40),
    shards=st.integers(1, 4),
    limit=st.integers(1, 30_000),
    seed=st.integers(0, 2**32 - 1),
    window=st.integers(0, 3),
)
def test_shards_are_what_tarfile_writes_of_the_selected_images_each_once(
    tmp_path_factory: pytest.TempPathFactory,
    images: dict[str, tuple[int, str]],
    shards: int,
    limit: int,
    seed: int,
    window: int,
) -> None:
    folder = tmp_path_factory.mktemp("pool")
    contents = {key: _content(key, *size_and_kind) for key, size_and_kind in images.items()}
    layout = plan(_pool(folder, list(contents.items()), shards), limit, seed, window)
    with ShardReader(folder) as reader:
        paths = _write(layout, reader, folder / "selected")
    found: dict[str, bytes] = {}
    for number, path in enumerate(paths):
        assert path.read_bytes() == _as_tarfile_would(layout, number, contents)
        assert path.stat().st_size == layout.sizes[number]
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                key = member.name.rpartition(".")[0]
                assert key not in found
                found[key] = stream.read()
    assert found == contents


def test_places_point_at_the_bytes_in_the_order_of_the_input(tmp_path: Path) -> None:
    contents = _some(60)
    images = _pool(tmp_path, contents, 3)
    layout = plan(images, LIMIT, 5)
    with ShardReader(tmp_path) as reader:
        paths = _write(layout, reader, tmp_path / "selected")
    assert len(paths) > 3
    of_key = dict(contents)
    # In two parts, as a manifest is written that does not fit into memory.
    offsets = np.concatenate([layout.offsets(slice(0, 25)), layout.offsets(slice(25, 60))])
    for key, number, offset, size in zip(
        images.keys.to_pylist(), layout.shards.tolist(), offsets.tolist(), images.sizes.tolist(), strict=True
    ):
        with paths[number].open("rb") as shard:
            assert os.pread(shard.fileno(), size, offset) == of_key[key]


def test_webdataset_reads_keys_and_bytes(tmp_path: Path) -> None:
    contents = _some(40)
    layout = plan(_pool(tmp_path, contents, 2), LIMIT, 0)
    with ShardReader(tmp_path) as reader:
        paths = _write(layout, reader, tmp_path / "selected")
    samples = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False))
    read = {}
    for sample in samples:
        (field,) = sample.keys() & STARTS.keys()
        read[sample["__key__"]] = sample[field]
    assert len(samples) == 40
    assert read == dict(contents)


def test_the_bytes_are_those_of_the_shard_writer(tmp_path: Path) -> None:
    contents = [(key, data) for key, data in _some(30) if suffix(data[:12]) == "jpg"]
    layout = plan(_pool(tmp_path, contents, 2), 1 << 30, 0)
    with ShardReader(tmp_path) as reader:
        (path,) = _write(layout, reader, tmp_path / "selected")
    with tarfile.open(path) as tar:
        names = tar.getnames()
    # That writer wants ascending keys: as many in its own order give headers of the same kind, and the same size.
    with ShardWriter(tmp_path, "pool", 9, 1 << 30) as writer:
        for key, data in contents:
            writer.add(ShardImage(key, "jpg", data, None, 1, 1, "", ""))
    with tarfile.open(tmp_path / "pool-000009.tar") as tar:
        theirs = {member.name: member.tobuf(tarfile.USTAR_FORMAT) for member in tar}
    with tarfile.open(path) as tar:
        assert {member.name: member.tobuf(tarfile.USTAR_FORMAT) for member in tar} == theirs
    assert sorted(names) == sorted(theirs)
    assert path.stat().st_size == (tmp_path / "pool-000009.tar").stat().st_size


def test_the_order_is_the_seeds_and_mixes_the_pool(tmp_path: Path) -> None:
    images = _pool(tmp_path, _some(400, 100), 4)
    layouts = [plan(images, LIMIT, seed) for seed in (1, 1, 2)]
    orders = [np.concatenate([layout.rows(number) for number in range(len(layout))]) for layout in layouts]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).mean() > 0.9
    assert all(sorted(order.tolist()) == list(range(400)) for order in orders)
    assert set(images.shard_codes[layouts[0].rows(0)].tolist()) == {0, 1, 2, 3}
    assert abs(np.corrcoef(orders[0], np.arange(400))[0, 1]) < 0.2


def test_a_window_keeps_few_shards_of_the_pool_in_use_at_a_time(tmp_path: Path) -> None:
    images = _pool(tmp_path, _some(400, 100), 10)
    layout = plan(images, 1, 3, window=2)
    codes = images.shard_codes[np.concatenate([layout.rows(n) for n in range(len(layout))])]
    assert [len(set(window.tolist())) for window in np.split(codes, 5)] == [2] * 5
    assert set(codes.tolist()) == set(range(10))


def test_a_shard_passes_the_limit_by_one_image_at_most(tmp_path: Path) -> None:
    images = _pool(tmp_path, _some(200), 3)
    layout = plan(images, LIMIT, 0)
    for number in range(len(layout)):
        lengths = padded(images.sizes[layout.rows(number)])
        assert lengths[:-1].sum() < LIMIT
        assert number == len(layout) - 1 or lengths.sum() >= LIMIT
        assert layout.sizes[number] == archive_size(int(lengths.sum()))
    assert layout.starts[-1] == 200


def test_the_last_shard_may_be_full_and_none_is_empty(tmp_path: Path) -> None:
    images = _pool(tmp_path, _some(8), 1)
    exactly = int(padded(images.sizes).sum())
    assert len(plan(images, exactly, 0)) == 1
    assert len(plan(images, exactly + 1, 0)) == 1
    assert len(plan(images, 1, 0)) == 8


def test_an_image_larger_than_a_shard_and_than_a_batch_has_a_shard(tmp_path: Path) -> None:
    contents = [*_some(5), ("pool-large", _content("large", 5 << 20, "png"))]
    layout = plan(_pool(tmp_path, contents, 2), LIMIT, 0)
    with ShardReader(tmp_path) as reader:
        paths = _write(layout, reader, tmp_path / "selected")
    for number, path in enumerate(paths):
        assert path.read_bytes() == _as_tarfile_would(layout, number, dict(contents))


def test_a_plan_of_many_blocks_is_that_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = _pool(tmp_path, _some(300, 100), 3)
    whole = plan(images, LIMIT, 4)
    monkeypatch.setattr("ns_core.selection.materialize._PLANNED", 7)
    parts = plan(images, LIMIT, 4)
    for field in ("starts", "sizes", "shards", "offsets_in_blocks"):
        assert getattr(whole, field).tolist() == getattr(parts, field).tolist(), field


def test_any_shard_can_be_written_alone_and_again(tmp_path: Path) -> None:
    layout = plan(_pool(tmp_path, _some(50), 2), LIMIT, 0)
    with ShardReader(tmp_path) as reader:
        paths = _write(layout, reader, tmp_path / "selected")
    again = plan(_pool(tmp_path, _some(50), 2), LIMIT, 0)
    with ShardReader(tmp_path) as reader:
        for number in reversed(range(len(again))):
            write_shard(again, number, reader, tmp_path / "alone.tar")
            assert (tmp_path / "alone.tar").read_bytes() == paths[number].read_bytes()


def test_shards_of_the_pool_may_lie_in_several_places(tmp_path: Path) -> None:
    contents = _some(40)
    images = _pool(tmp_path, contents, 4, ("", "labeled/", "unlabeled/2024/"))
    places = {"labeled": str(tmp_path / "labeled"), "unlabeled": str(tmp_path / "unlabeled")}
    layout = plan(images, LIMIT, 0)
    with ShardReader(tmp_path, places) as reader:
        paths = _write(layout, reader, tmp_path / "selected")
    for number, path in enumerate(paths):
        assert path.read_bytes() == _as_tarfile_would(layout, number, dict(contents))


def test_a_truncated_shard_of_the_pool_is_named(tmp_path: Path) -> None:
    layout = plan(_pool(tmp_path, _some(40), 2), 1 << 30, 0)
    os.truncate(tmp_path / "pool-000001.tar", 30_000)
    with ShardReader(tmp_path) as reader, pytest.raises(ShortShard, match=r"pool-000001\.tar: truncated"):
        write_shard(layout, 0, reader, tmp_path / "out.tar")


def test_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an image was decoded")

    for module, name in ((PIL.Image, "open"), (simplejpeg, "decode_jpeg"), (cv2, "imdecode")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", refuse)
    contents = _some(20)
    layout = plan(_pool(tmp_path, contents, 2), 1 << 30, 0)
    with ShardReader(tmp_path) as reader:
        (path,) = _write(layout, reader, tmp_path / "selected")
    assert path.read_bytes() == _as_tarfile_would(layout, 0, dict(contents))


def test_whoever_listens_hears_how_many_images_are_done_and_can_end_it(tmp_path: Path) -> None:
    layout = plan(_pool(tmp_path, _some(1500, 20), 2), 1 << 30, 0)
    heard: list[int] = []

    def stop(done: int) -> None:
        raise InterruptedError(done)

    with ShardReader(tmp_path) as reader:
        write_shard(layout, 0, reader, tmp_path / "out.tar", heard.append)
        with pytest.raises(InterruptedError):
            write_shard(layout, 0, reader, tmp_path / "out.tar", stop)
    assert heard[-1] == 1500
    assert heard == sorted(set(heard))
    assert len(heard) > 1


@pytest.mark.parametrize(
    ("start", "ending"),
    [
        *((start + bytes(20), ending) for ending, start in STARTS.items()),
        (b"\xff\xd8\xff\xe1", "jpg"),
        (b"MM\0*" + bytes(8), "tif"),
        (b"P6\n1 1\n255\n", "ppm"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
        (b"\0\0\0\x1cftypavif", "avif"),
        (b"RIFF\0\0\0\0WAVE", "img"),
        (b"", "img"),
        (b"\xff", "img"),
    ],
)
def test_an_image_is_named_by_its_first_bytes(start: bytes, ending: str) -> None:
    assert suffix(start[:12]) == ending


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_every_format_that_is_read_has_its_name(kind: str) -> None:
    encoded = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(encoded, kind)
    expected = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}.get(kind, kind.lower())
    assert suffix(encoded.getvalue()[:12]) == expected


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("room", [1 << 30, 75_000, 1])
def test_from_s3_the_bytes_are_the_same_and_are_read_once(
    tmp_path: Path, server: ScriptedS3, window: int, room: int
) -> None:
    contents = _some(40)
    images = _pool(tmp_path, contents, 6)
    for name in images.shard_names:
        server.objects[f"/bucket/pool/{name}"] = (tmp_path / name).read_bytes()
    layout = plan(images, LIMIT, 0, window)
    with ShardReader(tmp_path) as reader:
        local = [path.read_bytes() for path in _write(layout, reader, tmp_path / "local")]
    recorded = {
        name: (len(data := server.objects[f"/bucket/pool/{name}"]), hashlib.sha256(data).hexdigest())
        for name in images.shard_names
    }
    cache = ShardCache(tmp_path / "cache", room, Patience())
    fetch, sent = ShardCache._fetch, []

    def counted(self: ShardCache, shard: Any, flight: Any) -> int:
        sent.append(shard.key)
        return fetch(self, shard, flight)

    with (
        pytest.MonkeyPatch.context() as patch,
        ShardReader(tmp_path / "nothing", {ARTIFACT: "s3://bucket/pool"}, cache, recorded) as reader,
    ):
        patch.setattr(ShardCache, "_fetch", counted)
        choose_reading(layout, reader)
        remote = [path.read_bytes() for path in _write(layout, reader, tmp_path / "remote")]
    assert remote == local
    # 75,000 bytes hold two of the six shards, which is a window.
    whole = room == 1 << 30 or (window and room == 75_000)
    assert server.ranges == (0 if whole else 40)
    assert sorted(sent) == (sorted(images.shard_names) if whole else [])


def test_a_reader_that_has_all_shards_here_is_left_as_it_is(tmp_path: Path) -> None:
    layout = plan(_pool(tmp_path, _some(4), 2), LIMIT, 0)
    with ShardReader(tmp_path) as reader:
        choose_reading(layout, reader)
        _write(layout, reader, tmp_path / "selected")


MEMORY = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from ns_core.data.reading import ShardReader
from ns_core.selection.materialize import Images, plan, write_shard
from tests.peak_memory import peak_bytes

folder = Path(sys.argv[1])
count, size = 300, 1 << 20
offsets = np.arange(count, dtype=np.int64) * size
keys = pa.array([f"pool-{n:09d}" for n in range(count)], pa.large_string())
images = Images(("pool.tar",), np.zeros(count, np.int32), offsets, np.full(count, size), keys)
layout = plan(images, 1 << 30, 0)
before = peak_bytes()
write_shard(layout, 0, ShardReader(folder), folder / "out.tar")
print(peak_bytes() - before)
"""


def test_a_large_shard_takes_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "pool.tar").open("wb") as pool:
        pool.truncate(300 << 20)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], stdout=subprocess.PIPE, check=True, text=True, timeout=60
    )
    assert int(run.stdout) < 24 << 20, "for a shard of 300 MB"
    assert (tmp_path / "out.tar").stat().st_size > 300 << 20


def test_a_plan_keeps_eight_bytes_a_row() -> None:
    count = 300_000
    rng = np.random.default_rng(0)
    images = Images(
        ("a.tar",), np.zeros(count, np.int32), np.zeros(count, np.int64), rng.integers(1, 200_000, count), pa.array([])
    )
    layout = plan(images, 1 << 26, 0)
    kept = [value for value in vars(layout).values() if isinstance(value, np.ndarray) and len(value) >= count]
    assert sum(column.nbytes for column in kept) == 8 * count
