"""The plan of an evaluation: which scenes, of which images, cut how; and what is known to be missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ns_core.config import EvaluateConfig
from ns_core.config.evaluation import OfficialSets
from ns_core.data.dataset import Images
from ns_core.errors import UserError
from ns_core.evaluation.draw import subset
from ns_core.evaluation.plan import HOLDOUT, IMAGES, TEST, Plan, cost, plan
from ns_core.evaluation.tables import CHUNK, Scene
from tests.evaluation_lists import Pictures
from tests.factories import training_context
from tests.official_miniatures import class_folders, class_pictures

NAMES = ("n01440764", "n01443537", "n01484850")
SMALL: dict[str, Any] = {
    "corruptions": ("fog",),
    "severities": (1, 4),
    "perturbations": ("tilt",),
    "fgsm_eps": (2.0,),
    "pgd_eps": (0.5,),
    "max_images": 20,
    "max_sequences": 10,
    "max_attacked": 15,
}
MADE = [
    Scene("corruptions", "fog", "1"),
    Scene("corruptions", "fog", "4"),
    Scene("fgsm", "fgsm", "2"),
    Scene("pgd", "pgd", "0.5"),
]
SEQUENCES = [Scene("perturbations", "tilt", "1")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Images:
    return Images.open(training_context(tmp_path_factory.mktemp("images"), dataset=digits_folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(class_folders(tmp_path_factory.mktemp("validation"), class_pictures(NAMES, 9, 32)))


def _config(folder: str = "", **settings: Any) -> EvaluateConfig:
    return EvaluateConfig(**{**SMALL, "official": OfficialSets(images=folder), **settings})


def _lengths(planned: Plan) -> dict[Scene, int]:
    lengths = {scene: len(what.keys) for scene, what in planned.samples.items()}
    return lengths | {scene: len(what.keys) for scene, what in planned.clips.items()}


def test_of_a_dataset_the_splits_are_whole_and_the_rest_is_a_draw_of_the_test_split(images: Images) -> None:
    planned = plan(_config(), images, images.index.class_names)
    assert list(planned.samples) == [HOLDOUT, TEST, *MADE]
    assert list(planned.clips) == SEQUENCES
    lengths = _lengths(planned)
    assert (lengths[HOLDOUT], lengths[TEST]) == (60, 100)
    assert [lengths[scene] for scene in [*MADE, *SEQUENCES]] == [20, 20, 15, 15, 10]
    test = images.index.split("test")
    drawn = test.keys[subset(test.labels, 20, 0)].tolist()
    assert list(planned.samples[MADE[0]].keys) == drawn
    assert (planned.lengths, planned.gaps) == ({"holdout": 60, "test": 100}, [])


def test_a_folder_of_images_takes_the_place_of_the_test_split(folder: str) -> None:
    planned = plan(_config(folder), None, NAMES)
    assert list(planned.samples) == [IMAGES, *MADE]
    assert [_lengths(planned)[scene] for scene in (IMAGES, *MADE, *SEQUENCES)] == [27, 20, 20, 15, 15, 10]
    limited = plan(_config(folder, max_official=12), None, NAMES)
    assert [_lengths(limited)[scene] for scene in (IMAGES, *MADE)] == [12, 20, 20, 15, 15]
    assert limited.lengths == {"images": 27}
    assert np.bincount(limited.samples[IMAGES].labels).tolist() == [4, 4, 4]


def test_an_official_set_brings_its_scenes_and_the_clean_ones_beside_it(folder: str, tmp_path: Path) -> None:
    sketch = class_folders(tmp_path / "sketch", class_pictures(NAMES, 4, 32))
    official = OfficialSets(images=folder, imagenet_sketch=str(sketch))
    planned = plan(_config(official=official), None, NAMES)
    lengths = _lengths(planned)
    assert lengths[Scene("imagenet_sketch", "imagenet_sketch")] == 12
    assert lengths[Scene("imagenet_sketch", "clean")] == 27
    assert planned.lengths == {"images": 27, "imagenet_sketch": 27}
    assert {gap.suite for gap in planned.gaps} == {"imagenet_sketch"}, "997 class folders are not there"


def test_what_was_asked_for_and_has_no_images_is_a_gap(tmp_path: Path) -> None:
    sketch = class_folders(tmp_path / "sketch", class_pictures(NAMES, 4, 32))
    planned = plan(_config(official=OfficialSets(imagenet_sketch=str(sketch))), None, NAMES)
    missing = {gap.suite: gap for gap in planned.gaps if gap.what == "all"}
    assert set(missing) == {"corruptions", "perturbations", "fgsm", "pgd"}
    assert "neither a dataset nor a folder" in missing["pgd"].reason


def test_nothing_to_look_at_and_a_wrong_folder_are_told_in_a_line(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to look at: give a dataset"):
        plan(_config(), None, NAMES)
    with pytest.raises(UserError, match=r"evaluate\.official\.imagenet_c: .* has no folders of corruptions"):
        plan(_config(official=OfficialSets(imagenet_c=folder)), None, NAMES)


def test_the_work_is_cut_alike_for_everybody_and_holds_each_image_once() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    long = Pictures([picture] * (2 * CHUNK + 1), np.zeros(2 * CHUNK + 1, np.int32))
    planned = Plan(samples={TEST: long, HOLDOUT: Pictures([picture], np.zeros(1, np.int32))})
    assert [unit.file for unit in planned.units] == [
        "clean-test-0-00000.parquet",
        "clean-test-0-00001.parquet",
        "clean-test-0-00002.parquet",
        "clean-holdout-0-00000.parquet",
    ]
    assert [number for unit in planned.units[:3] for number in unit.numbers] == list(range(2 * CHUNK + 1))


def test_an_attack_costs_what_its_gradients_cost(folder: str) -> None:
    planned = plan(_config(folder, fgsm_eps=(0.0, 2.0), autoattack_eps=(1.0,)), None, NAMES)
    costs = {unit.scene: cost(unit, steps=10) / len(unit.numbers) for unit in planned.units}
    assert costs[IMAGES] == costs[MADE[0]] == 1
    assert costs[SEQUENCES[0]] == 31
    assert costs[Scene("fgsm", "fgsm", "0")] == 2
    assert costs[Scene("fgsm", "fgsm", "2")] == 5
    assert costs[Scene("pgd", "pgd", "0.5")] == 32
    assert costs[Scene("autoattack", "autoattack", "1")] > 1000
