"""`noisy-student plan`: the table, its numbers, and what it says where memory is short."""

import json
import math
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.cli import main
from flows.plan import classes_of, labelling, plan
from flows.plan_view import duration, show_memory
from flows.recipes import recipe
from ns_core.config import DataConfig, Recipe
from ns_core.errors import UserError
from tests.flows.command import Command


def planned(*assignments: str) -> Recipe:
    return recipe("digits").override(["generations=1", *assignments])


def test_the_command_prints_a_row_for_each_stage_that_trains(tmp_path: Path) -> None:
    outcome = Command(tmp_path)("plan", "digits", "--no-measure", "--set", "student.accumulation=2")
    assert outcome.status == 0, outcome.stderr
    lines = outcome.stdout.splitlines()

    assert [line.split("  ")[0] for line in lines[:6]] == [
        "stage",
        "train-teacher",
        "train-noisy-student 1",
        "finetune-at-test-resolution 1",
        "train-noisy-student 2",
        "finetune-at-test-resolution 2",
    ]
    assert lines[2].split()[2:9] == ["ns_efficientnet_s", "85,660", "32", "80", "160", "500", "80,000"]
    assert "for 10 classes" in lines[6]
    assert lines[7] == (
        "Labels: the pool by ns_efficientnet_xs in generation 1; the pool by ns_efficientnet_s in generation 2."
    )
    assert lines[8] == "", "all of it fits"
    assert [line.split("  ")[0] for line in lines[9:12]] == ["stage", "prepare-dataset", "train-teacher"]
    assert all("assumed [" in line for line in lines[10:23])
    text = "\n".join(lines[23:])
    assert "Images: 50 labelled, 300 holdout, 400 test, 1,047 in the pool" in text
    assert "Selected for generation 2: 920 images, 1,100 with copies" in text
    assert not (tmp_path / "home").exists(), "nothing was started and nothing is left"


def test_the_document_adds_up(tmp_path: Path) -> None:
    document = Command(tmp_path)("plan", "digits_supervised", "--json", "--classes", "7", "--no-measure").document
    (teacher,) = document["stages"]
    parts = ("parameters", "average", "optimizer", "gradients", "activations", "batch")

    assert (document["recipe"], document["classes"], document["device"]) == ("digits_supervised", 7, "cpu")
    assert teacher["images"] == teacher["update"] * teacher["updates"] == 50 * 400
    assert sum(teacher["estimate"][part] for part in parts) == teacher["estimate"]["tensors"]
    assert teacher["needed"] == teacher["estimate"]["peak"] >= teacher["estimate"]["update"]
    assert teacher["remedies"] == []
    assert document["labelling"] == []
    estimate = document["estimate"]
    assert [stage["stage"] for stage in estimate["stages"]] == [
        "prepare-dataset",
        "train-teacher",
        "evaluate-robustness",
    ]
    assert estimate["seconds"] == pytest.approx(sum(stage["seconds"]["value"] for stage in estimate["stages"]))
    assert estimate["selections"] == []


def test_select_once_labels_the_pool_once_and_then_what_was_selected() -> None:
    once = recipe("digits").override(["generations=3", "selection=once"])
    assert [tuple(vars(one).values()) for one in labelling(once, 10)] == [
        (1, "ns_efficientnet_xs", "pool", None),
        (2, "ns_efficientnet_s", "selection", 1100),
        (3, "ns_efficientnet_m", "selection", 1100),
    ]


def test_a_selector_is_trained_and_every_teacher_labels_what_it_selected() -> None:
    found = plan(planned("selection=once", "selector=ns_efficientnet_m"), 10)
    trained = [(stage.stage, stage.generation, stage.model) for stage in found.stages]
    assert trained[:2] == [("train-teacher", 0, "ns_efficientnet_xs"), ("train-teacher", 0, "ns_efficientnet_m")]
    assert [tuple(vars(one).values()) for one in found.labelling] == [
        (0, "ns_efficientnet_m", "pool", None),
        (1, "ns_efficientnet_xs", "selection", 1100),
    ]
    assert "up to 1,100 selected images by ns_efficientnet_xs in generation 1" in show_memory(found)


def test_the_first_teacher_as_selector_is_trained_once_and_labels_nothing_twice() -> None:
    found = plan(planned("selection=once", "selector=ns_efficientnet_xs"), 10)
    assert [stage.stage for stage in found.stages].count("train-teacher") == 1
    assert [tuple(vars(one).values()) for one in found.labelling] == [(0, "ns_efficientnet_xs", "pool", None)]


def test_what_does_not_fit_is_told_with_settings_that_would() -> None:
    images = 1.5 * psutil.virtual_memory().total / 240_000  # bytes of activations and pixels for an image
    batch = 2 ** round(math.log2(images / 5))
    large = planned(f"student.batch_size={batch}", "student_models=[]")
    found = plan(large, 10)
    (line,) = [line for line in show_memory(found).splitlines() if line.startswith("Too large")]
    student = found.stages[1]

    assert line.startswith("Too large: train-noisy-student 1. Set student.accumulation=")
    assert "(now 1): " in line
    assert "student.recompute_groups=3" not in line, "this network has two groups of blocks"
    assert f"or a smaller student.batch_size (now {batch}) or image_size." in line
    assert student.needed > found.memory

    accumulation = line.split("student.accumulation=")[1].split()[0]
    finer = plan(large.override([f"student.accumulation={accumulation}"]), 10)
    assert finer.stages[1].needed <= finer.memory
    assert finer.stages[1].remedies == ()
    coarser = plan(large.override([f"student.accumulation={int(accumulation) // 2}"]), 10)
    assert coarser.stages[1].needed > coarser.memory, "the smallest that is enough was named"


def test_processes_share_the_batch_and_the_machine() -> None:
    one, two = plan(planned(), 10), plan(planned("compute.processes=2"), 10)

    assert two.memory == one.memory // 2
    assert [stage.micro_batch * 2 for stage in two.stages] == [stage.micro_batch for stage in one.stages]
    assert [stage.images for stage in two.stages] == [stage.images for stage in one.stages]


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("compute.processes=3", "cannot be divided among 3 processes"),
        ("teacher.model=efficientnet_b00", "did you mean 'efficientnet_b0'"),
        ("student.recompute_groups=5", "recompute_groups=5"),
    ],
)
def test_a_mistake_that_training_would_refuse_is_one_line(assignment: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        plan(planned(assignment), 10)
    assert "\n" not in str(raised.value)


def test_fewer_than_two_classes_are_refused() -> None:
    with pytest.raises(UserError, match="--classes 1"):
        plan(planned(), 1)


def test_classes_are_known_for_the_data_sets_that_never_change() -> None:
    assert classes_of(DataConfig(source="digits")) == 10
    assert classes_of(DataConfig(source="torchvision", dataset="cifar100")) == 100
    assert classes_of(DataConfig(source="imagenet")) == 1000
    assert classes_of(DataConfig(source="folder")) is None


def test_planning_loads_no_torch_here() -> None:
    program = (
        "import sys, json\n"
        "from flows.plan import plan\n"
        "from flows.recipes import recipe\n"
        "print(json.dumps(plan(recipe('digits_supervised'), 10).document()['device']))\n"
        "assert not {'torch', 'timm', 'prefect', 'mlflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_devices_of_a_cluster_hold_their_part_of_each_batch(capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--set",
        "generations=1",
        "--device-type",
        "h100",
        "--devices",
        "2",
        "--pool-images",
        "5000000",
        "--json",
    )
    assert main(["plan", "digits", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    student = next(stage for stage in document["stages"] if stage["stage"] == "train-noisy-student")
    source = "pool as you say; others: scikit-learn's digits, by the settings"

    assert (document["device"], document["processes"], document["memory"]) == ("h100", 2, 80 * 10**9)
    assert student["micro_batch"] == 5 * 32 // 2
    assert student["needed"] == max(student["estimate"]["tensors"], student["estimate"]["holdout"])
    assert document["estimate"]["images"]["pool"] == {"value": 5e6, "basis": "assumed", "source": source}
    assert document["estimate"]["device_hours"].keys() == {"cpu", "h100"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--devices", "8"), "--devices 8"),
        (("--device-type", "h1000"), "did you mean 'h100'"),
        (("--sample", "1.5"), "--sample 1.5"),
        (("--sample", "0.5", "--device-type", "h100"), "--sample: with --device-type nothing is measured"),
        (("--no-measure", "--write-profile", "p.json"), "--write-profile: with --no-measure nothing is measured"),
        (("--profile", "p.json", "--no-measure"), "--no-measure: with --profile"),
        (("--prices", "no/such/file"), "--prices no/such/file"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(
    options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "digits", *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_images_that_are_nowhere_cannot_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "folder", "--sample", "0.1"]) == 2
    assert "set data.labeled" in capsys.readouterr().err


def test_times_are_told_in_units_of_their_size() -> None:
    assert [duration(seconds) for seconds in (48, 750, 22_320, 452_889)] == ["48.0 s", "12.5 min", "6.2 h", "5.2 days"]


def test_the_help_of_every_verb_comes_without_what_a_plan_loads() -> None:
    program = (
        "import sys, contextlib\n"
        "from flows.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['plan', '--help'])\n"
        "assert not {'torch', 'timm', 'prefect', 'mlflow', 'pydantic', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2], capture_output=True)
