"""Cache and retries, against a real Prefect server and real workers (prepare-dataset: about 2 s each)."""

from pathlib import Path
from typing import Any

import pytest

from ns_core.artifacts import Dataset, Paths, find, load
from ns_core.config import ComputeConfig, DataConfig, SelectConfig
from ns_core.errors import StageFailed, UserError
from ns_core.settings import StageConfig
from ns_core.storage import open_storage

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

DATA = DataConfig(labels_per_class=2, holdout_images=20, test_images=20)


def one_stage(store: Path, config: StageConfig, retries: int = 0, **inputs: Any) -> tuple[Any, Any]:
    """Runs one stage in a flow of its own; the artifact and what the ledger says."""
    from prefect import flow

    from tasks.filter_and_balance import filter_and_balance
    from tasks.observe import Watch, watching
    from tasks.prepare_dataset import prepare_dataset
    from tasks.run import Run, StageCall

    run = Run(
        run_id="test",
        store=str(store),
        home=str(store.parent / "home"),
        tracking_uri=f"sqlite:///{store.parent / 'mlflow.db'}",
        experiment="test",
        compute=ComputeConfig(retries=retries, retry_delay_seconds=0.01),
    )
    task = {"prepare-dataset": prepare_dataset, "filter-and-balance": filter_and_balance}[config.STAGE]

    @flow(name="one-stage")
    def one() -> Any:
        return task(StageCall(run, 0, config, inputs))

    with watching(Watch()) as watch:
        artifact = one()
    return artifact, watch.ledger[-1]


def task_runs(name: str) -> list[Any]:
    """Prefect's own word on the task runs of a stage, oldest first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName
    from prefect.client.schemas.sorting import TaskRunSort

    with get_client(sync_client=True) as client:
        return client.read_task_runs(
            task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_=name)), sort=TaskRunSort.EXPECTED_START_TIME_ASC
        )


def test_a_stage_is_computed_once_and_then_cached_for_prefect_too(store: Path) -> None:
    first, computed = one_stage(store, DATA)
    second, cached = one_stage(store, DATA)
    assert isinstance(first, Dataset)
    assert (computed.state, cached.state) == ("computed", "cached")
    assert second == first
    assert (store / computed.uri / "prefect-result.json").exists(), "Prefect's record lies in the artifact's folder"


def test_a_lost_prefect_record_costs_nothing(store: Path) -> None:
    _, computed = one_stage(store, DATA)
    (Path(computed.uri) / "prefect-result.json").unlink()
    before = load(open_storage(str(store)), Paths("prepare-dataset", computed.fingerprint))
    _, again = one_stage(store, DATA)
    assert again.state == "cached"
    assert load(open_storage(str(store)), Paths("prepare-dataset", computed.fingerprint)) == before


def test_prefects_record_without_the_artifact_is_not_believed(store: Path) -> None:
    _, computed = one_stage(store, DATA)
    (Path(computed.uri) / ".artifact.json").unlink()
    _, again = one_stage(store, DATA)
    assert again.state == "computed"
    assert find(open_storage(str(store)), Paths("prepare-dataset", computed.fingerprint))


def test_a_persons_mistake_is_not_tried_again(store: Path) -> None:
    mistaken = DATA.model_copy(update={"labels_per_class": 10_000})
    with pytest.raises(UserError, match="labels_per_class"):
        one_stage(store, mistaken, retries=3)
    assert task_runs("prepare-dataset-g0")[-1].run_count == 1


def test_a_failed_worker_is_started_again_as_often_as_the_recipe_says(store: Path) -> None:
    from ns_core.artifacts import PseudoLabels

    gone = {
        "dataset": Dataset(fingerprint="0" * 64, result={}),
        "pseudo_labels": PseudoLabels(fingerprint="1" * 64, result={}),
    }
    with pytest.raises(StageFailed, match=r"'dataset'.*not in the store"):
        one_stage(store, SelectConfig(), retries=2, **gone)
    assert task_runs("filter-and-balance-g0")[-1].run_count == 3
