"""ImageNet-C: both groupings, one list of images in all scenes, and each thing that is missing named."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ns_core.data.images import CorruptImage
from ns_core.errors import UserError
from ns_core.evaluation import sets
from ns_core.evaluation.samples import Opened
from ns_core.evaluation.tables import Scene
from tests import official_miniatures as official

CLASSES = ("n01440764", "n01443537", "n01484850")
PICTURES = official.class_pictures(CLASSES, per_class=4, size=24)
NAMES = ("fog", "snow", "spatter")


def opened(root: Path, budget: int = 0, seed: int = 0) -> Opened:
    return sets.open_set("imagenet_c", str(root), CLASSES, None, budget, seed)


def gaps(made: Opened) -> dict[str, tuple[str, int]]:
    """Without those of the 16 corruptions that no miniature here has."""
    absent = set(official.ALL_CORRUPTIONS) - set(NAMES)
    return {gap.what: (gap.reason, gap.images) for gap in made.gaps if gap.what not in absent}


def scene(name: str, level: int) -> Scene:
    return Scene("imagenet_c", name, str(level))


@pytest.mark.parametrize("grouped", [False, True])
def test_all_19_corruptions_at_5_severities_are_found_in_both_groupings(grouped: bool, tmp_path: Path) -> None:
    made = opened(official.imagenet_c(tmp_path, PICTURES, grouped=grouped))
    assert set(made.samples) == {scene(name, level) for name in official.ALL_CORRUPTIONS for level in range(1, 6)}
    assert not made.gaps
    foggy = made.samples[scene("fog", 3)]
    assert (foggy.view, foggy.classes) == ("whole", None)
    assert foggy.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert foggy.keys[4] == "n01443537/ILSVRC2012_val_00000005"
    written = BytesIO()
    Image.fromarray(official.faded(PICTURES[CLASSES[1]][0], "fog", 3)).save(written, "JPEG", quality=85, optimize=True)
    assert (foggy.image(4) == np.asarray(Image.open(written))).all()


def test_all_scenes_share_one_list_of_names(tmp_path: Path) -> None:
    made = opened(official.imagenet_c(tmp_path, PICTURES, NAMES))
    assert len({id(samples.keys) for samples in made.samples.values()}) == 1


def test_missing_corruptions_and_severities_are_named(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES, grouped=True)
    official.remove(root, "fog", 3)
    official.remove(root, "snow")
    made = opened(root)
    assert scene("fog", 3) not in made.samples
    assert scene("fog", 4) in made.samples
    assert gaps(made) == {"fog 3": ("the folder is not there", 0), "snow": ("the folder is not there", 0)}
    assert len(made.gaps) == 16 + 2


def test_a_class_folder_of_nobody_is_named_once_and_not_looked_at(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    official.stray_class(root / "fog" / "3")
    official.stray_class(root / "fog" / "4")
    made = opened(root)
    assert gaps(made) == {"class folder 'n99999999'": ("is not among the checkpoint's classes", 4)}
    assert len(made.samples[scene("fog", 3)].keys) == 12


def test_images_that_one_corruption_lacks_are_counted_and_the_others_keep_theirs(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    lost = sorted((root / "fog" / "3" / CLASSES[1]).iterdir())[:2]
    for path in lost:
        path.unlink()
    made = opened(root)
    assert gaps(made) == {
        "fog 3": (
            "2 of 12 files are not there: 'n01443537/ILSVRC2012_val_00000005.JPEG', "
            "'n01443537/ILSVRC2012_val_00000006.JPEG'",
            2,
        )
    }
    foggy = made.samples[scene("fog", 3)]
    assert len(foggy.keys) == len(foggy.labels) == 10
    assert set(foggy.keys) < set(made.samples[scene("fog", 2)].keys)
    for number, key in enumerate(foggy.keys):
        whole = made.samples[scene("fog", 2)]
        assert whole.labels[list(whole.keys).index(key)] == foggy.labels[number]
        foggy.image(number)


def test_the_first_scene_that_lacks_images_does_not_hide_them_from_the_others(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    next((root / "snow" / "1" / CLASSES[0]).iterdir()).unlink()
    made = opened(root)
    assert list(gaps(made)) == ["snow 1"]
    assert len(made.samples[scene("fog", 1)].keys) == 12


def test_an_empty_severity_is_a_gap_of_a_whole_scene(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    for path in (root / "fog" / "3").rglob("*.JPEG"):
        path.unlink()
    made = opened(root)
    assert scene("fog", 3) not in made.samples
    reason, images = gaps(made)["fog 3"]
    assert reason.startswith("12 of 12 files are not there: ")
    assert images == 0


def test_an_image_of_another_size_is_refused_even_where_it_is_the_first(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    official.resize(min((root / "snow" / "1" / CLASSES[0]).iterdir()), 20, 24)
    made = opened(root)
    with pytest.raises(CorruptImage, match=r"^is 20x24, not 24x24$"):
        made.samples[scene("snow", 1)].image(0)
    assert made.samples[scene("snow", 1)].image(1).shape == (24, 24, 3)
    assert made.samples[scene("fog", 1)].image(0).shape == (24, 24, 3)


def test_the_usual_size_is_not_that_of_a_first_image_alone(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, ("fog",), (3,))
    official.resize(min((root / "fog" / "3" / CLASSES[0]).iterdir()), 48, 48)
    foggy = opened(root).samples[scene("fog", 3)]
    with pytest.raises(CorruptImage, match=r"^is 48x48, not 24x24$"):
        foggy.image(0)
    assert [foggy.image(number).shape for number in range(1, 12)] == [(24, 24, 3)] * 11


def test_a_broken_image_is_refused_and_does_not_stop_the_opening(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    official.not_an_image(min((root / "snow" / "1" / CLASSES[0]).iterdir()))
    with pytest.raises(CorruptImage, match="not an image"):
        opened(root).samples[scene("snow", 1)].image(0)


def test_a_draw_takes_the_same_images_of_each_class_everywhere(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    made = opened(root, budget=6, seed=3)
    (keys,) = {tuple(samples.keys) for samples in made.samples.values()}
    assert [key.split("/")[0] for key in keys] == [name for name in CLASSES for _ in range(2)]
    assert tuple(opened(root, budget=6, seed=3).samples[scene("fog", 1)].keys) == keys
    assert {tuple(opened(root, 6, seed).samples[scene("fog", 1)].keys) for seed in range(8)} != {keys}
    assert tuple(opened(root, budget=100).samples[scene("fog", 1)].keys) == tuple(
        opened(root).samples[scene("fog", 1)].keys
    )


def test_images_that_were_not_drawn_are_no_gap(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    drawn = set(opened(root, 6, 3).samples[scene("fog", 1)].keys)
    for path in (root / "fog" / "1").rglob("*.JPEG"):
        if f"{path.parent.name}/{path.stem}" not in drawn:
            path.unlink()
    assert not gaps(opened(root, 6, 3))
    assert gaps(opened(root))["fog 1"][1] == 6


def test_a_checkpoint_of_other_classes_is_told_in_one_line(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    with pytest.raises(
        UserError, match=r"^evaluate\.official\.imagenet_c: none .*'n01440764'.*'cat', 'dog'\): [^\n]*$"
    ):
        sets.open_set("imagenet_c", str(root), ("cat", "dog"), None, 0, 0)


def test_threads_read_the_same_pictures_at_once(tmp_path: Path) -> None:
    foggy = opened(official.imagenet_c(tmp_path, PICTURES, NAMES)).samples[scene("fog", 5)]
    alone = [foggy.image(number) for number in range(12)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(foggy.image, [*range(12)] * 10))
    assert all((one == alone[number % 12]).all() for number, one in enumerate(together))


def test_a_folder_with_the_name_of_an_image_is_no_image(tmp_path: Path) -> None:
    root = official.imagenet_c(tmp_path, PICTURES, NAMES)
    before = opened(root).samples[scene("fog", 3)].keys
    next((root / "fog" / "3").iterdir()).joinpath("unpacked.JPEG").mkdir()
    assert list(opened(root).samples[scene("fog", 3)].keys) == list(before)
