"""Less memory for the same result: shallow blocks keep no activations and compute them again in the backward pass.

The shallow blocks work on the largest maps, so they are recomputed from the front and the rest is left as it is.
Each block is a segment of its own and keeps only its input: EfficientNet's blocks are narrow at their ends and
wide within, so that costs little, and the backward pass holds the inside of one block at a time. Peak of a step of
EfficientNet-B0 on 8 images at 224 pixels in float32, counted on fake tensors, for 0 to 4 groups: 688, 608, 360, 263
and 215 MiB, where the widest block is all that is left. A segment for each group keeps less (32 MiB against 38 with
all seven) but holds a group at a time, and stays at 327 MiB.

Three things are as without recomputation, bit for bit: random draws (the state of the generators is kept),
gradients, and buffers. The last does not come by itself: BatchNorm sees the batch twice, and torch's own
checkpointing moves its statistics twice (pytorch issue 96136).

In: a network. Out: the same network whose stem and blocks have changed class; names, parameters, copies and
evaluation stay as they are.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ns_core.errors import UserError
from ns_core.models.factory import block_groups


def recompute(network: nn.Module, groups: int) -> None:
    """The stem and the first `groups` groups of blocks (`factory.block_groups`) keep no activations from now on.

    0 changes nothing. A stem of several modules is recomputed as a whole where they follow one another, and
    left alone where the network adds to what passes between them (the tokens of a ViT, whose patch embedding
    keeps nothing but the picture). No effect in eval mode or where no gradients are taken. Convert BatchNorm
    to SyncBN first: the converters build new modules. Raises `UserError` when there are fewer groups.
    """
    if groups == 0:
        return
    stem, *others = block_groups(network)
    if groups > len(others):
        raise UserError(
            f"recompute_groups={groups}: {type(network).__name__} has {len(others)} groups of blocks; "
            f"set recompute_groups={len(others)} or less"
        )
    parts = tuple(stem.children())
    if len(parts) == 1 or not list(network.parameters(recurse=False)):
        for part in parts:
            _change(part, _StemPart)
            part.parts = parts  # type: ignore[assignment]  # a tuple, so that torch registers no submodules
    for group in others[:groups]:
        for block in group.children() if isinstance(group, nn.Sequential) else (group,):
            _change(block, _Block)


class _Recomputed(nn.Module):
    """Put before a module's own class: `plain` is what the module does by itself."""

    base: ClassVar[type[nn.Module]]

    def plain(self, *inputs: Any, **options: Any) -> Any:
        return self.base.forward(self, *inputs, **options)


class _Block(_Recomputed):
    """One segment."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return self.plain(*inputs, **options)
        return _segment((self,), *inputs, **options)


class _StemPart(_Recomputed):
    """One of the modules that a stem runs one after another: the last one runs them all, as one segment."""

    parts: tuple["_StemPart", ...]

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if not (any(part.training for part in self.parts) and torch.is_grad_enabled()):
            return self.plain(*inputs, **options)
        if self is not self.parts[-1]:
            (passed,) = inputs
            return passed
        return _segment(self.parts, *inputs, **options)


def _change(module: nn.Module, kind: type[_Recomputed]) -> None:
    assert not isinstance(module, _Recomputed), "recompute() is called once"
    base = type(module)
    module.__class__ = cast(type[nn.Module], type(f"Recomputed{base.__name__}", (kind, base), {"base": base}))


def _segment(parts: tuple[_Recomputed, ...], *inputs: Any, **options: Any) -> Any:
    """`parts` one after another, keeping `inputs` for the backward pass and nothing else."""

    def run(*inputs: Any, **options: Any) -> Any:
        result = parts[0].plain(*inputs, **options)
        for part in parts[1:]:
            result = part.plain(result)
        return result

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _buffers_kept(parts)

    if torch.compiler.is_compiling():  # takes no context, and needs none: it takes moved buffers out of the graph
        return checkpoint(run, *inputs, use_reentrant=False, **options)
    return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts, **options)


@contextmanager
def _buffers_kept(parts: tuple[nn.Module, ...]) -> Iterator[None]:
    """What is run within moves copies of the buffers.

    Copies rather than `track_running_stats=False` or `momentum=0`: BatchNorm hands its statistics to autograd,
    which wants as many tensors of the second run as of the first, and modules of other makers have rules of
    their own. A copy is a few numbers for each channel.
    """
    kept: list[tuple[dict[str, Tensor | None], dict[str, Tensor | None]]] = [
        (module._buffers, dict(module._buffers)) for part in parts for module in part.modules()
    ]
    for buffers, originals in kept:
        buffers.update({name: None if old is None else old.clone() for name, old in originals.items()})
    try:
        yield
    finally:
        for buffers, originals in kept:
            buffers.update(originals)
