"""A pool of which five images in six are no digits: what the filter keeps of it, and whether the audit sees it.

The drawings, the counts and the verdict are those of `benchmarks.out_of_domain`; the stages are the real ones.
"""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.digits_gain import interval
from benchmarks.out_of_domain import counted, of_audit, selected, verdict
from benchmarks.out_of_domain_pool import DIGIT, GLYPH, NOISE, TEXTURES, Pool, draw, enlarged, group, write_pool
from flows.recipes.digits import digits
from ns_core.data.images import encode_png
from ns_core.data.sources.digits import digits as digits_source
from tests.flows.command import Command

RECIPE = digits().override(["seed=11", "data.holdout_images=200", "data.test_images=1000"])
"""547 digits in the pool."""
SETTINGS = ("teacher.steps=200", "select.per_class=60")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return write_pool(RECIPE.for_generation(0).data, tmp_path_factory.mktemp("pool"), 5)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_clean_pool_is_the_recipes_own_byte_for_byte_and_lies_within_the_polluted_one(pool: Pool) -> None:
    source = digits_source(RECIPE.for_generation(0).data)
    own = {
        split: {sample.key: sample.read() for part in source.parts[split] for sample in part.samples()}
        for split in ("labeled", "holdout", "test", "pool")
    }
    clean, polluted = ({row["path"] for row in rows(path)} for path in (pool.clean, pool.polluted))
    assert {Path(path).stem: (pool.clean.parent / path).read_bytes() for path in clean} == own["pool"]
    assert clean < polluted
    assert len(polluted) == 6 * len(clean) == 6 * 547
    for split in ("labeled", "holdout", "test"):
        listed = [row["path"] for row in rows(pool.labelled) if row["split"] == split]
        assert {Path(path).stem: (pool.labelled.parent / path).read_bytes() for path in listed} == own[split]


def test_no_two_images_are_the_same_and_half_of_the_others_are_noise(pool: Pool) -> None:
    groups = Counter(group(kind) for kind in pool.kinds.values())
    assert groups == {DIGIT: 547, NOISE: 1368, GLYPH: 1367}, "as many hashes as files"
    assert len({pool.kinds[name] for name in pool.kinds} & set(TEXTURES)) == len(TEXTURES)
    assert draw(50, 3) == draw(50, 3)
    assert {data for _, data in draw(50, 3)}.isdisjoint(data for _, data in draw(50, 4))


def test_what_is_drawn_is_enlarged_as_the_source_enlarges_a_digit() -> None:
    from sklearn.datasets import load_digits

    source = digits_source(RECIPE.for_generation(0).data)
    sample = next(sample for part in source.parts["pool"] for sample in part.samples())
    cells = load_digits().images[int(sample.key.removeprefix("digit-"))].astype(np.uint8)
    assert encode_png(enlarged(cells)) == sample.read()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_filter_keeps_few_of_what_is_no_digit_and_the_audit_says_that_the_pool_is_other(
    pool: Pool, tmp_path: Path, prefect_api: str
) -> None:
    """The real stages up to the selection: a teacher of 50 labels, labelling, filter-and-balance; 40 seconds of CPU."""
    command, store = Command(tmp_path, prefect_api), tmp_path / "store"
    given = (*SETTINGS, *pool.settings("polluted"))
    settings = [part for setting in given for part in ("--set", setting)]
    outcome = command("audit", "digits", "--seed", "11", "--folds", "0", "--json", "--store", str(store), *settings)
    assert outcome.status == 0, outcome.stderr
    (folder,) = (path.parent for path in (store / "filter-and-balance").glob("*/attempt-*/selection.parquet"))
    made = selected(folder, pool)

    assert made["pool"]["images"] + made["leaks"] == len(pool.kinds), "every image has one outcome"
    assert made["kept"]["images"] == outcome.document["kept"]
    assert made["rows"] == outcome.document["rows"]
    assert made["pool"]["out_of_domain"] > 0.8
    assert made["above_threshold"]["out_of_domain"] < 0.8
    assert made["kept"]["out_of_domain"] < 0.6 * made["pool"]["out_of_domain"]
    assert made["kept"][DIGIT] > 0.5 * made["pool"][DIGIT], "it is not by keeping next to nothing"

    told = of_audit(outcome.document)
    assert told["notices"], outcome.document["shift"]
    assert "the pool holds other images than these" in outcome.stderr, "a person reads it at the end"
    assert told["precision_said"] > made["labels_right"], "what no held-out image is like, no estimate knows of"


def test_counts_are_of_the_images_that_are_named() -> None:
    kinds = {"a": DIGIT, "b": GLYPH, "c": "stripes", "d": "fine"}
    pool = Pool(Path(), Path(), Path(), kinds, {"a": 7})
    assert counted("abcd", pool) == {"images": 4, DIGIT: 1, NOISE: 2, GLYPH: 1, "out_of_domain": 0.75}
    assert counted("", pool)["images"] == 0


@pytest.mark.parametrize(
    ("values", "gates", "told"),
    [
        ([0.1, 0.2, 0.0], ["promote"] * 3, ("below 1 point", 0, 0, True)),
        ([-1.0, 0.5, 2.0], ["promote"] * 3, ("below 1 point on average, not shown", 1, 0, False)),
        ([-1.0, 0.5, 2.0], ["promote", "promote", "keep-teacher"], ("below 1 point on average, not shown", 1, 1, True)),
        ([3.0, 4.0, 5.0], ["keep-teacher", "stop", "promote"], ("not below 1 point", 3, 2, False)),
        ([3.0, 4.0, 5.0], ["keep-teacher", "stop", "stop"], ("not below 1 point", 3, 3, True)),
    ],
    ids=[
        "no harm",
        "uncertain",
        "uncertain, and the gate saw the harmed one",
        "harm that a gate let pass",
        "harm seen",
    ],
)
def test_the_verdict_holds_where_there_is_no_harm_or_the_gate_kept_the_teacher(
    values: list[float], gates: list[str], told: tuple[Any, ...]
) -> None:
    found = verdict(interval(values), gates)
    names = ("harm", "seeds_harmed_by_1_point", "of_them_the_gate_kept_the_teacher", "holds")
    assert tuple(found[name] for name in names) == told
    assert found["interval_below_1_point"] == (told[0] == "below 1 point")
