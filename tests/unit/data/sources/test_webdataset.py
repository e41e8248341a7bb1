"""Shards that are left where they lie: samples, labels, splits, places, and what may be wrong with them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ns_core.config import DataConfig
from ns_core.data.images import CorruptImage
from ns_core.data.index import SPLITS
from ns_core.data.sources import check, content_digest, open_source, shard_roots
from ns_core.data.sources.samples import found_in
from ns_core.data.tars import Members
from ns_core.errors import UserError
from tests.scripted_s3 import ScriptedS3
from tests.unit.data.sources.reading import count, labels, mistake, paths, put, samples, splits
from tests.unit.data.sources.tars import tar_bytes

NAMES = ("ant", "bee", "cat")


def _shard(first: int, images: int, label: str = "text") -> bytes:
    """Samples of three classes in turn, with labels as img2dataset's users write them."""
    files: dict[str, bytes] = {}
    for n in range(first, first + images):
        if label == "text":
            files[f"{n:05d}.cls"] = NAMES[n % 3].encode()
        elif label == "number":
            files[f"{n:05d}.cls"] = b"%d" % (n % 3)
        files[f"{n:05d}.jpg"] = b"image %d" % n * (n + 1)
        if label == "json":
            files[f"{n:05d}.json"] = json.dumps({"url": "u", "label": NAMES[n % 3]}).encode()
    return tar_bytes(files)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two labelled shards of 18 and 12 samples, two of 5 and 4 without labels."""
    put(tmp_path / "labeled" / "00000.tar", _shard(0, 18))
    put(tmp_path / "labeled" / "00001.tar", _shard(18, 12))
    put(tmp_path / "labeled" / "00000_stats.json", b"{}")
    put(tmp_path / "pool" / "a" / "00000.tar", _shard(100, 5, ""))
    put(tmp_path / "pool" / "b" / "00000.tar", _shard(200, 4, ""))
    return tmp_path


def _config(root: Path | str, **settings: object) -> DataConfig:
    places = {"labeled": f"{root}/labeled", "unlabeled": f"{root}/pool"}
    return DataConfig.model_validate({"source": "webdataset", **places, **settings})


def test_each_sample_is_in_one_split_and_its_place_leads_to_its_bytes(root: Path) -> None:
    config = _config(root, holdout_fraction=0.2, test_fraction=0.1)
    source = open_source(config)
    assert source.class_names == NAMES
    seen = []
    for split in SPLITS:
        for sample in samples(source, split):
            field, _, below = sample.shard.partition("/")
            data = (Path(shard_roots(config)[field]) / below).read_bytes()
            image = sample.read()
            assert data[sample.offset : sample.offset + len(image)] == image
            number = int(image.split()[1][: len(str(int(sample.path[-9:-4])))])
            assert sample.path == f"{sample.shard}/{number:05d}.jpg"
            assert sample.label == (None if split == "pool" else number % 3)
            assert sample.suffix == "jpg"
            seen.append(number)
    assert sorted(seen) == [*range(30), *range(100, 105), *range(200, 204)]
    assert labels(source, "holdout") == {0: 2, 1: 2, 2: 2}
    assert labels(source, "test") == {0: 1, 1: 1, 2: 1}
    assert {key: n for key, n in count(source).items() if key != "pool"} == {"labeled": 21, "holdout": 6, "test": 3}


def test_keys_name_shard_and_sample_and_a_part_is_a_shard(root: Path) -> None:
    source = open_source(_config(root))
    assert [sample.key for sample in samples(source, "pool")] == [
        *(f"pool-000000-{n:06d}" for n in range(5)),
        *(f"pool-000001-{n:06d}" for n in range(4)),
    ]
    assert [part.number for part in source.parts["labeled"]] == [0, 1]
    second = [sample.key for sample in source.parts["labeled"][1].samples()]
    assert all(key.startswith("labeled-000001-") for key in second)


def test_the_size_of_a_part_that_was_not_read_is_estimated_from_its_bytes(root: Path) -> None:
    put(root / "pool" / "c.tar", _shard(0, 60, "text"))
    parts = open_source(_config(root)).parts["pool"]
    assert parts[2].images > 30
    assert all(part.images >= 1 for part in parts)


def test_the_split_depends_on_seed_and_names_and_on_nothing_else(root: Path) -> None:
    before = splits(open_source(_config(root)))
    assert splits(open_source(_config(root, seed=1)))["test"] != before["test"]
    moved = shutil.copytree(root, root / "moved", ignore=shutil.ignore_patterns("moved"))
    assert splits(open_source(_config(moved))) == before


@pytest.mark.parametrize("label", ["number", "json"])
def test_labels_are_read_as_numbers_or_from_json(root: Path, label: str) -> None:
    put(root / "labeled" / "00000.tar", _shard(0, 18, label))
    put(root / "labeled" / "00001.tar", _shard(18, 12, label))
    source = open_source(_config(root))
    assert source.class_names == (NAMES if label == "json" else ("0", "1", "2"))
    for sample in samples(source, "labeled"):
        assert sample.label == int(sample.path[-9:-4]) % 3


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ({"cls": 1}, "1"),
        ({"class_name": "x"}, "x"),
        ({"class_name": "x", "label": 0}, "0"),
        ({"label": None, "cls": 2}, "2"),
    ],
)
def test_json_may_call_the_label_by_three_names(root: Path, content: dict[str, object], label: str) -> None:
    put(root / "labeled" / "00000.tar", tar_bytes({"a.jpg": b"a", "a.json": json.dumps(content).encode()}))
    put(root / "labeled" / "00001.tar", tar_bytes({"b.jpg": b"b", "b.cls": b" 7\n"}))
    for split in ("holdout", "test"):
        shutil.copytree(root / "labeled", root / split)
    source = open_source(_config(root, holdout=str(root / "holdout"), test=str(root / "test")))
    assert sorted(source.class_names) == sorted((label, "7"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("classes.txt", b"cat\nant\n\nbee\n"), ("classes.json", b'["cat", "ant", "bee"]')],
)
def test_a_file_of_class_names_beside_the_shards_gives_their_order(root: Path, name: str, content: bytes) -> None:
    put(root / "labeled" / name, content)
    by_name = open_source(_config(root))
    assert by_name.class_names == ("cat", "ant", "bee")
    assert all(s.label == (1, 2, 0)[int(s.path[-9:-4]) % 3] for s in samples(by_name, "labeled"))
    put(root / "labeled" / "00000.tar", _shard(0, 18, "number"))
    mixed = open_source(_config(root))
    assert {int(s.path[-9:-4]) % 3 == s.label for s in mixed.parts["labeled"][0].samples()} == {True}


def test_shards_of_their_own_give_holdout_and_test(root: Path) -> None:
    for split in ("holdout", "test"):
        put(root / split / "x.tar", _shard(50, 6))
    config = _config(root, holdout=str(root / "holdout"), test=str(root / "test"))
    source = open_source(config)
    assert {key: n for key, n in count(source).items() if key != "pool"} == {"labeled": 30, "holdout": 6, "test": 6}
    assert paths(source, "test")[0] == "test/x.tar/00050.jpg"
    assert shard_roots(config) == {field: f"{root}/{field}" for field in ("labeled", "holdout", "test")} | {
        "unlabeled": f"{root}/pool"
    }


def test_names_with_dots_are_samples_of_their_own(root: Path) -> None:
    files = {"img.v1.0001.jpg": b"a", "img.v1.0001.txt": b"t", "img.v1.0002.jpg": b"b"}
    put(root / "pool" / "a" / "00000.tar", tar_bytes(files))
    first = list(open_source(_config(root)).parts["pool"][0].samples())
    assert [(sample.path[-15:], sample.read()) for sample in first] == [
        ("img.v1.0001.jpg", b"a"),
        ("img.v1.0002.jpg", b"b"),
    ]


def test_a_sample_without_an_image_is_corrupt_and_the_first_of_several_is_taken(root: Path) -> None:
    files = {"a.txt": b"t", "b.png": b"png", "b.jpg": b"jpg", "._b.jpg": b"hidden", "c": b"no ending"}
    put(root / "pool" / "a" / "00000.tar", tar_bytes(files))
    first, second, third = open_source(_config(root)).parts["pool"][0].samples()
    assert (first.path, first.suffix) == ("unlabeled/a/00000.tar/a.txt", "")
    assert second.read() == b"jpg"
    assert third.path.endswith("/c")
    for sample in (first, third):
        with pytest.raises(CorruptImage, match=r"^no image in the sample$"):
            sample.read()


def test_a_labelled_sample_without_an_image_keeps_its_label(root: Path) -> None:
    put(root / "labeled" / "00001.tar", tar_bytes({"x.cls": b"ant", "y.txt": b"neither image nor label"}))
    source = open_source(_config(root))
    broken = [sample for split in SPLITS for sample in samples(source, split) if "00001.tar" in sample.path]
    assert sorted((sample.label is None, sample.split == "labeled") for sample in broken)[-1] == (True, True)
    assert {sample.label for sample in broken} == {0, None}


def test_a_sample_without_label_hides_no_class_that_only_another_split_has(root: Path) -> None:
    put(root / "labeled" / "00002.tar", tar_bytes({"y.txt": b"neither image nor label"}))
    put(root / "test" / "x.tar", tar_bytes({"x.jpg": b"x", "x.cls": b"fly"}))
    message = mistake(_config(root, test=str(root / "test")), at_check=False)
    assert "no sample of data.labeled has the class 'fly'" in message


def test_an_empty_shard_is_no_part(root: Path) -> None:
    put(root / "labeled" / "00002.tar", tar_bytes({}))
    put(root / "pool" / "c.tar", tar_bytes({}))
    source = open_source(_config(root))
    assert len(source.parts["labeled"]) == 2
    assert list(source.parts["pool"][2].samples()) == []


@given(st.permutations([(stem, end) for stem in ("a", "a.b", "d/a") for end in ("jpg", "cls", "json")]))
def test_members_are_grouped_in_any_order(order: list[tuple[str, str]]) -> None:
    names = [f"{stem}.{end}" for stem, end in order]
    found = found_in(Members(names, list(range(9)), [1] * 9))
    assert {sample.stem for sample in found} == {"a", "a.b", "d/a"}
    for sample in found:
        assert [names[span[0]] for span in (sample.image, sample.cls, sample.json)] == [
            f"{sample.stem}.{end}" for end in ("jpg", "cls", "json")
        ]


def test_images_outlive_the_walk_over_their_shard(root: Path) -> None:
    found = [sample for part in open_source(_config(root)).parts["pool"] for sample in part.samples()]
    shutil.rmtree(root / "pool")
    assert all(sample.read().startswith(b"image ") for sample in found)


# --- places


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("pool", ["a/0.tar", "a/1.tar", "a/2.tar", "b/0.tar"]),
        ("pool/", ["a/0.tar", "a/1.tar", "a/2.tar", "b/0.tar"]),
        ("pool/a", ["0.tar", "1.tar", "2.tar"]),
        ("pool/a/1.tar", ["1.tar"]),
        ("pool/a/*.tar", ["0.tar", "1.tar", "2.tar"]),
        ("pool/*/0.tar", ["a/0.tar", "b/0.tar"]),
        ("pool/a/[01].tar", ["0.tar", "1.tar"]),
        ("pool/a/{0..1}.tar", ["0.tar", "1.tar"]),
        ("pool/{a,b}/0.tar", ["a/0.tar", "b/0.tar"]),
        ("pool/{a,b}/?.tar", ["a/0.tar", "a/1.tar", "a/2.tar", "b/0.tar"]),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_shards_are_named_by_folder_file_glob_or_braces(
    root: Path, request: pytest.FixtureRequest, place: str, expected: list[str], remote: bool
) -> None:
    shutil.rmtree(root / "pool")
    for name in ("a/0", "a/1", "a/2", "b/0"):
        put(root / "pool" / f"{name}.tar", _shard(0, 3, ""))
    put(root / "pool" / "a" / "0.json", b"")
    put(root / "pool" / ".hidden" / "9.tar", b"")
    base = _in_s3(root, request) if remote else str(root)
    config = _config(root, unlabeled=f"{base}/{place}")
    below = list(dict.fromkeys(sample.shard.partition("/")[2] for sample in samples(open_source(config), "pool")))
    assert below == expected
    assert {f"{shard_roots(config)['unlabeled']}/{path}" for path in below} <= {
        f"{base}/pool/{name}.tar" for name in ("a/0", "a/1", "a/2", "b/0")
    }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    with ScriptedS3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def _in_s3(root: Path, request: pytest.FixtureRequest) -> str:
    """A copy of all files in the bucket; its URI."""
    server: ScriptedS3 = request.getfixturevalue("server")
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        server.objects[f"/bucket/data/{file.relative_to(root)}"] = file.read_bytes()
    return "s3://bucket/data"


def test_shards_in_s3_are_those_of_a_folder(root: Path, request: pytest.FixtureRequest) -> None:
    put(root / "labeled" / "classes.txt", b"cat\nant\nbee\n")
    local, remote = _config(root), _config(_in_s3(root, request))
    here, there = open_source(local), open_source(remote)
    assert there.class_names == here.class_names == ("cat", "ant", "bee")
    assert splits(there) == splits(here)
    for split in SPLITS:
        for a, b in zip(samples(here, split), samples(there, split), strict=True):
            assert (a.read(), a.shard, a.offset) == (b.read(), b.shard, b.offset)
    assert content_digest(remote) == content_digest(local)
    assert shard_roots(remote) == {"labeled": "s3://bucket/data/labeled", "unlabeled": "s3://bucket/data/pool"}


def test_a_shard_in_s3_is_hashed_once_and_again_when_its_content_changes(
    root: Path, request: pytest.FixtureRequest, server: ScriptedS3
) -> None:
    config = _config(_in_s3(root, request))
    before = content_digest(config)
    read = server.ranges
    assert read > 0
    assert content_digest(config) == before
    assert server.ranges == read, "no shard was read again"
    name = next(name for name in server.objects if "/pool/" in name)
    content = server.objects[name]
    server.objects[name] = content[:-1] + b"x"
    changed = content_digest(config)
    assert changed != before
    assert server.ranges == read + 1
    server.objects[name] = content
    assert content_digest(config) == before


def test_no_copy_of_a_shard_from_s3_is_left_behind(
    root: Path,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    found = samples(open_source(_config(_in_s3(root, request))), "pool")
    assert list(scratch.iterdir()) == []
    assert found[0].read()


def test_the_digest_knows_shards_and_class_names_and_not_their_place(root: Path) -> None:
    before = content_digest(_config(root))
    moved = root.rename(root.with_name(f"{root.name}-moved"))
    assert content_digest(_config(moved)) == before
    put(moved / "labeled" / "classes.txt", b"cat\nant\nbee\n")
    named = content_digest(_config(moved))
    put(moved / "pool" / "b" / "00000.tar", _shard(200, 5, ""))
    assert len({before, named, content_digest(_config(moved))}) == 3


# --- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labeled": ""}, "data.labeled is not set"),
        ({"unlabeled": ""}, "data.unlabeled is not set"),
        ({"unlabeled": "{root}/nowhere"}, "data.unlabeled: {root}/nowhere does not exist"),
        ({"unlabeled": "{root}/pool/c/*.tar"}, "data.unlabeled: {root}/pool/c does not exist"),
        ({"unlabeled": "{root}/pool/*.tar"}, "data.unlabeled: {root}/pool/*.tar matches no .tar"),
        ({"labeled": "{root}/labeled/{{00000..00003}}.tar"}, "{root}/labeled/00002.tar does not exist, nor do 1 more"),
        ({"labeled": "{root}/labeled/{{00000.tar"}, "write braces as {{00000..00123}}"),
        ({"labeled": "{root}/labeled/9.tar"}, "data.labeled: {root}/labeled/9.tar does not exist"),
    ],
)
def test_a_place_without_shards_is_told(root: Path, settings: dict[str, str], message: str) -> None:
    told = mistake(_config(root, **{field: place.format(root=root) for field, place in settings.items()}))
    assert message.format(root=root) in told


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.json", b"{}", "classes.json is no list of texts"),
        ("classes.json", b"[1", "classes.json is no JSON"),
        ("classes.txt", b"ant\nbee\nant\n", "classes.txt has 3 class(es), 2 different"),
        ("classes.txt", b"\xff\xfe", "classes.txt is not UTF-8"),
    ],
)
def test_class_names_that_cannot_be_used_are_told(root: Path, name: str, content: bytes, message: str) -> None:
    put(root / "labeled" / name, content)
    assert message in mistake(_config(root))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x.jpg": b"x"}, "00001.tar/x has no label: give it a member .cls"),
        ({"x.jpg": b"x", "x.cls": b" "}, "00001.tar/x has no label"),
        ({"x.jpg": b"x", "x.json": b'{"caption": "c"}'}, "00001.tar/x has no label"),
        ({"x.jpg": b"x", "x.json": b'{"label": 1.5}'}, "00001.tar/x has no label"),
        ({"x.jpg": b"x", "x.json": b"{"}, "00001.tar/x.json is no JSON"),
        ({"x.jpg": b"x", "x.cls": b"fly"}, "class 'fly' has 1 image(s), too few to split"),
    ],
)
def test_a_label_that_is_none_is_told_with_shard_and_sample(root: Path, files: dict[str, bytes], message: str) -> None:
    put(root / "labeled" / "00001.tar", tar_bytes(files))
    config = _config(root)
    check(config)
    assert message in mistake(config, at_check=False)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (b"bea", "00001.tar/x: class 'bea' (did you mean 'bee'?) is not in the list"),
        (b"3", "label 3, where the list of classes has 0 to 2"),
    ],
)
def test_a_label_that_the_list_of_classes_lacks_is_told(root: Path, label: bytes, message: str) -> None:
    put(root / "labeled" / "classes.txt", b"ant\nbee\ncat\n")
    put(root / "labeled" / "00001.tar", tar_bytes({"x.jpg": b"x", "x.cls": label}))
    assert message in mistake(_config(root), at_check=False)


def test_a_class_that_a_split_lacks_or_has_alone_is_told(root: Path) -> None:
    put(root / "test" / "x.tar", tar_bytes({"x.jpg": b"x", "x.cls": b"ant"}))
    assert "data.test: no sample has the class 'bee'" in mistake(_config(root, test=str(root / "test")), at_check=False)
    put(root / "test" / "x.tar", tar_bytes({"x.jpg": b"x", "x.cls": b"bea"}))
    message = mistake(_config(root, test=str(root / "test")), at_check=False)
    assert "x.tar/x: no sample of data.labeled has the class 'bea' (did you mean 'bee'?)" in message


def test_one_class_alone_is_told(root: Path) -> None:
    put(root / "one" / "x.tar", tar_bytes({"x.jpg": b"x", "x.cls": b"ant"}))
    assert "has one class" in mistake(_config(root, labeled=str(root / "one")), at_check=False)


def test_a_shard_cut_short_is_told_with_its_name_and_never_passes_for_a_shorter_one(root: Path) -> None:
    shard = root / "pool" / "b" / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    first, second = open_source(_config(root)).parts["pool"]
    assert len(list(first.samples())) == 5
    with pytest.raises(UserError, match=r"^data\.unlabeled: .*pool/b/00000\.tar: .*cut short.*copy the shard again"):
        list(second.samples())


def test_a_shard_that_grows_between_two_looks_is_noticed(root: Path) -> None:
    source = open_source(_config(root))
    put(root / "labeled" / "00001.tar", _shard(18, 15))
    with pytest.raises(OSError, match="15 samples, 12 a moment ago"):
        list(source.parts["labeled"][1].samples())
