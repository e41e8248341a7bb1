"""A stage on a cluster, through a real HTTP API: made once, found again, watched gently, given up by a person alone."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from ns_core.artifacts import Paths
from ns_core.errors import UserError
from ns_core.launch.kubernetes import attach, logs, manifests
from ns_core.launch.kubernetes.client import Cluster
from ns_core.launch.kubernetes.launcher import run_pods
from ns_core.launch.kubernetes.names import SPEC_HASH
from ns_core.launch.kubernetes.pod_sets import pod_sets
from ns_core.launch.spec import WorkerSpec
from ns_core.storage import open_storage
from tests.kubernetes_api import KubernetesApi
from tests.unit.launch.kubernetes.conftest import INFER, stage
from tests.unit.launch.kubernetes.runs import Attempt, Beside, progress, until

REPOSITORY = Path(__file__).resolve().parents[4]
Step = Callable[[], object]


def runs_well(api: KubernetesApi, pods: int = 1, job: str | None = None) -> list[Step]:
    """One look at each step: pods start, then speak and end, then the Job is complete."""
    names: list[str] = []

    def begin() -> None:
        names.extend(api.start(index, job) for index in range(pods))

    def finish() -> None:
        for index, name in enumerate(names):
            api.say(name, f"hello from {index}", progress(index + 1, 10))
            api.end(name)

    return [begin, finish, lambda: api.complete(job)]


def found_there(api: KubernetesApi, spec: WorkerSpec) -> str:
    """The Job of `spec`, as an orchestrator that was killed right after left it."""
    (pods,) = pod_sets(spec)
    status, job = api.answer("POST", "jobs", None, {}, manifests.job(spec, pods))
    assert status == 201
    return str(job["metadata"]["uid"])


def test_a_stage_makes_these_calls_and_no_others(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "PAUSE_S", 5.0)
    api.script.extend(runs_well(api, pods=2))
    attempt = Attempt(stage(tmp_path, pods=2))
    attempt.run()
    followed = [call for call in api.calls if call.endswith("/log")]
    assert [call for call in api.calls if not call.endswith("/log")] == [
        "POST jobs",
        "POST services",
        *["GET jobs", "GET pods"] * 3,
    ]
    assert 2 <= len(followed) <= 4, "each pod's log is followed, and read to its end once it has ended"
    assert sorted(attempt.said()) == ["pod 0: hello from 0", "pod 1: hello from 1"]
    assert [event["done"] for event in attempt.events] == [1], "rank 0 tells how it goes"
    (service,) = api.services.values()
    assert service["metadata"]["ownerReferences"][0]["uid"] == api.job()["metadata"]["uid"]


def test_between_two_looks_at_a_set_of_pods_are_two_seconds(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "POLL_S", 2.0)
    begin, finish, complete = runs_well(api)
    api.script.extend([begin, finish, complete])
    Attempt(stage(tmp_path)).run()
    looks = [at for call, at in zip(api.calls, api.times, strict=True) if call == "GET jobs"]
    assert len(looks) == 3
    assert all(later - earlier > 1.9 for earlier, later in itertools.pairwise(looks))


def test_whole_logs_lie_beside_the_artifact(api: KubernetesApi, tmp_path: Path) -> None:
    api.script.extend(runs_well(api))
    spec = stage(tmp_path)
    Attempt(spec).run()
    storage, paths = open_storage(spec.store), Paths(spec.stage, spec.fingerprint)
    (key,) = storage.list(f"{paths.folder}/logs/")
    assert storage.read(key).decode().splitlines() == ["hello from 0", progress(1, 10)]


def test_a_store_that_pods_do_not_see_is_refused_before_anything_is_made(api: KubernetesApi, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^pods do not see the store /.*: make it s3://bucket/prefix, or mount"):
        Attempt(stage(tmp_path, pod_fields="")).run()
    assert api.calls == []


def test_the_settings_of_the_stage_are_those_that_count(api: KubernetesApi, tmp_path: Path) -> None:
    spec = stage(tmp_path)
    stages = ("train-teacher.kubernetes.memory=7Gi", "train-noisy-student.kubernetes.memory=8Gi")
    spec = spec.model_copy(update={"compute": spec.compute.model_copy(update={"stages": stages})})
    api.script.extend(runs_well(api))
    Attempt(spec).run()
    (container,) = api.job()["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "7Gi"


def test_parts_are_one_bar_and_a_last_pod_commits(api: KubernetesApi, tmp_path: Path) -> None:
    spec = stage(tmp_path, INFER, pods=2)
    parts, last = (pods.name for pods in pod_sets(spec))
    api.script.extend(runs_well(api, 2, parts) + runs_well(api, 1, last))
    attempt = Attempt(spec)
    attempt.run()
    assert sorted(attempt.said()) == ["hello from 0", "part 0: hello from 0", "part 1: hello from 1"]
    assert [(event["done"], event["total"]) for event in attempt.events] == [(3, 20), (1, 10)]
    assert api.services == {}, "parts do not speak to each other"
    assert "deletionTimestamp" in api.jobs[parts]["metadata"], "it cannot be taken for another artifact's work"
    assert "deletionTimestamp" not in api.jobs[last]["metadata"]


def test_an_orchestrator_killed_after_it_made_the_job_finds_it_again(api: KubernetesApi, tmp_path: Path) -> None:
    spec = stage(tmp_path, pods=2)
    uid = found_there(api, spec)
    api.script.extend([lambda: None, *runs_well(api, pods=2)])
    attempt = Attempt(spec)
    attempt.run()
    assert api.job()["metadata"]["uid"] == uid
    assert "attached" in attempt.lines[0]
    assert len(api.services) == 1, "it was killed before it made the Service"


def test_two_orchestrators_at_once_make_one_job(api: KubernetesApi, tmp_path: Path) -> None:
    attempts = [Attempt(stage(tmp_path)) for _ in range(2)]
    both = [Beside(attempt) for attempt in attempts]
    until(lambda: all(attempt.lines for attempt in attempts))
    pod = api.start()
    api.say(pod, "hello")
    api.end(pod)
    api.complete()
    assert [one.result() for one in both] == [None, None]
    assert api.calls.count("POST jobs") == 2
    assert len(api.jobs) == 1
    assert "DELETE jobs" not in api.calls


def test_a_complete_job_is_done_only_while_its_artifact_is_there(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = stage(tmp_path)
    old = found_there(api, spec)
    api.complete()
    with monkeypatch.context() as patch:
        patch.setattr("ns_core.launch.kubernetes.launcher.find", lambda *_: "a record")
        attempt = Attempt(spec)
        attempt.run()
    assert "had ended well" in attempt.lines[0]
    assert api.job()["metadata"]["uid"] == old

    api.script.extend([lambda: None] * 3 + runs_well(api))
    Attempt(spec).run()
    assert api.job()["metadata"]["uid"] != old, "somebody removed the artifact"


@pytest.mark.parametrize("why", ["failed", "other settings"])
def test_a_failed_job_and_one_with_other_settings_are_made_anew(api: KubernetesApi, tmp_path: Path, why: str) -> None:
    spec = stage(tmp_path)
    old = found_there(api, spec)
    if why == "failed":
        api.fail()
    else:
        api.job()["metadata"]["annotations"][SPEC_HASH] = "of another image"
    api.script.extend([lambda: None] * 3 + runs_well(api))
    Attempt(spec).run()
    assert api.job()["metadata"]["uid"] != old
    assert api.calls[:4] == ["POST jobs", "GET jobs", "DELETE jobs", "GET jobs"]


def test_a_job_that_another_orchestrator_made_meanwhile_is_not_deleted_for_the_one_before(
    api: KubernetesApi, tmp_path: Path
) -> None:
    spec = stage(tmp_path)
    found_there(api, spec)
    name = api.job()["metadata"]["name"]
    cluster = Cluster.open("noisy-student")
    cluster.delete_job(name, "of the one before")
    assert "deletionTimestamp" not in api.job()["metadata"]
    cluster.delete_job(name, api.job()["metadata"]["uid"])
    assert "deletionTimestamp" in api.job()["metadata"]


def test_a_service_that_goes_with_the_job_before_is_made_anew(api: KubernetesApi, tmp_path: Path) -> None:
    spec = stage(tmp_path, pods=2)
    (pods,) = pod_sets(spec)
    api.answer("POST", "services", None, {}, manifests.service(spec, pods, "of the job before"))
    api.script.extend(runs_well(api, pods=2))
    Attempt(spec).run()
    (service,) = api.services.values()
    assert service["metadata"]["ownerReferences"][0]["uid"] == api.job()["metadata"]["uid"]


@pytest.mark.parametrize(
    ("raised", "cancelling", "left"),
    [(KeyboardInterrupt, False, False), (SystemExit, True, False), (SystemExit, False, True)],
    ids=["Ctrl-C", "a run that is cancelled", "a node that is drained"],
)
def test_only_a_person_ends_the_pods(
    api: KubernetesApi, tmp_path: Path, raised: type[BaseException], cancelling: bool, left: bool
) -> None:
    def raise_it(_: object) -> None:
        raise raised("enough")

    api.script.append(lambda: api.say(api.start(), progress(1, 10)))
    with pytest.raises(raised, match="enough"):
        run_pods(stage(tmp_path), print, raise_it, lambda: cancelling)
    assert ("deletionTimestamp" in api.job()["metadata"]) is not left
    assert api.calls.count("DELETE jobs") == (0 if left else 1)
