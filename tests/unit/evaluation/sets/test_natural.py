"""ImageNet-A, -R, -O, -V2, -Sketch and folders of labelled images: labels, masks, clean images beside, gaps."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ns_core.data.images import CorruptImage
from ns_core.errors import StageFailed, UserError
from ns_core.evaluation import sets
from ns_core.evaluation.samples import Opened, Samples
from ns_core.evaluation.sets.imagenet_index import synsets, synsets_of
from ns_core.evaluation.tables import Scene
from tests import official_miniatures as official
from tests.official_miniatures import Pixels

IMAGENET = synsets()
A, R = synsets_of("imagenet_a"), synsets_of("imagenet_r")
A_START = (6, 11, 13, 15, 17, 22, 23, 27, 30, 37)
"""From eval.py of natural-adv-examples."""


def flat(names: tuple[str, ...], per_class: int = 1, size: int = 8) -> dict[str, Pixels]:
    """Small grey pictures, quick to write by the hundred."""
    return {name: np.full((per_class, size, size, 3), 40 + number % 200, np.uint8) for number, name in enumerate(names)}


def opened(name: str, root: Path, images: Samples | None = None, budget: int = 0, seed: int = 0) -> Opened:
    return sets.open_set(name, str(root), IMAGENET, images, budget, seed)


def told(opened: Opened) -> Mapping[str, tuple[str, int]]:
    return {gap.what: (gap.reason, gap.images) for gap in opened.gaps}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Validation images, one of each of the 1,000 classes."""
    root = official.class_folders(tmp_path_factory.mktemp("val"), flat(IMAGENET), "bmp")
    made = opened("images", root)
    assert not made.gaps
    return made.samples[Scene("clean", "images")]


def test_the_lists_of_classes_are_the_official_ones() -> None:
    assert (len(IMAGENET), len(A), len(R)) == (1000, 200, 200)
    assert IMAGENET[:2] == ("n01440764", "n01443537")
    assert tuple(IMAGENET.index(name) for name in A[:10]) == A_START
    assert len(set(A) & set(R)) == 86


def test_labelled_images_are_sorted_by_key_and_labelled_by_their_folder(imagenet: Samples) -> None:
    assert imagenet.keys[0] == "n01440764/ILSVRC2012_val_00000001"
    assert list(imagenet.keys) == sorted(imagenet.keys)
    assert imagenet.labels.dtype == np.int32
    assert imagenet.labels.tolist() == list(range(1000))
    assert (imagenet.classes, imagenet.view) == (None, "clean")
    assert imagenet.image(7).shape == (8, 8, 3)
    assert (imagenet.image(7) == 47).all()


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_answers_are_masked_to_the_200_classes_of_the_set_and_the_clean_images_likewise(
    name: str, imagenet: Samples, tmp_path: Path
) -> None:
    own = synsets_of(name)
    root = official.class_folders(tmp_path, flat(own, per_class=2), "png")
    made = opened(name, root, imagenet)
    hard, clean = made.samples[Scene(name, name)], made.samples[Scene(name, "clean")]
    numbers = [IMAGENET.index(one) for one in own]
    for scene in (hard, clean):
        assert scene.classes is not None
        assert scene.classes.tolist() == sorted(numbers)
        assert scene.view == "clean"
    assert hard.labels.tolist() == np.repeat(numbers, 2).tolist()
    assert clean.labels.tolist() == numbers
    assert clean.keys[0] == imagenet.keys[numbers[0]]
    assert (clean.image(3) == imagenet.image(numbers[3])).all()
    assert not made.gaps
    assert set(made.samples) == {Scene(name, name), Scene(name, "clean")}


def test_without_clean_images_there_is_the_set_alone(tmp_path: Path) -> None:
    root = official.class_folders(tmp_path, flat(A[:3]), "png")
    assert set(opened("imagenet_a", root).samples) == {Scene("imagenet_a", "imagenet_a")}


def test_the_mask_is_the_sets_even_where_folders_are_missing_and_these_are_told(
    imagenet: Samples, tmp_path: Path
) -> None:
    root = official.class_folders(tmp_path, flat(A[:3]), "png")
    (root / A[3]).mkdir()
    made = opened("imagenet_a", root, imagenet)
    hard, clean = made.samples[Scene("imagenet_a", "imagenet_a")], made.samples[Scene("imagenet_a", "clean")]
    assert hard.classes is not None
    assert len(hard.classes) == 200
    assert clean.labels.tolist() == hard.labels.tolist() == list(A_START[:3])
    assert list(told(made)) == ["197 of 200 class folders"]
    assert A[3] in told(made)["197 of 200 class folders"][0]


def test_version_2_is_numbered_and_10_comes_after_2(imagenet: Samples, tmp_path: Path) -> None:
    numbers = (0, 1, 2, 10, 100, 999)
    pictures = {str(number): np.full((1, 8, 8, 3), number % 251, np.uint8) for number in numbers}
    made = opened("imagenet_v2", official.class_folders(tmp_path, pictures, "bmp"), imagenet)
    second = made.samples[Scene("imagenet_v2", "imagenet_v2")]
    assert second.classes is None
    assert sorted(second.labels.tolist()) == list(numbers)
    for at, label in enumerate(second.labels.tolist()):
        assert (second.image(at) == label % 251).all()
    assert made.samples[Scene("imagenet_v2", "clean")].labels.tolist() == list(numbers)
    assert list(told(made)) == ["994 of 1000 class folders"]


def test_version_2_goes_by_imagenets_order_whatever_the_checkpoints(tmp_path: Path) -> None:
    root = official.class_folders(tmp_path, flat(("0", "10")), "bmp")
    made = sets.open_set("imagenet_v2", str(root), IMAGENET[::-1], None, 0, 0)
    assert made.samples[Scene("imagenet_v2", "imagenet_v2")].labels.tolist() == [999, 989]


def test_sketch_has_all_classes_and_no_mask(imagenet: Samples, tmp_path: Path) -> None:
    made = opened("imagenet_sketch", official.class_folders(tmp_path, flat(IMAGENET), "bmp"), imagenet)
    for name in ("imagenet_sketch", "clean"):
        scene = made.samples[Scene("imagenet_sketch", name)]
        assert scene.classes is None
        assert scene.labels.tolist() == list(range(1000))
    assert not made.gaps


def test_of_imagenet_o_nothing_has_a_label_and_the_folders_are_the_classes(imagenet: Samples, tmp_path: Path) -> None:
    own = IMAGENET[5:25]
    made = opened("imagenet_o", official.class_folders(tmp_path, flat(own, 2), "png"), imagenet)
    out, clean = made.samples[Scene("imagenet_o", "out")], made.samples[Scene("imagenet_o", "clean")]
    assert out.labels.tolist() == [-1] * 40
    assert clean.labels.tolist() == list(range(5, 25))
    for scene in (out, clean):
        assert scene.classes is not None
        assert scene.classes.tolist() == list(range(5, 25))
    assert not made.gaps


def test_a_draw_of_imagenet_o_is_even_among_its_folders(tmp_path: Path) -> None:
    made = opened("imagenet_o", official.class_folders(tmp_path, flat(IMAGENET[5:25], 3), "png"), budget=20)
    out = made.samples[Scene("imagenet_o", "out")]
    assert sorted(key.split("/")[0] for key in out.keys) == list(IMAGENET[5:25])


def test_a_stray_class_folder_is_a_gap_with_its_images_and_the_rest_is_done(tmp_path: Path) -> None:
    root = official.class_folders(tmp_path, flat(A, 2), "png")
    official.stray_class(root)
    (root / "__MACOSX").mkdir()
    made = opened("imagenet_a", root)
    assert told(made) == {"class folder 'n99999999'": ("is not among the classes of this set", 2)}
    assert len(made.samples[Scene("imagenet_a", "imagenet_a")].keys) == 400


def test_a_class_of_imagenet_that_is_not_of_the_set_is_stray(tmp_path: Path) -> None:
    root = official.class_folders(tmp_path, flat((*A, IMAGENET[0])), "png")
    assert told(opened("imagenet_a", root)) == {
        f"class folder '{IMAGENET[0]}'": ("is not among the classes of this set", 1)
    }


def test_many_stray_folders_share_a_gap(tmp_path: Path) -> None:
    stray = tuple(f"n9999999{digit}" for digit in range(7))
    made = opened("images", official.class_folders(tmp_path, flat((*IMAGENET[:2], *stray), 2), "png"))
    ((what, (reason, images)),) = told(made).items()
    assert (what, images) == ("7 class folders", 14)
    assert reason == ("is not among the checkpoint's classes: 'n99999990', 'n99999991', 'n99999992' and 4 more")


def test_a_checkpoint_without_some_classes_is_measured_on_the_others(tmp_path: Path) -> None:
    root = official.class_folders(tmp_path, flat(A, 2), "png")
    classes = [name for name in IMAGENET if name not in A[:2]]
    made = sets.open_set("imagenet_a", str(root), classes, None, 0, 0)
    scene = made.samples[Scene("imagenet_a", "imagenet_a")]
    assert len(scene.keys) == 396
    assert scene.classes is not None
    assert scene.classes.tolist() == [classes.index(name) for name in A[2:]]
    assert told(made) == {f"class folder '{name}'": ("is not among the checkpoint's classes", 2) for name in A[:2]}


@pytest.mark.parametrize("name", ["images", "imagenet_a", "imagenet_o", "imagenet_v2", "imagenet_sketch"])
def test_a_checkpoint_of_other_classes_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    folders = ("17", "400") if name == "imagenet_v2" else A[:2]
    root = official.class_folders(tmp_path, flat(folders), "png")
    with pytest.raises(UserError) as error:
        sets.open_set(name, str(root), ("cat", "dog"), None, 0, 0)
    line = str(error.value)
    assert line.startswith(f"evaluate.official.{name}: none of the class folders in {root} ('{folders[0]}'")
    assert "'cat', 'dog'" in line
    assert "\n" not in line


def test_the_folder_of_another_set_is_told_in_one_line(tmp_path: Path) -> None:
    root = official.class_folders(tmp_path, flat(tuple(name for name in R if name not in A)), "png")
    with pytest.raises(
        UserError, match=r"^evaluate\.official\.imagenet_a: none .* and 111 more\) is of this set [^\n]*$"
    ):
        opened("imagenet_a", root)


def test_folders_of_images_may_be_numbered_as_the_checkpoints_classes(tmp_path: Path) -> None:
    numbers = tuple(map(str, range(12)))
    root = official.class_folders(tmp_path, flat(numbers), "png")
    names = [f"kind {letter}" for letter in "abcdefghijkl"]
    made = sets.open_set("images", str(root), names, None, 0, 0).samples[Scene("clean", "images")]
    by_key = dict(zip(made.keys, made.labels.tolist(), strict=True))
    assert {int(key.split("/")[0]): label for key, label in by_key.items()} == {number: number for number in range(12)}


def test_every_kind_of_picture_at_any_depth_is_read_and_other_files_are_not(tmp_path: Path) -> None:
    for number, suffix in enumerate(("jpg", "JPEG", "png", "webp", "gif", "bmp", "tif", "ppm", "jp2", "avif")):
        path = tmp_path / IMAGENET[0] / ("deeper" if number % 2 else "") / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (90, 90, 90)).save(path)
    (tmp_path / IMAGENET[0] / "notes.txt").write_text("no picture")
    (tmp_path / "README.txt").write_text("nor this")
    made = opened("images", tmp_path).samples[Scene("clean", "images")]
    assert len(made.keys) == 10
    assert f"{IMAGENET[0]}/deeper/1" in made.keys
    for number in range(10):
        assert made.image(number).shape == (10, 20, 3)
        assert np.abs(made.image(number).astype(int) - 90).max() <= 3


def test_keys_keep_the_ending_where_nothing_else_tells_two_files_apart(tmp_path: Path) -> None:
    for suffix in ("png", "bmp"):
        official.class_folders(tmp_path, flat(IMAGENET[:1], 2), suffix)
    (tmp_path / IMAGENET[0] / "ILSVRC2012_val_00000002.bmp").unlink()
    stem = f"{IMAGENET[0]}/ILSVRC2012_val_0000000"
    made = opened("images", tmp_path).samples[Scene("clean", "images")]
    assert list(made.keys) == [f"{stem}1.bmp", f"{stem}1.png", f"{stem}2"]


def test_text_a_cut_and_a_vanished_picture_have_their_reasons(tmp_path: Path) -> None:
    root = official.class_folders(tmp_path, official.class_pictures(IMAGENET[:1], 3, 32))
    made = opened("images", root).samples[Scene("clean", "images")]
    paths = sorted((root / IMAGENET[0]).iterdir())
    official.not_an_image(paths[0])
    official.cut_short(paths[1])
    paths[2].unlink()
    with pytest.raises(StageFailed, match="went away while it was looked at"):
        made.image(2)
    reasons = []
    for number in range(2):
        with pytest.raises(CorruptImage) as error:
            made.image(number)
        reasons.append(str(error.value))
    assert reasons[0] == "not an image of a known format"
    assert "truncated" in reasons[1].lower()


def test_a_set_without_any_image_is_told(tmp_path: Path) -> None:
    (tmp_path / A[0]).mkdir()
    with pytest.raises(UserError, match="hold no image: unpack the set again"):
        opened("imagenet_a", tmp_path)


def test_a_draw_is_even_among_classes_the_same_each_time_and_of_the_clean_images_too(
    imagenet: Samples, tmp_path: Path
) -> None:
    root = official.class_folders(tmp_path, flat(A[:10], 5), "png")
    first, again, other = (opened("imagenet_a", root, imagenet, 20, seed) for seed in (1, 1, 2))
    own = Scene("imagenet_a", "imagenet_a")
    assert np.unique(first.samples[own].labels, return_counts=True)[1].tolist() == [2] * 10
    assert list(first.samples[own].keys) == list(again.samples[own].keys) != list(other.samples[own].keys)
    assert len(first.samples[Scene("imagenet_a", "clean")].keys) == 10
    few = opened("imagenet_a", root, imagenet, 4, 1)
    assert len(few.samples[Scene("imagenet_a", "clean")].keys) == 4


def test_threads_read_the_same_pictures_at_once(tmp_path: Path) -> None:
    root = official.class_folders(tmp_path, official.class_pictures(IMAGENET[:4], 5, 32))
    made = opened("images", root).samples[Scene("clean", "images")]
    alone = [made.image(number) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(made.image, [*range(20)] * 10))
    assert all((one == alone[number % 20]).all() for number, one in enumerate(together))
