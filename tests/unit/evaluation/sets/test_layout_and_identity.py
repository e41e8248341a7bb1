"""What a person is told of a folder that is not the set, and the identity of one that is."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ns_core.errors import UserError
from ns_core.evaluation import sets
from tests import official_miniatures as official

WNIDS = ("n01440764", "n01443537", "n01498041")
LABELS = np.arange(4)
PICTURES = official.class_pictures(WNIDS, per_class=2, size=32)
GOLDEN = "imagenet_a-fdaf267bc31f308325542fe715b12e3ecce3d2ca5247492dbd367b0a036f22cc"
"""Of three class folders with files of 5, 0 and 700 bytes, by hand from the definition in `sets.identity`."""
ARRAY = official.class_pictures(["one"], per_class=4, size=32)["one"]


def written(name: str, root: Path) -> Path:
    """The miniature of any set."""
    match name:
        case "imagenet_v2":
            return official.class_folders(root, {"0": PICTURES[WNIDS[0]], "10": PICTURES[WNIDS[1]]})
        case "imagenet_c":
            return official.imagenet_c(root, PICTURES, ("fog", "snow"), (1, 2), grouped=True)
        case "imagenet_p":
            return official.imagenet_p(root, PICTURES, ("tilt",))
        case "cifar10_c":
            return official.cifar10_c(root, ARRAY, LABELS, ("fog",))
        case "cifar10_p":
            return official.cifar10_p(root, ARRAY, ("tilt",))
        case _:
            return official.class_folders(root, PICTURES)


@pytest.mark.parametrize("name", sets.NAMES)
def test_a_set_passes_its_check_and_its_identity_does_not_depend_on_the_place(name: str, tmp_path: Path) -> None:
    here = written(name, tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "some where" / "else")
    sets.check(name, str(here))
    assert sets.digest(name, str(here)) == sets.digest(name, str(there))
    assert sets.digest(name, str(here)).startswith(f"{name}-")


@pytest.mark.parametrize("name", sets.NAMES)
def test_a_folder_that_is_not_there_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    for ask in (sets.check, sets.digest):
        with pytest.raises(
            UserError, match=rf"^evaluate\.official\.{name}: .*nowhere does not exist .*correct"
        ) as told:
            ask(name, str(tmp_path / "nowhere"))
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", sets.NAMES)
def test_a_folder_of_something_else_is_told_with_what_was_expected_and_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(
        UserError, match=rf"^evaluate\.official\.{name}: .* has no .*\(found 'notes.txt'\): give the fold"
    ):
        sets.check(name, str(tmp_path))


def test_an_empty_folder_and_a_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no class folders such as 'n01440764' \(found nothing\)"):
        sets.check("imagenet_a", str(tmp_path / "empty"))
    (tmp_path / "imagenet-a.tar").write_bytes(b"tar")
    with pytest.raises(UserError, match=r"imagenet-a\.tar is a file: give the folder that it was unpacked to"):
        sets.check("imagenet_a", str(tmp_path / "imagenet-a.tar"))


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_v2", "imagenet_p", "cifar10_c", "cifar10_p"])
def test_the_folder_above_the_set_is_answered_by_the_one_to_give(name: str, tmp_path: Path) -> None:
    written(name, tmp_path / "unpacked" / "more" / "set" if name == "imagenet_p" else tmp_path / "unpacked" / "set")
    above = tmp_path / "unpacked" / "more" if name == "imagenet_p" else tmp_path / "unpacked"
    if name == "imagenet_p":  # Its groups are one folder deep, so the folder above is as good.
        sets.check(name, str(above))
        above = tmp_path / "unpacked"
    with pytest.raises(UserError, match=rf"has no .*\(found '.*'\): give {above}/\w+$"):
        sets.check(name, str(above))


def test_a_corruption_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for size in ("224", "64"):
        official.imagenet_c(tmp_path / size, PICTURES, ("fog",), (1,))
    with pytest.raises(
        UserError, match=r"'fog' is there twice, .*224/fog and .*64/fog: give the folder of one of them"
    ):
        sets.check("imagenet_c", str(tmp_path))


def _grow(root: Path) -> None:
    with next(root.rglob("*.JPEG")).open("ab") as file:
        file.write(b"\0")


def _rename(root: Path) -> None:
    path = next(root.rglob("*.JPEG"))
    path.rename(path.with_name("another.JPEG"))


def _move(root: Path) -> None:
    path = next((root / "weather" / "fog" / "1" / WNIDS[0]).iterdir())
    path.rename(root / "weather" / "fog" / "1" / WNIDS[1] / path.name)


def _add(root: Path) -> None:
    official.stray_class(root / "weather" / "fog" / "1")


@pytest.mark.parametrize("change", [_grow, _rename, _move, _add])
def test_another_size_name_or_place_is_another_identity(change: Callable[[Path], None], tmp_path: Path) -> None:
    root = written("imagenet_c", tmp_path / "set")
    before = sets.digest("imagenet_c", str(root))
    change(root)
    assert sets.digest("imagenet_c", str(root)) != before


def test_the_same_files_as_another_set_are_another_identity(tmp_path: Path) -> None:
    root = str(written("imagenet_a", tmp_path / "set"))
    assert len({sets.digest(name, root) for name in ("imagenet_a", "imagenet_r", "images")}) == 3


def test_an_identity_once_given_stays_in_whichever_order_the_files_came(tmp_path: Path) -> None:
    files = [(f"{name}/{number}.JPEG", size) for name in WNIDS for number, size in enumerate((5, 0, 700))]
    for root, order in ((tmp_path / "one", files), (tmp_path / "two", files[::-1])):
        for path, size in order:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"x" * size)
        assert sets.digest("imagenet_a", str(root)) == GOLDEN


def test_hidden_files_are_no_part_of_the_identity(tmp_path: Path) -> None:
    root = written("imagenet_a", tmp_path / "set")
    before = sets.digest("imagenet_a", str(root))
    (root / WNIDS[0] / ".DS_Store").write_bytes(b"finder")
    assert sets.digest("imagenet_a", str(root)) == before


def test_arrays_of_one_size_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    digests = set()
    for number, picture in enumerate((ARRAY, 255 - ARRAY)):
        digests.add(
            sets.digest("cifar10_c", str(official.cifar10_c(tmp_path / str(number), picture, LABELS, ("fog",))))
        )
    assert len(digests) == 2


def test_a_link_in_a_circle_is_told(tmp_path: Path) -> None:
    root = written("imagenet_a", tmp_path / "set")
    (root / WNIDS[0] / "up").symlink_to(root)
    with pytest.raises(UserError, match="a link to a folder that holds it: remove the link"):
        sets.digest("imagenet_a", str(root))


def test_a_link_to_nothing_is_told_by_its_own_name(tmp_path: Path) -> None:
    root = written("imagenet_a", tmp_path / "set")
    (root / WNIDS[0] / "gone.JPEG").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"gone\.JPEG: is gone, or a link to nothing"):
        sets.digest("imagenet_a", str(root))


def test_checks_and_digests_load_neither_torch_nor_timm_nor_opencv_and_opening_no_torch(tmp_path: Path) -> None:
    root = written("imagenet_a", tmp_path / "set")
    program = (
        "import sys\n"
        "from ns_core.evaluation import sets\n"
        f"sets.check('imagenet_a', {str(root)!r}), sets.digest('imagenet_a', {str(root)!r})\n"
        "assert not {'torch', 'timm', 'cv2'} & set(sys.modules)\n"
        f"opened = sets.open_set('imagenet_a', {str(root)!r}, {WNIDS!r}, None, 0, 0)\n"
        "assert opened.samples and not {'torch', 'timm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[4])


def test_pictures_whose_size_says_nothing_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    """An image that is not compressed has one size whatever it shows."""
    (tmp_path / "cat").mkdir()
    made = []
    for level in (0, 255):
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / "cat" / "0.bmp")
        made.append(sets.digest("images", str(tmp_path)))
    assert made[0] != made[1]
