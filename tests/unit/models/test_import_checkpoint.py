"""import-checkpoint: timm's networks and checkpoints of our own keep what they say, and a wrong file is one line."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ns_core.config import ImportConfig
from ns_core.errors import Unreachable, UserError
from ns_core.models.checkpoint import CARD, WEIGHTS, ModelCard, load_checkpoint, save_checkpoint
from ns_core.models.factory import create_network
from ns_core.models.import_checkpoint import run
from ns_core.models.predict import Predictor
from tests.factories import stage_context

SMALL = "test_efficientnet.r160_in1k"
PORTED = "tf_efficientnet_b0.ns_jft_in1k"


def fresh(name: str, **settings: Any) -> nn.Module:
    """timm's own network with drawn weights and BatchNorm statistics that are not the neutral ones."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(name, pretrained=False, **settings).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.01, 0.1)  # small, so that a wrong eps shows
    return network


def saved(state: Mapping[str, Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(dict(state), path)
    return str(path)


def imported(tmp_path: Path, **config: Any) -> tuple[Predictor, ModelCard, dict[str, Any]]:
    """The network as evaluation sees it, its card and the stage's result."""
    context = stage_context(tmp_path)
    result = run(ImportConfig(**config), context)
    network, card = load_checkpoint(context.output)
    return Predictor(network, card, torch.device("cpu")), card, dict(result)


def refusal(tmp_path: Path, **config: Any) -> str:
    with pytest.raises(UserError) as told:
        run(ImportConfig(**config), stage_context(tmp_path))
    assert "\n" not in str(told.value)
    return str(told.value)


def expected(native: nn.Module, images: Tensor) -> Tensor:
    """What timm's own network says of [0, 1] images that timm's own settings normalise."""
    facts = timm.data.resolve_data_config(pretrained_cfg=native.pretrained_cfg)
    mean, std = (torch.tensor(facts[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        logits: Tensor = native((images - mean) / std)
    return logits


@pytest.mark.parametrize("name", [SMALL, PORTED, "test_resnet.r160_in1k", "test_vit.r160_in1k"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_imported_network_says_what_timms_own_says(name: str, suffix: str, tmp_path: Path) -> None:
    native = fresh(name)
    predictor, card, result = imported(
        tmp_path, model=name, weights=saved(native.state_dict(), tmp_path / f"w{suffix}")
    )
    side = native.pretrained_cfg["input_size"][-1]
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = predictor(images)
    wanted = expected(native, images)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (card.model, card.test_size, card.train_size) == (name, side, side)
    assert len(card.class_names) == 1000
    assert card.class_names[:2] == ("n01440764", "n01443537")
    assert result == {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in native.parameters()),
        "test_size": side,
        "classes": 1000,
        "source": f"file w{suffix}",
    }


def test_the_card_has_timms_crop_normalisation_and_batchnorm(tmp_path: Path) -> None:
    _, ported, _ = imported(tmp_path / "1", model=PORTED, weights=saved(fresh(PORTED).state_dict(), tmp_path / "1.pth"))
    assert (ported.bn_eps, ported.crop_pct, ported.mean) == (1e-3, 0.875, (0.485, 0.456, 0.406))
    adversarial = "tf_efficientnet_b0.ap_in1k"
    state = fresh(adversarial).state_dict()
    _, inception, _ = imported(tmp_path / "2", model=adversarial, weights=saved(state, tmp_path / "2.pth"))
    assert (inception.mean, inception.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    _, own, _ = imported(tmp_path / "3", model=SMALL, weights=saved(fresh(SMALL).state_dict(), tmp_path / "3.pth"))
    assert own.bn_eps == 1e-5


def wrapped(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "pack",
    [
        lambda state: {"state_dict": wrapped(state), "epoch": 7},
        lambda state: {"model": dict(state), "arch": "x"},
        lambda state: {"state_dict": {n: t + 1 for n, t in state.items()}, "state_dict_ema": dict(state)},
        lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
        lambda state: {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
    ],
    ids=["state_dict and module.", "model", "ema first", "no counters", "float16"],
)
def test_weights_are_found_however_a_training_script_packs_them(
    pack: Callable[[Mapping[str, Tensor]], dict[str, Any]], tmp_path: Path
) -> None:
    native = fresh(SMALL)
    torch.save(pack(native.state_dict()), tmp_path / "checkpoint.bin")
    predictor, _, _ = imported(tmp_path, model=SMALL, weights=str(tmp_path / "checkpoint.bin"))
    images = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    wanted = expected(native, images)
    with torch.no_grad():
        assert (predictor(images) - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    weights = saved(fresh(SMALL).state_dict(), tmp_path / "w.safetensors")
    made = []
    for _ in range(2):
        context = stage_context(tmp_path)
        run(ImportConfig(model=SMALL, weights=weights), context)
        made.append({path.name: path.read_bytes() for path in context.output.iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {WEIGHTS, CARD}


def test_classes_of_ones_own_and_another_size(tmp_path: Path) -> None:
    weights = saved(fresh(SMALL, num_classes=3).state_dict(), tmp_path / "w.safetensors")
    names = ("cat", "dog", "emu")
    _, card, result = imported(tmp_path, model=SMALL, weights=weights, class_names=names, test_size=96)
    assert (card.class_names, card.test_size, result["classes"]) == (names, 96, 3)
    told = refusal(tmp_path, model=SMALL, weights=weights)
    assert "with 1000 classes: classifier.bias is [3] instead of [1000], classifier.weight is [3, 256] instead" in told


def test_a_network_that_takes_only_its_own_size_says_so(tmp_path: Path) -> None:
    name = "deit_tiny_patch16_224.fb_in1k"
    weights = saved(fresh(name).state_dict(), tmp_path / "w.safetensors")
    told = refusal(tmp_path, model=name, weights=weights, test_size=96)
    assert told.startswith(f"test_size 96: '{name}' does not take it: ")


def test_weights_of_another_network_are_named_by_their_first_tensors(tmp_path: Path) -> None:
    weights = saved(fresh("test_resnet.r160_in1k").state_dict(), tmp_path / "w.safetensors")
    told = refusal(tmp_path, model=SMALL, weights=weights)
    assert f"{weights} is not of a '{SMALL}' with 1000 classes: conv_stem.weight is missing" in told
    assert told.count("is missing") == 3
    assert "more)" in told


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_something_else_is_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"no weights at all" * 10)
    assert f"{path} is no file of weights" in refusal(tmp_path, model=SMALL, weights=str(path))
    path.write_bytes(b"")
    assert f"{path} is no file of weights" in refusal(tmp_path, model=SMALL, weights=str(path))


def test_a_cut_file_is_one_line(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".pth"):
        path = Path(saved(fresh(SMALL).state_dict(), tmp_path / f"w{suffix}"))
        path.write_bytes(path.read_bytes()[:-1000])
        assert f"{path} is no file of weights" in refusal(tmp_path, model=SMALL, weights=str(path))


class Surprise:
    """Unpickling it runs code."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return open, ("/dev/null",)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"state_dict": fresh(SMALL).state_dict(), "args": Surprise()}, tmp_path / "w.pth")
    told = refusal(tmp_path, model=SMALL, weights=str(tmp_path / "w.pth"))
    assert "holds more than tensors" in told


def test_a_file_without_tensors_a_missing_one_and_weights_that_are_not_finite(tmp_path: Path) -> None:
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "w.pth")
    assert "holds no state_dict" in refusal(tmp_path, model=SMALL, weights=str(tmp_path / "w.pth"))
    assert "there is no file" in refusal(tmp_path, model=SMALL, weights=str(tmp_path / "nowhere.pth"))
    state = fresh(SMALL).state_dict()
    state["classifier.bias"][7] = torch.nan
    weights = saved(state, tmp_path / "n.pth")
    assert "not finite, first in classifier.bias" in refusal(tmp_path, model=SMALL, weights=weights)


def test_unknown_names_and_tags_are_told_with_what_there_is(tmp_path: Path) -> None:
    assert "did you mean 'test_efficientnet" in refusal(tmp_path, model="test_eficientnet", weights="w.pth")
    told = refusal(tmp_path, model="tf_efficientnet_b0.ns_jtf_in1k", weights="w.pth")
    assert "Invalid pretrained tag (ns_jtf_in1k)" in told
    assert PORTED in told


def test_a_download_that_fails_is_one_line_and_nothing_else_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(Unreachable, match="could not be downloaded") as told:
        run(ImportConfig(model=SMALL, pretrained=True), stage_context(tmp_path))
    assert "\n" not in str(told.value)


def test_a_checkpoint_of_our_own_keeps_its_card_and_its_bytes(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    card = ModelCard(model="ns_efficientnet_xs", class_names=("a", "b"), train_size=32, test_size=40, crop_pct=0.9)
    save_checkpoint(own, create_network("ns_efficientnet_xs", 2).eval(), card)
    context = stage_context(tmp_path)
    result = run(ImportConfig(folder=str(own)), context)
    assert (result["model"], result["classes"]) == ("ns_efficientnet_xs", 2)
    for name in (WEIGHTS, CARD):
        assert (context.output / name).read_bytes() == (own / name).read_bytes()
    document = json.loads((own / CARD).read_text())
    (own / CARD).write_text(json.dumps(document | {"class_names": ["a", "b", "c"]}))
    assert "is not of a 'ns_efficientnet_xs' with these classes" in refusal(tmp_path, folder=str(own))


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({}, "give a timm name"),
        ({"model": SMALL}, "give a file of weights"),
        ({"model": SMALL, "weights": "w.pth", "pretrained": True}, "give a file of weights"),
        ({"model": SMALL, "folder": "./mine"}, "leave the other fields empty"),
        ({"model": SMALL, "weights": "w.pth", "class_names": ("a", "a")}, "a name is there twice"),
    ],
)
def test_what_is_imported_has_to_be_clear(config: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError, match=part):
        ImportConfig.parse(config)


def test_a_file_that_changed_since_its_digest_was_taken_is_refused(tmp_path: Path) -> None:
    path = saved(fresh("efficientnet_b0", num_classes=3).state_dict(), tmp_path / "weights.safetensors")
    context = stage_context(tmp_path / "run")
    context.fingerprints = {"weights": "0" * 64}
    config = ImportConfig(model="efficientnet_b0", weights=path, class_names=("a", "b", "c"))
    with pytest.raises(UserError, match="has changed since this run looked at it first"):
        run(config, context)
