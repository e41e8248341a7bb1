"""Where stages run: settings for all of them and for one, which are no part of what they make."""

import pytest

from ns_core.config import ComputeConfig, Recipe
from ns_core.config.compute import STAGE_WORDS
from ns_core.errors import UserError
from ns_core.worker import STAGES


def refused(*assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        Recipe().override(assignments)
    return str(caught.value)


def test_every_stage_may_differ() -> None:
    assert set(STAGE_WORDS) == set(STAGES)


def test_a_stage_takes_its_own_settings_over_those_of_all() -> None:
    words = '["train-noisy-student.kubernetes.gpus=4", "infer_unlabeled.threads=3", "infer-unlabeled.kubernetes.cpu=8"]'
    compute = Recipe().override(["compute.kubernetes.gpus=8", f"compute.stages={words}"]).compute
    assert compute.for_stage("train-noisy-student").kubernetes.gpus == 4
    assert compute.for_stage("train-teacher") == compute.model_copy(update={"stages": ()})
    labelling = compute.for_stage("infer-unlabeled")
    assert (labelling.threads, labelling.kubernetes.cpu, labelling.kubernetes.gpus) == (3, "8", 8)
    assert labelling.for_stage("infer-unlabeled") == labelling


def test_of_two_settings_for_one_stage_the_later_counts() -> None:
    compute = ComputeConfig(stages=("train-teacher.threads=1", "train-teacher.threads=2"))
    assert compute.for_stage("train-teacher").threads == 2


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("infer.threads=1", "compute: stages: 'infer' is no stage (did you mean 'infer-unlabeled'?): write it as"),
        ("train-teacher.thread=1", "compute: stages: train-teacher: thread: no field 'thread' in the recipe"),
        ("train-teacher.kubernetes.gpus=x", "compute: stages: train-teacher: kubernetes.gpus: input should be a valid"),
        ("train-teacher.threads", "compute: stages: train-teacher: threads: write it as section.field=value"),
        ("train-teacher.stages=[]", "compute: stages: a stage's settings hold no further stages"),
    ],
)
def test_a_stages_settings_are_checked_when_they_are_written(stage: str, message: str) -> None:
    assert refused(f'compute.stages=["{stage}"]').startswith(message)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("memory=16GB", "memory: '16GB' is no quantity: write 8, 500m, 64Gi or the like"),
        ('tolerations=["a b"]', "tolerations: 'a b': write it as key=value:NoSchedule"),
        ('node_selector=["gpu"]', "node_selector: 'gpu': write it as label=value"),
        ('environment=["A B"]', "environment: 'A B': write it as NAME=value"),
        ('secrets=["S3_Keys"]', "secrets: 'S3_Keys' is no name of Kubernetes: small letters, digits and dashes"),
        ('pod_fields={"a": tru}', " pod_fields is no JSON: Expecting value"),
        ("pod_fields=[1]", ' pod_fields is no JSON object: write it as {"field": value}'),
    ],
)
def test_what_a_cluster_would_refuse_later_is_refused_now(assignment: str, message: str) -> None:
    told = refused(f"compute.kubernetes.{assignment}")
    assert told.removeprefix("compute.kubernetes").lstrip(".:").startswith(message)


def test_where_it_runs_is_no_part_of_what_it_makes() -> None:
    words = ["compute.launcher=kubernetes", "compute.kubernetes.gpus=8", 'compute.stages=["train-teacher.threads=1"]']
    assert Recipe().override(words).science() == Recipe().science()
