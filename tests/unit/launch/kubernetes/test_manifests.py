"""What is asked of a cluster for a stage: Jobs and Services that its published schemas take."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from ns_core.config import ComputeConfig
from ns_core.errors import UserError
from ns_core.launch.kubernetes import manifests
from ns_core.launch.kubernetes.names import job_name
from ns_core.launch.kubernetes.pod_sets import pod_sets, quantity_share
from ns_core.launch.spec import WorkerSpec
from tests.unit.launch.kubernetes.conftest import DATA, INFER, stage

EVERYTHING: dict[str, Any] = {
    "pods": 8,
    "gpus": 8,
    "cpu": "96",
    "memory": "1000Gi",
    "shm": "64Gi",
    "image_pull_secrets": ("registry",),
    "node_selector": ("cloud.example.com/accelerator=h100",),
    "tolerations": ("nvidia.com/gpu=present:NoSchedule", "spot:NoExecute", "any"),
    "priority_class": "batch",
    "queue": "gpus",
    "secrets": ("s3",),
    "environment": ("AWS_ENDPOINT_URL=http://s3:8333", "NS_PODS=7"),
    "pod_fields": json.dumps({"hostNetwork": True, "containers": [{"name": "worker", "workingDir": "/tmp"}]}),
}


def rendered(spec: WorkerSpec) -> list[dict[str, Any]]:
    return [manifests.job(spec, pods) for pods in pod_sets(spec)]


def pod(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def environment(job: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in pod(job)["containers"][0]["env"]}


@pytest.mark.parametrize("version", ["1.33", "1.36"])
@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_jobs_and_services_are_what_the_published_schemas_take(
    tmp_path: Path, version: str, settings: dict[str, Any]
) -> None:
    for config in (None, INFER, DATA):
        spec = stage(tmp_path, config, **settings)
        for pods in pod_sets(spec):
            kubernetes_validate.validate(manifests.job(spec, pods), version, strict=True)
            kubernetes_validate.validate(manifests.service(spec, pods, "uid"), version, strict=True)


def test_training_is_one_group_of_pods_that_meet_at_index_0(tmp_path: Path) -> None:
    (job,) = rendered(stage(tmp_path, pods=4, gpus=2))
    name = job["metadata"]["name"]
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["backoffLimit"]) == (4, 4, 12)
    assert "backoffLimitPerIndex" not in job["spec"]
    assert pod(job)["subdomain"] == name
    said = environment(job)
    assert said["NS_RENDEZVOUS"] == f"{name}-0.{name}:29500"
    assert (said["NS_PODS"], said["NS_PROCESSES"], said["NS_PARTS"]) == ("4", "2", "0")
    assert pod(job)["containers"][0]["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "2"}


def test_labelling_is_a_pod_for_each_gpu_and_then_one_that_commits(tmp_path: Path) -> None:
    parts, last = rendered(stage(tmp_path, INFER, pods=4, gpus=2, parallel=3, cpu="3", memory="16Gi", restarts=5))
    assert (parts["spec"]["completions"], parts["spec"]["parallelism"]) == (8, 3)
    assert parts["spec"]["backoffLimitPerIndex"] == 5
    assert "backoffLimit" not in parts["spec"]
    assert (environment(parts)["NS_PARTS"], environment(parts)["NS_PODS"]) == ("8", "1")
    requests = pod(parts)["containers"][0]["resources"]["requests"]
    assert requests == {"cpu": "1500m", "memory": str(8 * 2**30), "nvidia.com/gpu": "1"}
    assert (last["spec"]["completions"], environment(last)["NS_PARTS"]) == (1, "0")
    assert parts["metadata"]["name"] != last["metadata"]["name"]
    assert len(rendered(stage(tmp_path, INFER, gpus=1))) == 1, "one pod does it alone"


def test_a_stage_that_moves_files_gets_one_pod_without_a_gpu(tmp_path: Path) -> None:
    (job,) = rendered(stage(tmp_path, DATA, pods=8, gpus=8))
    assert job["spec"]["completions"] == 1
    assert "nvidia.com/gpu" not in pod(job)["containers"][0]["resources"]["limits"]


def test_without_gpus_a_pod_has_as_many_processes_as_a_machine_would(tmp_path: Path) -> None:
    (job,) = rendered(stage(tmp_path, compute=ComputeConfig(processes=3), gpus=0))
    assert environment(job)["NS_PROCESSES"] == "3"


def test_a_recipe_for_the_cpu_asks_for_no_gpu(tmp_path: Path) -> None:
    for config in (None, INFER):
        for job in rendered(stage(tmp_path, config, compute=ComputeConfig(device="cpu"), gpus=8, pods=2)):
            assert set(pod(job)["containers"][0]["resources"]["limits"]) == {"memory"}


def test_disruptions_and_stops_are_not_counted_and_mistakes_end_the_job(tmp_path: Path) -> None:
    (job,) = rendered(stage(tmp_path))
    disrupted, stopped, mistaken = job["spec"]["podFailurePolicy"]["rules"]
    assert (disrupted["action"], disrupted["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [143])
    assert (mistaken["action"], mistaken["onExitCodes"]["values"]) == ("FailJob", [64, 78, 126, 127])
    assert job["spec"]["podReplacementPolicy"] == "Failed"


def test_a_pod_may_write_nowhere_but_into_its_scratch_and_is_nobody_special(tmp_path: Path) -> None:
    (job,) = rendered(stage(tmp_path, shm="3Gi", scratch="7Gi", pod_fields=""))
    (container,) = pod(job)["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod(job)["securityContext"]["runAsNonRoot"] is True
    assert pod(job)["automountServiceAccountToken"] is False
    volumes = {one["name"]: one["emptyDir"] for one in pod(job)["volumes"]}
    assert volumes == {"shm": {"medium": "Memory", "sizeLimit": "3Gi"}, "scratch": {"sizeLimit": "7Gi"}}
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    said = environment(job)
    assert mounts == {"shm": "/dev/shm", "scratch": said["TMPDIR"]}
    assert said["NS_CACHE"].startswith(said["TMPDIR"])


def test_everything_that_a_person_may_say_of_pods_is_in_them(tmp_path: Path) -> None:
    (job,) = rendered(stage(tmp_path, **EVERYTHING))
    body, (container,) = pod(job), pod(job)["containers"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert body["nodeSelector"] == {"cloud.example.com/accelerator": "h100"}
    assert body["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Exists", "effect": "NoExecute"},
        {"key": "any", "operator": "Exists"},
    ]
    assert (body["priorityClassName"], body["imagePullSecrets"]) == ("batch", [{"name": "registry"}])
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert (body["hostNetwork"], container["workingDir"]) == (True, "/tmp"), "merged into the container of that name"
    assert environment(job)["AWS_ENDPOINT_URL"] == "http://s3:8333"
    assert environment(job)["NS_PODS"] == "8", "a person's variables do not change what the pod is"


def test_the_worker_is_told_its_whole_spec_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    spec = stage(tmp_path, pods=2, secrets=("s3",))
    (job,) = rendered(spec)
    assert WorkerSpec.model_validate_json(environment(job)["NS_SPEC"]) == spec
    assert "do-not-tell" not in json.dumps(job)


def test_a_spec_too_long_for_an_environment_is_refused_with_its_size(tmp_path: Path) -> None:
    spec = stage(tmp_path).model_copy(update={"places": {"labeled": "x" * 100_000}})
    with pytest.raises(UserError, match=r"^train-teacher: its settings take \d{6} bytes, more than the 98304"):
        rendered(spec)


def test_no_image_is_a_mistake_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NS_WORKER_IMAGE", raising=False)
    with pytest.raises(UserError, match=r"set compute.kubernetes.image, or NS_WORKER_IMAGE"):
        rendered(stage(tmp_path, image=""))
    monkeypatch.setenv("NS_WORKER_IMAGE", "registry/worker:7")
    assert pod(rendered(stage(tmp_path, image=""))[0])["containers"][0]["image"] == "registry/worker:7"


def test_the_name_follows_from_work_and_store_and_fits_a_host_name(tmp_path: Path) -> None:
    spec = stage(tmp_path).model_copy(update={"stage": "finetune-at-test-resolution"})
    assert job_name(spec) == job_name(stage(tmp_path, pods=2).model_copy(update={"stage": spec.stage}))
    assert job_name(spec) != job_name(spec.model_copy(update={"store": "s3://other"})), (
        "another campaign's is left alone"
    )
    assert len(job_name(spec, "-p") + "-4095") <= 63


@pytest.mark.parametrize(
    ("quantity", "share", "expected"),
    [("16Gi", 1, "16Gi"), ("16Gi", 8, str(2**31)), ("96", 8, "12000m"), ("1", 3, "334m"), ("500m", 2, "250m")],
)
def test_a_share_of_a_quantity_is_a_quantity(quantity: str, share: int, expected: str) -> None:
    assert quantity_share(quantity, share) == expected
