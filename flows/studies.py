"""The comparisons of the paper's ablation tables as named arms, each a few settings away from a recipe.

In: any recipe. Out: for each arm a recipe of its own, whose name says study and arm, so that in MLflow it is a campaign
of its own and no arm moves the registered teacher of the recipe itself. What the arms share is in the store once.

The paper's figures are ImageNet top-1 in percent (`Arm.paper`), on other data than a person's own. docs/ABLATIONS.md
tells of each study what it asks and how its report is to be read.
"""

from typing import Literal, get_args

from flows.arms import (
    EVERY,
    PLAIN,
    Arm,
    Study,
    band_arm,
    generations,
    noised_teacher,
    pseudo_alone,
    ratio_of,
    same_size,
    share_arm,
    supervised,
    teacher_alone,
    teacher_arm,
    tuned_on_labels,
    unfinetuned,
)
from ns_core.errors import UserError, nearest

__all__ = ["STUDIES", "Arm", "Study", "StudyName", "study_named"]

StudyName = Literal[
    "noise",
    "iterations",
    "student-size",
    "equal-size",
    "teacher-size",
    "pool-size",
    "ratio",
    "labels",
    "confidence",
    "balancing",
    "joint",
    "start",
    "finetune",
]
_B5 = "(B5 teaches B5, 130M images)"
_BINS = "(B0 teaches B0, bins of 0.1 in it, 1.3M images each)"
_B4 = "(B4, of 130M images)"
_BANDS = (("surest", 0.8, 1.0), ("sure", 0.6, 0.8), ("unsure", 0.4, 0.6), ("least-sure", 0.0, 0.4))
_SOFT = ("77.97 to 78.05", "77.81 to 77.98", "77.70 to 77.90", "77.52 to 77.82")
_HARD = ("77.92 to 77.96", "77.34 to 77.67", "76.93 to 77.10", "75.75 to 76.82")

STUDIES = {
    study.name: study
    for study in (
        Study(
            "noise",
            "does the student need its noise, and the teacher none? (paper, section 4.1; there on the pool only)",
            (
                Arm("all", "the recipe as it is", paper=f"84.9 {_B5}"),
                Arm("no-augmentation", "no RandAugment, crops or shifts", lambda r: PLAIN, f"84.6 {_B5}"),
                Arm("no-dropout", "no dropout", lambda r: ["student.dropout=0"]),
                Arm("no-depth", "no stochastic depth", lambda r: ["student.stochastic_depth=0"]),
                Arm(
                    "none",
                    "none of these",
                    lambda r: [*PLAIN, "student.dropout=0", "student.stochastic_depth=0"],
                    f"84.3 {_B5}",
                ),
                Arm(
                    "noised-teacher",
                    "the student's noise on the teacher, too, while it labels",
                    noised_teacher,
                    f"84.4 {_B5}",
                ),
            ),
        ),
        Study(
            "iterations",
            "does another generation help? (paper, section 4.2)",
            (
                Arm("one", "one generation", generations(1)),
                Arm("two", "two", generations(2)),
                Arm("three", "three", generations(3)),
            ),
        ),
        Study(
            "student-size",
            "does it take a larger student, and is it more than its size? (paper, appendix A.2)",
            (
                Arm("as-is", "the recipe as it is", paper="79.5 (B0 teaches B1)"),
                Arm("same-size", "students of the teacher's size", same_size, "77.9 (B0 teaches B0)"),
                Arm("supervised", "the last student's network on the labels alone", supervised, "77.3 (B0)"),
            ),
        ),
        Study(
            "equal-size",
            "what is one generation worth, without a larger network? (paper, section 4.1: B0 to B7)",
            (
                Arm(
                    "supervised",
                    "the teacher, on the labels alone",
                    teacher_alone,
                    "77.3 79.2 80.0 81.7 83.2 84.0 84.5 85.0 (B0 to B7)",
                ),
                Arm(
                    "student",
                    "one student of its size",
                    lambda r: ["generations=1", *same_size(r)],
                    "78.1 80.2 81.1 82.5 84.4 85.0 85.6 85.9 (B0 to B7)",
                ),
            ),
        ),
        Study(
            "teacher-size",
            "do the students learn more from a larger teacher? (paper, section 4.1 and appendix A.2)",
            (
                Arm("as-is", "the recipe as it is", paper="78.1 (B0 teaches B0)"),
                teacher_arm("larger", 1, "78.8 (the best L2 teaches B0)"),
                teacher_arm("smaller", -1),
            ),
        ),
        Study(
            "pool-size",
            "how many unlabelled images does it take? (paper, appendix A.2)",
            (
                Arm("all", "the recipe as it is", paper=f"84.0 {_B4}"),
                share_arm(4, f"83.8 {_B4}"),
                share_arm(16, f"83.9 {_B4}"),
                share_arm(32, f"83.7 {_B4}"),
                share_arm(64, f"83.3 {_B4}"),
                share_arm(128, f"83.4 {_B4}"),
            ),
        ),
        Study(
            "ratio",
            "how many pseudo-labelled images beside a labelled one? (paper, appendix A.2)",
            (
                Arm("as-is", "the recipe as it is"),
                Arm("1", "one", ratio_of(1), "86.7 (L2 teaches L2)"),
                Arm("3", "three", ratio_of(3), "87.4 (L2 teaches L2)"),
                Arm("6", "six", ratio_of(6)),
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
            "confidence",
            "what are images worth that the teacher is unsure of, in or out of its domain? (paper, appendix A.2)",
            (
                *(band_arm("soft", band, f"{paper} {_BINS}") for band, paper in zip(_BANDS, _SOFT, strict=True)),
                *(band_arm("hard", band, f"{paper} {_BINS}") for band, paper in zip(_BANDS, _HARD, strict=True)),
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
            "joint",
            "labels and pseudo-labels together, or one after the other? (paper, appendix A.2)",
            (
                Arm("joint", "together", finetune=unfinetuned),
                Arm("pretrained", "pseudo-labels alone", pseudo_alone, finetune=unfinetuned),
                Arm("then-tuned", "pseudo-labels, then labels", pseudo_alone, finetune=tuned_on_labels),
            ),
        ),
        Study(
            "start",
            "students of the teacher's size: from scratch, or from its weights? (paper, appendix A.2)",
            (
                Arm("scratch", "from scratch", same_size),
                Arm("warm", "from the teacher's weights", lambda r: [*same_size(r), "student.start=teacher"]),
            ),
        ),
        Study(
            "finetune",
            "what is the stage at the test resolution worth? (paper, section 3.1)",
            (
                Arm("with", "the recipe as it is"),
                Arm("without", "the student as it was trained", finetune=unfinetuned),
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
