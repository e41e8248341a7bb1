"""A trained network on disk: `model.safetensors` (EMA weights and buffers) and `model.json` (what it is).

No pickle: the weights are plain arrays, and the JSON says how to build the network around them and how
its pictures are to be prepared.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

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


def save_checkpoint(folder: Path, network: nn.Module, card: ModelCard) -> None:
    """Writes both files. The same weights give the same bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    (folder / CARD).write_text(card.model_dump_json(indent=2), encoding="utf-8")


def load_checkpoint(folder: Path, **noise: float) -> tuple[nn.Module, ModelCard]:
    """The network with its weights, in eval mode, and its card. `noise` as `create_network` takes it."""
    card = ModelCard.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
    network = create_network(card.model, len(card.class_names), **noise)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return network.eval(), card


class Normalize(nn.Module):
    """uint8 or [0,1] float images to what the network was trained on, on the device.

    In: uint8[B,H,W,3] (0..255), or float32[B,3,H,W] in [0,1]. Out: float32[B,3,H,W], channels last.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype == torch.uint8:
            images = images.permute(0, 3, 1, 2).float() / 255
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
