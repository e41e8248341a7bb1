"""The report of a selection, against a real Prefect server, a real MLflow file and stores of either kind."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ns_core.artifacts import Dataset, Record, Selection, commit, new_attempt, timed_record
from ns_core.config import ComputeConfig, SelectConfig
from ns_core.evaluation.reports.report import RunPaths
from ns_core.storage import Storage, open_storage
from tests.page_parser import Page
from tests.selection_builders import Built, built

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

RUN_ID = "digits-20261123-080000-0000"
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]
PAGE = RunPaths(RUN_ID).selection(1)
CONFIG = SelectConfig(threshold=0.6, per_class=40, max_copies=3)


def stored(storage: Storage, kind: type[Dataset] | type[Selection], folder: Path, result: dict[str, Any]) -> Record:
    """A folder, committed as an artifact."""
    document = {
        "type": kind.model_fields["type"].default,
        "stage": kind.stage,
        "version": 1,
        "fingerprint": ("d" if kind is Dataset else "e") * 64,
        "attempt": new_attempt(),
        "science": CONFIG.science(),
        "inputs": {},
        "result": result,
        "provenance": {},
    }
    return commit(storage, timed_record(document, started=0.0), folder)


@pytest.fixture
def pool(tmp_path: Path, store: Path) -> Built:
    """In the store."""
    made = built(tmp_path / "pool", 300, NAMES)
    storage = open_storage(str(store))
    stored(storage, Dataset, made.dataset, {})
    stored(storage, Selection, made.selection, made.result)
    return made


def reported(pool: Built, store: Path, after: Callable[[Any], None] = lambda call: None) -> Any:
    """Runs the task in a flow of its own; the call that it was given."""
    from prefect import flow

    from tasks.run import Run, StageCall
    from tasks.selection_report import report_selection
    from tasks.tracking import tracker

    run = Run(
        run_id=RUN_ID,
        store=str(store),
        home=str(store.parent / "home"),
        tracking_uri=f"sqlite:///{store.parent / 'mlflow.db'}",
        experiment="test",
        compute=ComputeConfig(),
    )
    parent = tracker(run).parent("parent", "key", {}, {})
    child = tracker(run).child(parent, "child", "key", {})
    dataset = Dataset(fingerprint="d" * 64, result={})
    call = StageCall(run, 1, CONFIG, {"dataset": dataset}, mlflow_run=child)

    @flow(name="one-report")
    def one() -> None:
        report_selection(call, Selection(fingerprint="e" * 64, result=pool.result))
        after(call)

    one()
    return call


def shown_in_prefect(key: str) -> list[str]:
    """The Markdown artifacts of a key, the newest first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.CREATED_DESC
        )
    return [str(one.data) for one in found]


def test_the_report_is_in_the_store_in_prefect_and_in_mlflow(pool: Built, store: Path) -> None:
    call = reported(pool, store)
    text = (store / PAGE).read_text(encoding="utf-8")
    assert f"<h1>{pool.result['kept']:,} of the pool&#x27;s" in text
    assert text.count("<figcaption>") > 60, "thumbnails and two pictures"
    names = {f"{name}-g1.png" for name in ("confidence_histogram", "selected_classes", "pseudo_labels")}
    assert {path.name for path in (store / PAGE).parent.iterdir()} == {"selection-g1.html", *names}
    markdown = shown_in_prefect("noisy-student-selection-g1")[0]
    assert str(store / PAGE) in markdown
    assert "![" in markdown
    assert re.search(r"\| ant +\|", markdown)
    logged = {path.name for path in (store.parent / "mlflow-artifacts").rglob(f"{call.mlflow_run}/**/report/*")}
    assert logged == {"selection-g1.html", *names}


def test_images_are_found_in_shards_of_the_selection_and_of_the_persons_own(tmp_path: Path) -> None:
    from tasks.selection_report import _Files

    storage = open_storage(str(tmp_path / "store"))
    places = {"dataset": "pool-0.tar", "selection": "selected-000000.tar", "own": "2024/000.tar"}
    for name, file in places.items():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.write_bytes(b"..." + name.encode())
    stored(storage, Dataset, tmp_path / "dataset", {})
    stored(storage, Selection, tmp_path / "selection", {})
    artifacts = Dataset(fingerprint="d" * 64, result={}), Selection(fingerprint="e" * 64, result={})
    files = _Files(storage, *artifacts, {"pool": str(tmp_path / "own")})
    assert files.image("pool-0.tar", 3, 7) == b"dataset"
    assert files.image("selected/selected-000000.tar", 3, 9) == b"selection"
    assert files.image("pool/2024/000.tar", 3, 3) == b"own"


def test_shards_that_are_gone_cost_the_gallery_and_nothing_else(
    pool: Built, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for shard in store.rglob("*.tar"):
        shard.unlink()
    reported(pool, store)
    page = Page((store / PAGE).read_text(encoding="utf-8"))
    assert len(page.links) == 2
    assert "Examples, kept and dropped" not in page.words
    assert "the gallery could not be made: NotFound" in caplog.text


def test_a_report_that_cannot_be_made_does_not_fail_the_run(
    pool: Built, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (record,) = store.glob("filter-and-balance/*/attempt-*/classes.parquet")
    record.write_bytes(b"no table")
    went_on: list[bool] = []
    reported(pool, store, after=lambda call: went_on.append(True))
    assert went_on == [True]
    assert "the report of the selection of generation 1 could not be made" in caplog.text
    assert not (store / PAGE).exists()


def test_the_same_selection_in_another_run_has_a_report_there_too(pool: Built, store: Path) -> None:
    reported(pool, store)
    before = (store / PAGE).read_bytes()
    (store / PAGE).unlink()
    reported(pool, store)
    assert (store / PAGE).read_bytes() == before
