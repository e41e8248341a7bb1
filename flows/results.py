"""What a run returns: small typed documents, as `--json` prints them and `runs/<run_id>/run.json` keeps them."""

from typing import Any

from ns_core.artifacts import Finetuned, Frozen, Report, Selection, Teacher
from ns_core.evaluation.results import FIGURES
from tasks.observe import StageOutcome


def _measured(report: Report) -> dict[str, Any]:
    """The figures of a checkpoint and the intervals of its accuracies, as shares."""
    return {name: report.result.get(name) for name in (*FIGURES, "holdout_interval", "test_interval")}


class Chosen(Frozen):
    """A selection, and where it comes from."""

    selection: Selection
    labeller: str
    """Fingerprint of the network whose labels of the pool it was made of, and holds."""
    generation: int
    """Among whose stages it is; 0: a selector's, before the first."""


class Standing(Frozen):
    """What a generation starts from."""

    teacher: Teacher | Finetuned
    report: Report
    """The teacher's."""
    chosen: Chosen | None = None
    """The selection that was made before, to be labelled anew; None: it makes its own."""
    official: dict[str, str] = {}
    """What lies in the folders of `evaluate.official` (`flows.official`), looked at once for the whole run."""


class GenerationResult(Frozen):
    """One generation: who taught, who learned, and what the gate said."""

    index: int
    teacher_report: Report
    student_report: Report
    student: Finetuned
    chosen: Chosen
    kept: int
    rows: int
    gate: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """The generation in `--json`."""
        return {
            "index": self.index,
            "teacher": _measured(self.teacher_report),
            "student": {
                **_measured(self.student_report),
                "model": self.student.result["model"],
                "parameters": self.student.result["parameters"],
            },
            "pseudo_labels": {"kept": self.kept, "rows": self.rows, "selected_in": self.chosen.generation},
            "gate": self.gate,
        }


class RunResult(Frozen):
    """A whole run."""

    run_id: str
    recipe: str
    seed: int
    stages: list[StageOutcome]
    first_teacher: Teacher | Finetuned
    """Who taught the first generation: a student of before in a run of one generation that went on from it."""
    teacher_report: Report
    generations: list[GenerationResult]
    report: str
    ending: str = ""
    """Why there was no further generation."""
    robustness: list[dict[str, Any]] = []
    """The last standing student against the first teacher: `comparison.Row`s."""
    mlflow: dict[str, str | None] = {"run": None, "compare": None, "table": None}
    """Pages of MLflow, None where it is no server: the run's, the charts and the table that compare it with others."""

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "run_id": self.run_id,
            "recipe": self.recipe,
            "seed": self.seed,
            "stages": [stage.model_dump(mode="json") for stage in self.stages],
            "first_teacher": {
                **_measured(self.teacher_report),
                "model": self.first_teacher.result["model"],
                "parameters": self.first_teacher.result["parameters"],
            },
            "generations": [generation.summary() for generation in self.generations],
            "ending": self.ending,
            "report": self.report,
            "robustness": self.robustness,
            "mlflow": self.mlflow,
        }
