"""import-checkpoint: a network from elsewhere becomes a checkpoint of this store.

In: a timm name with a file of weights or the wish to download them, or a folder with a checkpoint of this system's.
Out: `model.safetensors` and `model.json`. The network is built as for training (`models.factory`) with the BatchNorm
eps of timm's own, and says the same of the same pixels as timm's. The way to these pixels is this system's: OpenCV
resizes where timm takes Pillow's bicubic filter, so that figures are not timm's own to the last digit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from pydantic import JsonValue
from timm.data.imagenet_info import ImageNetInfo
from timm.models import load_state_dict
from torch import Tensor, nn

from ns_core.config import ImportConfig
from ns_core.data.folders import file_digest
from ns_core.errors import StageFailed, Unreachable, UserError, nearest
from ns_core.models.checkpoint import CARD, WEIGHTS, ModelCard, load_checkpoint, save_checkpoint
from ns_core.models.factory import create_network
from ns_core.stage import StageContext

SHOWN = 3
"""Tensors that an error names."""
_COUNTERS = "num_batches_tracked"
"""BatchNorm's count of batches, of no use here: files of before it, and those ported from TensorFlow, lack it."""


class Foreign(NamedTuple):
    """A network from timm, before it is built as one of ours."""

    card: ModelCard
    state: Mapping[str, Tensor]
    source: str


def run(config: ImportConfig, context: StageContext) -> dict[str, JsonValue]:
    """No inputs; `weights` or `folder` is read where it lies, and its digest is an extra input.

    Raises `UserError` in one line for an unknown name, a file that is none of weights, weights of another network or
    other classes, and a download that fails.
    """
    _check_files(config, context)
    if config.folder:
        network, card = _own(Path(config.folder))
        source = "a checkpoint of this system"
    else:
        card, state, source = _foreign(config)
        network = create_network(card.model, len(card.class_names), bn_eps=card.bn_eps).eval()
        network.load_state_dict(_fitting(state, network, card, config), strict=False)
        if config.test_size:
            _assert_size(network, card)
    save_checkpoint(context.output, network, card)
    return {
        "model": card.model,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "test_size": card.test_size,
        "classes": len(card.class_names),
        "source": source,
    }


def _check_files(config: ImportConfig, context: StageContext) -> None:
    """Raises `UserError` for a file that holds other bytes than those whose digest is this checkpoint's identity."""
    folder = Path(config.folder)
    files = {"weights": folder / WEIGHTS, "card": folder / CARD} if config.folder else {"weights": Path(config.weights)}
    for name, file in files.items():
        wanted = context.fingerprints.get(name)
        if wanted is not None and file_digest(file).hex() != wanted:
            raise UserError(f"{file} has changed since this run looked at it first: start the run again")


def _own(folder: Path) -> tuple[nn.Module, ModelCard]:
    try:
        return load_checkpoint(folder)
    except StageFailed as error:  # nothing of ours failed: it was handed over
        raise UserError(str(error)) from None


def _foreign(config: ImportConfig) -> Foreign:
    """What timm says of the network, and the weights."""
    names = config.class_names or tuple(ImageNetInfo("imagenet-1k").label_names())  # type: ignore[no-untyped-call]
    native = _native(config)
    facts = cast(dict[str, Any], native.pretrained_cfg)  # without the fields that are None
    if config.pretrained and facts["num_classes"] != len(names):
        raise UserError(
            f"timm's weights of '{config.model}' are for {facts['num_classes']} classes, and {len(names)} are named: "
            "give class_names"
        )
    state: Mapping[str, Tensor] = native.state_dict() if config.pretrained else _read(Path(config.weights))
    source = f"timm's weights {facts.get('hf_hub_id')}" if config.pretrained else f"file {Path(config.weights).name}"
    input_size = facts.get("test_input_size", facts["input_size"])
    card = ModelCard(
        model=".".join(part for part in (facts["architecture"], facts.get("tag")) if part),
        class_names=names,
        train_size=facts["input_size"][-1],
        test_size=config.test_size or input_size[-1],
        crop_pct=facts.get("test_crop_pct", facts["crop_pct"]),
        mean=facts["mean"],
        std=facts["std"],
        bn_eps=_bn_eps(native, config.model),
    )
    return Foreign(card, state, source)


def _native(config: ImportConfig) -> nn.Module:
    """timm's own network; with weights only where the config asks for the download."""
    if not timm.is_model(config.model):
        known = timm.list_models()
        raise UserError(f"model '{config.model}' is not known to timm{nearest(config.model, known)}")
    try:
        native: nn.Module = timm.create_model(config.model, pretrained=False)
    except RuntimeError as error:  # an unknown tag
        stem = config.model.partition(".")[0]
        tags = ", ".join(timm.list_pretrained(f"{stem}.*")) or f"only {stem}, without a tag"
        raise UserError(f"model '{config.model}': {error} timm has {tags}") from None
    if not config.pretrained:
        return native
    try:
        with_weights: nn.Module = timm.create_model(config.model, pretrained=True)
        return with_weights
    except Exception as error:  # whatever the Hub's client, its HTTP library or timm raises
        reason = " ".join(str(error).split())[:200]
        raise Unreachable(
            f"timm's weights of '{config.model}' could not be downloaded ({type(error).__name__}: {reason}): fetch the "
            "file elsewhere and give it as weights"
        ) from None


def _bn_eps(network: nn.Module, name: str) -> float:
    """The eps of all its BatchNorms; the card's default where there are none."""
    found = {one.eps for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)}
    if len(found) > 1:
        values = ", ".join(f"{eps:g}" for eps in sorted(found))
        raise UserError(f"model '{name}' has BatchNorms of several eps ({values}), and a checkpoint here has one")
    return found.pop() if found else float(ModelCard.model_fields["bn_eps"].default)


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, by name, its EMA weights where it has both, without a wrapper's `module.`.

    Nothing but tensors and plain values is unpickled.
    """
    if not path.is_file():
        raise UserError(f"weights: there is no file {path}")
    try:
        found: Any = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"weights: cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # of a damaged file torch.load and safetensors raise whatever they stumble over
        if "weights_only" in str(error):
            raise UserError(
                f"weights: {path} is no file of weights, or holds more than tensors, which is not unpickled here: "
                "save its state_dict alone"
            ) from None
        raise UserError(f"weights: {path} is no file of weights: {_first_line(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"weights: {path} holds a {type(found).__name__}, not a state_dict")
    if not found or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise UserError(f"weights: {path} holds no state_dict: a mapping of names to tensors")
    return found


def _fitting(
    state: Mapping[str, Tensor], network: nn.Module, card: ModelCard, config: ImportConfig
) -> Mapping[str, Tensor]:
    """`state`, which fits the network in every name and shape, and is finite."""
    wanted = network.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in state and not name.endswith(_COUNTERS)]
    wrong += [f"{name} is unexpected" for name in state if name not in wanted]
    wrong += [
        f"{name} is {list(tensor.shape)} instead of {list(wanted[name].shape)}"
        for name, tensor in state.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    where = config.weights or "the download"
    if wrong:
        others = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
        raise UserError(
            f"weights: {where} is not of a '{card.model}' with {len(card.class_names)} classes: "
            f"{', '.join(wrong[:SHOWN])}{others}"
        )
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise UserError(f"weights: {where} holds numbers that are not finite, first in {broken[0]}")
    return state


def _assert_size(network: nn.Module, card: ModelCard) -> None:
    """Looks at one picture of the size that was asked for: some networks take only their own."""
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, card.test_size, card.test_size))
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"test_size {card.test_size}: '{card.model}' does not take it: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
