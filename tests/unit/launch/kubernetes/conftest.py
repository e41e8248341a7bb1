"""A cluster's API for each test, and a stage to run there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ns_core.config import ComputeConfig, DataConfig, InferConfig, KubernetesConfig, TeacherConfig
from ns_core.launch.kubernetes import client, logs
from ns_core.launch.spec import WorkerSpec
from ns_core.settings import StageConfig
from tests.kubernetes_api import KubernetesApi, serving
from tests.worker_specs import spec_of

MOUNT = {
    "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": "store"}}],
    "containers": [{"name": "worker", "volumeMounts": [{"name": "store", "mountPath": "/store"}]}],
}
"""Of a store that is a folder."""
IMAGE = "registry/noisy-student-worker@sha256:" + "0" * 64


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """A server of this test's own, to which this process's kubeconfig leads; pauses are short."""
    monkeypatch.setattr(logs, "PAUSE_S", 0.02)
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.01)
    with serving(tmp_path, monkeypatch) as server:
        yield server


def stage(
    store: Path, config: StageConfig | None = None, compute: ComputeConfig | None = None, **pods: object
) -> WorkerSpec:
    """train-teacher, or another stage, on pods as `pods` says."""
    spec = spec_of(config or TeacherConfig(), str(store), {}, {})
    settings = KubernetesConfig(**{"image": IMAGE, "pod_fields": json.dumps(MOUNT), **pods})  # type: ignore[arg-type]
    compute = (compute or ComputeConfig(launcher="kubernetes")).model_copy(update={"kubernetes": settings})
    return spec.model_copy(update={"compute": compute})


INFER, DATA = InferConfig(), DataConfig()
