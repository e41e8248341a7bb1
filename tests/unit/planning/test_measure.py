"""What the measuring process does: samples of images, operations, short runs."""

from pathlib import Path

import pytest

from flows.recipes import recipe
from ns_core.config import FinetuneConfig, StudentConfig, TeacherConfig
from ns_core.errors import UserError
from ns_core.planning import measure, sampling
from ns_core.planning.counting import count
from ns_core.planning.profile import Profile
from ns_core.planning.sampled import TOO_MUCH, fewer, shortened, training_rate
from ns_core.planning.work import predictions
from ns_core.stage import Metric


def test_operations_are_two_for_each_multiplication_and_addition() -> None:
    flops, parameters = count([("tf_efficientnet_b0", 224), ("tf_efficientnet_b0", 112)], 1000)
    assert flops["tf_efficientnet_b0@224"] == pytest.approx(2 * 0.39e9, rel=0.02), "timm says 0.39 G multiply-adds"
    assert 0.25 < flops["tf_efficientnet_b0@112"] / flops["tf_efficientnet_b0@224"] < 0.29, "odd sides are padded"
    assert parameters == {"tf_efficientnet_b0": 5_288_548}


def test_an_unknown_network_is_a_person_s_mistake() -> None:
    with pytest.raises(UserError, match="did you mean"):
        count([("tf_efficientnet_b00", 224)], 10)


def test_a_small_data_set_is_taken_whole_in_its_own_splits(tmp_path: Path) -> None:
    config = recipe("digits").data
    taken = sampling.sample(config, None, tmp_path / "sample")
    assert taken.whole
    assert taken.data is config
    assert taken.totals == {"labeled": 50, "holdout": 300, "test": 400, "pool": 1047}
    assert not (tmp_path / "sample").exists()


def test_a_share_of_a_pool_becomes_a_folder_that_can_be_prepared(tmp_path: Path) -> None:
    config = recipe("digits").data.model_copy(update={"labels_per_class": 12})
    taken = sampling.sample(config, 0.1, tmp_path / "sample")
    pool = list((tmp_path / "sample" / "pool").iterdir())
    labelled = list((tmp_path / "sample" / "labeled").glob("*/*"))
    assert len(pool) == round(0.1 * 977)
    assert len(labelled) == 120
    assert (taken.whole, taken.classes, taken.totals["pool"]) == (False, 10, 977)
    bench = measure.Measuring(recipe("digits"), Profile(recipe="digits"), tmp_path)
    record, _ = bench._run(taken.data, {}, {})
    assert record.result["pool"] == len(pool)


def test_a_share_that_leaves_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a larger share"):
        sampling.sample(recipe("digits").data, 0.0001, tmp_path / "sample")


def test_a_sample_of_training_has_a_few_updates_and_no_more_operations_than_it_may() -> None:
    small = shortened(recipe("digits").student, 4.4e6)
    assert isinstance(small, StudentConfig)
    assert (small.steps, small.epoch_steps, small.batch_size, small.ratio) == (24, 8, 32, 4)
    large = shortened(recipe("imagenet_b0").teacher, 0.77e9)
    assert isinstance(large, TeacherConfig)
    assert 3 * 0.77e9 * large.batch_size <= 6e10 < 3 * 0.77e9 * 2048
    tail = shortened(recipe("imagenet_l2").finetune, 0.8e9)
    assert isinstance(tail, FinetuneConfig)
    assert tail.schedule_steps == 0
    assert shortened(recipe("imagenet_l2").student, 342e9) is None
    assert TOO_MUCH < 3 * 342e9 * 15


def test_a_sample_of_an_evaluation_keeps_its_kinds_where_it_can() -> None:
    config = recipe("digits").evaluate
    small, large = fewer(config, 2.4e6, 400)
    assert (small.max_images, small.max_sequences, small.max_attacked) == (40, 10, 20)
    assert small.corruptions == config.corruptions
    assert predictions(large, 0, 400) == 3 * predictions(small, 0, 400) - 2 * 400, "clean images are always all"
    heavy, _ = fewer(config, 1e9, 400)
    assert heavy.perturbations == ()
    assert predictions(heavy, 0, 400) < predictions(small, 0, 400)


def test_a_rate_comes_from_a_curve_without_its_first_epoch() -> None:
    config = TeacherConfig(batch_size=10, steps=30, epoch_steps=10, image_size=32)
    points = list[Metric]()
    # The first epoch at 50 images a second, the others at 100: 2 s, 1 s, 1 s, each with a look of half a second.
    for step, value, moment in ((10, 50.0, 12_500), (20, 100.0, 14_000), (30, 100.0, 15_500)):
        points.append(
            Metric(event="metric", key="train/images_per_second", value=value, step=step, timestamp_ms=moment)
        )
    rate = training_rate(config, "a network", points, seconds=7.0)
    assert rate.per_unit == pytest.approx(0.01)
    assert rate.per_look == pytest.approx(0.5)
    assert rate.fixed == pytest.approx(7.0 - 3.0 - 1.5)
    assert rate.sampled == 200


def test_the_digits_are_measured_to_the_labels_that_a_teacher_gives_them() -> None:
    short = recipe("digits").override(
        [
            "generations=1",
            "teacher.steps=120",
            "teacher.epoch_steps=40",
            "select.threshold=0.2",
            'evaluate.corruptions=["gaussian_noise"]',
            "evaluate.severities=[3]",
            "evaluate.perturbations=[]",
            "evaluate.fgsm_eps=[4]",
            "evaluate.pgd_eps=[]",
        ]
    )
    found = measure.answer({"recipe": short.model_dump(mode="json"), "classes": 10, "timed": True, "sample": None})
    assert found.machine is not None
    assert found.machine.device == "cpu"
    assert {rate.stage for rate in found.rates} == {
        "prepare-dataset",
        "train-teacher",
        "infer-unlabeled",
        "filter-and-balance",
        "train-noisy-student",
        "finetune-at-test-resolution",
        "evaluate-robustness",
    }
    assert all(rate.per_unit > 0 or rate.stage == "filter-and-balance" for rate in found.rates)
    assert found.starts["train-teacher"] > found.starts["filter-and-balance"] > 0
    assert found.eligible is not None
    assert 0 < sum(found.eligible.per_class) <= 1047
    assert found.seen is not None
    assert (found.seen.pool, found.seen.whole) == (1047, True)
