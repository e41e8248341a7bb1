"""Where stages run and how fast: on this machine, or as pods of a Kubernetes cluster.

Nothing here changes a result, so all of it is resource. A field holds for every stage; `ComputeConfig.stages` says
otherwise for one of them, and `for_stage` puts the two together.
"""

import json
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from ns_core.config.data import DataConfig
from ns_core.config.evaluation import EvaluateConfig, ImportConfig, InferConfig, SelectConfig
from ns_core.config.training import FinetuneConfig, StudentConfig, TeacherConfig
from ns_core.errors import UserError, nearest
from ns_core.settings import Settings, resource

STAGE_WORDS = tuple(
    stage.STAGE
    for stage in (
        DataConfig,
        ImportConfig,
        TeacherConfig,
        InferConfig,
        SelectConfig,
        StudentConfig,
        FinetuneConfig,
        EvaluateConfig,
    )
)
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_KEY = rf"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_LABEL}"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_SELECTOR = re.compile(rf"{_KEY}=({_LABEL})?")
_TOLERATION = re.compile(rf"{_KEY}(=({_LABEL})?)?(:(NoSchedule|PreferNoSchedule|NoExecute))?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


def _quantity(text: str) -> str:
    if not _QUANTITY.fullmatch(text):
        raise ValueError(f"'{text}' is no quantity: write 8, 500m, 64Gi or the like")
    return text


def _name(text: str) -> str:
    if text and not _NAME.fullmatch(text):
        raise ValueError(f"'{text}' is no name of Kubernetes: small letters, digits and dashes")
    return text


def _names(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not _name(text):
            raise ValueError("an empty name: take it out")
    return texts


def _written(pattern: re.Pattern[str], remedy: str) -> AfterValidator:
    """Each text of a list matches `pattern`."""

    def check(texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if not pattern.fullmatch(text):
                raise ValueError(f"'{text}': write it as {remedy}")
        return texts

    return AfterValidator(check)


Quantity = Annotated[str, AfterValidator(_quantity)]
Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[tuple[str, ...], AfterValidator(_names)]


class KubernetesConfig(Settings):
    """The pods of a stage, with `launcher=kubernetes`."""

    namespace: Name = resource("noisy-student", min_length=1)
    """In which the pods run; one for each campaign's team."""
    image: str = resource("")
    """Of the worker, best by digest: `registry/noisy-student-worker@sha256:...`. Empty: NS_WORKER_IMAGE of the
    orchestrator's environment."""
    image_pull_secrets: Names = resource(())
    """Names of Secrets that open the image's registry."""
    pods: int = resource(1, ge=1, le=4096)
    """Of a stage that trains, labels or evaluates. Training shares each batch among them. Labelling and evaluation run
    as pods of one GPU, as many as all of these have GPUs, each with its share of CPU and memory."""
    parallel: int = resource(0, ge=0, le=4096)
    """Pods of labelling and evaluation that run at the same time; 0: all."""
    gpus: int = resource(1, ge=0, le=64, title="GPUs")
    """Of a pod, with one worker process on each; 0, and with `device=cpu`: `processes` workers on CPUs. Stages that
    only move files get none."""
    gpu_resource: str = resource("nvidia.com/gpu", min_length=1, title="GPU resource")
    """What the cluster calls a GPU."""
    cpu: Quantity = resource("4", title="CPU")
    """Cores of a pod, as a quantity of Kubernetes; asked for, not a limit."""
    memory: Quantity = resource("16Gi")
    """Of a pod, shared memory and files in memory included; asked for, and the limit."""
    shm: Quantity = resource("2Gi", title="Shared memory")
    """Size of /dev/shm in a pod, through which the processes on its GPUs speak."""
    scratch: Quantity = resource("100Gi")
    """Most that a pod may keep in its temporary folder, local copies of shards included (`cache_gigabytes`)."""
    node_selector: Annotated[tuple[str, ...], _written(_SELECTOR, "label=value")] = resource(())
    """Labels of the nodes to run on, as label=value."""
    tolerations: Annotated[tuple[str, ...], _written(_TOLERATION, "key=value:NoSchedule")] = resource(())
    """Taints of nodes that do not matter, as kubectl writes them: key=value:effect, key:effect or key."""
    priority_class: Name = resource("")
    """Empty: the cluster's default."""
    service_account: Name = resource("noisy-student-worker", min_length=1)
    """As which the pods speak to the object store, where the cluster lends identities; the cluster's API they do not
    need."""
    queue: Name = resource("")
    """Kueue's LocalQueue in which the pods wait for quota; empty: none."""
    secrets: Names = resource(())
    """Names of Secrets whose keys are environment variables of the worker, such as AWS_ACCESS_KEY_ID."""
    environment: Annotated[tuple[str, ...], _written(_VARIABLE, "NAME=value")] = resource(())
    """Further environment variables of the worker, as NAME=value; nothing secret: whoever sees pods sees them."""
    restarts: int = resource(3, ge=0, le=100)
    """Times that the cluster starts a pod again that failed, before the stage has failed; pods that were evicted or
    preempted are not counted."""
    pending_minutes: float = resource(15.0, gt=0, le=10080)
    """How long a pod may wait for a node or an image; nodes of an autoscaler take some minutes."""
    deadline_hours: float = resource(168.0, gt=0, le=8760)
    """How long a stage may take before the cluster ends it."""
    keep_hours: float = resource(24.0, ge=0.25, le=8760)
    """How long a stage's pods, which have ended, stay to be looked at."""
    grace_seconds: int = resource(60, ge=1, le=3600)
    """Between SIGTERM and SIGKILL of a pod: time for a checkpoint."""
    pod_fields: str = resource("")
    """JSON of further fields of a pod's spec, merged into it as `kubectl patch` does: `{"hostNetwork": true}`; the
    worker's container is called `worker`."""

    @model_validator(mode="after")
    def _fields(self) -> Self:
        if self.pod_fields:
            try:
                fields = json.loads(self.pod_fields)
            except ValueError as error:
                raise ValueError(f"pod_fields is no JSON: {error}") from None
            if not isinstance(fields, dict):
                raise ValueError('pod_fields is no JSON object: write it as {"field": value}')
        return self


class ComputeConfig(Settings):
    """Where it runs and how fast; nothing here changes the result."""

    device: Literal["auto", "cpu", "cuda"] = resource("auto")
    """`auto`: the GPU, where there is one."""
    processes: int = resource(1, ge=1, le=64)
    """Worker processes of a stage that trains or labels on this machine, one for each GPU. Training shares each batch
    among them, labelling the shards."""
    threads: int = resource(0, ge=0)
    """Compute threads of a worker; 0: one for each core."""
    loader_workers: int = resource(2, ge=1, le=64)
    """Threads that decode and augment ahead of training, in each process."""
    compile: bool = resource(False)
    """torch.compile of the training step, and of the teacher that labels: faster on most GPUs; on CPUs for labelling
    only, after a minute or so."""
    cache_gigabytes: float = resource(50.0, gt=0)
    """Local copies of shards that lie in S3, in 2^30 bytes; the longest unused go first."""
    memory_gigabytes: float = resource(4.0, gt=0)
    """Of the tables that filter-and-balance sorts, in 2^30 bytes; what is more goes through temporary files."""
    keep_checkpoints: int = resource(2, ge=1)
    """Resume checkpoints that are kept; older ones are deleted."""
    retries: int = resource(2, ge=0, le=10)
    """Times a failed stage is started again; it goes on from its last checkpoint."""
    retry_delay_seconds: float = resource(2.0, ge=0)
    """Pause before the first retry; it doubles each time."""
    profile: bool = resource(False)
    """Training writes a trace of some updates, `trace.json.gz`, into its artifact (for chrome://tracing, Perfetto)."""
    launcher: Literal["local", "kubernetes"] = resource("local")
    """`local`: processes of the machine on which the run is. `kubernetes`: each stage as pods of a cluster."""
    kubernetes: KubernetesConfig = resource(KubernetesConfig())
    stages: tuple[str, ...] = resource((), title="Stages that differ")
    """Fields of this section for one stage alone: `train-noisy-student.kubernetes.gpus=8`."""

    def for_stage(self, stage: str) -> Self:
        """These settings with those of `stages` that name it; the later of two counts."""
        own = [rest for word, rest in map(_of_stage, self.stages) if word == stage]
        return self.model_copy(update={"stages": ()}).override(own)

    @model_validator(mode="after")
    def _stages(self) -> Self:
        for word, rest in map(_of_stage, self.stages):
            if word not in STAGE_WORDS:
                raise ValueError(
                    f"stages: '{word}' is no stage{nearest(word, STAGE_WORDS)}: "
                    "write it as train-noisy-student.kubernetes.gpus=8"
                )
            if rest.partition("=")[0].strip() == "stages":
                raise ValueError("stages: a stage's settings hold no further stages")
            try:
                self.model_copy(update={"stages": ()}).override([rest])
            except UserError as error:
                raise ValueError(f"stages: {word}: {str(error).removeprefix('--set ')}") from None
        return self


def _of_stage(assignment: str) -> tuple[str, str]:
    """The stage and what is assigned; stages are words with dashes, and taken with underscores too."""
    word, _, rest = assignment.partition(".")
    return word.strip().replace("_", "-"), rest
