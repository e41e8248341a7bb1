"""Which pods a stage needs.

trains                  one set: all pods together are one process group
labels or evaluates     a set of parts, each a pod of one process; after it one pod, which commits
moves files             one pod without a GPU
"""

from dataclasses import dataclass
from decimal import ROUND_UP, Decimal

from ns_core.config import KubernetesConfig
from ns_core.launch.kubernetes.names import job_name
from ns_core.launch.spec import PARALLEL_STAGES, SHARDED_STAGES, WorkerSpec

_UNITS = {"m": Decimal("0.001"), "": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9)}
_UNITS |= {"T": Decimal(10**12), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40)}


@dataclass(frozen=True)
class PodSet:
    """Pods of one Job."""

    name: str
    pods: int
    parallel: int
    """At the same time."""
    processes: int
    """In each pod."""
    gpus: int
    """Of each pod."""
    share: int
    """Each pod has this part of what the settings give to one: 1, or one for each GPU of it."""
    parts: int = 0
    """Lists into which the stage's work is divided, one a pod; 0: no list."""

    @property
    def together(self) -> bool:
        """Whether all have to run at once, as one process group."""
        return self.pods > 1 and not self.parts


def pod_sets(spec: WorkerSpec) -> list[PodSet]:
    """In the order in which they run."""
    settings = spec.compute.kubernetes
    gpus = 0 if spec.compute.device == "cpu" else settings.gpus
    processes = gpus or spec.compute.processes
    if spec.stage in PARALLEL_STAGES:
        return [PodSet(job_name(spec), settings.pods, settings.pods, processes, gpus, 1)]
    if spec.stage not in SHARDED_STAGES:
        return [PodSet(job_name(spec), 1, 1, 1, 0, 1)]
    gpus, parts = min(gpus, 1), settings.pods * processes
    last = PodSet(job_name(spec), 1, 1, 1, gpus, processes)
    if parts == 1:
        return [last]
    parallel = min(settings.parallel or parts, parts)
    return [PodSet(job_name(spec, "-p"), parts, parallel, 1, gpus, processes, parts), last]


def quantity_share(quantity: str, share: int) -> str:
    """A `share`-th of a quantity of Kubernetes, whole bytes or thousandths of a core, rounded up."""
    if share == 1:
        return quantity
    number = quantity.rstrip("mkMGTi")
    value = Decimal(number) * _UNITS[quantity[len(number) :]] / share
    if value >= 1000:
        return str(int(value.to_integral_value(ROUND_UP)))
    return f"{int((value * 1000).to_integral_value(ROUND_UP))}m"


def requests(pods: PodSet, settings: KubernetesConfig) -> tuple[str, str, str]:
    """CPU, memory and shared memory of each pod."""
    cpu, memory, shm = (quantity_share(text, pods.share) for text in (settings.cpu, settings.memory, settings.shm))
    return cpu, memory, shm
