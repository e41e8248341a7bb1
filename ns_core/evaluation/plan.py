"""What an evaluation looks at: every scene with its pictures, and how the work is cut.

In: the configuration, the dataset if there is one, the folders of official sets, the checkpoint's classes. Out: a
`Plan`. It is a function of these alone, so that several workers, and those that come after a killed one, cut the same
work alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ns_core.config import EvaluateConfig
from ns_core.data.dataset import Images
from ns_core.errors import UserError
from ns_core.evaluation.attacks.attacking import SUITES as ATTACKS
from ns_core.evaluation.draw import subset
from ns_core.evaluation.on_the_fly import Corrupted, Perturbed, Prepared
from ns_core.evaluation.results import Gap
from ns_core.evaluation.samples import Clips, Samples
from ns_core.evaluation.sets import open_set
from ns_core.evaluation.sources import Drawn, SplitSamples
from ns_core.evaluation.tables import CHUNK, SEQUENCE_SUITES, Scene

HOLDOUT, TEST, IMAGES = (Scene("clean", name) for name in ("holdout", "test", "images"))

FRAMES = 31
"""Of most sequences, official or made on the fly; others have 16 to 41. For telling how long the work takes."""
_FORWARD_BACKWARD = 3
"""As many predictions a gradient takes as long as."""
_AUTOATTACK = 3_000
"""As many predictions AutoAttack's standard set takes as long as, an image: 100 steps of one attack, 900 of each of two
and 5,000 queries, of which an undefended network's images see the first hundred."""


class Unit(NamedTuple):
    """A part of the work that is saved whole or not at all."""

    scene: Scene
    chunk: int
    numbers: range
    """Of the scene's images or clips."""

    @property
    def file(self) -> str:
        return self.scene.file(self.chunk)


@dataclass(frozen=True)
class Plan:
    """All scenes, in the order in which they are looked at: pictures, then sequences."""

    samples: Mapping[Scene, Samples] = field(default_factory=dict)
    clips: Mapping[Scene, Clips] = field(default_factory=dict)
    gaps: Sequence[Gap] = ()
    """What is known to be missing before anything was looked at."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Images of `holdout`, `test` and `images` before any draw, and images or clips of an official suite of which none
    was drawn."""

    @property
    def units(self) -> list[Unit]:
        """The work, cut into files of `CHUNK` images."""
        whole = {scene: len(what.keys) for scene, what in self.samples.items()}
        whole |= {scene: len(what.keys) for scene, what in self.clips.items()}
        return [
            Unit(scene, chunk, range(first, min(first + CHUNK, length)))
            for scene, length in whole.items()
            for chunk, first in enumerate(range(0, length, CHUNK))
        ]


def plan(config: EvaluateConfig, images: Images | None, class_names: Sequence[str]) -> Plan:
    """Every scene that was asked for and can be measured, and the gaps.

    `images`: the dataset, if there is one. `class_names`: the checkpoint's. Raises `UserError` when there is nothing to
    look at, for a dataset of other classes, and for a folder that does not look like its official set.
    """
    official, seed = config.official.given(), config.seed
    if images is None and not official:
        raise UserError(f"{config.STAGE}: nothing to look at: give a dataset, or a folder in evaluate.official")
    samples, lengths = _clean(images, class_names), dict[str, int]()
    gaps = list[Gap]()
    base, of_base = samples.get(TEST), "the dataset has no test images"
    if folder := official.pop("images", ""):
        opened = open_set("images", folder, class_names, None, 0, seed)
        base = opened.samples[IMAGES]
        samples[IMAGES] = _drawn(base, config.max_official or len(base.keys), seed)
        lengths["images"] = len(base.keys)
        gaps += opened.gaps
    elif images is None:
        of_base = "there is neither a dataset nor a folder evaluate.official.images"
    lengths |= {scene.name: len(samples[scene].keys) for scene in (HOLDOUT, TEST) if scene in samples}
    clips = dict[Scene, Clips]()
    if base is not None:
        samples |= dict(_corrupted(config, base))
        clips |= dict(_perturbed(config, base))
        samples |= dict(_attacked(config, base))
    else:
        asked = {"corruptions": config.corruptions, "perturbations": config.perturbations}
        asked |= {suite: getattr(config, f"{suite}_eps") for suite in ATTACKS}
        gaps += [Gap(suite=suite, what="all", reason=of_base) for suite, levels in asked.items() if levels]
    known = base if "images" in lengths else None
    for name, folder in official.items():
        opened = open_set(name, folder, class_names, known, config.max_official, seed)
        samples |= opened.samples
        clips |= opened.clips
        gaps += opened.gaps
        whole = [len(what.keys) for what in opened.samples.values()] + [
            len(what.keys) for what in opened.clips.values()
        ]
        longest = max(whole, default=0)
        if longest < (config.max_official or longest + 1):  # what reaches the limit may have been cut by it
            lengths[name] = longest
    there = {scene: what for scene, what in samples.items() if len(what.keys)}
    return Plan(there, {scene: what for scene, what in clips.items() if len(what.keys)}, gaps, lengths)


def cost(unit: Unit, steps: int) -> int:
    """How long a unit takes, in predictions of single images. `steps`: PGD's."""
    suite, level = unit.scene.suite, unit.scene.level
    if suite not in ATTACKS:
        return len(unit.numbers) * (FRAMES if suite in SEQUENCE_SUITES else 1)
    gradients = 0 if float(level) == 0 else {"fgsm": 1, "pgd": steps, "autoattack": _AUTOATTACK // 3}[suite]
    return len(unit.numbers) * (2 + _FORWARD_BACKWARD * gradients)


def _clean(images: Images | None, class_names: Sequence[str]) -> dict[Scene, Samples]:
    """The labelled splits that have images."""
    if images is None:
        return {}
    if list(images.index.class_names) != list(class_names):
        raise UserError(
            f"the checkpoint knows {len(class_names)} classes and the dataset has {images.index.num_classes}, or they "
            "have other names or another order: evaluate it on a dataset of its own classes"
        )
    splits = {HOLDOUT: SplitSamples(images, "holdout"), TEST: SplitSamples(images, "test")}
    return {scene: split for scene, split in splits.items() if len(split.keys)}


def _drawn(samples: Samples, limit: int, seed: int) -> Samples:
    """A stratified draw; the list itself when it has no more."""
    if len(samples.keys) <= limit:
        return samples
    return Drawn(samples, subset(samples.labels, limit, seed))


def _corrupted(config: EvaluateConfig, base: Samples) -> Iterator[tuple[Scene, Samples]]:
    prepared = Prepared(_drawn(base, config.max_images, config.seed))
    for name in config.corruptions:
        for severity in config.severities:
            made = Corrupted(prepared, name, severity, config.seed, config.frost)
            yield Scene("corruptions", name, str(severity)), made


def _perturbed(config: EvaluateConfig, base: Samples) -> Iterator[tuple[Scene, Clips]]:
    drawn = _drawn(base, config.max_sequences, config.seed)
    for name in config.perturbations:
        yield Scene("perturbations", name, "1"), Perturbed(drawn, name, config.seed)


def _attacked(config: EvaluateConfig, base: Samples) -> Iterator[tuple[Scene, Samples]]:
    drawn = _drawn(base, config.max_attacked, config.seed)
    for suite in ATTACKS:
        for eps in getattr(config, f"{suite}_eps"):
            yield Scene(suite, suite, f"{eps:g}"), drawn
