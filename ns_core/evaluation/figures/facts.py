"""What a report tells and no table holds, and what follows from it: which figures are the published ones, and what of
the baseline was made in another way.

In: configuration, checkpoint, plan and the baseline's report. Out: `Facts`, as `score` computes with them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from ns_core.config import EvaluateConfig
from ns_core.evaluation.figures.baselines import ALEXNET_SIZE
from ns_core.evaluation.results import Gap, RobustnessReport
from ns_core.evaluation.sets.imagenet_index import synsets
from ns_core.evaluation.tables import Tables


@dataclass(frozen=True)
class Facts:
    """What the report tells and no table holds."""

    model: str
    size: int
    """Test resolution in pixels."""
    class_names: Sequence[str]
    config: EvaluateConfig
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Images of `holdout`, `test`, `images`, and images or clips of an official suite, before any draw. A split that is
    not here was not asked for."""
    choices: Mapping[str, int] = field(default_factory=dict)
    """Suite -> classes that the network had to choose from; not here: all of the checkpoint."""
    sizes: Mapping[str, Collection[tuple[int, int]]] = field(default_factory=dict)
    """Suite -> (height, width) of its official files; not here: as published."""
    attack_settings: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    """`fgsm`, `pgd`, `autoattack` -> `attacks.attack_settings`."""
    gaps: Sequence[Gap] = ()
    """What is known to be missing before anything was measured."""
    baseline: Tables | None = None
    baseline_fingerprint: str = ""
    baseline_report: RobustnessReport | None = None

    @property
    def subject(self) -> str | None:
        """The split that is corrupted, perturbed and attacked."""
        split = "images" if self.config.official.images else "test"
        return split if split in self.lengths else None

    @property
    def other_frost(self) -> bool:
        """Whether frost is asked for and the baseline's was made in another way."""
        before, config = self.baseline_report, self.config
        return before is not None and "frost" in config.corruptions and before.frost != config.frost

    def among(self, suite: str) -> int:
        """How many classes the network had to choose from."""
        return self.choices.get(suite, len(self.class_names))

    def published(self, suite: str) -> bool:
        """Whether figures of a whole official suite are those of its publication: of ImageNet-C and -P those of
        1,000-way ImageNet, on files of 224 pixels (Tiny-ImageNet-C is laid out alike)."""
        if suite not in ("imagenet_c", "imagenet_p"):
            return True
        return set(self.sizes.get(suite, ())) <= {ALEXNET_SIZE} and set(self.class_names) == set(synsets())

    def other_attack(self, kind: str) -> bool:
        """Whether the baseline was attacked with other settings. Its resolution may be another: it is the network's."""
        before = self.baseline_report.attacks.get(kind) if self.baseline_report else None
        return before is not None and _without_size(before.settings) != _without_size(
            self.attack_settings.get(kind, {})
        )


def _without_size(settings: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: value for name, value in settings.items() if name != "size"}
