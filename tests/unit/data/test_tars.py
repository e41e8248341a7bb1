"""The scanner of tar headers against tarfile, and against every way in which a tar is not whole."""

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ns_core.data.tars import BadTar, Members, scan_tar
from tests.unit.data.sources.tars import tar_bytes

NAMES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=300)
PLAIN = st.from_regex(r"[a-z0-9_-]{1,12}(/[a-z0-9.]{1,60}){0,3}\.(jpg|cls|json)", fullmatch=True)
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
MEMBERS = st.lists(st.tuples(PLAIN | NAMES, st.integers(0, 3000)), max_size=12)


def scan(data: bytes, where: str = "data.tar") -> Members:
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.flush()
        return scan_tar(stream, where)


def by_tarfile(data: bytes) -> list[tuple[str, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
        return [(member.name, member.offset_data, member.size) for member in archive if member.isreg()]


@given(MEMBERS, FORMATS)
def test_members_are_those_of_tarfile(members: list[tuple[str, int]], layout: int) -> None:
    try:
        data = tar_bytes({name: os.urandom(size) for name, size in members}, layout)
    except ValueError:  # a name that USTAR has no room for
        return
    assert list(zip(*scan(data), strict=True)) == by_tarfile(data)


@given(st.lists(st.tuples(PLAIN, st.integers(0, 3000), st.floats(0, 2e9)), max_size=12))
def test_times_in_extended_headers_change_nothing(members: list[tuple[str, int, float]]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, size, mtime in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = size, mtime
            archive.addfile(member, io.BytesIO(os.urandom(size)))
    assert list(zip(*scan(buffer.getvalue()), strict=True)) == by_tarfile(buffer.getvalue())


def test_offsets_lead_to_the_bytes() -> None:
    files = {f"{n:03d}.jpg": os.urandom(400 * n) for n in range(20)}
    data = tar_bytes(files)
    found = {name: data[offset : offset + size] for name, offset, size in zip(*scan(data), strict=True)}
    assert found == files


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_what_is_no_file_is_passed_over(kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.jpg", "b", "c.jpg"):
            member = tarfile.TarInfo(name)
            if name == "b":
                member.type, member.linkname = kind, "a.jpg"
                archive.addfile(member)
            else:
                member.size = 700
                archive.addfile(member, io.BytesIO(b"x" * 700))
    assert scan(buffer.getvalue()).names == ["a.jpg", "c.jpg"]


@pytest.mark.parametrize("mtime", [0, 1700000000.25, None], ids=["none", "a fraction", "now"])
def test_a_shard_that_webdataset_wrote_is_read_without_tarfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mtime: float | None
) -> None:
    from webdataset import TarWriter

    with TarWriter(str(tmp_path / "a.tar"), encoder=False, mtime=mtime) as writer:
        for number in range(30):
            writer.write({"__key__": f"{number:09d}", "jpg": b"j" * 90 * number, "cls": b"1"})
    data = (tmp_path / "a.tar").read_bytes()
    expected = by_tarfile(data)
    monkeypatch.setattr(tarfile, "open", None)
    assert list(zip(*scan(data), strict=True)) == expected


def test_a_header_from_before_posix_is_read() -> None:
    data = bytearray(tar_bytes({"a.jpg": b"x" * 600, "b.jpg": b"y"}))
    for start in (0, 3 * 512):
        data[start + 156] = 0
        data[start + 257 : start + 265] = bytes(8)
        _seal(data, start)
    assert scan(bytes(data)).names == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_that_ends_early_never_passes_for_a_shorter_one(layout: int) -> None:
    names = ["a.jpg", "b.jpg", "c" * 120 + ".jpg" if layout == tarfile.PAX_FORMAT else "c.jpg"]
    data = tar_bytes(dict.fromkeys(names, b"x" * 700), layout)
    end = max(offset + 1024 for offset in scan(data).offsets)
    for length in range(0, end + 512, 128):
        with pytest.raises(BadTar, match=r"^some\.tar: .*offset|^some\.tar: cut short"):
            scan(data[:length], "some.tar")
    assert len(scan(data[: end + 512]).names) == 3


def test_every_damaged_byte_of_a_header_is_noticed() -> None:
    data = tar_bytes({"a.jpg": b"x" * 700, "b.jpg": b"y" * 10, "c.jpg": b"z"})
    start = 3 * 512
    for at in range(start, start + 512, 3):
        broken = bytearray(data)
        broken[at] ^= 0x21
        with pytest.raises(BadTar, match=r"damaged header at offset 1536$"):
            scan(bytes(broken))


def test_a_hole_of_zeros_is_no_end() -> None:
    data = bytearray(tar_bytes({"a.jpg": b"x" * 700, "b.jpg": b"y" * 10, "c.jpg": b"z"}))
    data[1536:2048] = bytes(512)
    with pytest.raises(BadTar, match="more data after the end of the archive at offset 1536"):
        scan(bytes(data))


def test_a_second_archive_behind_the_first_is_noticed() -> None:
    with pytest.raises(BadTar, match="more data after the end"):
        scan(tar_bytes({"a.jpg": b"x"}) + tar_bytes({"b.jpg": b"x"}))


@pytest.mark.parametrize("data", [b"", b"x", b"\x1f\x8b" + b"g" * 2000, b"JFIF" * 400])
def test_what_is_no_tar_is_told_with_its_name(data: bytes) -> None:
    with pytest.raises(BadTar, match=r"^some\.tar: "):
        scan(data, "some.tar")


def test_an_empty_archive_has_no_members() -> None:
    assert scan(tar_bytes({})) == Members([], [], [])


def test_a_size_of_more_than_eleven_digits_is_followed() -> None:
    data = bytearray(tar_bytes({"a.jpg": b"x" * 700, "b.jpg": b"y"}))
    data[124:136] = b"000000001274"  # 700 in twelve digits
    _seal(data, 0)
    assert scan(bytes(data)).sizes == [700, 1]
    data[124:136] = b"\x80" + bytes(9) + (700).to_bytes(2, "big")  # in base 256, as for 8 GiB and more
    _seal(data, 0)
    assert scan(bytes(data)).sizes == [700, 1]


def _seal(data: bytearray, start: int) -> None:
    """Puts the right checksum into a header."""
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
