"""How much memory training takes, before it takes it; and what to set when there is not enough.

The estimate makes one real update (`step.TrainStep`) with tensors that have no contents, and adds up the storages
that live at the same time. Nothing of the network's size is allocated: EfficientNet-L2 at 475 pixels takes 7 s
and 0.8 GB, which torch takes anyway. How near it comes to the truth is in `docs/results/l2_step.json`.

In: a stage's configuration, the network's name, numbers of classes and of processes. Out: an `Estimate`, in bytes.
"""

import warnings
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ns_core.config import FinetuneConfig, StudentConfig, TeacherConfig, TrainConfig
from ns_core.data.loader import JointLoader
from ns_core.errors import UserError
from ns_core.models.checkpoint import ModelCard
from ns_core.models.factory import block_groups, create_network
from ns_core.models.predict import at_once
from ns_core.training.distributed import Ranks
from ns_core.training.job import EVAL_BATCH, Job
from ns_core.training.step import TrainStep

PROCESS_BASE = 835 * 10**6
"""A CPU worker whose network weighs nothing: interpreter, libraries and what a first update loads of them. 2026-11-23:
836 MB of resident memory, 445 of them its own, with torch 2.14 (built with CUDA, no GPU in the machine), timm 1.0."""
KEPT_BY_MALLOC = 0.25
"""Of the activations, on a CPU: what glibc keeps of freed blocks (`models.malloc`), and oneDNN's work space.
2026-11-23, two updates, by the peak of resident memory: 0.1 to 0.3 with EfficientNets, 0.3 to 0.5 with ResNet-50. With
recomputation, where what is freed is returned, below 0.1."""
BATCHES_IN_MEMORY = 3
"""The loader's two batches ahead and the one in use (`data.loader`)."""
SECTIONS = {TeacherConfig.STAGE: "teacher", StudentConfig.STAGE: "student", FinetuneConfig.STAGE: "finetune"}
"""Stage -> section of the recipe, as `--set` names it."""
USUAL_GROUPS = 3
"""The stem and so many groups hold 80 % of EfficientNet-B0's activations (`models.recompute`)."""
OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory", "std::bad_alloc")
"""What torch says in a plain RuntimeError."""


@dataclass(frozen=True)
class Estimate:
    """Of one process, in bytes. `parameters` to `batch` live together at the peak of an update."""

    images: int
    """Of a micro-batch: a number, as is the next."""
    weights: int
    parameters: int
    """Weights and BatchNorm statistics."""
    average: int
    """Their moving average."""
    optimizer: int
    """Its state."""
    gradients: int
    """Those that are there at the peak, or the buffers in which several processes add up all of them."""
    activations: int
    """What the backward pass needs, and all else that lives at the peak."""
    batch: int
    """uint8 images and their targets: this update's, and those that were loaded ahead."""
    kept: int
    """What malloc and oneDNN have beside the tensors; CPU only."""
    base: int
    """The process before its first tensor; CPU only."""
    checkpoint: int
    """Copies in the host's memory that the first checkpoint leaves and further ones use again, and the sorted ones of
    channels-last weights that go to the file."""
    holdout: int
    """All tensors that live while the holdout is looked at."""

    @property
    def tensors(self) -> int:
        """Of an update alone: what a GPU has to hold beside the memory of its driver and libraries."""
        return self.parameters + self.average + self.optimizer + self.gradients + self.activations + self.batch

    @property
    def update(self) -> int:
        """The process's peak on a CPU in an update while no checkpoint was written yet."""
        return self.base + self.tensors + self.kept

    @property
    def peak(self) -> int:
        """The process's peak on a CPU in all."""
        return max(self.update, self.base + self.holdout) + self.checkpoint


class _WithoutContents(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Tensors have shapes and storages alone."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_WithoutContents":
        """The moving average copies the network, and each parameter refers to its mode. With a copy of that its
        storages would be counted twice."""
        return self


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of all tensors that come into being while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        """Bytes that live, and the most there were."""
        self._clock, self._peak_clock = 0, 0
        self._alive: dict[int, tuple[int, int, weakref.ref[torch.UntypedStorage]]] = {}
        """Address of the storage -> bytes, number in order of birth, and who tells when it goes."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def restart(self) -> None:
        """The peak is counted from now on."""
        self.peak, self._peak_clock = self.now, self._clock

    def at_peak(self, tensors: Iterable[Tensor]) -> int:
        """Bytes of these tensors, as far as they were there at the peak. They have to live still."""
        found = [self._alive[tensor.untyped_storage()._cdata] for tensor in tensors]
        return sum(size for size, birth, _ in found if birth <= self._peak_clock)

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        self._clock += 1
        self._alive[key] = (size, self._clock, weakref.ref(storage, lambda _: self._forget(key)))
        self.now += size
        if self.now > self.peak:
            self.restart()

    def _forget(self, key: int) -> None:
        self.now -= self._alive.pop(key)[0]


def estimate(config: TrainConfig, model: str, classes: int, processes: int = 1) -> Estimate:
    """What each of `processes` workers takes at most, from the second update on: then the optimiser has its state.

    Raises `UserError` as training does: a batch that cannot be divided, an unknown network, too many groups.
    """
    parts = processes * config.accumulation
    if config.batch_size % parts:
        raise UserError(
            f"batch_size {config.batch_size} cannot be divided among {processes} processes of {config.accumulation} "
            f"micro-batches: set batch_size to a multiple of {parts}"
        )
    share = config.batch_size // parts
    # The second micro-batch is the first that finds gradients, and further ones are like it. CutMix reads a number
    # off a tensor, which has none here; mixup allocates the same.
    repeated = min(2, config.accumulation)
    mixing = {"mixup": max(config.mixup, config.cutmix), "cutmix": 0.0}
    short = config.model_copy(update={"accumulation": repeated, "batch_size": share * repeated, **mixing})
    with torch.device("meta"):  # some networks read numbers while they are built, which fake tensors refuse
        job = job_without_data(short, model, classes)
    with warnings.catch_warnings(), _WithoutContents(allow_non_fake_inputs=True), LiveStorages() as live:
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # when the average is copied
        network = job.network.to_empty(device="cpu")
        network.to = lambda device: network  # type: ignore[assignment, method-assign]  # fake parameters do not move
        train = TrainStep(job, Ranks(0, 1, 0, torch.device("cpu")))
        _make_optimizer_state(train)
        found = _update(train, live, classes)
        holdout = _holdout_peak(train, live, config.image_size)
    if processes > 1:  # DistributedDataParallel's buckets hold all gradients all the time
        found["gradients"] = sum(p.nbytes for p in network.parameters() if p.requires_grad)
    images = share * (1 + getattr(config, "ratio", 0))
    return Estimate(
        **found,
        images=images,
        weights=sum(parameter.numel() for parameter in network.parameters()),
        batch=BATCHES_IN_MEMORY * config.accumulation * images * (3 * config.image_size**2 + 4 * classes),
        kept=0 if config.recompute_groups else int(KEPT_BY_MALLOC * found["activations"]),
        base=PROCESS_BASE,
        checkpoint=sum(tensor.nbytes * (1 if tensor.is_contiguous() else 2) for tensor in _state(train)),
        holdout=holdout,
    )


def job_without_data(config: TrainConfig, model: str, classes: int) -> Job:
    """A stage's job with a fresh network, as far as its updates go: they ask neither for the loader nor the holdout."""
    noise = (config.dropout, config.stochastic_depth, config.bn_momentum, config.bn_eps)
    frozen = 1 + config.frozen_blocks if isinstance(config, FinetuneConfig) else 0
    return Job(
        config,
        ModelCard(
            model=model,
            class_names=tuple(map(str, range(classes))),
            train_size=config.image_size,
            test_size=config.image_size,
            crop_pct=config.crop_pct,
        ),
        create_network(model, classes, *noise),
        loader=cast(JointLoader, None),
        holdout=lambda network: 0.0,
        frozen=lambda network: block_groups(network)[:frozen] if frozen else (),
    )


def _make_optimizer_state(train: TrainStep) -> None:
    """As a first update leaves it, without one."""
    for parameter in train.network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    train.optimizer.step()
    train.optimizer.zero_grad(set_to_none=True)


def _update(train: TrainStep, live: LiveStorages, classes: int) -> dict[str, int]:
    """Makes one update; what of which kind lived at its peak."""
    config, network = train.job.config, train.network
    rows = config.batch_size * (1 + getattr(config, "ratio", 0))
    images = torch.zeros(rows, config.image_size, config.image_size, 3, dtype=torch.uint8)
    targets = torch.zeros(rows, classes)
    train.train_mode()
    live.restart()
    train.update(0, images, targets, config.batch_size)
    parts = {
        "parameters": live.at_peak([*network.parameters(), *network.buffers()]),
        "average": live.at_peak(train.average.network.state_dict().values()),
        "optimizer": live.at_peak(_tensors(train.optimizer)),
        "gradients": live.at_peak(p.grad for p in network.parameters() if p.grad is not None),
    }
    return parts | {"activations": live.peak - live.at_peak([images, targets]) - sum(parts.values())}


def _holdout_peak(train: TrainStep, live: LiveStorages, size: int) -> int:
    """While the averaged network looks at a batch of the holdout (`job.holdout_check`); gradients wait beside it."""
    live.restart()
    with torch.no_grad():
        train.average.network(train.normalize(torch.zeros(at_once(EVAL_BATCH, size), size, size, 3, dtype=torch.uint8)))
    return live.peak


def _tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [piece for state in optimizer.state.values() for piece in state.values() if isinstance(piece, Tensor)]


def _state(train: TrainStep) -> list[Tensor]:
    """What a checkpoint holds."""
    networks: list[nn.Module] = [train.network, train.average.network]
    return [*(tensor for net in networks for tensor in net.state_dict().values()), *_tensors(train.optimizer)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: the GPU's or this machine's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def finer(config: TrainConfig, processes: int = 1) -> list[int]:
    """The values of `accumulation` that divide the batch further than now, ascending."""
    share = config.batch_size // processes
    return [parts for parts in range(config.accumulation + 1, share + 1) if share % parts == 0]


def more_groups(config: TrainConfig) -> int:
    """What to try for `recompute_groups`."""
    return max(USUAL_GROUPS, config.recompute_groups + 1)


def advice(config: TrainConfig, processes: int = 1) -> str:
    """Settings that lower a stage's memory, to follow 'set': alternatives, with what they are now."""
    section = SECTIONS[type(config).STAGE]
    changes = [("recompute_groups", more_groups(config))]
    if parts := finer(config, processes):
        changes.insert(0, ("accumulation", parts[0]))
    if config.batch_size > 1:
        changes.append(("batch_size", config.batch_size // 2))
    settings = [f"{section}.{field}={value} (now {getattr(config, field)})" for field, value in changes]
    return ", or ".join([*settings, f"a smaller {section}.image_size (now {config.image_size})"])
