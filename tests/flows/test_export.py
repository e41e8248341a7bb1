"""`noisy-student export`: which checkpoint a word means, and what a person sees."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch

from flows.checkpoints import find_checkpoint
from flows.export import export
from ns_core.artifacts import Paths, Record, commit
from ns_core.errors import UserError
from ns_core.evaluation.reports.report import RunPaths
from ns_core.fingerprint import canonical_json
from ns_core.models.checkpoint import CARD, WEIGHTS, ModelCard, save_checkpoint
from ns_core.models.factory import create_network
from ns_core.storage import Storage, open_storage
from tests.artifact_builders import flip, record
from tests.example_document import example_document
from tests.flows.command import Command
from tests.flows.test_cli import expect_one_line
from tests.scripted_s3 import ScriptedS3

RUN = "digits-20261122-221500-3fa9"
MODELS = {0: "ns_efficientnet_xs", 1: "ns_efficientnet_s", 2: "ns_efficientnet_m", 3: "resnet18"}
"""By generation; 3 is the champion of the example document."""


def paths_of(document: dict[str, Any], generation: int) -> Paths:
    stage = "finetune-at-test-resolution" if generation else "train-teacher"
    entries = {(entry["stage"], entry["generation"]): entry["fingerprint"] for entry in document["stages"]}
    return Paths(stage, entries[stage, generation])


def checkpoint(folder: Path, model: str) -> Path:
    """A network of two classes with fresh weights, for pictures of 32 pixels."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    card = ModelCard(model=model, class_names=("cat", "dog"), train_size=32, test_size=32, crop_pct=1.0)
    save_checkpoint(folder, create_network(model, 2).eval(), card)
    return folder


def filled(storage: Storage, folder: Path, models: Mapping[int, str] = MODELS) -> dict[int, Record]:
    """A finished run in `storage`; the records of its first teacher and of finetuned students, by generation."""
    document = example_document()
    records = {}
    for generation, model in models.items():
        made = record(paths_of(document, generation))
        records[generation] = commit(storage, made, checkpoint(folder / str(generation), model))
    storage.put_bytes(RunPaths(RUN).document, canonical_json(document).encode())
    return records


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, dict[int, Record]]:
    """Tests read it only."""
    folder = tmp_path_factory.mktemp("export")
    storage = open_storage(str(folder / "store"))
    return storage, filled(storage, folder / "made")


def model_of(folder: Path) -> str:
    return ModelCard.model_validate_json((folder / CARD).read_text()).model


@pytest.mark.parametrize(
    ("text", "generation", "name"),
    [
        ("latest", 3, f"{RUN}-champion"),
        (RUN, 3, f"{RUN}-champion"),
        ("digits-2026", 3, f"{RUN}-champion"),
        ("latest:teacher", 0, f"{RUN}-teacher"),
        (f"{RUN}:student1", 1, f"{RUN}-student1"),
        ("latest:student2", 2, f"{RUN}-student2"),
    ],
)
def test_a_run_means_its_champion_or_the_role_that_is_named(
    text: str, generation: int, name: str, store: tuple[Storage, dict[int, Record]]
) -> None:
    found = find_checkpoint(text, store[0])
    assert model_of(found.folder) == MODELS[generation]
    assert found.name == name
    assert found.facts.figures["holdout_top1"] == {0: 0.85, 1: 0.9033, 2: 0.89, 3: 0.9233}[generation]
    assert (found.facts.recipe, found.facts.seed) == ("digits", 7)


def test_the_teacher_of_a_run_is_not_its_selector_which_the_same_stage_trained_later(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    filled(storage, tmp_path / "made", {0: "ns_efficientnet_xs"})
    document = example_document()
    teacher = next(stage for stage in document["stages"] if stage["stage"] == "train-teacher")
    document["stages"].append({**teacher, "fingerprint": "5" * 64})
    storage.put_bytes(RunPaths(RUN).document, canonical_json(document).encode())
    assert model_of(find_checkpoint("latest:teacher", storage).folder) == "ns_efficientnet_xs"


@pytest.mark.parametrize("root", ["", "{store}/"])
@pytest.mark.parametrize("tail", ["", "/", "/attempt-{attempt}", "/attempt-{attempt}/model.safetensors"])
@pytest.mark.parametrize("digits", [12, 64])
def test_an_artifact_is_found_as_the_store_and_mlflow_write_it(
    root: str, tail: str, digits: int, store: tuple[Storage, dict[int, Record]]
) -> None:
    storage, records = store
    made = records[1]
    text = f"{root}{made.stage}/{made.fingerprint[:digits]}{tail}".format(store=storage.uri, attempt=made.attempt)
    found = find_checkpoint(text, storage)
    assert found.folder == storage.local_path(made.prefix)
    assert found.name == f"finetune-at-test-resolution-{made.fingerprint[:12]}"
    assert found.facts.figures == {"holdout_top1": 0.5}


def test_a_folder_of_ones_own_is_found_with_or_without_the_name_of_its_file(
    store: tuple[Storage, dict[int, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = checkpoint(tmp_path / "train-teacher" / ("a" * 12), "ns_efficientnet_s")
    monkeypatch.chdir(copied)
    for text in (str(copied), f"{copied}/", f"{copied}/{WEIGHTS}", ".", f"../{copied.name}"):
        assert find_checkpoint(text, store[0]).folder.resolve() == copied
        assert find_checkpoint(text, store[0]).name == copied.name


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with ScriptedS3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_artifacts_and_runs_of_a_bucket_are_copied_here(
    server: ScriptedS3, store: tuple[Storage, dict[int, Record]], tmp_path: Path
) -> None:
    storage = open_storage("s3://bucket/runs")
    made = filled(storage, tmp_path / "made", {1: MODELS[1]})[1]
    for text, holder in (
        (f"s3://bucket/runs/{made.paths.folder}", store[0]),
        (f"s3://bucket/runs/{made.prefix}/{WEIGHTS}", store[0]),
        ("latest:student1", storage),
    ):
        found = find_checkpoint(text, holder)
        assert (found.folder / WEIGHTS).read_bytes() == (tmp_path / "made" / "1" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing-2026", f"no run 'nothing-2026' in .*{RUN}"),
        ("latest:studnet1", "has no 'studnet1' .did you mean 'student1'.*teacher, student1, student2, student3"),
        (f"train-teacher/{'0' * 12}", r"has no train-teacher/000000000000: [0-9a-f]{12}$"),
        (f"train-noisy-student/{'0' * 12}", "it holds no train-noisy-student$"),
        ("s3://bucket/elsewhere", "write it as URI/STAGE/FINGERPRINT, STAGE train-teacher"),
        ("./nowhere", "no folder nowhere: a checkpoint is a folder with"),
        (".", f"no {WEIGHTS} and no {CARD}"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    text: str, words: str, store: tuple[Storage, dict[int, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        find_checkpoint(text, store[0])
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_slash_is_told_how_it_is_written(
    store: tuple[Storage, dict[int, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "mine", "ns_efficientnet_xs")
    with pytest.raises(UserError, match=r"the folder is written \./mine"):
        find_checkpoint("mine", store[0])


def test_a_damaged_artifact_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    made = filled(storage, tmp_path / "made", {0: MODELS[0]})[0]
    weights = storage.local_path(f"{made.prefix}/{WEIGHTS}")
    assert weights is not None
    flip(weights)
    with pytest.raises(UserError, match=r"is damaged .*another sha256"):
        find_checkpoint("latest:teacher", storage)
    assert storage.size(made.paths.record)


def test_an_unknown_format_names_the_nearest_and_all(store: tuple[Storage, dict[int, Record]]) -> None:
    with pytest.raises(UserError, match=r"no format 'tim' .did you mean 'timm'.*timm, hf, torch-export, onnx"):
        export("latest", "tim", None, store[0].uri)


def test_the_command_exports_a_champion_and_says_so_in_one_line(
    store: tuple[Storage, dict[int, Record]], tmp_path: Path
) -> None:
    command, place = Command(tmp_path / "state"), tmp_path / "out"
    again = ("export", "latest", "--format", "hf", "--output", str(place), "--store", store[0].uri)
    outcome = command(*again)
    assert outcome.status == 0, outcome
    (line,) = outcome.stdout.splitlines()
    assert line.startswith(f"hf: {place}, 44.8 MB, logits equal to the checkpoint's within ")
    assert outcome.stderr == ""
    page = (place / "README.md").read_text(encoding="utf-8")
    assert f"run {RUN}, student of generation 3" in page
    assert "| test top-1 accuracy | 93.2 % |" in page
    assert timm.create_model(f"local-dir:{place}", pretrained=True).num_classes == 2
    before = {file.name: file.stat().st_mtime_ns for file in place.iterdir()}
    expect_one_line(command(*again), f"{place} exists and is not empty")
    assert {file.name: file.stat().st_mtime_ns for file in place.iterdir()} == before
    assert not command.connections.exists(), "plain timm reads its folder without the network"


def test_mistakes_cost_one_line(store: tuple[Storage, dict[int, Record]], tmp_path: Path) -> None:
    command = Command(tmp_path)
    where = ("--output", str(tmp_path / "out"), "--store", store[0].uri)
    own = command("export", "latest:teacher", "--format", "timm", *where)
    expect_one_line(own, "'ns_efficientnet_xs'", "unknown to plain timm", "torch-export or onnx")
    expect_one_line(command("export", "latest", "--format", "onxx", *where), "did you mean 'onnx'")
    assert not (tmp_path / "out").exists()


def test_the_help_lists_checkpoints_and_formats_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "try:\n    from flows.cli import main; main(['export', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'prefect', 'mlflow', 'pydantic', 'numpy', 'boto3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    outcome = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    for part in ("RUN:student2", "STAGE/FINGERPRINT", "torch-export", "model.onnx"):
        assert part in outcome.stdout


def test_finding_a_checkpoint_loads_no_torch() -> None:
    program = "import sys, flows.export\nassert not {'torch', 'timm', 'onnx'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", program], check=True)
