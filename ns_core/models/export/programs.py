"""`torch-export` and `onnx`: the network and its normalisation as one program that needs no Python of ours.

In: float32[B,3,S,S] in [0,1], RGB, any batch B, side S the card's `test_size`. Out: float32[B,C] logits. Beside
the program lies `model.json`, the card, with the class names in the order of the logits.
"""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ns_core.errors import UserError
from ns_core.models.checkpoint import CARD, ModelCard
from ns_core.models.depthwise import CroppedDepthwise

PROGRAM, ONNX = "model.pt2", "model.onnx"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
IMAGES, LOGITS = "images", "logits"

_TRACED_BATCH = 2
"""0 and 1 would be taken for constants."""
_ONE_FILE = 3 << 29
"""Bytes of weights up to which an ONNX model is one file: protobuf ends at 2 GiB."""


class _Program(nn.Module):
    """Normalisation and network."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1))
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def write_program(network: nn.Module, card: ModelCard, folder: Path) -> None:
    """`model.pt2` and the card."""
    torch.export.save(_traced(network, card), folder / PROGRAM)
    _write_card(card, folder)


def read_program(folder: Path) -> Callable[[Tensor], Tensor]:
    """The program as `torch.export.load` gives it."""
    module = torch.export.load(folder / PROGRAM).module()

    def logits(images: Tensor) -> Tensor:
        result: Tensor = module(images)
        return result

    return logits


def write_onnx(network: nn.Module, card: ModelCard, folder: Path) -> None:
    """`model.onnx` and the card; above 1.5 GiB the weights lie in `model.onnx.data`.

    Raises `UserError` where a package is missing.
    """
    if missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install 'noisy-student[onnx]'")
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    torch.onnx.export(
        _traced(network, card),
        f=folder / ONNX,
        dynamo=True,
        input_names=[IMAGES],
        output_names=[LOGITS],
        external_data=weights > _ONE_FILE,
        verbose=False,
    )
    _write_card(card, folder)


def read_onnx(folder: Path) -> Callable[[Tensor], Tensor]:
    """The model as onnxruntime runs it on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / ONNX, options, providers=["CPUExecutionProvider"])

    def logits(images: Tensor) -> Tensor:
        (result,) = session.run([LOGITS], {IMAGES: images.numpy()})
        return torch.from_numpy(result)

    return logits


def _traced(network: nn.Module, card: ModelCard) -> torch.export.ExportedProgram:
    program = _Program(_stock(network), card).eval()
    example = torch.zeros(_TRACED_BATCH, 3, card.test_size, card.test_size)
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(program, (example,), dynamic_shapes={IMAGES: {0: batch}})


def _stock(network: nn.Module) -> nn.Module:
    """A copy in the plain memory layout, whose convolutions are torch's own.

    A cropped kernel would enter the program as a slice, and a converter that wants constant weights stops there.
    """
    stock = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    cropped: list[nn.Conv2d] = [module for module in stock.modules() if isinstance(module, CroppedDepthwise)]
    for module in cropped:
        module.__class__ = nn.Conv2d
    return stock


def _write_card(card: ModelCard, folder: Path) -> None:
    (folder / CARD).write_text(card.model_dump_json(indent=2), encoding="utf-8")
