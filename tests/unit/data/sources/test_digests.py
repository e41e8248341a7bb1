"""The memory of digests: what it saves, and when it must not be trusted."""

import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ns_core.data.sources.digests import file_digests
from ns_core.errors import UserError

_OLD = time.time_ns() - 3600 * 10**9


def _file(path: Path, content: bytes, modified: int = _OLD) -> str:
    path.write_bytes(content)
    os.utime(path, ns=(modified, modified))
    return str(path)


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _remembered_otherwise(cache: Path) -> bytes:
    """What the memory now says of every file: something that reading would not give."""
    with sqlite3.connect(cache / "digests.sqlite") as base:
        assert base.execute("UPDATE sha256 SET digest = ?", (b"from the memory",)).rowcount > 0
    return b"from the memory"


def test_digests_come_in_the_order_of_the_paths(tmp_path: Path) -> None:
    files = [_file(tmp_path / f"{n}.jpg", b"%d" % n) for n in range(5000)]
    expected = [_sha256(b"%d" % n) for n in range(5000)]
    assert list(file_digests(files)) == expected
    assert list(file_digests(reversed(files))) == expected[::-1]


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, cache: Path) -> None:
    file = _file(tmp_path / "a.jpg", b"old")
    assert list(file_digests([file])) == [_sha256(b"old")]
    expected = [_remembered_otherwise(cache)]
    assert list(file_digests([file])) == expected


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.jpg", b"old")
    list(file_digests([file]))
    _file(tmp_path / "b.jpg", b"new")
    os.replace(tmp_path / "b.jpg", file)
    assert os.stat(file).st_mtime_ns == _OLD
    assert list(file_digests([file])) == [_sha256(b"new")]


@pytest.mark.parametrize(("content", "modified"), [(b"newer", _OLD), (b"new", _OLD + 1)], ids=["size", "time"])
def test_another_size_or_time_has_the_file_read(tmp_path: Path, content: bytes, modified: int) -> None:
    file = _file(tmp_path / "a.jpg", b"old")
    list(file_digests([file]))
    _file(tmp_path / "a.jpg", content, modified)
    assert list(file_digests([file])) == [_sha256(content)]


@pytest.mark.parametrize("seconds", [0, -3600])
def test_a_file_modified_just_now_is_not_remembered(tmp_path: Path, seconds: int) -> None:
    modified = time.time_ns() - seconds * 10**9
    file = _file(tmp_path / "a.jpg", b"old", modified)
    list(file_digests([file]))
    _file(tmp_path / "a.jpg", b"new", modified)
    assert list(file_digests([file])) == [_sha256(b"new")]


def test_another_algorithm_has_a_memory_of_its_own(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.jpg", b"x")
    assert list(file_digests([file])) == [_sha256(b"x")]
    assert list(file_digests([file], "md5")) == [hashlib.md5(b"x").digest()]


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000, b""])
def test_a_broken_memory_is_replaced(tmp_path: Path, cache: Path, content: bytes) -> None:
    cache.mkdir()
    (cache / "digests.sqlite").write_bytes(content)
    file = _file(tmp_path / "a.jpg", b"old")
    assert list(file_digests([file])) == [_sha256(b"old")]
    expected = [_remembered_otherwise(cache)]
    assert list(file_digests([file])) == expected, "the new memory works"


def test_pages_damaged_later_are_noticed_and_replaced(tmp_path: Path, cache: Path) -> None:
    files = [_file(tmp_path / f"{n}.jpg", b"%d" % n) for n in range(500)]
    expected = list(file_digests(files))
    place = cache / "digests.sqlite"
    data = bytearray(place.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    place.write_bytes(data)
    assert list(file_digests(files)) == expected
    assert list(file_digests(files)) == expected
    with sqlite3.connect(place) as base:
        assert base.execute("SELECT count(*) FROM sha256").fetchone() == (500,)


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path, cache: Path) -> None:
    cache.write_bytes(b"a file where a folder should be")
    assert list(file_digests([_file(tmp_path / "a.jpg", b"x")])) == [_sha256(b"x")]


def test_a_memory_that_another_process_holds_is_done_without(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(tmp_path / "a.jpg", b"x")
    list(file_digests([file]))
    monkeypatch.setattr("ns_core.data.sources.digests._LOCKED_S", 0.01)
    holder = sqlite3.connect(cache / "digests.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    other = _file(tmp_path / "b.jpg", b"y")
    assert list(file_digests([file, other])) == [_sha256(b"x"), _sha256(b"y")]
    holder.close()


def test_processes_at_once_agree(tmp_path: Path, cache: Path) -> None:
    files = [_file(tmp_path / f"{n}.jpg", b"%d" % n) for n in range(300)]
    code = (
        "import sys; from ns_core.data.sources.digests import file_digests; "
        "print(b''.join(file_digests(sys.argv[1:])).hex())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, *files], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = {process.communicate()[0].strip() for process in started}
    assert said == {b"".join(_sha256(b"%d" % n) for n in range(300)).hex()}
    with sqlite3.connect(cache / "digests.sqlite") as base:
        assert base.execute("SELECT count(*) FROM sha256").fetchone() == (300,)


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lost\.jpg: is gone"):
        list(file_digests([str(tmp_path / "lost.jpg")]))
