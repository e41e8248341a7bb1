"""Batches from the loader's memory to the device.

In: `loader.Batch`es. Out: the same with their images and targets as tensors on the device. To a GPU they go by
way of pinned memory on a stream of their own, one batch ahead of the step that uses them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ns_core.data.loader import Batch


class Fed(NamedTuple):
    """A batch on the device."""

    batch: Batch
    images: Tensor
    """uint8[B,H,W,3]"""
    targets: Tensor
    """float32[B,C]"""


def feed(batches: Iterator[Batch], device: torch.device) -> Iterator[Fed]:
    """In their order; asks for one more than it has given when the device is a GPU."""
    if device.type == "cuda":
        yield from _ahead(batches, device)
        return
    for batch in batches:
        yield Fed(batch, torch.from_numpy(batch.images).to(device), torch.from_numpy(batch.targets).to(device))


def _ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Fed]:
    copies: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: Fed | None = None
    for batch in batches:
        with torch.cuda.stream(copies):
            images, targets = (
                torch.from_numpy(array).pin_memory().to(device, non_blocking=True)
                for array in (batch.images, batch.targets)
            )
        if waiting is not None:
            yield _arrived(waiting, copies, device)
        waiting = Fed(batch, images, targets)
    if waiting is not None:
        yield _arrived(waiting, copies, device)


def _arrived(fed: Fed, copies: torch.cuda.Stream, device: torch.device) -> Fed:
    """The step's stream waits for the copies, and their memory is not used anew before it is through with them."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(copies)
    for tensor in (fed.images, fed.targets):
        tensor.record_stream(current)
    return fed
