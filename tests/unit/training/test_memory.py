"""The estimate against what training really takes, and what is said when it was too much."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ns_core.config import FinetuneConfig, StudentConfig, TeacherConfig, TrainConfig
from ns_core.errors import UserError
from ns_core.training.memory import Estimate, LiveStorages, advice, estimate, is_out_of_memory

ROOT = Path(__file__).parents[3]
WITHIN = 0.2
"""What the estimate may be off, so that it is worth printing."""

TRAIN = """
import json, sys
import torch
from ns_core.config import TeacherConfig
from ns_core.training.distributed import Ranks
from ns_core.models.malloc import settle
from ns_core.training.memory import job_without_data
from ns_core.training.step import TrainStep
from tests.peak_memory import peak_bytes as peak

def train(config, classes=10):
    step = TrainStep(job_without_data(config, config.model, classes), Ranks(0, 1, 0, torch.device("cpu")))
    step.train_mode()
    size = config.image_size
    images = torch.randint(256, (config.batch_size, size, size, 3), dtype=torch.uint8)
    for number in range(2):
        step.update(number, images, torch.full((config.batch_size, classes), 1 / classes), config.batch_size)

settle(recomputes=sys.argv[2] == "exact")
train(TeacherConfig(model="ns_efficientnet_xs", image_size=32, batch_size=2))
before = peak()
train(TeacherConfig(**json.loads(sys.argv[1])))
print(before, peak())
"""
"""Prints the peak of a process after a tiny network was trained, and after two updates of another one."""


def run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "resnet18", "image_size": 160, "batch_size": 16},
        {"model": "efficientnet_b0", "image_size": 160, "batch_size": 8},
        {"model": "efficientnet_b0", "image_size": 160, "batch_size": 16, "recompute_groups": 3},
    ],
    ids=["resnet18", "b0", "b0-recomputed"],
)
def test_the_tensors_are_what_a_process_grows_by_that_returns_freed_memory(fields: dict[str, Any]) -> None:
    before, after = map(int, run(TRAIN, json.dumps(fields), "exact").split())
    found = estimate(TeacherConfig(**fields), fields["model"], 10)

    assert after - before > 200e6, "too little to measure"
    assert found.tensors == pytest.approx(after - before, rel=WITHIN)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "resnet18", "image_size": 160, "batch_size": 16, "optimizer": "sgd", "accumulation": 2},
        {"model": "efficientnet_b0", "image_size": 224, "batch_size": 8},
    ],
    ids=["resnet18", "b0"],
)
def test_the_peak_of_a_process_is_what_the_estimate_says(fields: dict[str, Any]) -> None:
    before, after = map(int, run(TRAIN, json.dumps(fields), "as it is").split())
    found = estimate(TeacherConfig(**fields), fields["model"], 10)

    assert after - before > 200e6, "too little to measure"
    # The libraries of this machine, whose size differs from build to build, in place of PROCESS_BASE.
    assert found.update - found.base + before == pytest.approx(after, rel=WITHIN)


def test_nothing_of_the_networks_size_is_allocated() -> None:
    program = """
from ns_core.config import TeacherConfig
from ns_core.training.memory import estimate
from tests.peak_memory import peak_bytes as peak
estimate(TeacherConfig(image_size=32, batch_size=2), "ns_efficientnet_xs", 10)
before = peak()
found = estimate(TeacherConfig(image_size=1024, batch_size=512), "resnet18", 1000)
print(found.tensors, peak() - before)
"""
    estimated, taken = map(int, run(program).split())

    assert estimated > 200e9
    assert taken < 50e6


def tiny(**fields: Any) -> TeacherConfig:
    return TeacherConfig(**({"model": "ns_efficientnet_s", "image_size": 32, "batch_size": 16} | fields))


def of(config: TrainConfig, processes: int = 1) -> Estimate:
    return estimate(config, "ns_efficientnet_s", 10, processes)


def test_the_parts_are_the_sizes_of_what_they_name() -> None:
    found = of(tiny(optimizer="rmsproptf"))
    buffers = found.parameters - 4 * found.weights

    assert found.weights == 85_660
    assert 0 < buffers < 0.1 * found.parameters, "BatchNorm statistics"
    assert found.average == found.parameters
    assert found.optimizer == 2 * 4 * found.weights
    assert found.images == 16
    assert found.batch == 3 * 16 * (32 * 32 * 3 + 10 * 4)
    assert 0 < found.gradients <= 4 * found.weights


def test_every_copy_of_the_weights_is_counted_once() -> None:
    found = estimate(TeacherConfig(image_size=32, batch_size=2), "resnet18", 10)

    assert found.activations < 0.8 * found.parameters, "the optimiser's work space for the largest weight, and little"


def test_sgd_keeps_half_the_state_of_rmsprop() -> None:
    assert 2 * of(tiny(optimizer="sgd")).optimizer == of(tiny(optimizer="rmsproptf")).optimizer


def test_accumulation_and_processes_divide_the_activations() -> None:
    whole, halves = of(tiny(batch_size=256)), of(tiny(batch_size=256, accumulation=2))
    shared, quarters = of(tiny(batch_size=256), processes=2), of(tiny(batch_size=256, accumulation=2), processes=2)

    assert [each.images for each in (whole, halves, shared, quarters)] == [256, 128, 128, 64]
    assert halves.activations == pytest.approx(whole.activations / 2, rel=0.05)
    assert shared.activations == pytest.approx(whole.activations / 2, rel=0.05)
    assert quarters.activations == pytest.approx(whole.activations / 4, rel=0.05)
    assert shared.gradients == 4 * shared.weights, "the buckets of DistributedDataParallel"


def test_further_micro_batches_take_memory_for_their_pixels_alone() -> None:
    two, eight = of(tiny(batch_size=32, accumulation=2)), of(tiny(batch_size=128, accumulation=8))

    assert eight.activations == two.activations
    assert eight.batch == 4 * two.batch


def test_recomputation_and_bfloat16_save_activations() -> None:
    plain = of(tiny())

    assert of(tiny(recompute_groups=2)).activations < 0.75 * plain.activations
    assert of(tiny(precision="bfloat16")).activations < 0.75 * plain.activations
    assert of(tiny(precision="bfloat16")).parameters == plain.parameters


def test_pseudo_labelled_images_count_and_frozen_blocks_do_not() -> None:
    student = StudentConfig(image_size=32, batch_size=16, ratio=3)
    finetune = FinetuneConfig(image_size=32, batch_size=16, frozen_blocks=1, stochastic_depth=0.2)

    assert of(student).images == 64
    assert of(student).activations == pytest.approx(4 * of(tiny()).activations, rel=0.1)
    assert of(finetune).activations < 0.5 * of(tiny()).activations
    assert of(finetune).optimizer < of(tiny()).optimizer


@pytest.mark.parametrize("fields", [{"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}, {"optimizer": "adamw"}])
def test_every_option_of_training_can_be_estimated(fields: dict[str, Any]) -> None:
    assert of(tiny(**fields)).activations >= of(tiny()).activations


@pytest.mark.parametrize("model", ["convnext_atto", "vit_tiny_patch16_224", "resnet10t", "efficientnetv2_rw_t"])
def test_networks_of_other_families_can_be_estimated(model: str) -> None:
    assert estimate(TeacherConfig(image_size=224, batch_size=1), model, 10).activations > 1e6


def test_mistakes_are_told_as_training_tells_them() -> None:
    with pytest.raises(UserError, match="set batch_size to a multiple of 3"):
        of(tiny(), processes=3)
    with pytest.raises(UserError, match="recompute_groups"):
        of(tiny(recompute_groups=9))
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        estimate(tiny(), "resnet81", 10)


def test_storages_are_followed_from_birth_to_death() -> None:
    with LiveStorages() as live:
        kept = torch.zeros(1000)
        other = torch.zeros(500)
        view = other[:10]
        del other
        assert live.now == 6000, "a view keeps the storage"
        del view
        assert (live.now, live.peak) == (4000, 6000)
        live.restart()
        late = kept + 1
        assert (live.peak, live.at_peak([kept, late, late.view(10, 100)[0]])) == (8000, 12_000)


OUT_OF_MEMORY = """
import resource, torch
from ns_core.training.memory import is_out_of_memory
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
network = torch.nn.Conv2d(16, 64, 3)
try:
    network(torch.zeros(8, 16, 512, 512)).square().sum().backward()
except Exception as error:
    print(type(error).__name__, is_out_of_memory(error))
"""


def test_an_allocation_that_really_fails_is_known_for_what_it_is() -> None:
    assert run(OUT_OF_MEMORY) == "RuntimeError True"
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))


def test_other_failures_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))


def test_the_advice_names_fields_that_can_be_set_with_their_values() -> None:
    student = StudentConfig(batch_size=24, accumulation=2, recompute_groups=0, image_size=64)

    assert advice(student) == (
        "student.accumulation=3 (now 2), or student.recompute_groups=3 (now 0), or student.batch_size=12 (now 24), "
        "or a smaller student.image_size (now 64)"
    )


def test_the_advice_leaves_out_what_cannot_be_lowered() -> None:
    words = advice(FinetuneConfig(batch_size=1, recompute_groups=4, image_size=64))

    assert words == "finetune.recompute_groups=5 (now 4), or a smaller finetune.image_size (now 64)"
