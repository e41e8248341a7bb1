"""Select once, label anew: which stages a run makes, and what each of them is given."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows import selection
from flows.noisy_student import _after
from flows.recipes.digits import digits_smoke
from flows.results import Chosen, GenerationResult, Standing
from flows.standing_teacher import StandingTeacher, earlier_labeller
from ns_core.artifacts import Artifact, Dataset, Finetuned, PseudoLabels, Report, Selection, Teacher
from ns_core.config import ComputeConfig, Recipe
from ns_core.lineage import Lineage, Made
from ns_core.settings import StageConfig
from tasks.run import Run, StageCall
from tests.flows.command import Command

XS, S = "ns_efficientnet_xs", "ns_efficientnet_s"
DATASET = Dataset(fingerprint="d" * 64, result={})
OTHER = Dataset(fingerprint="c" * 64, result={})
FIRST = Teacher(fingerprint="1" * 64, result={})
SECOND = Finetuned(fingerprint="2" * 64, result={})
RUN = Run(run_id="r", store="s", home="h", tracking_uri="", experiment="", compute=ComputeConfig())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[StageCall]:
    """What the tasks of `flows.selection` would have started workers for; each gives an artifact named by its call."""
    made: list[StageCall] = []

    def recorder(kind: type[Artifact]) -> Any:
        def task(call: StageCall) -> Artifact:
            made.append(call)
            return kind(fingerprint=call.paths.fingerprint, result={})

        return task

    monkeypatch.setattr(selection, "train_teacher", recorder(Teacher))
    monkeypatch.setattr(selection, "infer_unlabeled", recorder(PseudoLabels))
    monkeypatch.setattr(selection, "filter_and_balance", recorder(Selection))
    monkeypatch.setattr(selection, "report_selection", lambda *_: None)
    return made


def in_generation(index: int) -> selection.Call:
    def call(config: StageConfig, **inputs: Artifact) -> StageCall:
        return StageCall(RUN, index, config, inputs, mlflow_run=f"child-{index}")

    return call


def once(selector: str) -> Recipe:
    return digits_smoke().override(["selection=once", f"selector={selector}", "seed=7"])


def test_a_selector_is_trained_as_the_teacher_is_and_selects_by_the_seed_of_generation_1(
    calls: list[StageCall],
) -> None:
    recipe = once(S)
    chosen = selection.choose_by_selector(in_generation(0), RUN, recipe, DATASET, FIRST)
    training, labelling, selecting = calls
    assert training.config == recipe.for_generation(0).teacher.model_copy(update={"model": S})
    assert (training.inputs, training.mlflow_run) == ({"dataset": DATASET}, "")
    assert set(labelling.inputs) == {"dataset", "teacher"}
    assert labelling.inputs["teacher"].fingerprint == training.paths.fingerprint == chosen.labeller
    assert selecting.config == recipe.for_generation(1).select
    assert selecting.inputs["pseudo_labels"].fingerprint == labelling.paths.fingerprint
    assert [call.generation for call in calls] == [0, 0, 0]
    assert (chosen.generation, chosen.selection.fingerprint) == (0, selecting.paths.fingerprint)


def test_a_selector_that_is_the_first_teacher_is_not_trained_again(calls: list[StageCall]) -> None:
    chosen = selection.choose_by_selector(in_generation(0), RUN, once(XS), DATASET, FIRST)
    assert [call.stage for call in calls] == ["infer-unlabeled", "filter-and-balance"]
    assert chosen.labeller == FIRST.fingerprint


def test_without_the_first_teacher_at_hand_the_selector_is_trained_which_makes_the_same_one(
    calls: list[StageCall],
) -> None:
    selection.choose_by_selector(in_generation(0), RUN, once(XS), DATASET)
    assert calls[0].config == once(XS).for_generation(0).teacher
    assert calls[0].inputs == {"dataset": DATASET}


def made(stage: str, fingerprint: str, **inputs: str) -> Made:
    return Made(stage, fingerprint, "attempt", inputs, {}, 1, 1, 1.0, "", "")


@pytest.mark.parametrize(
    ("dataset", "settings", "found"),
    [(DATASET, [], (1, FIRST.fingerprint)), (OTHER, [], None), (DATASET, ["select.threshold=0.7"], None)],
    ids=["the same images and settings", "other images", "other settings"],
)
def test_one_generation_alone_finds_the_selection_that_its_teacher_learned_from(
    calls: list[StageCall], dataset: Dataset, settings: list[str], found: tuple[int, str] | None
) -> None:
    recipe = digits_smoke().override(["selection=once"])
    chosen = selection.choose(in_generation(1), recipe.for_generation(1), DATASET, FIRST)
    artifacts = [
        made("prepare-dataset", DATASET.fingerprint, source="0" * 64),
        made("train-teacher", FIRST.fingerprint, dataset=DATASET.fingerprint),
        made("infer-unlabeled", calls[0].paths.fingerprint, dataset=DATASET.fingerprint, teacher=FIRST.fingerprint),
        made("filter-and-balance", chosen.selection.fingerprint, pseudo_labels=calls[0].paths.fingerprint),
        made("train-noisy-student", "5" * 64, dataset=DATASET.fingerprint, selection=chosen.selection.fingerprint),
        made("finetune-at-test-resolution", SECOND.fingerprint, student="5" * 64),
    ]
    lineage = Lineage({one.name: one for one in artifacts})
    teacher = StandingTeacher(SECOND, 1, "0")
    before = earlier_labeller(lineage, recipe.override(settings), dataset, teacher)
    assert (before and (before[0], before[1].fingerprint)) == found


def test_a_teacher_labels_the_selected_images_unless_their_labels_are_his(calls: list[StageCall]) -> None:
    own = once(XS).for_generation(2)
    chosen = Chosen(selection=Selection(fingerprint="e" * 64, result={}), labeller=FIRST.fingerprint, generation=1)
    assert selection.labels_for(in_generation(2), own, DATASET, FIRST, chosen) == {}
    assert calls == []
    found = selection.labels_for(in_generation(2), own, DATASET, SECOND, chosen)
    (call,) = calls
    assert call.inputs == {"dataset": DATASET, "teacher": SECOND, "selection": chosen.selection}
    assert found["labels"].fingerprint == call.paths.fingerprint


@pytest.mark.parametrize("mode", ["each", "once"])
@pytest.mark.parametrize("verdict", ["promote", "keep-teacher"])
def test_a_selection_goes_on_to_the_next_generation_only_when_it_is_made_once(mode: str, verdict: str) -> None:
    chosen = Chosen(selection=Selection(fingerprint="e" * 64, result={}), labeller="1", generation=1)
    reports = [Report(fingerprint=digit * 64, result={}) for digit in "ab"]
    result = GenerationResult(
        index=1,
        teacher_report=reports[0],
        student_report=reports[1],
        student=SECOND,
        chosen=chosen,
        kept=1,
        rows=1,
        gate={"verdict": verdict},
    )
    after = _after(result, Standing(teacher=FIRST, report=reports[0]), digits_smoke().override([f"selection={mode}"]))
    assert after.chosen == (chosen if mode == "once" else None)
    assert (after.teacher, after.report) == ((SECOND, reports[1]) if verdict == "promote" else (FIRST, reports[0]))


SETTINGS = (
    "generations=2",
    "selection=once",
    f"selector={S}",
    "infer.top_k=4",
    "select.materialize=true",
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
    "evaluate.min_gain=-1",  # so that the second generation has another teacher
    "evaluate.max_worst_class_drop=1",
    "evaluate.max_ece_rise=1",
)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_with_a_selector_selects_once_and_each_teacher_labels_anew(tmp_path: Path, prefect_api: str) -> None:
    """14 workers, 90 seconds of CPU."""
    command, store = Command(tmp_path, prefect_api), tmp_path / "store"
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    outcome = command("run", "digits_smoke", "--json", "--store", str(store), *settings)
    assert outcome.status == 0, outcome.stderr
    stages = outcome.document["stages"]
    one = ["infer-unlabeled", "train-noisy-student", "finetune-at-test-resolution", "evaluate-robustness"]
    assert [(stage["stage"], stage["generation"]) for stage in stages] == [
        ("prepare-dataset", 0),
        ("train-teacher", 0),
        ("evaluate-robustness", 0),
        ("train-teacher", 0),
        ("infer-unlabeled", 0),
        ("filter-and-balance", 0),
        *((stage, generation) for generation in (1, 2) for stage in one),
    ]
    names = [stage["fingerprint"] for stage in stages]
    first, selector, chosen = names[1], names[3], names[5]
    records = [json.loads((Path(stage["uri"]) / ".artifact.json").read_text()) for stage in stages]
    assert records[4]["inputs"] == {"dataset": names[0], "teacher": selector}
    for at, teacher in ((6, first), (10, names[8])):
        assert records[at]["inputs"] == {"dataset": names[0], "teacher": teacher, "selection": chosen}
        assert records[at + 1]["inputs"] == {
            "dataset": names[0],
            "selection": chosen,
            "labels": names[at],
            "teacher": teacher,
        }
        assert records[at + 1]["result"]["unread_labels"] == 0
    kept = records[5]["result"]["kept"]
    assert [generation["pseudo_labels"]["kept"] for generation in outcome.document["generations"]] == [kept, kept]
    assert [generation["pseudo_labels"]["selected_in"] for generation in outcome.document["generations"]] == [0, 0]
    assert records[10]["result"]["images"] == kept
    assert any(name.startswith("selected-") for name in records[5]["files"])
