"""One export: load, write, read back with the format's own reader, compare, and only then let the folder appear."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor, nn

from ns_core.errors import StageFailed, UserError, nearest
from ns_core.models.checkpoint import CARD, WEIGHTS, ModelCard, load_checkpoint
from ns_core.models.export import FORMATS, programs, timm_folder
from ns_core.models.export.request import ExportOutcome, ExportRequest, Facts
from ns_core.models.predict import Predictor

TOLERANCE = 1e-4
"""Of the largest logit. Other kernels and folded BatchNorm gave 4e-7 to 2e-6 over seven networks in float32; timm's
own BatchNorm epsilon where 1e-3 belongs gave 4e-3 to 1.4e-2."""
BATCH = 3
"""Not the size that programs are traced with, so that a batch that was frozen into one shows."""

Consumer = Callable[[Tensor], Tensor]
"""float32[B,3,H,W] in [0,1] -> float32[B,C] logits."""


def export(request: ExportRequest) -> ExportOutcome:
    """Makes `request.output`.

    Raises `UserError` for a format, checkpoint, network or folder that cannot serve, `StageFailed` when the format's
    own exporter fails or what was written gives other logits. After either there is no output.
    """
    if request.format not in FORMATS:
        raise UserError(f"no format '{request.format}'{nearest(request.format, FORMATS)}: {', '.join(FORMATS)}")
    network, card = _load(request.checkpoint)
    with _appears_whole(request.output) as folder:
        consumer = _written(request.format, network, card, request.facts, folder)
        difference, largest = _compare(network, card, consumer)
        _accept(request.format, difference, largest)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return ExportOutcome(max_difference=difference, largest_logit=largest, size=size)


def _load(folder: Path) -> tuple[nn.Module, ModelCard]:
    if absent := [name for name in (WEIGHTS, CARD) if not (folder / name).is_file()]:
        raise UserError(f"{folder} is no checkpoint: it has no {' and no '.join(absent)}")
    try:
        return load_checkpoint(folder)
    except StageFailed as error:
        raise UserError(str(error)) from error


def _written(name: str, network: nn.Module, card: ModelCard, facts: Facts, folder: Path) -> Consumer:
    """Writes the format and reads it back. What the format's exporter raises becomes `StageFailed`."""
    try:
        if name == "timm":
            timm_folder.write(network, card, folder)
        elif name == "hf":
            timm_folder.write_for_hub(network, card, facts, folder)
        elif name == "torch-export":
            programs.write_program(network, card, folder)
        else:
            programs.write_onnx(network, card, folder)
        readers: dict[str, Callable[[Path], Consumer]] = {
            "torch-export": programs.read_program,
            "onnx": programs.read_onnx,
        }
        return readers.get(name, timm_folder.read)(folder)
    except (UserError, OSError):
        raise
    except Exception as error:  # tracers and converters raise whatever the network's own code led them to
        reason = " ".join(str(error).split()) or "no message"
        raise StageFailed(f"{name}: {card.model} cannot be exported: {type(error).__name__}: {reason[:300]}") from error


@torch.inference_mode()
def _compare(network: nn.Module, card: ModelCard, consumer: Consumer) -> tuple[float, float]:
    """(largest absolute difference, largest absolute logit) on noise that is the same every time, in two batch sizes.

    The reference is the path by which the checkpoint labels. NaN where either side has one.
    """
    side = card.test_size
    pictures = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)
    expected = Predictor(network, card, torch.device("cpu"))(torch.from_numpy(pictures))
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255).contiguous()
    got = torch.cat([consumer(images), consumer(images[:1])])
    difference = (got - torch.cat([expected, expected[:1]])).abs().max()
    return float(difference), float(expected.abs().max())


def _accept(name: str, difference: float, largest: float) -> None:
    if not difference <= TOLERANCE * largest:  # NaN too
        raise StageFailed(
            f"{name}: what was written gives other logits than the checkpoint, by {difference:.1e} where the largest "
            f"is {largest:.1e}: it was deleted"
        )


@contextmanager
def _appears_whole(output: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `output` when the block ends well and is removed when it does not."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not empty: give another --output, or delete it")
    unfinished = output.absolute().with_name(f".{output.absolute().name}-{uuid4().hex[:12]}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.rename(output)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
