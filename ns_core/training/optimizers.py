"""The optimiser of a recipe, and its state as named tensors.

In: a network whose frozen parameters are marked, and the configuration. Out: an optimiser of two groups,
parameters that decay and parameters that do not. The trainer sets `lr` in each group before every update.

The state goes to checkpoints under the names of the parameters: what is loaded by position ends up with
another parameter when a layer is added or a group is split, and nothing says so.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

import torch
from timm.layers.norm import RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from torch import Tensor, nn

from ns_core.config import TrainConfig
from ns_core.training.rmsprop import RMSpropTF

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    *(RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d),
)
"""Layers whose parameters never decay; timm's further ones derive from these."""
_NUMBER = "#"
"""Ends the name of a piece of state that is a number of Python's, not a tensor."""


def create_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum (timm's "sgd"), AdamW or RMSprop in TensorFlow's flavour.

    `network` is the bare one, before DDP and torch.compile put prefixes before its names. Decay is L2, added to
    the gradient (official code), except AdamW's, which is its own. Parameters that require no gradient are left
    out. With `decay_biases` off, the numbers are those of timm's `create_optimizer_v2`; of SGD and AdamW to the
    bit.
    """
    exempt = _exempt(network, config.decay_biases)
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [pair for pair in trained if pair[0] in exempt], "weight_decay": 0.0},
        {"params": [pair for pair in trained if pair[0] not in exempt], "weight_decay": config.weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.lr, eps=config.opt_eps)
    return RMSpropTF(groups, config.lr, config.opt_eps, config.momentum)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state as `{parameter}/{piece}` -> tensor, not copied; empty before the first update.

    Numbers become 0-dimensional tensors, int64, float64 or bool, under `{parameter}/{piece}#`. A piece that is
    None (momentum of an SGD without) is left out.
    """
    tensors = {}
    for name, parameter in _named_parameters(optimizer):
        for piece, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{piece}"] = value
            elif value is not None:
                assert isinstance(value, bool | int | float), (name, piece, type(value))
                dtype = torch.float64 if isinstance(value, float) else None
                tensors[f"{name}/{piece}{_NUMBER}"] = torch.tensor(value, dtype=dtype)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The state that `optimizer_tensors` gave, on the devices of the parameters and in copies.

    Replaces all state there was; learning rates and other settings stay. Pieces of a parameter's shape get its
    memory format: saved ones are contiguous, and beside a channels-last parameter that costs every update a
    transposition. `AssertionError` for a name that no parameter of this optimiser has.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        name, _, piece = key.rpartition("/")
        value = tensor.item() if piece.endswith(_NUMBER) else tensor
        found.setdefault(name, {})[piece.removesuffix(_NUMBER)] = value
    state = {
        position: {piece: _laid_out(value, parameter) for piece, value in found.pop(name).items()}
        for position, (name, parameter) in enumerate(_named_parameters(optimizer))
        if name in found
    }
    assert not found, f"state of parameters that this optimiser does not have: {', '.join(sorted(found)[:5])}"
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _exempt(network: nn.Module, decay_biases: bool) -> set[str]:
    """Names of the parameters that do not decay.

    Always those that the architecture itself exempts (timm's `no_weight_decay`: position embeddings, class
    tokens). With `decay_biases` those of norms (official code), without all biases and all else that has one
    dimension or none (timm), which takes in norms and layer scales.
    """
    names = {name: parameter.ndim for name, parameter in network.named_parameters()}
    asked: set[str] = getattr(network, "no_weight_decay", set)()
    exempt = {name for name in names if any(fnmatch(name, pattern) for pattern in asked)}
    if not decay_biases:
        return exempt | {name for name, dimensions in names.items() if dimensions <= 1 or name.endswith(".bias")}
    norms = [(prefix, module) for prefix, module in network.named_modules() if isinstance(module, _NORMS)]
    return exempt | {name for prefix, module in norms for name, _ in module.named_parameters(prefix)}


def _named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """In the order of `state_dict`."""
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)


def _laid_out(value: Any, parameter: Tensor) -> Any:
    """A copy on the host; of the memory format of `parameter` where it has its shape."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
