"""Counts, selections, prices, devices and times: the arithmetic of a plan."""

import json
from pathlib import Path

import pytest

from flows.recipes import RECIPES, recipe
from ns_core.config import SelectConfig
from ns_core.errors import UserError
from ns_core.evaluation.plan import Unit, cost
from ns_core.evaluation.tables import Scene
from ns_core.planning.counts import counted
from ns_core.planning.devices import DEVICES, device_of
from ns_core.planning.estimate import Question, estimate
from ns_core.planning.prices import read_prices
from ns_core.planning.profile import Eligible, Machine, Profile, Rate, Seen, flops_of
from ns_core.planning.selected import assumed, from_labels
from ns_core.planning.timing import ORCHESTRATION_SECONDS, Target
from ns_core.planning.work import networks, predictions

DIGITS = {"ns_efficientnet_xs@32": 2e6, "ns_efficientnet_s@32": 4e6, "ns_efficientnet_m@32": 7e6}
HERE = Machine(device="cpu", name="a CPU", cores=2, load=0.1, seconds=60.0, date="2026-11-23")


def test_an_evaluation_counts_as_its_own_bar_does() -> None:
    config = recipe("digits").evaluate
    units = [Unit(Scene("clean", name, "0"), 0, range(n)) for name, n in (("holdout", 300), ("test", 400))]
    units += [
        Unit(Scene("corruptions", n, str(s)), 0, range(400)) for n in config.corruptions for s in config.severities
    ]
    units += [Unit(Scene("perturbations", name, "1"), 0, range(100)) for name in config.perturbations]
    for suite, levels in (("fgsm", config.fgsm_eps), ("pgd", config.pgd_eps)):
        units += [Unit(Scene(suite, suite, f"{eps:g}"), 0, range(200)) for eps in levels]
    assert predictions(config, 300, 400) == sum(cost(unit, config.pgd_steps) for unit in units)


def test_every_recipe_can_be_estimated_with_nothing_measured() -> None:
    for name in RECIPES:
        chosen = recipe(name)
        flops = {f"{model}@{size}": 1e9 for model, size in networks(chosen)}
        found = estimate(Question(chosen, Profile(recipe=name, flops=flops), 10, Target(None, 2), read_prices(None)))
        assert found.seconds > 0, name
        assert {figure.basis for figure in (stage.seconds for stage in found.stages)} == {"assumed"}
        assert bool(found.selections) == bool(chosen.generations), name


def test_a_measured_stage_takes_its_start_its_fixed_part_its_images_and_its_looks() -> None:
    rate = Rate(
        stage="train-teacher",
        model="ns_efficientnet_xs",
        image_size=32,
        unit="images",
        fixed=0.5,
        per_unit=0.001,
        per_look=0.1,
        look_images=150,
        sampled=800,
    )
    seen = Seen(classes=10, labeled=50, holdout=300, test=400, pool=1047, image_bytes=2553.0, sampled=1797, whole=True)
    profile = Profile(
        recipe="digits", machine=HERE, starts={"train-teacher": 6.0}, rates=(rate,), flops=DIGITS, seen=seen
    )
    found = estimate(Question(recipe("digits"), profile, 10, Target(None, 2), read_prices(None)))
    teacher = found.stages[1]
    # 400 updates of 50 images; 4 looks at a holdout twice as large as the one that was timed.
    assert teacher.seconds.value == pytest.approx(6.0 + ORCHESTRATION_SECONDS + 0.5 + 20.0 + 4 * 2 * 0.1)
    assert teacher.seconds.basis == "measured"
    assert "800 images timed on a CPU" in teacher.seconds.source
    assert found.stages[2].seconds.basis == "assumed", "an evaluation was not timed"


def test_labels_of_a_sample_are_scaled_to_the_pool_and_cut_at_the_most_a_class_may_have() -> None:
    labels = Eligible(per_class=(10, 40, 0), labelled=100, teacher="a teacher")
    config = SelectConfig(per_class=300, max_copies=2)
    found = from_labels(config, 1000, labels, 0, 1)
    assert found.per_class == (100, 300, 0)
    assert found.rows == 200 + 300 + 0
    assert found.measured
    later = from_labels(config, 1000, labels, 1, 2)
    assert later.per_class == (150, 300, 0), "half of the other half passes too"
    assert not later.measured


def test_without_labels_classes_are_even_or_fall_with_their_rank() -> None:
    config = SelectConfig(per_class=10**6, max_copies=1)
    assert assumed(config, 1000, 4, True, 1).per_class == (220, 220, 220, 220)
    assert assumed(config, 1100, 3, False, 1).per_class == (528, 264, 176)
    half = config.model_copy(update={"pool_fraction": 0.5})
    assert assumed(half, 1000, 4, True, 1).kept == 440


def test_the_pool_is_what_a_person_says() -> None:
    found = counted(recipe("imagenet_b0"), 1000, None, 5_000)
    assert (found.counts.pool, found.counts.labeled) == (5_000, 1_255_544)
    with pytest.raises(UserError, match="--pool-images 0"):
        counted(recipe("imagenet_b0"), 1000, None, 0)


def test_digits_are_counted_as_they_are_prepared() -> None:
    counts = counted(recipe("digits"), 10, None, None).counts
    assert (counts.labeled, counts.holdout, counts.test, counts.pool) == (50, 300, 400, 1047)


def test_a_person_s_prices_replace_those_that_are_assumed(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"device_hours": {"h100": 1.5}}), encoding="utf-8")
    prices = read_prices(str(file))
    assert (prices.device_hours["h100"], prices.device_hours["a100"]) == (1.5, 2.5)
    assert "your table" in prices.source("h100")
    assert "assumed" in prices.source("a100")
    file.write_text(json.dumps({"currency": "EUR", "device_hours": {"h100": 1.4}}), encoding="utf-8")
    assert read_prices(str(file)).device_hours == {"h100": 1.4}, "dollars are not taken for euros"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "prices.json"),
        ('{"device_hours": {"h1000": 1}}', "no device type"),
        ('{"device_hours": {"h100": -1}}', "not below 0"),
        ('{"currency": "EUR"}', "nothing is assumed"),
        ('{"hours": {}}', "hours"),
    ],
)
def test_a_table_of_prices_with_a_mistake_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "prices.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words) as raised:
        read_prices(str(file))
    assert "\n" not in str(raised.value)


def test_a_type_of_device_that_is_not_known_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'h100'"):
        device_of("h10")


def test_bandwidth_decides_between_types_of_one_peak() -> None:
    h100, h200 = DEVICES["h100"], DEVICES["h200"]
    faster = h200.operations(342e9, "training") / h100.operations(342e9, "training")
    assert faster == pytest.approx(4.8 / 3.35)
    assert all(device.share(952e9, "prediction") <= 0.5 for device in DEVICES.values())


def test_operations_grow_with_the_area() -> None:
    assert flops_of({"b0@224": 100.0}, "b0", 448) == pytest.approx(400.0)
    with pytest.raises(KeyError, match="b7"):
        flops_of({"b0@224": 100.0}, "b7", 224)


def test_a_profile_is_written_and_read_again(tmp_path: Path) -> None:
    profile = Profile(recipe="digits", machine=HERE, starts={"train-teacher": 1.5}, flops=DIGITS)
    profile.write(str(tmp_path / "profile.json"))
    assert Profile.read(str(tmp_path / "profile.json")) == profile


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"recipe": "digits", "version": 2}'])
def test_a_file_that_is_no_profile_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="--write-profile wrote") as raised:
        Profile.read(str(tmp_path / "profile.json"))
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="missing"):
        Profile.read(str(tmp_path / "missing.json"))
