"""evaluate-robustness on miniatures of every official set: all measured, and of what is broken the rest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ns_core.config import EvaluateConfig
from ns_core.config.evaluation import OfficialSets
from ns_core.errors import UserError
from ns_core.evaluation import evaluate_robustness
from ns_core.evaluation.concluding import choices, points, sizes
from ns_core.evaluation.plan import plan
from ns_core.evaluation.report_file import ReportFile, read_report
from ns_core.evaluation.results import Corruptions, Estimate, Perturbations, RobustnessReport
from ns_core.evaluation.sets import digest
from ns_core.evaluation.sets.imagenet_index import synsets, synsets_of
from ns_core.evaluation.tables import Scene, Tables
from ns_core.models.checkpoint import ModelCard, Normalize, save_checkpoint
from ns_core.models.factory import create_network
from tests.factories import TINY_MODEL, settled, training_context
from tests.official_miniatures import (
    CIFAR10,
    cifar10_c,
    cifar10_p,
    class_folders,
    class_pictures,
    cut_short,
    imagenet_c,
    imagenet_p,
    not_an_image,
    remove,
    resize,
    stray_class,
)

SIZE, EACH = 32, 4
BOTH = sorted({*synsets_of("imagenet_a")} & {*synsets_of("imagenet_r")})[:3]
ALONE = next(name for name in synsets() if name not in {*synsets_of("imagenet_a"), *synsets_of("imagenet_r")})
NAMES = (*sorted([*BOTH, ALONE]), *CIFAR10)
"""Classes of the checkpoint: WordNet ids, three of which ImageNet-A and -R have, and those of CIFAR-10."""
FIXED: dict[str, Any] = {"corruptions": (), "perturbations": (), "fgsm_eps": (), "pgd_eps": ()}
SETS = tuple(OfficialSets.model_fields)


def _sets(root: Path) -> dict[str, str]:
    """A miniature of each set, by the name of its setting."""
    ours = class_pictures(sorted([*BOTH, ALONE]), EACH, SIZE)
    natural = class_pictures(BOTH, EACH, 40, seed=1)
    numbered = {str(synsets().index(name)): found for name, found in class_pictures(BOTH, EACH, 40, seed=2).items()}
    cifar = np.concatenate(list(class_pictures(CIFAR10, 2, 32).values()))
    made = {
        "images": class_folders(root / "images", ours),
        **{name: class_folders(root / name, natural) for name in ("imagenet_a", "imagenet_r", "imagenet_o")},
        "imagenet_v2": class_folders(root / "imagenet_v2", numbered),
        "imagenet_sketch": class_folders(root / "imagenet_sketch", natural),
        "imagenet_c": imagenet_c(root / "imagenet_c", ours, corruptions=("fog", "snow", "spatter"), grouped=True),
        "imagenet_p": imagenet_p(root / "imagenet_p", ours, perturbations=("tilt", "gaussian_noise")),
        "cifar10_c": cifar10_c(root / "cifar10_c", cifar, np.arange(20) // 2, corruptions=("fog", "contrast")),
        "cifar10_p": cifar10_p(root / "cifar10_p", cifar, perturbations=("tilt", "shot_noise")),
    }
    return {name: str(folder) for name, folder in made.items()}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return _sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights with BatchNorm statistics of the pictures, so that the answers differ among them."""
    folder = tmp_path_factory.mktemp("checkpoint")
    card = ModelCard(model=TINY_MODEL, class_names=NAMES, train_size=SIZE, test_size=SIZE, crop_pct=1)
    torch.manual_seed(0)
    network = create_network(TINY_MODEL, len(NAMES), bn_momentum=1.0).train()
    pictures = np.concatenate(list(class_pictures(NAMES, EACH, SIZE).values()))
    with torch.no_grad():
        network(Normalize(card)(torch.from_numpy(pictures)))
    save_checkpoint(folder, network, card)
    return folder


def _run(folder: Path, checkpoint: Path, sets: Mapping[str, str], **settings: Any) -> tuple[ReportFile, Tables]:
    context = training_context(folder, checkpoint=checkpoint)
    config = EvaluateConfig(**{**FIXED, "official": OfficialSets(**sets), **settings})
    evaluate_robustness.run(config, context)
    output = settled(context)
    return read_report(output), Tables.of(output)


def _error(tables: Tables, *scene: str) -> float:
    return float(1 - tables.predictions(Scene(*scene)).readable().right.mean())


def _told(report: RobustnessReport, suite: str) -> dict[str, tuple[str, int]]:
    """What is missing -> why, and how many images."""
    return {gap.what: (gap.reason, gap.images) for gap in report.gaps if gap.suite == suite}


def test_every_official_set_is_measured(checkpoint: Path, sets: Mapping[str, str], tmp_path: Path) -> None:
    assert set(sets) == set(SETS)
    report, tables = (found := _run(tmp_path, checkpoint, sets))[0].report, found[1]
    assert report.images is not None
    assert report.images.top1.images == 4 * EACH
    assert set(report.subsets) == {"imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_sketch"}
    for suite, subset in report.subsets.items():
        among = 3 if suite in ("imagenet_a", "imagenet_r") else len(NAMES)
        assert (subset.accuracy.top1.images, subset.classes, subset.comparable) == (3 * EACH, among, False)
        assert subset.clean is not None
        assert subset.clean.top1.images == 3 * EACH
        assert subset.gap == pytest.approx(_error(tables, suite, suite) - _error(tables, suite, "clean"))
    masked = tables.predictions(Scene("imagenet_a", "imagenet_a")).top1
    assert {NAMES[number] for number in masked} <= set(BOTH), "the network chooses among the classes of the set"
    assert report.imagenet_o is not None
    assert (report.imagenet_o.unknown, report.imagenet_o.known) == (3 * EACH, 3 * EACH)
    assert report.imagenet_c is not None
    for name in ("fog", "snow", "spatter"):
        for level in "12345":
            assert report.imagenet_c.errors[name][level] == pytest.approx(_error(tables, "imagenet_c", name, level))
    assert report.imagenet_c.extra == ["spatter"]
    assert (report.imagenet_c.normaliser, report.imagenet_c.comparable) == (None, False), "14 classes, 32 pixels"
    assert "motion_blur" in report.imagenet_c.missing
    assert report.cifar10_c is not None
    assert set(report.cifar10_c.errors) == {"fog", "contrast"}
    for measured, sequences in ((report.imagenet_p, 4 * EACH), (report.cifar10_p, 20)):
        assert measured is not None
        assert measured.sequences == sequences
        assert set(measured.flip_probability) >= {"tilt"}
    assert report.imagenet_p is not None
    assert (report.imagenet_p.normaliser, report.imagenet_p.fr) == (None, {})
    frames = tables.sequences(Scene("imagenet_p", "tilt", "1"))
    assert set(frames.frames) == {31}
    assert report.corruptions is None
    assert report.perturbations is None


def test_on_official_images_corruptions_perturbations_and_attacks_are_made_on_the_fly(
    checkpoint: Path, sets: Mapping[str, str], tmp_path: Path
) -> None:
    settings = {"corruptions": ("contrast",), "severities": (3,), "perturbations": ("rotate",), "pgd_eps": (1.0,)}
    file, _ = _run(tmp_path, checkpoint, {"images": sets["images"]}, **settings, max_images=10, max_sequences=10)
    report = file.report
    assert report.corruptions is not None
    assert report.corruptions.images == 10
    assert report.perturbations is not None
    assert report.perturbations.sequences == 10
    assert report.attacks["pgd"].images == 4 * EACH
    assert report.test is None
    assert report.gaps == []


def test_the_sizes_of_pictures_and_the_choices_are_known_before_anything_is_measured(sets: Mapping[str, str]) -> None:
    planned = plan(EvaluateConfig(**FIXED, official=OfficialSets(**sets)), None, NAMES)
    assert sizes(planned) == {"imagenet_c": {(SIZE, SIZE)}, "imagenet_p": {(SIZE, SIZE)}}
    assert choices(planned) == {"imagenet_a": 3, "imagenet_r": 3, "imagenet_o": 3}


def test_a_curve_has_one_normaliser_only() -> None:
    one = Estimate(value=50, low=40, high=60, images=9)
    by_baseline: dict[str, Any] = {"mce": one, "mfr": one, "normaliser": "baseline"}
    made, moved = (kind.model_construct(**by_baseline) for kind in (Corruptions, Perturbations))
    sets = {"imagenet_c": made, "imagenet_p": moved, "cifar10_c": made, "cifar10_p": moved}
    report = RobustnessReport(model="tiny", size=32, class_names=[]).model_copy(update=sets)
    assert {name for name, _, _ in points(report)} == {"cifar10_c/mce", "cifar10_p/mfr"}


def test_a_budget_limits_each_set_and_is_told(checkpoint: Path, sets: Mapping[str, str], tmp_path: Path) -> None:
    file, tables = _run(tmp_path, checkpoint, sets, max_official=8)
    lengths = {
        scene: len(tables.sequences(scene) if scene.suite.endswith("_p") else tables.predictions(scene))
        for scene in tables.scenes
    }
    assert set(lengths.values()) == {8}
    assert set(file.report.budget) >= {"imagenet_a", "imagenet_c", "imagenet_p", "cifar10_c", "cifar10_p"}
    keys = [tables.predictions(Scene("imagenet_c", name, "4")).key.tolist() for name in ("fog", "snow")]
    assert keys[0] == keys[1], "the same images of each corruption"


def _first(folder: Path, pattern: str) -> Path:
    return min(folder.rglob(pattern))


def test_of_what_is_broken_the_rest_is_measured_and_each_broken_thing_is_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    sets = _sets(tmp_path / "sets")
    roots = {name: Path(folder) for name, folder in sets.items()}
    not_an_image(_first(roots["imagenet_a"], "*.JPEG"))
    cut_short(_first(roots["imagenet_r"], "*.JPEG"))
    stray_class(roots["imagenet_sketch"])
    remove(roots["imagenet_c"], "fog", 3)
    resize(_first(roots["imagenet_c"] / "weather" / "snow" / "2", "*.JPEG"), 30, 30)
    cut_short(_first(roots["imagenet_p"] / "tilt", "*.mp4"))
    (roots["cifar10_c"] / "contrast.npy").unlink()
    not_an_image(roots["cifar10_p"] / "tilt.npy")
    report, tables = (found := _run(tmp_path / "run", checkpoint, sets))[0].report, found[1]

    for suite in ("imagenet_a", "imagenet_r"):
        assert report.subsets[suite].accuracy.top1.images == 3 * EACH - 1
        assert _told(report, suite)[suite][1] == 1
    assert _told(report, "imagenet_sketch")["class folder 'n99999999'"][1] == EACH
    assert report.subsets["imagenet_sketch"].accuracy.top1.images == 3 * EACH

    assert report.imagenet_c is not None
    assert set(report.imagenet_c.errors["fog"]) == {"1", "2", "4", "5"}
    assert "fog 3" in report.imagenet_c.missing
    assert _told(report, "imagenet_c")["fog 3"][0] == "the folder is not there"
    assert _told(report, "imagenet_c")["snow 2"] == ("is 30x30, not 32x32", 1)
    assert tables.predictions(Scene("imagenet_c", "snow", "2")).reason.tolist().count("") == 4 * EACH - 1

    assert report.imagenet_p is not None
    assert _told(report, "imagenet_p")["tilt 1"][1] == 1
    assert report.imagenet_p.flip_probability.keys() == {"tilt", "gaussian_noise"}
    assert report.cifar10_c is not None
    assert set(report.cifar10_c.errors) == {"fog"}
    assert "contrast" in _told(report, "cifar10_c")
    assert report.cifar10_p is not None
    assert set(report.cifar10_p.flip_probability) == {"shot_noise"}
    assert "tilt" in _told(report, "cifar10_p")


def _labels(tables: Tables, scene: Scene) -> NDArray[np.int32]:
    return tables.predictions(scene).label


def test_labels_are_classes_of_the_checkpoint_whatever_the_set_calls_them(
    checkpoint: Path, sets: Mapping[str, str], tmp_path: Path
) -> None:
    chosen = {name: sets[name] for name in ("images", "imagenet_v2", "imagenet_o", "cifar10_c")}
    _, tables = _run(tmp_path, checkpoint, chosen)
    ours = {NAMES.index(name) for name in BOTH}
    assert set(_labels(tables, Scene("imagenet_v2", "imagenet_v2"))) == ours
    assert set(_labels(tables, Scene("imagenet_o", "out"))) == {-1}
    assert set(_labels(tables, Scene("imagenet_o", "clean"))) == ours
    assert [NAMES[label] for label in _labels(tables, Scene("cifar10_c", "fog", "5"))[::2]] == list(CIFAR10)


def test_a_folder_that_changed_since_its_digest_was_taken_is_refused(
    checkpoint: Path, sets: Mapping[str, str], tmp_path: Path
) -> None:
    """What is seen now would be filed under what was there then."""
    config = EvaluateConfig(official=OfficialSets(imagenet_a=sets["imagenet_a"]))
    context = training_context(tmp_path, checkpoint=checkpoint)
    context.fingerprints = {"official.imagenet_a": digest("imagenet_a", sets["imagenet_a"])}
    assert evaluate_robustness.run(config, context)["imagenet_a_top1"] is not None
    context = training_context(tmp_path, checkpoint=checkpoint)
    context.fingerprints = {"official.imagenet_a": "imagenet_a-before"}
    with pytest.raises(UserError, match="does not hold what it held"):
        evaluate_robustness.run(config, context)
