"""The table of the paper against what was published, and the settings that follow from it."""

import pytest
import timm

from ns_core.config import Augmentation, TrainConfig
from ns_core.config.paper import (
    IMAGENET_IMAGES,
    MODELS,
    crop_pct,
    finetune_config,
    student_config,
    teacher_config,
    unfinetuned,
)

NAMES = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2")


def test_the_table_has_the_models_of_the_paper_in_order() -> None:
    assert tuple(MODELS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_timms_noisy_student_weights(name: str) -> None:
    """timm's `crop_pct` is s/(s+32) in two or three digits."""
    row = MODELS[name]
    sizes = {"ns_jft_in1k": row.test_size} | ({"ns_jft_in1k_475": row.train_size} if name == "l2" else {})
    assert name == "l2" or row.train_size == row.test_size
    for tag, size in sizes.items():
        weights = timm.get_pretrained_cfg(f"{row.timm}.{tag}")
        assert weights is not None
        assert weights.input_size == (3, size, size)
        assert weights.crop_pct == pytest.approx(crop_pct(size), abs=2e-3)


def test_noise_ratio_and_length_are_those_of_the_official_script() -> None:
    """local_scripts/imagenet/train_offline.sh; dropout from efficientnet_builder.py; L2 from the paper."""
    assert [MODELS[name].magnitude for name in NAMES] == [0, 0, 6, 12, 15, 18, 24, 27, 27]
    assert [MODELS[name].ratio for name in NAMES] == [1, 3, 3, 3, 3, 3, 3, 3, 14]
    assert [MODELS[name].train_ratio for name in NAMES] == [2, 2, 2, 2, 2, 1, 1, 1, 1]
    assert [MODELS[name].dropout for name in NAMES] == [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5]


def test_the_lengths_are_the_published_ones() -> None:
    """350 epochs are 109,474 updates at 4,096 images (main.py) and 218,949 at 2,048 (tensorflow/tpu)."""
    assert student_config(MODELS["b7"], IMAGENET_IMAGES, 4096).steps == 109_474
    assert student_config(MODELS["b7"], IMAGENET_IMAGES, 2048).steps == 218_949
    assert student_config(MODELS["b0"], IMAGENET_IMAGES, 4096).steps == int(2 * 350 * IMAGENET_IMAGES / 4096)
    assert teacher_config(MODELS["b0"], IMAGENET_IMAGES, 2048).steps == 218_949


def test_the_schedule_of_a_small_model_is_stretched_but_for_its_warm_up() -> None:
    small, large = (student_config(MODELS[name], IMAGENET_IMAGES, 2048) for name in ("b4", "b5"))
    epoch = IMAGENET_IMAGES / 2048
    assert (small.warmup_steps, large.warmup_steps) == (3127, 3127)
    assert (small.decay_steps, large.decay_steps) == pytest.approx((4.8 * epoch, 2.4 * epoch))
    assert small.epoch_steps == large.epoch_steps == 625


@pytest.mark.parametrize(("batch", "lr"), [(512, 0.032), (2048, 0.128), (4096, 0.256)])
def test_the_peak_rate_grows_with_the_labelled_batch(batch: int, lr: float) -> None:
    for make in (teacher_config, student_config, finetune_config):
        assert make(MODELS["l2"], IMAGENET_IMAGES, batch).lr == pytest.approx(lr)


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_has_the_official_optimiser_averages_and_noise(name: str) -> None:
    row = MODELS[name]
    configs: list[TrainConfig] = [make(row, 100_000, 256) for make in (teacher_config, student_config, finetune_config)]
    for config in configs:
        assert (config.optimizer, config.momentum, config.opt_eps) == ("rmsproptf", 0.9, 1e-3)
        assert (config.weight_decay, config.decay_biases) == (1e-5, True)
        assert (config.schedule, config.decay_rate) == ("staircase", 0.97)
        assert (config.ema_decay, config.bn_momentum, config.bn_eps) == (0.9999, 0.01, 1e-3)
        assert (config.label_smoothing, config.dropout, config.stochastic_depth) == (0.1, row.dropout, 0.2)


def test_the_student_learns_soft_labels_from_scratch_and_the_teacher_has_its_noise() -> None:
    student, teacher = student_config(MODELS["b3"], 100_000, 256), teacher_config(MODELS["b3"], 100_000, 256)
    assert (student.labels, student.temperature, student.start, student.loss) == ("soft", 1.0, "scratch", "official")
    assert student.augmentation == teacher.augmentation
    assert student.augmentation == Augmentation(randaugment_set="official", randaugment_magnitude=12.0)


def test_b0_and_b1_have_crops_and_flips_but_no_randaugment() -> None:
    for name in ("b0", "b1"):
        noise = student_config(MODELS[name], 100_000, 256).augmentation
        assert (noise.randaugment_ops, noise.min_area, noise.hflip) == (0, 0.08, 0.5)


def test_finetuning_is_the_end_of_the_students_schedule_at_test_resolution() -> None:
    student = student_config(MODELS["l2"], IMAGENET_IMAGES, 2048)
    finetune = finetune_config(MODELS["l2"], IMAGENET_IMAGES, 2048)
    assert (student.image_size, finetune.image_size) == (475, 800)
    assert finetune.crop_pct == pytest.approx(800 / 832)
    assert finetune.steps == int(1.5 * IMAGENET_IMAGES / 2048) == 938
    assert finetune.schedule_steps == student.steps
    assert (finetune.decay_steps, finetune.warmup_steps) == (student.decay_steps, student.warmup_steps)
    noise = finetune.augmentation
    assert (noise.min_area, noise.hflip, noise.pad, noise.randaugment_ops) == (1.0, 0.0, 0, 0)
    assert finetune.frozen_blocks > 0


def test_a_student_that_is_not_finetuned_keeps_its_blocks_resolution_and_crop() -> None:
    student = student_config(MODELS["b2"], IMAGENET_IMAGES, 2048)
    stage = unfinetuned(student)
    assert (stage.steps, stage.frozen_blocks, stage.stochastic_depth) == (1, 7, 0.0)
    assert (stage.image_size, stage.crop_pct) == (student.image_size, student.crop_pct)
    assert (stage.schedule_steps, stage.lr, stage.optimizer) == (student.steps, student.lr, student.optimizer)
    assert stage.augmentation.randaugment_ops == 0


def test_a_small_data_set_still_has_an_update_in_each_stage() -> None:
    finetune = finetune_config(MODELS["b0"], 10, 2048)
    assert (finetune.steps, finetune.epoch_steps) == (1, 1)
