"""`timm` and `hf`: a folder that plain timm loads, with weights under its own names.

In: one of timm's networks. Out: `model.safetensors` and `config.json` (timm's own layout), and for the Hub a
`README.md`. The weights take images that were normalised with the configuration's mean and std.

timm builds some networks with another BatchNorm epsilon than they were trained with (1e-5 instead of 1e-3 for
`efficientnet_b0`), and a file of weights cannot say so. The difference goes into the running variance, which
leaves v + eps, all that evaluation sees, as it is.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ns_core.errors import UserError
from ns_core.models.checkpoint import WEIGHTS, ModelCard, save_weights
from ns_core.models.export.model_card import model_card
from ns_core.models.export.request import Facts

CONFIG, PAGE = "config.json", "README.md"


def write(network: nn.Module, card: ModelCard, folder: Path) -> None:
    """Raises `UserError` for a network that plain timm does not know or cannot be made to equal."""
    if not timm.is_model(card.model):
        raise UserError(
            f"model '{card.model}' is this program's own and unknown to plain timm: use --format torch-export or onnx"
        )
    plain = timm.create_model(card.model, pretrained=False, num_classes=len(card.class_names))
    text = json.dumps(_configuration(plain, card), indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    state = {**network.state_dict(), **_shifted_variances(network, plain)}
    save_weights(state, folder / WEIGHTS, readable_as=folder / CONFIG, metadata={"format": "pt"})


def write_for_hub(network: nn.Module, card: ModelCard, facts: Facts, folder: Path) -> None:
    """As `write`, and the page that the Hub shows."""
    write(network, card, folder)
    (folder / PAGE).write_text(model_card(network, card, facts), encoding="utf-8")


def read(folder: Path) -> Callable[[Tensor], Tensor]:
    """The folder as anybody's timm reads it: float32[B,3,H,W] in [0,1] -> float32[B,C] logits."""
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    mean, std = (torch.tensor(data[name]).view(1, 3, 1, 1) for name in ("mean", "std"))

    def logits(images: Tensor) -> Tensor:
        result: Tensor = network((images - mean) / std)
        return result

    return logits


def _shifted_variances(network: nn.Module, plain: nn.Module) -> dict[str, Tensor]:
    """Running variances by name, v + eps - eps', where plain timm's epsilon eps' is another; in float64 until stored.

    A variance below zero would be exact too, but is no variance: such a network is refused.
    """
    theirs = {name: part.eps for name, part in plain.named_modules() if isinstance(part, _BatchNorm)}
    shifted = {}
    for name, part in network.named_modules():
        if not isinstance(part, _BatchNorm) or part.running_var is None or part.eps == theirs.get(name, part.eps):
            continue
        variance = part.running_var.detach().cpu().double() + part.eps - theirs[name]
        if variance.min() < 0:
            raise UserError(
                f"{name} was trained with a BatchNorm epsilon of {part.eps:g}, plain timm has {theirs[name]:g}, and "
                "its smallest variance cannot take the difference: use --format torch-export or onnx"
            )
        shifted[f"{name}.running_var"] = variance.float()
    return shifted


def _configuration(plain: nn.Module, card: ModelCard) -> dict[str, object]:
    """timm's `config.json`. `input_size` is the test resolution, at which the network was trained last."""
    own = cast(dict[str, Any], plain.pretrained_cfg)
    size = (3, card.test_size, card.test_size)
    return {
        "architecture": card.model,
        "num_classes": len(card.class_names),
        "num_features": plain.num_features,
        "label_names": card.class_names,
        "pretrained_cfg": {
            "num_classes": len(card.class_names),
            "input_size": size,
            "test_input_size": size,
            "fixed_input_size": own.get("fixed_input_size", False),
            "interpolation": "bicubic",
            "crop_pct": card.crop_pct,
            "crop_mode": "center",
            "mean": card.mean,
            "std": card.std,
            "pool_size": None,
            "first_conv": own.get("first_conv"),
            "classifier": own.get("classifier"),
        },
    }
