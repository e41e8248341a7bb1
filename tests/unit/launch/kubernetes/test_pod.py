"""What a pod takes from its environment: its own part of the work, and how it meets the others."""

from pathlib import Path

import pytest

from ns_core.errors import UserError
from ns_core.launch.kubernetes import manifests, pod
from ns_core.launch.kubernetes.pod_sets import pod_sets
from ns_core.launch.spec import WorkerSpec
from tests.unit.launch.kubernetes.conftest import INFER, stage


def given(patch: pytest.MonkeyPatch, spec: WorkerSpec, which: int, index: int) -> None:
    """The environment of a pod."""
    (container,) = manifests.job(spec, pod_sets(spec)[which])["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        patch.setenv(variable["name"], variable["value"])
    patch.setenv("JOB_COMPLETION_INDEX", str(index))


def test_the_index_is_the_number_of_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = stage(tmp_path, INFER, pods=3)
    for index in range(3):
        with monkeypatch.context() as patch:
            given(patch, spec, 0, index)
            assert pod._spec() == spec.model_copy(update={"part": (index, 3)})
    given(monkeypatch, spec, 1, 0)
    assert pod._spec() == spec, "the last pod does what is left, and commits"


def test_pods_that_train_meet_at_index_0_for_as_long_as_a_pod_may_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = stage(tmp_path, pods=4, gpus=8, pending_minutes=20)
    given(monkeypatch, spec, 0, 3)
    command = pod._torchrun(8, 4, tmp_path)
    options = dict(zip(command[2::2], command[3::2], strict=True))
    name = pod_sets(spec)[0].name
    assert options["--master-addr"] == f"{name}-0.{name}"
    assert options["--master-port"] == "29500"
    assert (options["--nnodes"], options["--node-rank"], options["--nproc-per-node"]) == ("4", "3", "8")
    assert options["--rdzv-conf"] == "timeout=1200"


def test_one_pod_with_several_gpus_needs_nobody(tmp_path: Path) -> None:
    assert "--standalone" in pod._torchrun(8, 1, tmp_path)


def test_outside_of_a_job_it_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NS_SPEC", raising=False)
    with pytest.raises(UserError, match=r"^NS_SPEC, NS_VERSION, JOB_COMPLETION_INDEX not set: this is started by"):
        pod._spec()
