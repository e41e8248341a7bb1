"""What an arm of a study is, and the changes that arms make to a recipe.

In: any recipe. Out: the settings, as for `--set`, or the finetuning, with which an arm differs from it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flows.network_sizes import neighbour
from ns_core.config import FinetuneConfig, Recipe
from ns_core.config.paper import unfinetuned as left_alone
from ns_core.errors import UserError

EVERY = 1_000_000_000
"""Images a class: more than any pool has."""


@dataclass(frozen=True)
class Arm:
    """One row of a study."""

    name: str
    words: str
    settings: Callable[[Recipe], list[str]] = lambda recipe: []
    """What differs from the recipe, as for `--set`."""
    paper: str = ""
    """The paper's figure for it, with the models it was measured on."""
    finetune: Callable[[Recipe], FinetuneConfig] | None = None
    missing: Callable[[Recipe], str] = lambda recipe: ""
    """What the recipe lacks for this arm; empty: nothing."""

    def recipe(self, base: Recipe, study: str) -> Recipe:
        """Raises `UserError` where the recipe cannot be changed so."""
        if lacking := self.missing(base):
            raise UserError(f"arm {self.name} of study {study}: {lacking}; give the recipe another network")
        made = base.override([f"name={base.name}-{study}-{self.name}", *self.settings(base)])
        return made.model_copy(update={"finetune": self.finetune(made)}) if self.finetune else made


@dataclass(frozen=True)
class Study:
    """Arms that answer one question; the first is the baseline."""

    name: str
    question: str
    arms: tuple[Arm, ...]

    def arms_of(self, base: Recipe) -> tuple[Arm, ...]:
        """Those that this recipe has what it takes for; the baseline is always among them."""
        return tuple(arm for arm in self.arms if not arm.missing(base))


def _last_student(recipe: Recipe) -> str:
    return recipe.student_models[-1] if recipe.student_models else recipe.student.model


def same_size(recipe: Recipe) -> list[str]:
    return [f'student_models=["{recipe.teacher.model}"]']


def supervised(recipe: Recipe) -> list[str]:
    """The last student's network, with its noise, on the labelled images alone."""
    student = recipe.student
    return [
        "generations=0",
        f"teacher.model={_last_student(recipe)}",
        f"teacher.dropout={student.dropout}",
        f"teacher.stochastic_depth={student.stochastic_depth}",
    ]


def unfinetuned(recipe: Recipe) -> FinetuneConfig:
    """One update of what the recipe does not freeze, at the last rate of the student's schedule."""
    return left_alone(recipe.student).model_copy(update={"frozen_blocks": recipe.finetune.frozen_blocks})


PLAIN = [
    "student.augmentation.randaugment_ops=0",
    "student.augmentation.min_area=1.0",
    "student.augmentation.max_area=1.0",
    "student.augmentation.pad=0",
]


def noised_teacher(recipe: Recipe) -> list[str]:
    """Labels made with the noise that the student learns with."""
    student = recipe.student
    pictures = [f"infer.augmentation.{name}={value}" for name, value in student.augmentation]
    return [*pictures, f"infer.dropout={student.dropout}", f"infer.stochastic_depth={student.stochastic_depth}"]


def pseudo_alone(recipe: Recipe) -> list[str]:
    return ["student.loss=pseudo"]


def generations(count: int) -> Callable[[Recipe], list[str]]:
    return lambda recipe: [f"generations={count}"]


def ratio_of(ratio: int) -> Callable[[Recipe], list[str]]:
    return lambda recipe: [f"student.ratio={ratio}", "student_ratios=[]"]


def teacher_alone(recipe: Recipe) -> list[str]:
    """The first teacher and nothing after it."""
    return ["generations=0"]


def teacher_arm(name: str, steps: int, paper: str = "") -> Arm:
    """Other networks teach the students that the recipe has; what it says of its teacher's noise and length stays."""

    def missing(recipe: Recipe) -> str:
        there = neighbour(recipe.teacher.model, steps)
        return "" if there else f"'{recipe.teacher.model}' is of no family with a {name} network"

    def settings(recipe: Recipe) -> list[str]:
        return [f"teacher.model={neighbour(recipe.teacher.model, steps)}"]

    return Arm(name, f"a teacher one size {name}", settings, paper, missing=missing)


def share_arm(parts: int, paper: str) -> Arm:
    """The arms of one seed have shares within each other."""
    return Arm(
        f"1-of-{parts}",
        f"1/{parts} of the pool",
        lambda recipe: [f"select.pool_fraction={recipe.select.pool_fraction / parts!r}"],
        paper,
    )


def band_arm(labels: str, band: tuple[str, float, float], paper: str) -> Arm:
    name, low, high = band
    return Arm(
        f"{labels}-{name}",
        f"{labels} labels, confidence {low:g} to {high:g}",
        lambda recipe: [f"student.labels={labels}", f"select.threshold={low}", f"select.max_confidence={high}"],
        paper,
    )


def tuned_on_labels(recipe: Recipe) -> FinetuneConfig:
    """The whole network on the labels, as long as the first teacher was trained, at a tenth of the student's rate and
    with the student's noise; at the resolution of its training."""
    student, fields = recipe.student, FinetuneConfig.model_fields
    shared = {name: value for name, value in student if name in fields}
    length = ("batch_size", "steps", "epoch_steps", "warmup_steps", "decay_steps", "accumulation")
    own = {name: getattr(recipe.teacher, name) for name in length}
    return FinetuneConfig(**shared | own | {"lr": student.lr / 10, "frozen_blocks": 0, "schedule_steps": 0})
