"""ImageNet-P: frames as another decoder gives them, difficulties of the noises, broken clips with their reasons."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from ns_core.data.images import CorruptImage
from ns_core.errors import StageFailed
from ns_core.evaluation import sets
from ns_core.evaluation.samples import Opened, Pixels
from ns_core.evaluation.tables import Scene
from tests import official_miniatures as official

CLASSES = ("n01440764", "n01443537")
PICTURES = official.class_pictures(CLASSES, per_class=3, size=32)
NAMES = ("tilt", "translate", "shot_noise")


def perturbed(picture: Pixels, name: str, difficulty: int) -> Pixels:
    return official.sliding(picture, name, difficulty, frames=41 if name == "translate" else 31)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return official.imagenet_p(tmp_path, PICTURES, NAMES, difficulties=(1, 2, 3), perturb=perturbed)


def opened(root: Path, budget: int = 0, seed: int = 0) -> Opened:
    return sets.open_set("imagenet_p", str(root), CLASSES, None, budget, seed)


def gaps(made: Opened) -> dict[str, tuple[str, int]]:
    """Without those of the perturbations that no miniature here has."""
    absent = set(official.ALL_PERTURBATIONS) - set(NAMES)
    return {gap.what: (gap.reason, gap.images) for gap in made.gaps if gap.what not in absent}


def scene(name: str, level: int = 1) -> Scene:
    return Scene("imagenet_p", name, str(level))


def clips_of(root: Path, name: str) -> list[Path]:
    return sorted((root / name).rglob("*.mp4"))


def test_perturbations_and_difficulties_of_noises_are_scenes(root: Path) -> None:
    made = opened(root)
    assert set(made.clips) == {scene("tilt"), scene("translate"), *(scene("shot_noise", level) for level in (1, 2, 3))}
    assert {one.name for one, clips in made.clips.items() if clips.against_first} == {"shot_noise"}
    assert {(clips.step, clips.view) for clips in made.clips.values()} == {(1, "whole")}
    assert made.clips[scene("tilt")].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert made.clips[scene("tilt")].keys[3] == "n01443537/ILSVRC2012_val_00000004"
    assert {gap.what for gap in made.gaps} == set(official.ALL_PERTURBATIONS) - set(NAMES)


def test_frames_are_those_of_pyav_bit_for_bit(root: Path) -> None:
    for name, length in (("tilt", 31), ("translate", 41), ("shot_noise", 31)):
        clips = opened(root).clips[scene(name)]
        for number, path in enumerate(clips_of(root, name)):
            with av.open(str(path)) as container:
                expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
            frames = clips.frames(number)
            assert frames.dtype == np.uint8
            assert frames.shape == (length, 32, 32, 3)
            assert (frames == expected).all()
    first, source = opened(root).clips[scene("tilt")].frames(0)[0], PICTURES[CLASSES[0]][0]
    assert np.abs(first.mean(axis=(0, 1)) - source.mean(axis=(0, 1))).max() < 6, "red is red, blue is blue"


def test_a_missing_perturbation_is_named_and_missing_difficulties_are_nobodys_loss(root: Path) -> None:
    official.remove(root, "tilt")
    official.remove(root, "shot_noise_3")
    assert gaps(opened(root)) == {"tilt": ("the folder is not there", 0)}


def test_broken_clips_have_their_reasons_and_the_others_are_read(root: Path) -> None:
    paths = clips_of(root, "tilt")
    official.cut_short(paths[0], 0.7)
    official.not_an_image(paths[1])
    official.write_clip(paths[2], perturbed(PICTURES[CLASSES[0]][2], "tilt", 1), index_first=True)
    official.cut_short(paths[2], 0.9)
    official.write_clip(paths[3], perturbed(PICTURES[CLASSES[0]][2], "tilt", 1)[:30])
    clips = opened(root).clips[scene("tilt")]
    reasons = []
    for number in range(4):
        with pytest.raises(CorruptImage) as error:
            clips.frames(number)
        reasons.append(str(error.value))
    assert reasons[:2] == ["cannot be opened as a clip"] * 2
    assert reasons[2].startswith("ends after ")
    assert reasons[2].endswith(" of 31 frames")
    assert clips.frames(4).shape == clips.frames(5).shape == (31, 32, 32, 3)
    # Of the clips that can be read two have 31 frames, one has 30.
    assert reasons[3] == "has 30 frames, not 31"


def test_a_longer_clip_and_one_of_another_size_are_refused_and_a_vanished_one_is_told(root: Path) -> None:
    paths, picture = clips_of(root, "tilt"), PICTURES[CLASSES[0]][0]
    clips = opened(root).clips[scene("tilt")]
    official.write_clip(paths[0], perturbed(picture, "translate", 1))
    official.write_clip(paths[1], perturbed(picture, "tilt", 1)[:, :30])
    paths[2].unlink()
    for number, reason in enumerate(("has 41 frames, not 31", "is 30x32, not 32x32")):
        with pytest.raises(CorruptImage, match=f"^{reason}$"):
            clips.frames(number)
    with pytest.raises(StageFailed, match="went away while it was looked at"):
        clips.frames(2)


def test_decoders_keep_their_remarks_on_broken_clips_to_themselves(root: Path) -> None:
    paths = clips_of(root, "tilt")
    official.cut_short(paths[0])
    official.write_clip(paths[1], perturbed(PICTURES[CLASSES[0]][1], "tilt", 1), index_first=True)
    official.cut_short(paths[1], 0.9)
    program = (
        "import sys\n"
        "from ns_core.data.images import CorruptImage\n"
        "from ns_core.evaluation import sets\n"
        f"opened = sets.open_set('imagenet_p', {str(root)!r}, {CLASSES!r}, None, 0, 0)\n"
        "clips = opened.clips['imagenet_p', 'tilt', '1']\n"
        "bad = 0\n"
        "for number in range(6):\n"
        "    try:\n"
        "        clips.frames(number)\n"
        "    except CorruptImage:\n"
        "        bad += 1\n"
        "print(bad)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[4], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_clip_that_one_perturbation_lacks_and_a_stray_class_are_gaps(root: Path) -> None:
    clips_of(root, "translate")[0].unlink()
    official.stray_class(root / "tilt")
    made = opened(root)
    assert gaps(made) == {
        "class folder 'n99999999'": ("is not among the checkpoint's classes", 3),
        "translate 1": ("1 of 6 files are not there: 'n01440764/ILSVRC2012_val_00000001.mp4'", 1),
    }
    assert len(made.clips[scene("translate")].keys) == 5
    assert len(made.clips[scene("tilt")].keys) == 6


def test_a_draw_takes_the_same_clips_of_each_class_everywhere(root: Path) -> None:
    made = opened(root, budget=4, seed=1)
    (keys,) = {tuple(clips.keys) for clips in made.clips.values()}
    assert [key.split("/")[0] for key in keys] == [name for name in CLASSES for _ in range(2)]


def test_threads_decode_the_same_frames_at_once(root: Path) -> None:
    clips = opened(root).clips[scene("tilt")]
    alone = [clips.frames(number) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(clips.frames, [*range(6)] * 5))
    assert all((one == alone[number % 6]).all() for number, one in enumerate(together))
