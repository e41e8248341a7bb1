"""Stages of a flow as pods: the API server is the tests' own, the pods are real processes started as it was told."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ns_core.artifacts import Dataset
from ns_core.config import ComputeConfig, DataConfig, KubernetesConfig
from ns_core.launch.kubernetes.names import INDEX_VARIABLE
from tests.kubernetes_api import KubernetesApi, serving

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

DATA = DataConfig(labels_per_class=2, holdout_images=20, test_images=20)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    with serving(tmp_path, monkeypatch) as server:
        yield server


def run_a_pod(api: KubernetesApi, scratch: Path) -> None:
    """What the cluster does with a Job of one pod, to its end."""
    pod = api.start()
    (container,) = api.job()["spec"]["template"]["spec"]["containers"]
    python, *command = container["command"]
    assert python == "python"
    given = {one["name"]: one["value"] for one in container["env"]}
    own = {INDEX_VARIABLE: "0", "HOME": str(scratch), "TMPDIR": str(scratch), "NS_CACHE": os.environ["NS_CACHE"]}
    ended = subprocess.run(
        [sys.executable, *command], env={**os.environ, **given, **own}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    api.say(pod, *ended.stdout.splitlines())
    api.end(pod)
    api.complete()


def stage_on(folder: Path) -> tuple[Any, Any]:
    """prepare-dataset in a flow of its own: the artifact, and what the ledger says."""
    from prefect import flow

    from tasks.observe import Watch, watching
    from tasks.prepare_dataset import prepare_dataset
    from tasks.run import Run, StageCall

    settings = KubernetesConfig(
        image="registry/worker:1", pod_fields='{"containers": [{"name": "worker", "volumeMounts": []}]}'
    )
    run = Run(
        run_id="test",
        store=str(folder / "store"),
        home=str(folder / "home"),
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        experiment="test",
        compute=ComputeConfig(launcher="kubernetes", kubernetes=settings, retries=0),
    )

    @flow(name="on-a-cluster")
    def one() -> Any:
        return prepare_dataset(StageCall(run, 0, DATA, {}))

    with watching(Watch()) as watch:
        artifact = one()
    return artifact, watch.ledger[-1]


def test_a_stage_of_a_flow_is_a_job_and_comes_from_the_store_afterwards(api: KubernetesApi, tmp_path: Path) -> None:
    api.script.append(lambda: run_a_pod(api, tmp_path))
    artifact, computed = stage_on(tmp_path)
    assert isinstance(artifact, Dataset)
    assert computed.state == "computed"
    (name,) = api.jobs
    assert name.startswith(f"ns-prepare-dataset-{computed.fingerprint[:12]}-")
    asked = len(api.calls)
    again, cached = stage_on(tmp_path)
    assert (again, cached.state) == (artifact, "cached")
    assert len(api.calls) == asked, "what is in the store asks the cluster nothing"


@pytest.mark.parametrize("which", ["own", "parent"])
def test_a_person_who_cancels_is_told_from_a_node_that_drains(which: str) -> None:
    """Of a generation it is the campaign that the person cancels."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run
    from prefect.states import Cancelling

    from tasks.work import _cancelling

    def cancel() -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelling(), force=True)

    @flow(name="generation")
    def child() -> tuple[bool, bool]:
        before = _cancelling()
        if which == "own":
            cancel()
        return before, _cancelling()

    @flow(name="campaign")
    def parent() -> tuple[bool, bool]:
        if which == "parent":
            cancel()
            return False, child()[1]
        return child()

    assert parent() == (False, True)
