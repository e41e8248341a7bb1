"""What counts as an image, and every mistake with folders as one line."""

import os
from pathlib import Path

import pytest

from ns_core.config import DataConfig
from ns_core.data.folders import ImageTree, printable, read_file, scan
from ns_core.data.sources import open_source
from ns_core.errors import UserError
from tests.unit.data.sources.reading import mistake, samples


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("ant", "bee"):
        for number in range(4):
            _put(tmp_path / "labeled" / name / f"{number}.jpg")
    _put(tmp_path / "unlabeled" / "a.png")
    return tmp_path


def _put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def _config(root: Path, **folders: str) -> DataConfig:
    places = {"labeled": str(root / "labeled"), "unlabeled": str(root / "unlabeled"), **folders}
    return DataConfig.model_validate({"source": "folder", **places})


def _scan(root: Path, **folders: str) -> ImageTree:
    return scan(_config(root, **folders))


def _mistake(root: Path, **folders: str) -> str:
    return mistake(_config(root, **folders))


def test_images_are_known_by_their_ending_in_either_case(root: Path) -> None:
    names = ["a.JPG", "b.jpeg", "c.Png", "d.webp", "e.bmp", "f.gif", "g.tif", "h.TIFF"]
    for name in [*names, "i.txt", "j", "k.jpg.part", "l.svg"]:
        _put(root / "more" / name)
    assert _scan(root, unlabeled=str(root / "more")).pool == names


def test_a_folder_may_be_named_like_an_image(root: Path) -> None:
    _put(root / "labeled" / "v1.png" / "a.png")
    _put(root / "unlabeled" / "b.jpg" / "c.png")
    tree = _scan(root)
    assert tree.classes == ["ant", "bee", "v1.png"]
    assert tree.pool == ["a.png", "b.jpg/c.png"]


def test_hidden_files_and_folders_are_passed_over(root: Path) -> None:
    _put(root / "unlabeled" / ".thumbnails" / "a.png")
    _put(root / "unlabeled" / "._a.png")
    _put(root / "labeled" / ".cache" / "a.png")
    tree = _scan(root)
    assert tree.pool == ["a.png"]
    assert tree.classes == ["ant", "bee"]


def test_links_to_files_and_folders_are_followed(root: Path) -> None:
    _put(root / "far" / "deep" / "b.png")
    (root / "unlabeled" / "link.png").symlink_to(root / "labeled" / "ant" / "0.jpg")
    (root / "unlabeled" / "z").symlink_to(root / "far")
    (root / "labeled" / "fly").symlink_to(root / "far")
    tree = _scan(root)
    assert tree.pool == ["a.png", "link.png", "z/deep/b.png"]
    assert tree.by_class["labeled"]["fly"] == ["fly/deep/b.png"]


def test_a_link_in_a_circle_is_told(root: Path) -> None:
    (root / "unlabeled" / "x").mkdir()
    (root / "unlabeled" / "x" / "back").symlink_to(root / "unlabeled")
    assert "x/back: a link to a folder that holds it" in _mistake(root)


def test_a_link_to_nothing_is_told_and_not_passed_over(root: Path) -> None:
    (root / "unlabeled" / "lost.png").symlink_to(root / "nothing.png")
    assert "lost.png" in _scan(root).pool
    with pytest.raises(UserError, match=r"lost\.png: is gone, or a link to nothing"):
        read_file(root / "unlabeled" / "lost.png")


def test_a_name_that_is_not_utf8_is_listed_and_printable(root: Path) -> None:
    (root / "unlabeled" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    assert [printable(path) for path in _scan(root).pool] == ["a.png", "\\xff.png"]
    paths = [sample.path for sample in samples(open_source(_config(root)), "pool")]
    assert paths == ["unlabeled/a.png", "unlabeled/\\xff.png"]


def test_the_home_folder_may_be_written_as_a_tilde(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    assert _scan(root, unlabeled="~/unlabeled").pool == ["a.png"]


@pytest.mark.parametrize("field", ["labeled", "unlabeled", "holdout", "test"])
def test_a_missing_folder_is_named_with_its_field(root: Path, field: str) -> None:
    message = _mistake(root, **{field: str(root / "nowhere")})
    assert message.startswith(f"data.{field}: {root / 'nowhere'} does not exist")


@pytest.mark.parametrize("field", ["labeled", "unlabeled", "holdout", "test"])
def test_a_file_instead_of_a_folder_is_named_with_its_field(root: Path, field: str) -> None:
    message = _mistake(root, **{field: str(root / "unlabeled" / "a.png")})
    assert f"data.{field}: {root / 'unlabeled' / 'a.png'} is a file" in message


def test_no_class_folders_is_told(root: Path) -> None:
    (root / "empty").mkdir()
    assert "data.labeled" in (message := _mistake(root, labeled=str(root / "empty")))
    assert "has no class folders" in message


def test_images_outside_the_class_folders_are_told_with_one_of_them(root: Path) -> None:
    _put(root / "labeled" / "stray.png")
    _put(root / "labeled" / "stray2.png")
    assert "has 2 image(s) outside the class folders, such as stray.png" in _mistake(root)


def test_a_class_with_no_image_is_named(root: Path) -> None:
    (root / "labeled" / "fly").mkdir()
    (root / "labeled" / "fly" / "notes.txt").write_bytes(b"x")
    assert "labeled: class 'fly' has no image" in _mistake(root)


def test_one_class_alone_is_told(root: Path) -> None:
    _put(root / "one" / "ant" / "a.png")
    assert "has one class, 'ant'" in _mistake(root, labeled=str(root / "one"))


def test_an_empty_pool_is_told(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "empty" / "notes.txt").write_bytes(b"x")
    message = _mistake(root, unlabeled=str(root / "empty"))
    assert message.startswith(f"data.unlabeled: {root / 'empty'} holds no image")


@pytest.mark.parametrize("field", ["holdout", "test"])
def test_a_class_that_labeled_lacks_is_named_with_the_nearest(root: Path, field: str) -> None:
    for name in ("ant", "beee"):
        _put(root / field / name / "a.png")
    message = _mistake(root, **{field: str(root / field)})
    assert f"data.{field}: " in message
    assert "'beee' (did you mean 'bee'?)" in message


@pytest.mark.parametrize("field", ["holdout", "test"])
def test_a_class_that_only_labeled_has_is_named(root: Path, field: str) -> None:
    _put(root / field / "ant" / "a.png")
    message = _mistake(root, **{field: str(root / field)})
    assert "lacks class folders that data.labeled has: 'bee'" in message


@pytest.mark.parametrize(
    ("images", "given", "enough"),
    [
        (2, (), False),
        (3, (), True),
        (1, ("test",), False),
        (2, ("test",), True),
        (1, ("test", "holdout"), True),
    ],
)
def test_a_class_too_small_to_split_is_named_with_the_folders_that_would_help(
    root: Path, images: int, given: tuple[str, ...], enough: bool
) -> None:
    for number in range(images):
        _put(root / "labeled" / "fly" / f"{number}.png")
    for field in given:
        for name in ("ant", "bee", "fly"):
            _put(root / field / name / "a.png")
    folders = {field: str(root / field) for field in given}
    if enough:
        assert len(samples(open_source(_config(root, **folders)), "labeled")) >= 3
        return
    message = _mistake(root, **folders)
    assert f"data.labeled: class 'fly' has {images} image(s), too few to split" in message
    assert "data.holdout" in message
    assert ("data.test" in message) == ("test" not in given)
