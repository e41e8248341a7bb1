"""The paper's setting on a cluster, every line computed here a second time, by hand and from other numbers.

ImageNet has 1,281,167 training images. 350 epochs at a batch of 2,048 are 1,281,167 * 350 / 2,048 = 218,949.4 updates.
Operations of a prediction are given, as `counting` finds them.
"""

import math

import pytest

from flows.recipes import recipe
from ns_core.planning.devices import Device, device_of
from ns_core.planning.estimate import Estimate, Question, StageEstimate, estimate
from ns_core.planning.prices import Prices
from ns_core.planning.profile import Profile
from ns_core.planning.timing import Target

B0_600, B7_600, L2_475, L2_800 = 5_613_858_880.0, 75_491_768_384.0, 341_785_715_360.0, 951_407_306_560.0
PROFILE = Profile(
    recipe="imagenet_l2",
    flops={
        "tf_efficientnet_b0@600": B0_600,
        "tf_efficientnet_b7@600": B7_600,
        "tf_efficientnet_l2@475": L2_475,
        "tf_efficientnet_l2@800": L2_800,
    },
    parameters={"tf_efficientnet_b0": 5_288_548, "tf_efficientnet_b7": 66_347_960, "tf_efficientnet_l2": 480_309_308},
)
UPDATES = 218_949
HOLDOUT = 25_623  # 2 % of 1,281,167
LABELLED = 1_255_544
PRICES = Prices(device_hours={"tpu-v3": 2.0, "cpu": 0.05}, gigabyte_month=0.02)


@pytest.fixture(scope="module")
def found() -> Estimate:
    target = Target(device_of("tpu-v3"), 1024)
    return estimate(Question(recipe("imagenet_l2"), PROFILE, 1000, target, PRICES))


def of(found: Estimate, stage: str, generation: int, model: str = "") -> StageEstimate:
    (one,) = [s for s in found.stages if (s.stage, s.generation) == (stage, generation) and model in s.model]
    return one


def test_the_stages_are_those_of_a_run_with_a_selector_and_three_students(found: Estimate) -> None:
    assert [stage.name for stage in found.stages] == [
        "prepare-dataset",
        "train-teacher",
        "evaluate-robustness",
        "train-teacher",
        "infer-unlabeled",
        "filter-and-balance",
        *(
            f"{stage} {generation}"
            for generation in (1, 2, 3)
            for stage in (
                "infer-unlabeled",
                "train-noisy-student",
                "finetune-at-test-resolution",
                "evaluate-robustness",
            )
        ),
    ]


def test_images_are_imagenet_s_and_the_paper_s_pool(found: Estimate) -> None:
    values = {name: figure.value for name, figure in found.images.items()}
    assert values == {
        "classes": 1000,
        "labeled": LABELLED,
        "holdout": HOLDOUT,
        "test": 50_000,
        "pool": 300_000_000,
        "image_bytes": 110_000,
    }
    assert LABELLED + HOLDOUT == 1_281_167
    assert of(found, "prepare-dataset", 0).amount == 301_331_167


def test_the_selection_is_the_paper_s_81_million_of_130(found: Estimate) -> None:
    (selected,) = found.selections
    assert selected.kept == pytest.approx(81e6, rel=0.01)
    assert selected.rows == 130_000_000
    # 264 million pass; class r has 264e6 / (7.48547 * r) of them; the first 271 have more than 130,000.
    assert sum(count == 130_000 for count in selected.per_class) == 271
    assert selected.per_class[999] == 35_268
    assert not selected.measured


@pytest.mark.parametrize(
    ("stage", "generation", "model", "images"),
    [
        ("train-teacher", 0, "b7", 448_407_552),  # 218,949 * 2,048
        ("train-teacher", 0, "b0", 448_407_552),
        ("train-noisy-student", 1, "l2", 6_726_113_280),  # * 15
        ("train-noisy-student", 2, "l2", 6_726_113_280),
        ("train-noisy-student", 3, "l2", 13_003_819_008),  # * 29
        ("finetune-at-test-resolution", 3, "l2", 1_921_024),  # 1.5 epochs: 938 updates of 2,048
        ("infer-unlabeled", 0, "b0", 300_025_623),  # the pool and the holdout
        ("evaluate-robustness", 1, "l2", 363_623),
    ],
)
def test_images_of_each_stage(found: Estimate, stage: str, generation: int, model: str, images: int) -> None:
    assert of(found, stage, generation, model).amount == images


def test_an_evaluation_is_counted_in_predictions(found: Estimate) -> None:
    clean = HOLDOUT + 50_000
    corrupted = 15 * 5 * 2_000
    frames = 10 * 200 * 31
    looked_at = 500 * 2 * 10  # ten scenes of attacks, each image before and after
    gradients = 500 * 3 * (4 + 4 * 10)  # FGSM at four eps above 0, PGD's ten steps at four
    assert clean + corrupted + frames + looked_at + gradients == 363_623
    assert of(found, "evaluate-robustness", 2).amount == 363_623


def test_operations_of_training_are_three_predictions_an_image_and_the_looks_at_the_holdout(found: Estimate) -> None:
    looks = math.ceil(UPDATES / 625)  # an epoch has 625.57 updates, counted as 625
    assert looks == 351
    student = of(found, "train-noisy-student", 1)
    assert student.operations == pytest.approx(L2_475 * (3 * 6_726_113_280 + 351 * HOLDOUT), rel=1e-12)
    assert student.operations == pytest.approx(6.9e21, rel=0.01)
    labelling = of(found, "infer-unlabeled", 0)
    assert labelling.operations == pytest.approx(B0_600 * 300_025_623, rel=1e-12)


def test_hours_of_a_student_on_a_tpu_pod_are_near_the_paper_s_six_days(found: Estimate) -> None:
    # An H100 is estimated at 60 images a second: 60 * 3 * 342e9 = 61.6e12 of 989e12, 6.22 %. A TPU v3 has 0.9 TB/s for
    # 123e12 operations, an H100 3.35 TB/s for 989e12: 2.16 times the bytes for an operation, so 13.4 %.
    share = 0.0622 * (0.9 / 123) / (3.35 / 989)
    rate = 1024 * 0.9 * 123e12 * share
    student = of(found, "train-noisy-student", 1)
    assert student.seconds.value == pytest.approx(120 + 6.9011e21 / rate, rel=0.01)
    assert student.seconds.value / 86400 == pytest.approx(5.24, abs=0.02)
    assert 0.7 < student.seconds.value / (6 * 86400) < 1.3, "the paper says 6 days on 2,048 cores"
    assert of(found, "train-noisy-student", 3).seconds.value == pytest.approx(875_285, rel=0.005)
    assert student.seconds.basis == "assumed"


def test_images_a_second_device_hours_and_cost_follow(found: Estimate) -> None:
    student = of(found, "train-noisy-student", 2)
    seconds = student.seconds.value
    assert student.per_second == pytest.approx(6_726_113_280 / seconds)
    assert student.cost is not None
    assert student.cost.value == pytest.approx(1024 * seconds / 3600 * 2.0)
    whole = sum(stage.seconds.value for stage in found.stages if stage.device == "tpu-v3") * 1024 / 3600
    assert found.device_hours["tpu-v3"] == pytest.approx(whole)
    assert found.cost == pytest.approx(2.0 * whole + 0.05 * found.device_hours["cpu"])
    assert found.seconds == pytest.approx(sum(stage.seconds.value for stage in found.stages))


def test_preparing_and_selecting_go_by_this_repository_s_results(found: Estimate) -> None:
    prepare = of(found, "prepare-dataset", 0)
    assert prepare.seconds.value == pytest.approx(120 + 301_331_167 * 443.4e-6)  # 1,000,000 images in 443.4 s
    select = of(found, "filter-and-balance", 0)
    kept = found.selections[0].kept
    assert select.seconds.value == pytest.approx(120 + 104.53 + kept * 110_000 / 200e6)  # 300,000,000 rows in 104.53 s
    assert (prepare.device, prepare.devices) == ("cpu", 2)


def test_storage(found: Estimate) -> None:
    kept = found.selections[0].kept
    label = 80 + 2 * 1000
    expected = {
        ("prepare-dataset", 0): 301_331_167 * (110_000 + 120),
        ("infer-unlabeled", 0): 300_025_623 * label,
        ("infer-unlabeled", 1): (kept + HOLDOUT) * label,
        ("filter-and-balance", 0): kept * (label + 110_000) + (300_000_000 - kept) * 80,
        ("train-noisy-student", 1): 4 * 480_309_308,
        ("finetune-at-test-resolution", 2): 4 * 480_309_308,
    }
    for (stage, generation), size in expected.items():
        assert of(found, stage, generation).stored.value == pytest.approx(size), stage
    assert found.stored == pytest.approx(sum(stage.stored.value for stage in found.stages))
    assert found.month.value == pytest.approx(found.stored / 1e9 * 0.02)


def test_a_person_s_pool_scales_what_depends_on_it() -> None:
    target = Target(device_of("h100"), 64)
    small = estimate(Question(recipe("imagenet_l2"), PROFILE, 1000, target, PRICES, pool=3_000_000))
    assert of(small, "infer-unlabeled", 0).amount == 3_025_623
    assert of(small, "train-noisy-student", 1).amount == 6_726_113_280, "updates are the recipe's"
    (selected,) = small.selections
    assert max(selected.per_class) == 130_000
    assert selected.kept == sum(min(130_000, int(2_640_000 / rank / 7.485470860550345)) for rank in range(1, 1001))


def test_every_figure_says_what_it_rests_on(found: Estimate) -> None:
    for stage in found.stages:
        figures = [stage.seconds, stage.stored, *([stage.cost] if stage.cost else [])]
        assert all(figure.basis in ("measured", "assumed") and figure.source for figure in figures), stage
    document = found.document()
    assert document["selections"][0]["kept"] == found.selections[0].kept
    assert document["selections"][0]["basis"] == "assumed"


def test_estimates_on_an_h100_are_those_of_the_table() -> None:
    h100: Device = device_of("H100")
    for forward, training, labelled in ((0.8e9, 7_000, 33_000), (75.6e9, 147, 650), (342e9, 60, 280)):
        assert h100.operations(forward, "training") / (3 * forward) == pytest.approx(training, rel=1e-6)
        assert h100.operations(forward, "prediction") / forward == pytest.approx(labelled, rel=1e-6)
