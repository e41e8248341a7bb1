"""What goes wrong on a cluster, in one line with its remedy, and retried only where another try may cure it."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ns_core.errors import StageFailed, UserError
from ns_core.launch.kubernetes import launcher
from tests.kubernetes_api import KubernetesApi
from tests.unit.launch.kubernetes.conftest import IMAGE, INFER, stage
from tests.unit.launch.kubernetes.runs import Attempt

SOON = 0.1 / 60
"""Minutes that a pod may be pending."""


def told(attempt: Attempt, kind: type[Exception]) -> str:
    """The one line, which begins with the stage."""
    with pytest.raises(kind) as caught:
        attempt.run()
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix("train-teacher: ")


def ends(api: KubernetesApi, *codes: tuple[int, str, str]) -> None:
    """Pods that end one after the other, and the Job with them."""
    names: list[str] = []
    api.script.append(lambda: names.extend(api.start(index) for index in range(len(codes))))
    api.script.append(lambda: [api.end(name, *code) for name, code in zip(names, codes, strict=True)])
    api.script.append(api.fail)


def test_out_of_memory_is_told_with_the_limit_and_not_retried(api: KubernetesApi, tmp_path: Path) -> None:
    ends(api, (137, "OOMKilled", ""))
    text = told(Attempt(stage(tmp_path, memory="12Gi")), UserError)
    assert "ran out of memory (limit 12Gi): raise compute.kubernetes.memory" in text


def test_of_two_ranks_the_one_that_ran_out_of_memory_is_the_cause(api: KubernetesApi, tmp_path: Path) -> None:
    ends(api, (1, "Error", "Connection closed by peer"), (137, "OOMKilled", ""))
    text = told(Attempt(stage(tmp_path, pods=2)), UserError)
    assert text.startswith("pod 1 (ns-train-teacher-")
    assert "Connection closed" not in text


def test_an_exit_status_is_told_with_the_last_words_and_retried(api: KubernetesApi, tmp_path: Path) -> None:
    names: list[str] = []

    def end() -> None:
        api.end(names[1], 1, message="ValueError: no such\n layer")
        api.end(names[0], 1, message="Connection closed by peer")

    api.script.extend([lambda: names.extend(api.start(index) for index in range(2)), end, api.fail])
    text = told(Attempt(stage(tmp_path, pods=2)), StageFailed)
    assert text.startswith("pod 1 ("), "the first that ended; the others follow from it"
    assert text.endswith("ended with exit status 1: ValueError: no such layer")


def test_an_image_that_cannot_start_the_worker_is_not_tried_again(api: KubernetesApi, tmp_path: Path) -> None:
    ends(api, (127, "Error", "sh: python: not found"))
    text = told(Attempt(stage(tmp_path)), UserError)
    assert text.endswith("its image cannot start the worker: mend compute.kubernetes.image: sh: python: not found")


def test_sigkill_without_a_reason_is_told_as_what_it_may_be(api: KubernetesApi, tmp_path: Path) -> None:
    ends(api, (137, "Error", ""))
    text = told(Attempt(stage(tmp_path)), StageFailed)
    assert "was killed (SIGKILL), for want of memory (limit 16Gi) or by its node" in text


def test_a_mistake_that_the_worker_tells_is_its_own_sentence(api: KubernetesApi, tmp_path: Path) -> None:
    words = "model 'x' is not known to timm: see timm.list_models()"
    ends(api, (1, "Error", "Connection closed by peer"), (78, "Error", words))
    assert told(Attempt(stage(tmp_path, pods=2)), UserError) == words


def test_a_preempted_pod_is_retried(api: KubernetesApi, tmp_path: Path) -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "for another"}
    names: list[str] = []
    api.script.append(lambda: names.append(api.start()))
    api.script.append(lambda: api.end(names[0], 1, "Error", "stopped", conditions=[target]))
    api.script.append(api.fail)
    text = told(Attempt(stage(tmp_path)), StageFailed)
    assert "was evicted or preempted: PreemptionByScheduler: for another; the next attempt goes on from" in text


def test_an_evicted_pod_is_told_with_the_nodes_words(api: KubernetesApi, tmp_path: Path) -> None:
    names: list[str] = []
    api.script.append(lambda: names.append(api.start()))
    reason = {"reason": "Evicted", "message": "Usage of EmptyDir volume 'scratch' exceeds the limit '100Gi'."}
    api.script.append(lambda: api.pods[names[0]].update(status={"phase": "Failed", **reason}))
    api.script.append(api.fail)
    assert "evicted or preempted: Usage of EmptyDir volume" in told(Attempt(stage(tmp_path)), StageFailed)


def test_the_deadline_is_told_with_its_hours(api: KubernetesApi, tmp_path: Path) -> None:
    api.script.append(api.start)
    api.script.append(api.pods.clear)  # the cluster deletes them
    api.script.append(lambda: api.fail("DeadlineExceeded", "Job was active longer than specified deadline"))
    text = told(Attempt(stage(tmp_path, deadline_hours=36)), UserError)
    assert text.startswith("it took longer than the 36 hours that it has: raise compute.kubernetes.deadline_hours")


def test_what_ended_the_last_attempt_counts_and_not_what_ended_those_before(api: KubernetesApi, tmp_path: Path) -> None:
    names: list[str] = []
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": ""}
    api.script.append(lambda: names.append(api.start()))
    api.script.append(lambda: api.end(names[0], 143, conditions=[target]))
    api.script.append(lambda: names.append(api.start()))
    api.script.append(lambda: api.end(names[1], 1, "Error", "it diverged"))
    api.script.append(api.fail)
    assert told(Attempt(stage(tmp_path)), StageFailed).endswith("ended with exit status 1: it diverged")


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("ImagePullBackOff", "manifest unknown", "cannot get its image registry/worker:1: ImagePullBackOff: manifest"),
        (
            "CreateContainerConfigError",
            'secret "s3" not found',
            'cannot be started: CreateContainerConfigError: secret "s3"',
        ),
    ],
)
def test_a_pod_that_cannot_start_is_told_at_once_and_given_up_later(
    api: KubernetesApi, tmp_path: Path, reason: str, message: str, expected: str
) -> None:
    api.script.append(lambda: api.wait(api.start(phase="Pending"), reason, message))
    attempt = Attempt(stage(tmp_path, pending_minutes=SOON))
    text = told(attempt, UserError)
    assert text.startswith("given up after 0.00166667 minutes: pod 0 (")
    assert expected in text
    assert len([line for line in attempt.lines if line.startswith("Kubernetes: waiting: pod 0 (")]) == 1
    assert api.calls.count("DELETE jobs") == 1


def test_a_pod_without_a_node_is_told_in_the_schedulers_words(api: KubernetesApi, tmp_path: Path) -> None:
    words = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
    api.script.append(lambda: no_node(api, words))
    text = told(Attempt(stage(tmp_path, gpus=64, pending_minutes=SOON)), UserError)
    assert f"finds no node: {words}: ask for less" in text


def no_node(api: KubernetesApi, words: str, index: int = 0) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    api.pods[api.start(index, phase="Pending")]["status"]["conditions"] = [condition]


def test_parts_without_a_node_wait_as_long_as_others_run(api: KubernetesApi, tmp_path: Path) -> None:
    names: list[str] = []
    job = "ns-infer-unlabeled"

    def begin() -> None:
        names.append(api.start(0))
        no_node(api, "0/1 nodes are available", 1)

    began = time.monotonic()

    def wait() -> None:
        if time.monotonic() < began + 1.0:
            api.script.appendleft(wait)
        else:
            api.fail("FailedIndexes", "the test is over")

    api.script.extend([begin, wait])
    attempt = Attempt(stage(tmp_path, INFER, pods=2, pending_minutes=SOON))
    with pytest.raises(StageFailed, match="the test is over"):
        attempt.run()
    assert job in attempt.lines[0]


def test_a_pod_that_starts_after_all_is_not_given_up(api: KubernetesApi, tmp_path: Path) -> None:
    names: list[str] = []

    def wait() -> None:
        names.append(api.start(phase="Pending"))
        api.wait(names[0], "ErrImagePull", "timeout")

    api.script.append(wait)
    api.script.append(lambda: api.pods[names[0]].update(status={"phase": "Running"}))
    api.script.extend([lambda: None] * 10)
    api.script.append(lambda: api.end(names[0]))
    api.script.append(api.complete)
    attempt = Attempt(stage(tmp_path, pending_minutes=0.5 / 60))
    attempt.run()
    assert any("ErrImagePull: timeout" in line for line in attempt.lines)


def test_a_job_in_its_queue_waits_for_as_long_as_it_takes(api: KubernetesApi, tmp_path: Path) -> None:
    api.script.append(lambda: api.job()["spec"].update(suspend=True))
    api.script.extend([lambda: None] * 20)
    api.script.append(lambda: api.job()["spec"].update(suspend=False))
    api.script.append(lambda: api.end(api.start()))
    api.script.append(api.complete)
    attempt = Attempt(stage(tmp_path, queue="gpus", pending_minutes=SOON))
    attempt.run()
    assert sum("is suspended: it waits for its queue" in line for line in attempt.lines) == 1


def test_quota_that_lets_no_pod_be_made_is_told_by_the_jobs_events(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "EVENTS_EVERY_S", 0.0)
    words = 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8'
    api.events.append({"message": words, "lastTimestamp": "2026-11-23T12:00:00Z"})
    text = told(Attempt(stage(tmp_path, pending_minutes=SOON)), StageFailed)
    assert f"the cluster makes no pods: {words}: wait until others have ended" in text


@pytest.mark.parametrize(
    ("status", "message", "kind", "remedy"),
    [
        (403, 'jobs.batch is forbidden: User "me" cannot create', UserError, "give this account the Role of"),
        (403, "exceeded quota: jobs, requested: count/jobs.batch=1", StageFailed, "wait until others have ended"),
        (
            403,
            'admission webhook "policy" denied the request: no limits',
            UserError,
            "satisfy the policy that is named",
        ),
        (422, "Job.batch is invalid: spec.template: Invalid value", UserError, "mend compute.kubernetes"),
        (404, 'namespaces "noisy-student" not found', UserError, "create the namespace"),
        (401, "Unauthorized", UserError, "log in again"),
    ],
)
def test_refusals_are_told_in_the_clusters_words_with_a_remedy(
    api: KubernetesApi, tmp_path: Path, status: int, message: str, kind: type[Exception], remedy: str
) -> None:
    api.refusals["POST jobs"] = status, message
    text = told(Attempt(stage(tmp_path)), kind)
    assert message in text
    assert remedy in text
    assert api.calls == ["POST jobs"], "asked once"


@pytest.mark.parametrize("deed", ["deleted", "replaced"])
def test_a_job_that_somebody_else_touched_is_told_and_retried(api: KubernetesApi, tmp_path: Path, deed: str) -> None:
    def meddle() -> None:
        if deed == "deleted":
            api.vanish(api.job()["metadata"]["name"])
        else:
            api.job()["metadata"].update(uid="another", annotations={})

    steps: list[Callable[[], object]] = [lambda: api.start(), meddle]
    api.script.extend(steps)
    text = told(Attempt(stage(tmp_path)), StageFailed)
    assert ("was deleted by somebody" if deed == "deleted" else "was replaced by one with other settings") in text
    assert "DELETE jobs" not in api.calls


def test_the_image_of_the_settings_is_asked_for(api: KubernetesApi, tmp_path: Path) -> None:
    ends(api, (1, "Error", ""))
    told(Attempt(stage(tmp_path)), StageFailed)
    (pod,) = api.pods.values()
    assert pod["spec"]["containers"][0]["image"] == IMAGE
