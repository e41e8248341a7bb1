"""The stages before a generation: the images, a first teacher, and what a teacher is worth on them.

In: a run and its recipe. Out: the artifacts of these stages. A campaign and a single generation call the same ones, so
that the same images and settings give the same artifacts in both.
"""

from dataclasses import dataclass, field, replace
from typing import Self

from flows.official import official_inputs
from ns_core.artifacts import Artifact, Dataset, Finetuned, Report, Teacher
from ns_core.config import Recipe
from ns_core.data.sources import content_digest
from ns_core.settings import StageConfig
from tasks.evaluate_robustness import evaluate_robustness
from tasks.prepare_dataset import prepare_dataset
from tasks.robustness_report import report_robustness
from tasks.run import Run, StageCall
from tasks.train_teacher import train_teacher


@dataclass(frozen=True)
class Opening:
    """What a run does before its first generation; its ledger has all of it as generation 0."""

    run: Run
    recipe: Recipe
    """As generation 0 uses it."""
    source: str
    """Digest of the images that `recipe.data` points at."""
    mlflow_run: str = ""
    official: dict[str, str] = field(default_factory=dict)
    """What lies in the folders of `evaluate.official` (`flows.official`)."""

    @classmethod
    def of(cls, run: Run, recipe: Recipe, mlflow_run: str = "") -> Self:
        """Reads the images, unless their digests are known from an earlier run."""
        own = recipe.for_generation(0)
        return cls(run, own, content_digest(own.data), mlflow_run)

    def with_official(self) -> Self:
        """The same, once the official sets were looked at, which takes its time and is not needed to train."""
        return replace(self, official=official_inputs(self.recipe.evaluate))

    def call(self, config: StageConfig, **inputs: Artifact) -> StageCall:
        """A stage of this part of the run."""
        return StageCall(self.run, 0, config, inputs, mlflow_run=self.mlflow_run)

    def preparing(self) -> StageCall:
        """prepare-dataset, of which the fingerprint is known before it runs."""
        return StageCall(self.run, 0, self.recipe.data, {}, {"source": self.source}, self.mlflow_run)

    def teaching(self, dataset: Dataset) -> StageCall:
        """train-teacher, likewise."""
        return self.call(self.recipe.teacher, dataset=dataset)

    def evaluating(self, dataset: Dataset, teacher: Teacher | Finetuned, **baseline: Report) -> StageCall:
        """evaluate-robustness of who teaches the first generation of this run."""
        inputs: dict[str, Artifact] = {"dataset": dataset, "checkpoint": teacher, **baseline}
        return StageCall(self.run, 0, self.recipe.evaluate, inputs, self.official, self.mlflow_run)

    def dataset(self) -> Dataset:
        return prepare_dataset(self.preparing())

    def first_teacher(self, dataset: Dataset) -> Teacher:
        return train_teacher(self.teaching(dataset))

    def report(self, dataset: Dataset, teacher: Teacher | Finetuned, **baseline: Report) -> Report:
        """The evaluation, and its page for people."""
        call = self.evaluating(dataset, teacher, **baseline)
        report = evaluate_robustness(call)
        report_robustness(call, report)
        return report
