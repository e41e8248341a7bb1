"""A trained network on disk: `model.safetensors` (EMA weights and buffers) and `model.json` (what it is).

No pickle: the weights are plain arrays, and the JSON says how to build the network around them and how
its pictures are to be prepared.

A checkpoint loads whole or not at all. The official code trains on from a teacher that was not there, and a
student of chance labels comes out (google-research/noisystudent issue 9).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ns_core.errors import StageFailed, UserError
from ns_core.models.factory import create_network
from ns_core.settings import Settings, science

WEIGHTS, CARD = "model.safetensors", "model.json"


class ModelCard(Settings):
    """How to build and to feed a network."""

    model: str = science()
    class_names: tuple[str, ...] = science()
    train_size: int = science()
    """Side of the training images in pixels."""
    test_size: int = science()
    """Side of the images it labels and is evaluated on."""
    crop_pct: float = science()
    """Share of the resized short side that the central crop keeps."""
    mean: tuple[float, float, float] = science((0.485, 0.456, 0.406))
    """Of the RGB channels scaled to [0,1]: ImageNet's, as timm's noisy-student weights use."""
    std: tuple[float, float, float] = science((0.229, 0.224, 0.225))
    bn_eps: float = science(1e-3, gt=0)
    """Added to the variance by BatchNorm: the weights were trained with it and go with no other."""


def save_checkpoint(folder: Path, network: nn.Module, card: ModelCard) -> None:
    """Writes both files. The same weights give the same bytes."""
    (folder / CARD).write_text(card.model_dump_json(indent=2), encoding="utf-8")
    save_weights(network.state_dict(), folder / WEIGHTS, readable_as=folder / CARD)


def save_weights(
    state: Mapping[str, torch.Tensor], path: Path, readable_as: Path, metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file, with the permissions of a file beside it: safetensors gives its own to their owner alone,
    whatever the umask says."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path, metadata)
    path.chmod(readable_as.stat().st_mode)


def load_checkpoint(folder: Path, **noise: float) -> tuple[nn.Module, ModelCard]:
    """The network with its weights, in eval mode, and its card. `noise` as `create_network` takes it.

    Raises `StageFailed` in one line when a file is missing or damaged, when the weights are not those of the
    card's network (a tensor missing, unexpected, of another shape or type), or when one is not finite.
    """
    card = _card(folder / CARD)
    network = create_network(card.model, len(card.class_names), bn_eps=card.bn_eps, **noise)
    network.load_state_dict(_weights(folder / WEIGHTS, network, card.model))
    return network.eval(), card


def _card(path: Path) -> ModelCard:
    try:
        return ModelCard.parse(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StageFailed(f"no checkpoint: cannot read {path}: {error.strerror}") from None
    except (ValueError, UserError) as error:
        raise StageFailed(f"damaged checkpoint: {path} describes no model: {error}") from None


def _weights(path: Path, network: nn.Module, model: str) -> dict[str, Tensor]:
    """The tensors of the file, each of which has its place in `network`, and all finite."""
    try:
        found: dict[str, Tensor] = load_file(path)
    except OSError as error:
        raise StageFailed(
            f"no checkpoint: cannot read {path}: {error.strerror or 'No such file or directory'}"
        ) from None
    except SafetensorError as error:
        raise StageFailed(f"damaged checkpoint: {path} holds no weights: {error}") from None
    wanted = network.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is unexpected" for name in found if name not in wanted]
    wrong += [
        f"{name} is {_kind(tensor)} instead of {_kind(wanted[name])}"
        for name, tensor in found.items()
        if name in wanted and _kind(tensor) != _kind(wanted[name])
    ]
    if wrong:
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise StageFailed(f"wrong checkpoint: {path} is not of a '{model}' with these classes: {wrong[0]}{others}")
    if broken := [name for name, tensor in found.items() if not tensor.isfinite().all()]:
        raise StageFailed(f"broken checkpoint: {path} holds weights that are not finite, first in {broken[0]}")
    return found


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


class Normalize(nn.Module):
    """uint8 or [0,1] float images to what the network was trained on, on the device.

    In: uint8[B,H,W,3] (0..255), or float32[B,3,H,W] in [0,1]. Out: float32[B,3,H,W], channels last.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.permute(0, 3, 1, 2).float() / 255
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
