"""One generation at a time: real stages, a real Prefect server, MLflow's registry in a file.

One store and one registry serve the whole module, tests in order: a first teacher and its student, the next
generation, the same by a campaign, a pool that grew, nothing new, and what is refused. 21 workers, 200 seconds of CPU.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from flows import place
from flows.fairness import check_fair
from flows.recipes.digits import digits_smoke
from flows.run_documents import checkpoint_of, held_runs
from flows.standing_teacher import StandingTeacher
from ns_core.artifacts import Dataset, Finetuned, Teacher
from ns_core.config import DataConfig, Recipe
from ns_core.data.index import Split
from ns_core.data.sources.splits import by_fraction
from ns_core.errors import UserError
from ns_core.lineage import read_lineage
from ns_core.registry import open_registry
from ns_core.storage import open_storage
from tasks.model_registry import model_name
from tasks.observe import StageOutcome, Watch, watching
from tests.lineage_stores import Maker, run_of_two
from tests.prefect_server import flows_on

XS = "ns_efficientnet_xs"
SETTINGS = (
    "data.source=folder",
    "compute.retries=0",
    "teacher.steps=100",  # less is at chance level, which is refused
    f'student_models=["{XS}"]',
    "student.start=teacher",
    "student.steps=10",
    "student.epoch_steps=5",
    "student.lr=0.01",
    "evaluate.fgsm_eps=[0]",
    "evaluate.pgd_eps=[]",
    "evaluate.corruptions=[]",
    "evaluate.perturbations=[]",
    "evaluate.max_worst_class_drop=1",
    "evaluate.max_ece_rise=1",
)
PROMOTED, KEPT = "evaluate.min_gain=-1", "evaluate.min_gain=1"
OPENING = ("prepare-dataset", "train-teacher", "evaluate-robustness")
GENERATION = (
    "infer-unlabeled",
    "filter-and-balance",
    "train-noisy-student",
    "finetune-at-test-resolution",
    "evaluate-robustness",
)


class Lines:
    """What a person at the terminal would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def started(self, stage: str, generation: int) -> None: ...
    def progressed(self, event: dict[str, Any]) -> None: ...
    def ended(self, outcome: StageOutcome) -> None: ...
    def logged(self, line: str) -> None:
        self.lines.append(line)


@dataclass
class Bench:
    """A store, a registry and folders of images, and the flows of this process on them."""

    folder: Path
    told: list[str] = field(default_factory=list)
    """By the last run."""
    runs: int = 0

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def tracking(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def recipe(self, *settings: str, **folders: str) -> Recipe:
        places = {"labeled": "labeled", "unlabeled": "pool", "holdout": "holdout", "test": "test"} | folders
        where = [f"data.{name}={self.folder / place}" for name, place in places.items() if place]
        return digits_smoke().override([*SETTINGS, *where, *settings])

    def campaign(self, recipe: Recipe) -> dict[str, Any]:
        from flows.noisy_student import noisy_student

        return self._run(noisy_student, recipe)

    def next(self, recipe: Recipe, **places: str) -> dict[str, Any]:
        from flows.next_generation import next_generation

        return self._run(next_generation, recipe, **places)

    def _run(self, flow: Any, recipe: Recipe, store: str = "", tracking: str = "") -> dict[str, Any]:
        """The document of a run."""
        self.runs += 1
        name = f"{flow.name}-20261123-1200{self.runs:02d}-3fa9"
        storage = open_storage(store or str(self.store))
        with patch.dict(os.environ, {"NS_TRACKING_URI": tracking or self.tracking}):
            run = place.make(recipe, name, storage, self.home)
        listener = Lines()
        with watching(Watch(listener=listener)), place.giving(run):
            result = flow(recipe)
        self.told = listener.lines
        document: dict[str, Any] = result.document()
        return document

    def teacher(self, recipe: Recipe) -> tuple[str, str]:
        """Folder and generation of who teaches."""
        with open_registry(self.tracking, "noisy-student") as registry:
            assert registry is not None
            found = registry.standing(model_name(recipe), "teacher")
        assert found is not None
        return found.folder, found.tags["ns.generation"]


def states(document: dict[str, Any]) -> dict[tuple[str, int], str]:
    return {(one["stage"], one["generation"]): one["state"] for one in document["stages"]}


def names(document: dict[str, Any]) -> dict[tuple[str, int], str]:
    return {(one["stage"], one["generation"]): one["fingerprint"] for one in document["stages"]}


def places(stages: tuple[str, ...], generation: int) -> set[tuple[str, int]]:
    return {(stage, generation) for stage in stages}


def draw(folder: Path, name: str, image: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    grey = np.round(image * (255 / 16)).astype(np.uint8)
    large = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_CUBIC)
    assert cv2.imwrite(str(folder / name), cv2.cvtColor(large, cv2.COLOR_GRAY2BGR))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Iterator[Bench]:
    """Of each class 5 labelled digits, 12 of the holdout and 10 of the test; a pool of 300, and 100 for later."""
    made = Bench(tmp_path_factory.mktemp("next"))
    found: Any = load_digits()
    taken = dict.fromkeys(range(10), 0)
    for row, (image, label) in enumerate(zip(found.images[:1000], found.target[:1000], strict=True)):
        number, taken[label] = taken[label], taken[label] + 1
        split = "labeled" if number < 5 else "holdout" if number < 17 else "test" if number < 27 else ""
        if split:
            draw(made.folder / split / str(label), f"{row:04d}.png", image)
        elif row < 600 or row >= 900:
            draw(made.folder / ("pool" if row < 600 else "later"), f"{row:04d}.png", image)
    with flows_on(prefect_api, made.home):
        yield made


def test_labelled_images_that_are_added_move_others_into_splits_that_are_cut() -> None:
    """Why a gate can become unfair: `flows.fairness` says so."""
    paths = [f"cat/{number:03d}.png" for number in range(110)]
    moved = list[int]()
    for seed in range(50):
        config = DataConfig(source="folder", seed=seed)
        before, after = (by_fraction([paths[:count]], ["cat"], config, set()) for count in (100, 110))
        given = [by_fraction([paths[:count]], ["cat"], config, {"holdout", "test"}) for count in (100, 110)]
        moved.append(len(set(before["labeled"][0]) & {*after["holdout"][0], *after["test"][0]}))
        assert set(given[0]["labeled"][0]) <= set(given[1]["labeled"][0])
    assert 0.5 < np.mean(moved) < 2, "images of 70 labelled"


@pytest.mark.parametrize(
    ("splits", "counts"),
    [
        ({"l0": "holdout", "l1": "labeled", "new": "test"}, r"1 holdout, 0 test images"),
        ({"h0": "holdout", "l0": "test", "p0": "test"}, r"0 holdout, 1 test, as pseudo-labelled 1 of both images"),
        ({"h0": "holdout", "t0": "test", "l0": "labeled", "p2": "holdout", "new": "pool"}, ""),
    ],
    ids=["labelled", "pseudo-labelled", "a pool image that no selection kept"],
)
def test_who_learned_from_judged_images_is_told_by_their_bytes(
    tmp_path: Path, splits: dict[str, Split], counts: str
) -> None:
    storage = open_storage(str(tmp_path / "store"))
    made = run_of_two(storage, tmp_path / "made")
    content = {f"renamed-{key}": key for key in splits}
    renamed: dict[str, Split] = {f"renamed-{key}": split for key, split in splits.items()}
    today = Dataset.of(Maker(storage, tmp_path / "made").dataset("today", renamed, content))
    teacher = StandingTeacher(Finetuned.of(made["finetuned2"]), 2, "0")

    with pytest.raises(UserError, match=counts) if counts else nullcontext():
        check_fair(storage, read_lineage(storage), Recipe(), today, teacher)


def test_a_teacher_of_another_seed_is_named_as_the_cause(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    made = run_of_two(storage, tmp_path / "made")
    today = Dataset.of(Maker(storage, tmp_path / "made").dataset("today", {"l0": "holdout", "t0": "test"}))
    teacher = StandingTeacher(Teacher.of(made["teacher"]), 0, "4")

    with pytest.raises(UserError, match="it is of seed 4 and the recipe of seed 7"):
        check_fair(storage, read_lineage(storage), Recipe(seed=7), today, teacher)


def test_a_past_that_is_not_in_the_store_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = open_storage(str(tmp_path / "store"))
    made = run_of_two(storage, tmp_path / "made")
    storage.delete_tree(made["student1"].paths.folder + "/")
    teacher = StandingTeacher(Finetuned.of(made["finetuned1"]), 1, "0")
    with caplog.at_level("WARNING", "noisy_student"):
        check_fair(storage, read_lineage(storage), Recipe(), Dataset.of(made["dataset"]), teacher)
    assert f"what {teacher.name} was trained on cannot be told" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestNextGeneration:
    """In order: one store, one registry."""

    made: dict[str, dict[str, Any]] = {}

    def test_without_a_teacher_the_first_one_is_trained_and_its_student_judged(self, bench: Bench) -> None:
        document = bench.next(bench.recipe(PROMOTED))

        assert states(document) == dict.fromkeys(places(OPENING, 0) | places(GENERATION, 1), "computed")
        (generation,) = document["generations"]
        assert (generation["index"], generation["gate"]["verdict"]) == (1, "promote")
        folder, index = bench.teacher(bench.recipe())
        assert index == "1"
        assert folder.endswith(names(document)["finetune-at-test-resolution", 1][:12])
        assert any(line.startswith("generation 1: promote. Promoted the student") for line in bench.told)
        self.made["first"] = document

    def test_a_promoted_student_teaches_the_next_generation(self, bench: Bench) -> None:
        document = bench.next(bench.recipe(PROMOTED))

        assert {place for place, state in states(document).items() if state == "computed"} == places(GENERATION, 2)
        own, before = names(document), names(self.made["first"])
        assert own["finetune-at-test-resolution", 0] == before["finetune-at-test-resolution", 1], "who teaches"
        assert own["evaluate-robustness", 0] == before["evaluate-robustness", 1], "the report that promoted it"
        assert ("train-teacher", 0) not in own
        assert bench.teacher(bench.recipe())[1] == "2"
        self.made["second"] = document

    def test_a_campaign_of_as_many_generations_makes_the_same_artifacts(self, bench: Bench) -> None:
        document = bench.campaign(bench.recipe(PROMOTED, "generations=2"))

        both = names(self.made["first"]) | {at: one for at, one in names(self.made["second"]).items() if at[1]}
        assert names(document) == both
        assert set(states(document).values()) == {"cached"}
        assert bench.teacher(bench.recipe())[1] == "2", "it stands as before"

    def test_a_pool_that_grew_is_labelled_and_learned_from_and_the_teacher_is_only_measured_again(
        self, bench: Bench
    ) -> None:
        before = bench.teacher(bench.recipe())
        for image in (bench.folder / "later").iterdir():
            shutil.copy(image, bench.folder / "pool")
        document = bench.next(bench.recipe(KEPT))

        found = states(document)
        assert found.pop(("finetune-at-test-resolution", 0)) == "cached", "the standing teacher"
        computed = {("prepare-dataset", 0), ("evaluate-robustness", 0), *places(GENERATION, 3)}
        assert found == dict.fromkeys(computed, "computed")
        assert document["generations"][0]["gate"]["verdict"] == "keep-teacher"
        assert any(line.startswith("generation 3: keep-teacher. Kept the teacher because") for line in bench.told)
        assert bench.teacher(bench.recipe()) == before, "the aliases stay"
        self.made["third"] = document

    def test_with_nothing_new_all_is_cached_and_the_workers_state_says_so(self, bench: Bench) -> None:
        from flows.next_generation import next_generation

        worker = {"NS_HOME": str(bench.home), "NS_STORE": str(bench.store), "NS_TRACKING_URI": bench.tracking}
        with patch.dict(os.environ, worker), watching(Watch()) as watch:
            state: Any = next_generation(bench.recipe(KEPT), return_state=True)

        assert {(one.stage, one.generation): one.state for one in watch.ledger} == dict.fromkeys(
            names(self.made["third"]), "cached"
        )
        assert state.is_completed()
        assert state.message.startswith("nothing is new, all was in the store; of generation 3 the gate said: keep")
        assert "\n" not in state.message

    def test_the_same_step_is_one_run_in_mlflow_and_its_figures_lie_at_their_generation(self, bench: Bench) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(bench.tracking)
        experiment = client.get_experiment_by_name("noisy-student")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.`ns.level` = 'pipeline'")
        steps = [run for run in runs if "-next-" in run.info.run_name]
        assert len(steps) == 3, "the fourth found the third's; the other is the campaign's"
        assert {run.info.status for run in runs} == {"FINISHED"}
        own = {fact: self.made["third"]["stages"][at]["fingerprint"] for fact, at in (("dataset", 0), ("teacher", 1))}
        (third,) = [run for run in steps if own.items() <= run.data.params.items()]
        history = client.get_metric_history(third.info.run_id, "gen/holdout_top1")
        assert {point.step for point in history} == {2, 3}, "the teacher's and the student's"
        children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{third.info.run_id}'")
        assert {run.data.tags["ns.generation"] for run in children} == {"2", "3"}

    def test_a_step_leaves_a_run_as_a_campaign_does(self, bench: Bench) -> None:
        runs = {run.run_id: run for run in held_runs(open_storage(str(bench.store)))}
        third = runs[self.made["third"]["run_id"]]

        assert checkpoint_of(third, "student3") == f"finetune-at-test-resolution/{self._student()[:12]}"
        page = bench.store / "runs" / third.run_id
        assert {"report.html", "report.md", "selection-g3.html", "robustness-g3.html"} <= {
            path.name for path in page.iterdir()
        }

    def _student(self) -> str:
        return names(self.made["third"])["finetune-at-test-resolution", 3]

    def test_a_holdout_with_images_that_the_teacher_learned_from_is_refused(self, bench: Bench) -> None:
        shutil.copytree(bench.folder / "holdout", bench.folder / "unfair")
        for label in map(str, range(10)):
            for image in sorted((bench.folder / "labeled" / label).iterdir())[:2]:
                shutil.copy(image, bench.folder / "unfair" / label)
        with pytest.raises(UserError, match=r"20 holdout, 0 test images .*set data\.holdout and data\.test") as refused:
            bench.next(bench.recipe(KEPT, holdout="unfair"))
        assert "\n" not in str(refused.value)

    def test_another_store_than_the_teachers_is_one_line(self, bench: Bench, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"version .* has no finetune.*set NS_STORE to it") as refused:
            bench.next(bench.recipe(KEPT), store=str(tmp_path))
        assert str(bench.store) in str(refused.value)
        assert not list(tmp_path.iterdir()), "nothing was computed"

    def test_a_registry_that_is_away_is_one_line(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(
            UserError, match=r"MLflow http://127\.0\.0\.1:9 does not answer .*NS_TRACKING_URI"
        ) as refused:
            bench.next(bench.recipe(KEPT), tracking="http://127.0.0.1:9")
        assert "\n" not in str(refused.value)
