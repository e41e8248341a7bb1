"""The pods of a stage as processes of this machine, started by their Job's own container: command and environment."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.recipes.digits import digits, digits_smoke
from ns_core.artifacts import Paths, Record, find
from ns_core.config import DataConfig, KubernetesConfig, TeacherConfig
from ns_core.launch import versions
from ns_core.launch.kubernetes import names
from ns_core.launch.kubernetes.manifests import job
from ns_core.launch.kubernetes.pod_sets import pod_sets
from ns_core.launch.listen import event_in
from ns_core.launch.local import run_worker
from ns_core.launch.spec import WorkerSpec
from ns_core.storage import open_storage
from tests.worker_specs import digits_spec, reference, spec_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 100.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WorkerSpec:
    spec = digits_spec(str(tmp_path_factory.mktemp("pods") / "store"), holdout_images=50)
    run_worker(spec, lambda _: None, lambda _: None)
    return spec


def on_pods(spec: WorkerSpec, **pods: Any) -> WorkerSpec:
    settings = KubernetesConfig(image="registry/worker:1", gpus=0, **pods)
    return spec.model_copy(update={"compute": spec.compute.model_copy(update={"kubernetes": settings})})


def training(dataset: WorkerSpec, **settings: Any) -> WorkerSpec:
    """The first training stage of `digits_smoke`, with fewer updates, on two pods."""
    config = digits_smoke().teacher.model_copy(update={"steps": 4, "epoch_steps": 2, "warmup_steps": 1, **settings})
    assert isinstance(config, TeacherConfig)
    return on_pods(spec_of(config, dataset.store, {"dataset": reference(dataset)}, {}), pods=2)


def started(spec: WorkerSpec, folder: Path, which: int = 0, **changed: str) -> "list[subprocess.Popen[bytes]]":
    """All pods of a set of a stage, each with its index, on names of loopback."""
    pods = pod_sets(spec)[which]
    (container,) = job(spec, pods)["spec"]["template"]["spec"]["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}
    own = {"TMPDIR": str(folder), "HOME": str(folder), "NS_CACHE": os.environ["NS_CACHE"], "GLOO_SOCKET_IFNAME": "lo"}
    if names.RENDEZVOUS in given:
        own[names.RENDEZVOUS] = f"localhost:{free_port()}"
    python, *command = container["command"]
    assert python == "python"
    running = []
    for index in range(pods.pods):
        environment = {**os.environ, **given, **own, names.INDEX_VARIABLE: str(index), **changed}
        running.append(one_pod([sys.executable, *command], environment, folder / f"pod-{index}.log"))
    return running


def one_pod(command: list[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ends(pods: "list[subprocess.Popen[bytes]]") -> list[int]:
    try:
        return [pod.wait(DEADLINE_S) for pod in pods]
    finally:
        for pod in pods:
            pod.kill()


def said(folder: Path, index: int) -> list[str]:
    return (folder / f"pod-{index}.log").read_text(encoding="utf-8").splitlines()


def events(folder: Path, index: int) -> list[dict[str, Any]]:
    return [event for line in said(folder, index) if (event := event_in(line))]


def artifact(spec: WorkerSpec) -> Record | None:
    return find(open_storage(spec.store), Paths(spec.stage, spec.fingerprint))


def test_two_pods_train_the_teacher_of_digits_and_commit_once(dataset: WorkerSpec, tmp_path: Path) -> None:
    config = digits().teacher
    spec = on_pods(spec_of(config, dataset.store, {"dataset": reference(dataset)}, {}), pods=2)
    assert ends(started(spec, tmp_path)) == [0, 0], said(tmp_path, 0) + said(tmp_path, 1)
    record = artifact(spec)
    assert record is not None
    assert record.result["steps"] == config.steps
    assert float(str(record.result["holdout_top1"])) > 0.8, "it learned: of 10 classes"
    folder = Path(spec.store, record.paths.folder)
    assert [path.name for path in folder.glob("attempt-*")] == [f"attempt-{record.attempt}"]
    assert [event["done"] for event in events(tmp_path, 0) if event["event"] == "progress"][-1] == config.steps
    assert events(tmp_path, 1) == [], "rank 0 speaks"
    assert not list(tmp_path.glob("ns-*"))


def test_sigterm_to_one_pod_saves_a_checkpoint_and_both_go_with_143(dataset: WorkerSpec, tmp_path: Path) -> None:
    spec = training(dataset, steps=10**6, epoch_steps=10**6, seed=1)
    pods = started(spec, tmp_path)
    deadline = time.monotonic() + DEADLINE_S
    while not events(tmp_path, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [child for pod in pods for child in psutil.Process(pod.pid).children(recursive=True)]
    pods[1].send_signal(signal.SIGTERM)
    assert ends(pods) == [143, 143], said(tmp_path, 0) + said(tmp_path, 1)
    assert not psutil.wait_procs(workers, timeout=DEADLINE_S)[1]
    resume = Paths(spec.stage, spec.fingerprint).resume
    assert [key for key in open_storage(spec.store).list(f"{resume}/") if key.endswith(".safetensors")]
    assert artifact(spec) is None


def test_a_persons_mistake_ends_a_pod_with_78_and_its_words(tmp_path: Path) -> None:
    config = DataConfig(source="folder", labeled=str(tmp_path / "nowhere"))
    spec = on_pods(spec_of(config, str(tmp_path / "store"), {}, {"source": "pictures"}))
    assert ends(started(spec, tmp_path)) == [78]
    assert said(tmp_path, 0)[-1] == "data.unlabeled is not set: give the folder, --set data.unlabeled=FOLDER"


def test_an_image_of_another_version_refuses_the_work(dataset: WorkerSpec, tmp_path: Path) -> None:
    spec = on_pods(training(dataset), pods=1)
    assert ends(started(spec, tmp_path, **{versions.VARIABLE: "0.0.7+0123456789ab"})) == [78]
    (line,) = said(tmp_path, 0)
    assert "and the orchestrator runs 0.0.7+0123456789ab: build both images from one commit" in line
