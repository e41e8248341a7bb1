"""The comparisons of the paper's ablation tables as named arms, each a few settings away from a recipe.

In: any recipe. Out: for each arm a recipe of its own, whose name says study and arm, so that in MLflow it is a campaign
of its own and no arm moves the registered teacher of the recipe itself. What the arms share is in the store once.

The paper's figures are ImageNet top-1 in percent (`Arm.paper`), on other data than a person's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ns_core.config import FinetuneConfig, Recipe
from ns_core.config.paper import unfinetuned
from ns_core.errors import UserError, nearest

StudyName = Literal["noise", "iterations", "student-size", "ratio", "labels", "balancing", "start", "finetune"]
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

    def recipe(self, base: Recipe, study: str) -> Recipe:
        """Raises `UserError` where the recipe cannot be changed so."""
        made = base.override([f"name={base.name}-{study}-{self.name}", *self.settings(base)])
        return made.model_copy(update={"finetune": self.finetune(made)}) if self.finetune else made


@dataclass(frozen=True)
class Study:
    """Arms that answer one question; the first is the baseline."""

    name: str
    question: str
    arms: tuple[Arm, ...]


def _last_student(recipe: Recipe) -> str:
    return recipe.student_models[-1] if recipe.student_models else recipe.student.model


def _same_size(recipe: Recipe) -> list[str]:
    return [f'student_models=["{recipe.teacher.model}"]']


def _supervised(recipe: Recipe) -> list[str]:
    """The last student's network, with its noise, on the labelled images alone."""
    student = recipe.student
    return [
        "generations=0",
        f"teacher.model={_last_student(recipe)}",
        f"teacher.dropout={student.dropout}",
        f"teacher.stochastic_depth={student.stochastic_depth}",
    ]


def _unfinetuned(recipe: Recipe) -> FinetuneConfig:
    """One update of what the recipe does not freeze, at the last rate of the student's schedule."""
    return unfinetuned(recipe.student).model_copy(update={"frozen_blocks": recipe.finetune.frozen_blocks})


_PLAIN = [
    "student.augmentation.randaugment_ops=0",
    "student.augmentation.min_area=1.0",
    "student.augmentation.max_area=1.0",
    "student.augmentation.pad=0",
]
_B5 = "(B5 teaches B5, 130M images)"


def _generations(count: int) -> Callable[[Recipe], list[str]]:
    return lambda recipe: [f"generations={count}"]


def _ratio(ratio: int) -> Callable[[Recipe], list[str]]:
    return lambda recipe: [f"student.ratio={ratio}"]


STUDIES = {
    study.name: study
    for study in (
        Study(
            "noise",
            "does the student need its noise? (paper, section 4.1; there it was taken from the unlabelled images only)",
            (
                Arm("all", "the recipe as it is", paper=f"84.9 {_B5}"),
                Arm("no-augmentation", "no RandAugment, crops or shifts", lambda r: _PLAIN, f"84.6 {_B5}"),
                Arm("no-dropout", "no dropout", lambda r: ["student.dropout=0"]),
                Arm("no-depth", "no stochastic depth", lambda r: ["student.stochastic_depth=0"]),
                Arm(
                    "none",
                    "none of these",
                    lambda r: [*_PLAIN, "student.dropout=0", "student.stochastic_depth=0"],
                    f"84.3 {_B5}",
                ),
            ),
        ),
        Study(
            "iterations",
            "does another generation help? (paper, section 4.2)",
            (
                Arm("one", "one generation", _generations(1)),
                Arm("two", "two", _generations(2)),
                Arm("three", "three", _generations(3)),
            ),
        ),
        Study(
            "student-size",
            "does it take a larger student, and is it more than its size? (paper, appendix A.2)",
            (
                Arm("as-is", "the recipe as it is", paper="79.5 (B0 teaches B1)"),
                Arm("same-size", "students of the teacher's size", _same_size, "77.9 (B0 teaches B0)"),
                Arm("supervised", "the last student's network on the labels alone", _supervised, "77.3 (B0)"),
            ),
        ),
        Study(
            "ratio",
            "how many pseudo-labelled images beside a labelled one? (paper, appendix A.2)",
            (
                Arm("as-is", "the recipe as it is"),
                Arm("1", "one", _ratio(1), "86.7 (L2 teaches L2)"),
                Arm("3", "three", _ratio(3), "87.4 (L2 teaches L2)"),
                Arm("6", "six", _ratio(6)),
            ),
        ),
        Study(
            "labels",
            "soft or hard pseudo-labels? (paper, appendix A.2)",
            (
                Arm("soft", "soft ones", lambda r: ["student.labels=soft"]),
                Arm("hard", "the most probable class alone", lambda r: ["student.labels=hard"]),
            ),
        ),
        Study(
            "balancing",
            "does it matter that classes have equally many images? (paper, appendix A.2)",
            (
                Arm("balanced", "the recipe as it is"),
                Arm(
                    "as-found",
                    "every image above the threshold, once",
                    lambda r: [f"select.per_class={EVERY}", "select.max_copies=1"],
                ),
            ),
        ),
        Study(
            "start",
            "students of the teacher's size: from scratch, or from its weights? (paper, appendix A.2)",
            (
                Arm("scratch", "from scratch", _same_size),
                Arm("warm", "from the teacher's weights", lambda r: [*_same_size(r), "student.start=teacher"]),
            ),
        ),
        Study(
            "finetune",
            "what is the stage at the test resolution worth? (paper, section 3.1)",
            (
                Arm("with", "the recipe as it is"),
                Arm("without", "the student as it was trained", finetune=_unfinetuned),
            ),
        ),
    )
}
assert tuple(STUDIES) == get_args(StudyName)


def study_named(name: str) -> Study:
    """Raises `UserError` with the nearest name."""
    if name not in STUDIES:
        raise UserError(f"no study '{name}'{nearest(name, STUDIES)}; there are {', '.join(STUDIES)}")
    return STUDIES[name]
