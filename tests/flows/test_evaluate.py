"""`noisy-student evaluate`: what is evaluated on what, through the real command line, and mistakes in one line each."""

import hashlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from flows import cli, evaluate_command
from flows.subject import Subject, find_subject, measurable, only
from ns_core.artifacts import Paths, Record, commit
from ns_core.config import EvaluateConfig, OfficialSets, Recipe
from ns_core.launch.local import run_worker
from ns_core.models.checkpoint import ModelCard, save_checkpoint
from ns_core.models.factory import create_network
from ns_core.storage import Storage, open_storage
from tests import official_miniatures as miniatures
from tests.artifact_builders import record
from tests.flows.command import Command, Outcome
from tests.flows.test_cli import expect_one_line
from tests.worker_specs import digits_spec, teacher_spec

NAME = "test_efficientnet.r160_in1k"
CLASSES = ("n01498041", "n01531178", "n01534433")
"""Of ImageNet-A."""
TINY = (
    '--set=corruptions=["fog"]',
    "--set=severities=[1]",
    '--set=perturbations=["tilt"]',
    "--set=fgsm_eps=[0, 2]",
    "--set=pgd_eps=[2]",
    "--set=pgd_steps=2",
    "--set=compute.device=cpu",
    "--set=compute.threads=1",
    "--samples=10",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained network, images of three ImageNet classes, and official sets made of them."""
    folder = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    torch.save(timm.create_model(NAME).state_dict(), folder / "weights.pth")
    pictures = miniatures.class_pictures(CLASSES, per_class=4, size=64)
    miniatures.class_folders(folder / "images", pictures)
    miniatures.class_folders(folder / "a", pictures)
    miniatures.imagenet_c(folder / "c", pictures, corruptions=("fog", "snow"), severities=(1, 2))
    return folder


@pytest.fixture(scope="module")
def command(folder: Path, prefect_api: str) -> Command:
    return Command(folder / "state", prefect_api)


def on_images(folder: Path) -> tuple[str, ...]:
    """The network from elsewhere on a folder of images."""
    return (f"timm:{NAME}", "--weights", str(folder / "weights.pth"), "--images", str(folder / "images"), *TINY)


@pytest.fixture(scope="module")
def measured(command: Command, folder: Path) -> Outcome:
    """The network from elsewhere on everything there is."""
    official = ("--official", f"imagenet_a={folder / 'a'}", f"imagenet-c={folder / 'c'}")
    outcome = command("evaluate", *on_images(folder), *official, "--json")
    assert outcome.status == 0, outcome.stderr
    return outcome


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestRuns:
    """In order: a network from elsewhere, the same again, then others against it."""

    def test_a_network_from_elsewhere_is_measured_on_a_folder_and_official_sets(
        self, command: Command, measured: Outcome
    ) -> None:
        outcome = measured
        assert outcome.states == {("import-checkpoint", 0): "computed", ("evaluate-robustness", 0): "computed"}
        document = outcome.document
        report = document["report"]
        assert (document["model"], report["size"], len(report["class_names"])) == (NAME, 160, 1000)
        assert report["images"]["top1"]["images"] == report["budget"]["images"] == 10
        assert list(report["corruptions"]["errors"]) == ["fog"]
        assert list(report["perturbations"]["flip_probability"]) == ["tilt"]
        assert list(report["attacks"]["fgsm"]["top1"]) == ["0", "2"]
        assert report["attacks"]["pgd"]["settings"]["steps"] == 2
        assert report["subsets"]["imagenet_a"]["classes"] >= len(CLASSES)
        assert set(report["imagenet_c"]["errors"]) == {"fog", "snow"}
        assert report["imagenet_c"]["comparable"] is False
        assert any(gap["suite"] == "imagenet_c" and "contrast" in gap["what"] for gap in report["gaps"])
        assert Path(document["page"]).read_text(encoding="utf-8").startswith("<!doctype html>")
        assert "95 % interval" in outcome.stderr
        assert "made on the fly: compares runs with each other only" in outcome.stderr
        assert "Gap in ImageNet-C: gaussian_noise, shot_noise, " in outcome.stderr
        assert f"Report: {document['page']}" in outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert not command.connections.exists(), command.connections.read_text()

    @pytest.mark.usefixtures("measured")
    def test_the_same_images_elsewhere_and_other_resources_compute_nothing(
        self, command: Command, folder: Path
    ) -> None:
        moved = folder / "moved"
        shutil.copytree(folder / "images", moved / "images")
        shutil.copytree(folder / "a", moved / "a")
        shutil.copytree(folder / "c", moved / "c")
        shutil.copyfile(folder / "weights.pth", moved / "weights.pth")
        official = ("--official", f"imagenet_c={moved / 'c'}", f"imagenet_a={moved / 'a'}")
        outcome = command("evaluate", *on_images(moved), *official, "--set=batch_size=7", "--json")
        assert outcome.status == 0, outcome.stderr
        assert set(outcome.states.values()) == {"cached"}
        assert outcome.document["page"] is not None, "a run of its own has its page"

    def test_mlflow_has_the_evaluation_with_its_figures(self, command: Command) -> None:
        with sqlite3.connect(command.home / "mlflow.db") as database:
            runs = database.execute(
                "select run_uuid, value, status from runs join tags using (run_uuid) where key = 'ns.level'"
            ).fetchall()
            assert sorted(level for _, level, _ in runs) == ["generation", "pipeline"], "the second found the first's"
            assert {status for _, _, status in runs} == {"FINISHED"}
            keys = {key for (key,) in database.execute("select distinct key from metrics")}
            assert any(key.startswith("timing/evaluate-robustness") for key in keys)

    def test_another_checkpoint_of_ours_is_compared_image_by_image(
        self, command: Command, folder: Path, measured: Outcome
    ) -> None:
        own, imported = folder / "own", measured.document
        own.mkdir()
        torch.manual_seed(1)
        card = ModelCard(
            model=NAME,
            class_names=tuple(imported["report"]["class_names"]),
            train_size=160,
            test_size=160,
            crop_pct=1.0,
        )
        save_checkpoint(own, create_network(NAME, 1000), card)
        images = ("--images", str(folder / "images"), *TINY, "--suite", "fgsm")
        outcome = command("evaluate", str(own), "--against", imported["checkpoint"], *images, "--json")
        assert outcome.status == 0, outcome.stderr
        document = outcome.document
        assert outcome.states == {
            ("import-checkpoint", 0): "computed",
            ("evaluate-robustness", 0): "computed",
            ("evaluate-robustness", 1): "computed",
        }
        assert document["baseline"] == document["report"]["baseline"] != ""
        against = document["report"]["images"]["against_baseline"]
        assert against["difference"]["images"] == 10
        assert against["p_value"] is not None
        assert document["report"]["corruptions"] is None, "not chosen"
        assert "against the" in outcome.stderr, "a column of its own"

    def test_official_sets_alone_need_no_images(self, command: Command, folder: Path) -> None:
        words = (f"timm:{NAME}", "--weights", str(folder / "weights.pth"), "--official", f"imagenet_a={folder / 'a'}")
        outcome = command("evaluate", *words, *TINY, "--json")
        assert outcome.status == 0, outcome.stderr
        report = outcome.document["report"]
        assert list(report["subsets"]) == ["imagenet_a"]
        assert (report["corruptions"], report["perturbations"], report["attacks"]) == (None, None, {})

    def test_a_checkpoint_of_the_store_is_measured_on_its_own_dataset(self, command: Command, folder: Path) -> None:
        store = str(folder / "runs")
        dataset = digits_spec(store)
        teacher = teacher_spec(dataset)
        for spec in (dataset, teacher):
            run_worker(spec, lambda line: None, lambda event: None)
        words = (f"train-teacher/{teacher.fingerprint[:12]}", "--store", store, *TINY, "--json")
        outcome = command("evaluate", *words)
        assert outcome.status == 0, outcome.stderr
        report = outcome.document["report"]
        assert (report["holdout"]["top1"]["images"], report["test"]["top1"]["images"]) == (300, 400)
        assert report["corruptions"]["images"] == 10
        assert report["budget"]["corruptions"] == 10
        assert outcome.states == {("evaluate-robustness", 0): "computed"}


# --- which checkpoint, which images


def teacher_of_a_dataset(storage: Storage, folder: Path, dataset: bool) -> Record:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    card = ModelCard(model="ns_efficientnet_xs", class_names=("a", "b"), train_size=32, test_size=32, crop_pct=1.0)
    save_checkpoint(folder, create_network("ns_efficientnet_xs", 2), card)
    made = commit(storage, record(), folder)
    if dataset:
        (folder / "data").mkdir()
        commit(storage, record(Paths("prepare-dataset", "d" * 64)), folder / "data")
    return made


def test_the_record_of_a_checkpoint_leads_to_its_dataset(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    made = teacher_of_a_dataset(storage, tmp_path / "made", dataset=True)
    subject = find_subject(made.paths.folder, storage)
    assert subject.held is not None
    assert subject.held.fingerprint == made.fingerprint
    assert subject.dataset is not None
    assert subject.dataset.fingerprint == "d" * 64
    config = EvaluateConfig()
    assert measurable(config, subject) is config


def test_a_checkpoint_whose_dataset_is_gone_says_so(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    made = teacher_of_a_dataset(storage, tmp_path / "made", dataset=False)
    subject = find_subject(made.paths.folder, storage)
    with pytest.raises(Exception, match=r"nothing to measure.*has no prepare-dataset/dddddddddddd.*--images FOLDER"):
        measurable(EvaluateConfig(), subject)


def test_a_checkpoint_of_another_store_or_folder_is_imported_by_its_content(tmp_path: Path) -> None:
    other, storage = open_storage(str(tmp_path / "other")), open_storage(str(tmp_path / "store"))
    made = teacher_of_a_dataset(other, tmp_path / "made", dataset=True)
    foreign = find_subject(f"{other.uri}/{made.paths.folder}", storage)
    copied = tmp_path / "copied"
    local = other.local_path(made.prefix)
    assert local is not None
    shutil.copytree(local, copied)
    plain = find_subject(str(copied), storage)
    assert foreign.held is plain.held is None
    assert foreign.dataset is plain.dataset is None
    assert foreign.digests == plain.digests
    assert set(plain.digests) == {"weights", "card"}
    assert foreign.foreign is not None
    assert plain.foreign is not None
    assert foreign.foreign.science() == plain.foreign.science(), "where it lies is no identity"


def test_the_class_names_of_a_foreign_network_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n dog \n\nemu\n", encoding="utf-8")
    (tmp_path / "w.pth").write_bytes(b"weights")
    words = {"weights": str(tmp_path / "w.pth"), "classes": str(tmp_path / "names.txt")}
    subject = find_subject("timm:resnet18", open_storage(str(tmp_path / "store")), **words)
    assert subject.foreign is not None
    assert subject.foreign.class_names == ("cat", "dog", "emu")
    assert subject.digests == {"weights": hashlib.sha256(b"weights").hexdigest()}


def test_shards_that_lie_elsewhere_are_named_and_other_data_is_not_asked_for() -> None:
    def recipe(*words: str) -> Recipe:
        return evaluate_command._recipe(cli._parser().parse_args(["evaluate", "latest", *words]))

    shards = recipe("--set", "data.source=webdataset", "--set", "data.labeled=/shards", "--set", "compute.threads=3")
    assert (shards.data.labeled, shards.compute.threads) == ("/shards", 3)
    assert recipe("--recipe", "folder").data == Recipe().data
    small = recipe("--samples", "50").evaluate
    assert (small.max_images, small.max_sequences, small.max_official) == (50, 50, 50)
    assert recipe("--set", "max_images=20", "--samples", "50").evaluate.max_images == 20, "the lower one"


def test_chosen_suites_are_measured_and_no_others() -> None:
    config = EvaluateConfig(fgsm_eps=(1.0,), official=OfficialSets(images="/i", imagenet_a="/a"))
    chosen = only(config, frozenset({"fgsm", "perturbations"}))
    assert (chosen.fgsm_eps, len(chosen.perturbations)) == ((1.0,), 10)
    assert (chosen.corruptions, chosen.pgd_eps, chosen.autoattack_eps) == ((), (), ())
    assert chosen.official.given() == {"images": "/i"}
    assert only(config, frozenset({"autoattack", "official"})).autoattack_eps == (4.0,)
    assert only(config, frozenset({"official"})).official == config.official
    assert only(EvaluateConfig(corruptions=()), frozenset({"corruptions"})).corruptions == EvaluateConfig().corruptions


def test_without_images_only_official_sets_are_left() -> None:
    config = EvaluateConfig(official=OfficialSets(imagenet_a="/a"))
    left = measurable(config, Subject("x"))
    assert (left.corruptions, left.perturbations, left.fgsm_eps, left.pgd_eps) == ((), (), (), ())
    assert left.official == config.official


# --- mistakes


@pytest.fixture
def told(tmp_path: Path, folder: Path) -> Any:
    """What the command line says of wrong words, which may name files below `folder`."""
    command = Command(tmp_path)

    def run(*words: str) -> Outcome:
        return command("evaluate", *(word.format(folder=folder) for word in words))

    return run


FILE = ("--weights", "{folder}/weights.pth")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["latest"], ["holds no finished run"]),
        (["./nowhere"], ["no folder nowhere"]),
        ([f"timm:{NAME}"], ["where are its weights", "--weights FILE", "--pretrained"]),
        (["timm:", *FILE, "--images", "{folder}/images"], ["give a timm name"]),
        ([f"timm:{NAME}", "--weights", "{folder}/nothing.pth"], ["there is no file", "nothing.pth"]),
        ([f"timm:{NAME}", *FILE], ["nothing to measure", "made elsewhere", "--images FOLDER", "--official SET=FOLDER"]),
        ([f"timm:{NAME}", *FILE, "--classes", "{folder}/nothing.txt"], ["--classes", "nothing.txt"]),
        (["./mine", *FILE], ["'./mine' has its own weights", "timm:NAME"]),
        ([f"timm:{NAME}", *FILE, "--suite", "fgms"], ["no suite 'fgms'", "did you mean 'fgsm'?"]),
        ([f"timm:{NAME}", *FILE, "--suite", "official"], ["no set is given", "--official SET=FOLDER"]),
        (
            [f"timm:{NAME}", *FILE, "--suite", "fgsm", "official", "--official", "imagenet_a={folder}/a"],
            ["--suite fgsm: there are no images", "--images FOLDER"],
        ),
        ([f"timm:{NAME}", *FILE, "--official", "imagenet_a"], ["--official imagenet_a", "SET=FOLDER"]),
        (
            [f"timm:{NAME}", *FILE, "--official", "imagenet_x=/tmp"],
            ["no set 'imagenet_x'", "did you mean 'imagenet_", "cifar10_p"],
        ),
        ([f"timm:{NAME}", *FILE, "--official", "images=/tmp"], ["--images FOLDER"]),
        ([f"timm:{NAME}", *FILE, "--official", "imagenet_a={folder}/none"], ["imagenet_a", "none does not exist"]),
        (
            [f"timm:{NAME}", *FILE, "--official", "imagenet_c={folder}/a"],
            ["imagenet_c", "has no folders of corruptions"],
        ),
        ([f"timm:{NAME}", *FILE, "--images", "{folder}/none"], ["images", "none does not exist"]),
        ([f"timm:{NAME}", *FILE, "--images", "{folder}/images", "--samples", "3"], ["--samples 3", "at least 10"]),
        (
            [f"timm:{NAME}", *FILE, "--images", "{folder}/images", "--set", "fgms_eps=[1]"],
            ["'fgms_eps'", "did you mean 'fgsm_eps'?"],
        ),
        (
            [f"timm:{NAME}", *FILE, "--images", "{folder}/images", "--set", "severities=[7]"],
            ["evaluate", "7 is not one of 1 to 5"],
        ),
        ([f"timm:{NAME}", *FILE, "--images", "{folder}/images", "--recipe", "digit"], ["did you mean 'digits'?"]),
        ([f"timm:{NAME}", *FILE, "--images", "{folder}/images", "--against", "latest"], ["holds no finished run"]),
        (
            [f"timm:{NAME}", *FILE, "--images", "{folder}/images", "--against", "timm:resnet18"],
            ["--against timm:resnet18", "import-checkpoint/FINGERPRINT"],
        ),
        ([f"timm:{NAME}", *FILE, "--images", "{folder}/images", "--store", "{folder}/weights.pth"], ["weights.pth"]),
    ],
)
def test_a_mistake_in_an_argument_is_one_line(words: list[str], parts: list[str], told: Any) -> None:
    expect_one_line(told(*words), *parts)


def test_two_places_of_weights_are_refused(told: Any) -> None:
    outcome = told(f"timm:{NAME}", *FILE, "--pretrained")
    assert outcome.status == 2
    assert "not allowed with" in outcome.stderr


@pytest.mark.slow
def test_weights_of_another_network_are_one_line_at_the_end(tmp_path: Path, folder: Path, prefect_api: str) -> None:
    network: nn.Module = timm.create_model("test_resnet.r160_in1k")
    torch.save(network.state_dict(), tmp_path / "other.pth")
    words = (f"timm:{NAME}", "--weights", str(tmp_path / "other.pth"), "--images", str(folder / "images"))
    outcome = Command(tmp_path / "state", prefect_api)("evaluate", *words, "--json")
    assert outcome.status == 2, outcome.stderr
    assert outcome.stdout == ""
    last = outcome.stderr.strip().splitlines()[-1]
    assert last.startswith("noisy-student: weights: ")
    assert f"is not of a '{NAME}' with 1000 classes" in last
    assert "Traceback" not in outcome.stderr


def test_the_help_lists_suites_and_checkpoints_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "try:\n    from flows.cli import main; main(['evaluate', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'prefect', 'mlflow', 'pydantic', 'numpy', 'boto3', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    outcome = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    for part in ("RUN:student2", "timm:NAME", "autoattack", "imagenet_sketch", "cifar10_p"):
        assert part in outcome.stdout


def test_finding_what_to_evaluate_loads_no_torch() -> None:
    program = (
        "import sys, flows.subject, flows.official, flows.evaluate_command, flows.evaluate\n"
        "assert not {'torch', 'timm', 'pyautoattack'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
