"""Each format gives the checkpoint's logits to its own reader, and a failed export leaves nothing."""

import json
import re
import stat
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ns_core.errors import StageFailed, UserError
from ns_core.models.checkpoint import CARD, WEIGHTS, ModelCard, load_checkpoint, save_checkpoint
from ns_core.models.depthwise import CroppedDepthwise
from ns_core.models.export import FORMATS, exporter, programs, timm_folder
from ns_core.models.export.exporter import TOLERANCE, export
from ns_core.models.export.request import ExportOutcome, ExportRequest, Facts
from ns_core.models.factory import create_network
from ns_core.models.predict import Predictor

CLASSES = ("ant", "bee", "cat")
FACTS = Facts(source="run digits-1, first teacher", figures={"test_top1": 0.932, "ece": 0.04}, recipe="digits", seed=7)


def checkpoint(folder: Path, model: str, size: int = 32, bn_eps: float = 1e-3) -> Path:
    """A network whose BatchNorm statistics have moved, trained 8 pixels smaller than it is tested."""
    torch.manual_seed(0)
    network = create_network(model, len(CLASSES), bn_eps=bn_eps).train()
    with torch.no_grad():
        for _ in range(10):
            network(torch.randn(8, 3, size, size))
    folder.mkdir()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    card = ModelCard(
        model=model,
        class_names=CLASSES,
        train_size=size - 8,
        test_size=size,
        crop_pct=0.8,
        mean=mean,
        std=std,
        bn_eps=bn_eps,
    )
    save_checkpoint(folder, network, card)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each of three networks; at 32 pixels some depthwise kernels of efficientnet_b0 are cropped."""
    root = tmp_path_factory.mktemp("checkpoints")
    models = ("ns_efficientnet_xs", "efficientnet_b0", "resnet18")
    return {model: checkpoint(root / model, model) for model in models}


def exported(source: Path, name: str, output: Path) -> ExportOutcome:
    return export(ExportRequest(checkpoint=source, format=name, output=output, facts=FACTS))


def images(batch: int, size: int = 32) -> Tensor:
    """float32[B,3,H,W] in [0,1]."""
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def expected(source: Path, inputs: Tensor) -> Tensor:
    """The checkpoint's logits by the path that labels."""
    network, card = load_checkpoint(source)
    with torch.no_grad():
        logits: Tensor = Predictor(network, card, torch.device("cpu"))(inputs)
    return logits


def assert_equal_logits(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def normalised(inputs: Tensor, config: dict[str, object]) -> Tensor:
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (inputs - mean) / std


@pytest.mark.parametrize("model", ["efficientnet_b0", "resnet18"])
@pytest.mark.parametrize("name", ["timm", "hf"])
def test_plain_timm_loads_the_folder_and_the_file_of_weights(
    model: str, name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    outcome = exported(checkpoints[model], name, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    inputs = images(5)
    wanted = expected(checkpoints[model], inputs)
    by_folder = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    by_file = timm.create_model(model, num_classes=3, checkpoint_path=str(tmp_path / "out" / WEIGHTS)).eval()
    for network in (by_folder, by_file):
        assert type(network).__module__.startswith("timm.")
        with torch.no_grad():
            assert_equal_logits(network(normalised(inputs, config)), wanted)
    assert 0 <= outcome.max_difference <= TOLERANCE * outcome.largest_logit
    assert outcome.size == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())


def test_timm_resolves_the_preparation_that_the_checkpoint_was_judged_with(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    exported(checkpoints["resnet18"], "hf", tmp_path / "out")
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    for use_test_size in (False, True):
        resolved = timm.data.resolve_model_data_config(network, use_test_size=use_test_size)
        assert json.loads(json.dumps(resolved)) == {
            "input_size": [3, 32, 32],
            "interpolation": "bicubic",
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.3, 0.25],
            "crop_pct": 0.8,
            "crop_mode": "center",
        }
    assert network.pretrained_cfg["label_names"] == list(CLASSES)


def test_timm_is_weights_and_configuration_and_hf_adds_a_page_that_works(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    exported(checkpoints["resnet18"], "timm", tmp_path / "timm")
    exported(checkpoints["resnet18"], "hf", tmp_path / "hf")
    assert {file.name for file in (tmp_path / "timm").iterdir()} == {WEIGHTS, "config.json"}
    assert {file.name for file in (tmp_path / "hf").iterdir()} == {WEIGHTS, "config.json", "README.md"}
    assert {stat.S_IMODE(file.stat().st_mode) & 0o400 for file in (tmp_path / "hf").iterdir()} == {0o400}
    assert len({stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "hf").iterdir()}) == 1
    page = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    for part in (
        "library_name: timm",
        FACTS.source,
        "| 93.2 % |",
        "| 0.040 |",
        "digits, seed 7",
        "32 pixels; trained at 24",
    ):
        assert part in page
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "image.jpg"), picture)
    names: dict[str, object] = {}
    exec(program.replace("FOLDER", str(tmp_path / "hf")).replace("image.jpg", str(tmp_path / "image.jpg")), names)
    assert names["name"] in CLASSES


@pytest.mark.parametrize("model", ["ns_efficientnet_xs", "efficientnet_b0"])
def test_an_exported_program_takes_any_batch_of_plain_images(
    model: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    exported(checkpoints[model], "torch-export", tmp_path / "out")
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for batch in (1, 2, 5):
        assert_equal_logits(program(images(batch)), expected(checkpoints[model], images(batch)))
    assert ModelCard.model_validate_json((tmp_path / "out" / CARD).read_text()).class_names == CLASSES


@pytest.mark.parametrize("model", ["ns_efficientnet_xs", "efficientnet_b0"])
def test_onnxruntime_gives_the_logits_for_any_batch(model: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    exported(checkpoints[model], "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        (logits,) = session.run(["logits"], {"images": images(batch).numpy()})
        assert_equal_logits(torch.from_numpy(logits), expected(checkpoints[model], images(batch)))
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    constants = {tensor.name for tensor in graph.initializer}
    kernels = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    assert kernels
    assert constants.issuperset(kernels), "a cropped depthwise kernel would be computed"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"model.onnx", CARD}


def test_a_program_is_made_of_stock_convolutions_and_the_network_keeps_its_own(checkpoints: dict[str, Path]) -> None:
    network, _ = load_checkpoint(checkpoints["efficientnet_b0"])
    before = [type(module) for module in network.modules()]
    stock = [type(module) for module in programs._stock(network).modules()]
    assert CroppedDepthwise in before
    assert CroppedDepthwise not in stock
    assert [type(module) for module in network.modules()] == before


def test_the_difference_of_epsilon_goes_into_the_variances(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = checkpoints["resnet18"]
    exported(source, "timm", tmp_path / "out")
    before, after = load_file(source / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if name.endswith("running_var"):
            assert torch.equal(after[name], (tensor.double() + 1e-3 - 1e-5).float())
        else:
            assert torch.equal(after[name], tensor)


def test_weights_of_timms_own_epsilon_stay_bit_for_bit(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "own", "resnet18", bn_eps=1e-5)
    exported(source, "timm", tmp_path / "out")
    before, after = load_file(source / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_variance_that_cannot_take_the_difference_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "own", "tf_mobilenetv3_small_minimal_100", bn_eps=1e-5)
    state = load_file(source / WEIGHTS)
    state["bn1.running_var"][0] = 1e-6
    save_file(state, source / WEIGHTS)
    with pytest.raises(UserError, match=r"bn1 was trained with a BatchNorm epsilon of 1e-05, plain timm has 0\.001"):
        exported(source, "timm", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"own"}


@pytest.mark.parametrize("name", ["timm", "hf"])
def test_a_network_that_plain_timm_does_not_know_is_told_what_works(
    name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="unknown to plain timm: use --format torch-export or onnx"):
        exported(checkpoints["ns_efficientnet_xs"], name, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_gives_other_logits_is_deleted(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """timm's epsilon with variances for ours: the mistake that the shift is there to prevent."""
    network, card = load_checkpoint(checkpoints["resnet18"])
    timm_folder.write(network, card, tmp_path)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    difference, largest = exporter._compare(network, card, timm_folder.read(tmp_path))
    assert difference > 10 * TOLERANCE * largest
    with pytest.raises(StageFailed, match=r"gives other logits than the checkpoint, by .* it was deleted"):
        exporter._accept("timm", difference, largest)


def test_a_failed_check_leaves_no_folder(tmp_path: Path) -> None:
    """Finite weights whose logits overflow: equal on both sides, and no answer."""
    source = checkpoint(tmp_path / "own", "ns_efficientnet_xs")
    state = load_file(source / WEIGHTS)
    state["classifier.weight"].fill_(3e38)
    save_file(state, source / WEIGHTS)
    with pytest.raises(StageFailed, match="by nan where"):
        exported(source, "torch-export", tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())


def test_a_folder_with_files_is_refused_and_an_empty_one_is_used(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="full exists and is not empty"):
        exported(checkpoints["resnet18"], "timm", tmp_path / "full")
    exported(checkpoints["resnet18"], "timm", tmp_path / "empty")
    assert (tmp_path / "full" / "mine").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"full", "empty"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / CARD).unlink(), f"has no {CARD}"),
        (lambda folder: (folder / CARD).write_text("{}"), "describes no model"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"PK" * 40), "holds no weights"),
        (lambda folder: save_file({"x": torch.zeros(1)}, folder / WEIGHTS), "is not of a 'ns_efficientnet_xs'"),
    ],
)
def test_a_wrong_checkpoint_is_told_in_one_line(damage: object, words: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "wrong", "ns_efficientnet_xs")
    assert callable(damage)
    damage(source)
    with pytest.raises(UserError, match=words) as caught:
        exported(source, "torch-export", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_its_remedy(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'noisy-student\[onnx\]'"):
        exported(checkpoints["resnet18"], "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_names_the_nearest(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"did you mean 'onnx'.*{', '.join(FORMATS)}"):
        exported(checkpoints["resnet18"], "onxx", tmp_path / "out")
