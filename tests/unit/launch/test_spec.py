"""Which stages several processes run, and how."""

import pytest

from ns_core.config import ComputeConfig
from ns_core.launch.spec import PARALLEL_STAGES, SHARDED_STAGES, WorkerSpec
from ns_core.worker import STAGES


def spec_for(stage: str, part: tuple[int, int] | None = None) -> WorkerSpec:
    """With two processes."""
    compute = ComputeConfig(processes=2)
    return WorkerSpec(stage=stage, fingerprint="0", config={}, inputs={}, store="store", compute=compute, part=part)


@pytest.mark.parametrize("stage", STAGES)
def test_the_stages_that_train_are_run_by_several_processes_and_no_others(stage: str) -> None:
    assert spec_for(stage).processes == (2 if stage in PARALLEL_STAGES else 1)
    assert (stage in PARALLEL_STAGES) == STAGES[stage][1].startswith("ns_core.training.")


@pytest.mark.parametrize("stage", STAGES)
def test_the_stages_that_look_at_images_one_by_one_are_divided_into_parts_and_no_others(stage: str) -> None:
    assert spec_for(stage).parts == (2 if stage in SHARDED_STAGES else 1)
    package = STAGES[stage][1].rpartition(".")[0]
    assert (stage in SHARDED_STAGES) == (package in ("ns_core.inference", "ns_core.evaluation"))


def test_a_part_is_not_divided_again() -> None:
    assert [spec_for("infer-unlabeled", part=(number, 2)).parts for number in range(2)] == [1, 1]
