"""The processes that train one network together, and what they say to each other.

In: the environment as torchrun sets it (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), whoever
started it, on one machine or several. Out: a `Ranks`, for the length of a `with`. A process that is alone
gets one too, which needs no group and answers at once, so that the trainer is written once.

Gradients and BatchNorm statistics go through NCCL on GPUs, through gloo on CPUs; numbers, objects and flags
always through gloo.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ns_core.errors import UserError
from ns_core.models.predict import choose_device

TIMEOUT = timedelta(minutes=30)
"""For peers that live and do not answer: one may upload a checkpoint or fetch a shard meanwhile. That a peer
is dead gloo learns from its socket within milliseconds, and torchrun within a tenth of a second."""
_FROM_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

Value = TypeVar("Value")


@dataclass
class Ranks:
    """This process among those of its group. All of them make the same calls in the same order."""

    rank: int
    world: int
    local_rank: int
    """Place among the processes of this machine."""
    device: torch.device
    _asked: "tuple[dist.Work, Tensor] | None" = field(default=None, repr=False)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which speaks, saves and commits."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value added up over the ranks, in float64: every rank gets the same bits."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.world > 1:
            dist.all_reduce(total)
        result: list[float] = total.tolist()
        return result

    def gather(self, value: Value) -> list[Value]:
        """What every rank gave, in rank order; anything that pickles."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def agree(self, flag: bool) -> bool:
        """Whether any rank had raised its flag: the same answer on every rank at the same call.

        Alone the answer is the flag. In a group it is that of the call before (the first answers False): the
        ranks exchange their flags while the next update is computed, so that no update waits for it.
        """
        if self.world == 1:
            return flag
        raised = self._answer()
        flags = torch.tensor(int(flag), dtype=torch.int32)
        work = dist.all_reduce(flags, dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._asked = work, flags
        return raised

    def wrap(self, network: nn.Module) -> nn.Module:
        """`network`, on `device`, with gradients averaged over the ranks, which start from rank 0's weights.

        Buffers stay each rank's own: they begin alike, and synchronised BatchNorm keeps them alike.
        """
        if self.world == 1:
            return network
        with warnings.catch_warnings():
            # torch 2.14 has another name for broadcast_buffers, which 2.8 does not know.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                network,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    def slice_of(self, n: int) -> slice:
        """This rank's share of `n` rows: contiguous, in rank order, sizes differ by one at most."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def _answer(self) -> bool:
        """Of the exchange that is under way; False when there is none."""
        if self._asked is None:
            return False
        work, flags = self._asked
        work.wait()
        self._asked = None
        return bool(flags)


@contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Joins the group of the environment until the block ends. `device`: as `ComputeConfig.device`.

    The ranks leave a block that ends well together. One that raises leaves the group standing until its
    process ends: closed here, it would make the others fail, and say so, before the cause has been told; and
    closing may wait for peers that are dead. Raises `UserError` for too few GPUs and for half an environment.
    """
    chosen = choose_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(0, 1, 0, chosen)
        return
    if missing := [name for name in _FROM_TORCHRUN if name not in os.environ]:
        raise UserError(f"WORLD_SIZE is {world} but {', '.join(missing)} not set: start the workers with torchrun")
    local_rank = int(os.environ["LOCAL_RANK"])
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    ranks = Ranks(dist.get_rank(), world, local_rank, chosen)
    yield ranks
    ranks._answer()
    ranks.sum([0.0])  # NCCL closes together; gloo would not need to meet
    dist.destroy_process_group()
