"""CIFAR-10-C and -P: blocks of severities, both forms of labels, the checkpoint's order of classes, wrong arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ns_core.errors import UserError
from ns_core.evaluation import sets
from ns_core.evaluation.samples import Opened
from ns_core.evaluation.tables import Scene
from tests import official_miniatures as official
from tests.official_miniatures import CIFAR10

LABELS = np.array([3, 8, 8, 0, 6, 1, 9, 2, 5, 7, 4, 3])
PICTURES = np.random.default_rng(0).integers(0, 256, (len(LABELS), 32, 32, 3)).astype(np.uint8)
CORRUPTIONS, PERTURBATIONS = ("fog", "spatter"), ("tilt", "shot_noise")


def opened(name: str, root: Path, classes: Sequence[str] = CIFAR10, budget: int = 0, seed: int = 0) -> Opened:
    return sets.open_set(name, str(root), classes, None, budget, seed)


def gaps(made: Opened) -> dict[str, str]:
    """Of the files that each miniature here has."""
    here = (*CORRUPTIONS, "labels.npy") if made.samples else (*PERTURBATIONS, "labels.npy")
    return {gap.what: gap.reason for gap in made.gaps if gap.what in here}


@pytest.mark.parametrize("repeated", [True, False])
def test_severities_are_blocks_of_the_same_images(repeated: bool, tmp_path: Path) -> None:
    made = opened("cifar10_c", official.cifar10_c(tmp_path, PICTURES, LABELS, CORRUPTIONS, repeated))
    assert set(made.samples) == {Scene("cifar10_c", name, level) for name in CORRUPTIONS for level in "12345"}
    assert {gap.what for gap in made.gaps} == set(official.ALL_CORRUPTIONS) - set(CORRUPTIONS)
    for level in (1, 4):
        scene = made.samples[Scene("cifar10_c", "fog", str(level))]
        assert (scene.view, scene.classes) == ("whole", None)
        assert scene.labels.tolist() == LABELS.tolist()
        assert list(scene.keys) == [f"{number:05d}" for number in range(len(LABELS))]
        for number, picture in enumerate(PICTURES):
            assert (scene.image(number) == official.faded(picture, "fog", level)).all()


@pytest.mark.parametrize(
    "classes",
    [
        CIFAR10[::-1],
        tuple(name.title() for name in CIFAR10),
        ("plane", "car", *CIFAR10[2:]),
        tuple(map(str, range(10))),
        (*CIFAR10, "lorry"),
    ],
    ids=["reversed", "capitals", "synonyms", "numbers", "more"],
)
def test_labels_are_the_checkpoints_whatever_its_order(classes: tuple[str, ...], tmp_path: Path) -> None:
    made = opened("cifar10_c", official.cifar10_c(tmp_path, PICTURES, LABELS, CORRUPTIONS), classes)
    labels = made.samples[Scene("cifar10_c", "fog", "1")].labels
    expected = [9 - label for label in LABELS] if classes[0] == "truck" else LABELS.tolist()
    assert labels.dtype == np.int32
    assert labels.tolist() == expected


def test_a_checkpoint_of_other_classes_is_told_in_one_line(tmp_path: Path) -> None:
    root = official.cifar10_c(tmp_path, PICTURES, LABELS, CORRUPTIONS)
    with pytest.raises(
        UserError, match=r"^evaluate\.official\.cifar10_c: .*'cat', 'dog', 'fish' and 1 more\) are not CIF"
    ):
        opened("cifar10_c", root, ("cat", "dog", "fish", "bird"))


def test_an_array_of_another_shape_type_or_length_is_a_gap_and_the_rest_is_done(tmp_path: Path) -> None:
    root = official.cifar10_c(tmp_path, PICTURES, LABELS, official.ALL_CORRUPTIONS)
    np.save(root / "fog.npy", np.zeros((60, 32, 32, 3), np.float32))
    np.save(root / "snow.npy", np.zeros((60, 3, 32, 32), np.uint8))
    np.save(root / "frost.npy", np.zeros((55, 32, 32, 3), np.uint8))
    official.cut_short(root / "contrast.npy")
    (root / "spatter.npy").unlink()
    made = opened("cifar10_c", root)
    reasons = {gap.what: gap.reason for gap in made.gaps}
    assert reasons.pop("contrast") == "mmap length is greater than file size"
    assert reasons == {
        "fog": "is float32(60,32,32,3), not uint8(n,32,32,3)",
        "snow": "is uint8(60,3,32,32), not uint8(n,32,32,3)",
        "frost": "has 55 pictures, and by labels.npy 5 x 12 are expected",
        "spatter": "the file is not there",
    }
    assert len(made.samples) == (19 - 5) * 5


def test_one_severity_alone_is_not_taken_for_labels_that_are_repeated(tmp_path: Path) -> None:
    root = official.cifar10_c(tmp_path, PICTURES[:10], LABELS[:10], CORRUPTIONS, repeated=False)
    np.save(root / "fog.npy", PICTURES[:10])
    made = opened("cifar10_c", root)
    assert gaps(made) == {"fog": "has 10 pictures, and by labels.npy 5 x 10 are expected"}
    assert len(made.samples) == 5


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.arange(60) % 12, "not a list of labels 0 to 9"),
        (np.zeros(60), "not a list of labels 0 to 9"),
        (np.arange(60) % 7, "has other labels for other severities of the same images"),
    ],
)
def test_labels_that_are_none_are_told(labels: NDArray[np.int64], words: str, tmp_path: Path) -> None:
    root = official.cifar10_c(tmp_path, PICTURES, LABELS, CORRUPTIONS)
    np.save(root / "labels.npy", labels)
    with pytest.raises(
        UserError, match=rf"^evaluate\.official\.cifar10_c: .*labels\.npy.*{words}.*: unpack the set again$"
    ):
        opened("cifar10_c", root)


def test_a_draw_is_even_among_classes_and_the_same_in_every_scene(tmp_path: Path) -> None:
    root = official.cifar10_c(tmp_path, PICTURES, LABELS, CORRUPTIONS)
    made = opened("cifar10_c", root, budget=10, seed=4)
    (keys,) = {tuple(scene.keys) for scene in made.samples.values()}
    foggy = made.samples[Scene("cifar10_c", "fog", "5")]
    assert sorted(foggy.labels.tolist()) == list(range(10))
    for number, key in enumerate(keys):
        assert (foggy.image(number) == official.faded(PICTURES[int(key)], "fog", 5)).all()
        assert foggy.labels[number] == LABELS[int(key)]


def test_sequences_need_no_labels_nor_known_classes(tmp_path: Path) -> None:
    made = opened("cifar10_p", official.cifar10_p(tmp_path, PICTURES, PERTURBATIONS), ("cat", "dog"))
    assert set(made.clips) == {Scene("cifar10_p", name, "1") for name in PERTURBATIONS}
    tilted, noisy = (made.clips[Scene("cifar10_p", name, "1")] for name in PERTURBATIONS)
    assert (tilted.against_first, noisy.against_first, tilted.step, tilted.view) == (False, True, 1, "whole")
    assert tilted.labels.tolist() == [-1] * len(LABELS)
    assert (tilted.frames(3) == official.sliding(PICTURES[3], "tilt", 1)).all()
    assert {gap.what for gap in made.gaps} == set(official.ALL_PERTURBATIONS) - set(PERTURBATIONS)


def test_labels_beside_sequences_are_used_and_others_are_a_gap(tmp_path: Path) -> None:
    root = official.cifar10_p(tmp_path, PICTURES, PERTURBATIONS)
    np.save(root / "labels.npy", LABELS)
    tilt = Scene("cifar10_p", "tilt", "1")
    assert opened("cifar10_p", root, CIFAR10[::-1]).clips[tilt].labels.tolist() == [9 - one for one in LABELS]
    np.save(root / "labels.npy", LABELS[:5])
    made = opened("cifar10_p", root)
    assert gaps(made) == {"labels.npy": "has 5 labels, not 12"}
    assert made.clips[tilt].labels.tolist() == [-1] * len(LABELS)


def test_sequences_of_a_wrong_shape_or_number_are_gaps_and_difficulties_are_scenes(tmp_path: Path) -> None:
    root = official.cifar10_p(tmp_path, PICTURES, (*PERTURBATIONS, "rotate", "scale"))
    (root / "shot_noise.npy").rename(root / "shot_noise_2.npy")
    np.save(root / "rotate.npy", PICTURES)
    np.save(root / "scale.npy", np.zeros((3, 31, 32, 32, 3), np.uint8))
    made = opened("cifar10_p", root)
    reasons = {gap.what: gap.reason for gap in made.gaps}
    assert reasons["rotate"] == "is uint8(12,32,32,3), not uint8(n,T,32,32,3)"
    assert reasons["scale"] == "has 3 sequences, not 12"
    assert reasons["shot_noise"] == "the file is not there"
    assert set(made.clips) == {Scene("cifar10_p", "tilt", "1"), Scene("cifar10_p", "shot_noise", "2")}


def test_a_draw_of_sequences_is_the_same_in_every_scene(tmp_path: Path) -> None:
    root = official.cifar10_p(tmp_path, PICTURES, PERTURBATIONS)
    made = opened("cifar10_p", root, budget=5, seed=2)
    (keys,) = {tuple(clips.keys) for clips in made.clips.values()}
    assert len(keys) == 5
    tilted = made.clips[Scene("cifar10_p", "tilt", "1")]
    assert (tilted.frames(2) == official.sliding(PICTURES[int(keys[2])], "tilt", 1)).all()


def test_an_archive_that_is_called_an_array_is_a_gap_and_of_labels_one_line(tmp_path: Path) -> None:
    root = official.cifar10_c(tmp_path, PICTURES, LABELS, official.ALL_CORRUPTIONS)
    with (root / "fog.npy").open("wb") as file:
        np.savez(file, array=np.zeros(3, np.uint8))
    assert "fog" in gaps(opened("cifar10_c", root))
    with (root / "labels.npy").open("wb") as file:
        np.savez(file, array=np.zeros(3, np.uint8))
    with pytest.raises(UserError, match=r"labels\.npy: .*unpack the set again"):
        opened("cifar10_c", root)
