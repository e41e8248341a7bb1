"""A tracker with MLflow at hand: both levels of runs, what they hold, and the pages that show them."""

import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from ns_core.tracking import Point, Tracker
from tests.mlflow_lines import DIGEST, EXPERIMENT, Server, client, history, kept, open_tracker, points


def test_both_levels_are_visible_with_their_tags(tracker: Tracker, database: Path) -> None:
    params = {"noise.dropout": 0.5, "model": None, "long": "x" * 7000}
    params |= {f"p{i}": i for i in range(150)}
    parent = tracker.parent("digits/0", "key-a", params, {"ns.recipe": "digits"})
    child = tracker.child(parent, "generation 1", "key-b", {"ns.generation": "1"})
    tracker.log(parent, points("gen/val_top1", 2))
    tracker.log(child, points("train/loss", 3))
    tracker.tags(child, {"prefect.flow_run_id": "f"})
    tracker.finish(child, "FINISHED")
    tracker.finish(parent, "KILLED")

    top, below = client(database).get_run(parent), client(database).get_run(child)
    assert (top.info.run_name, top.info.status) == ("digits/0", "KILLED")
    assert (below.info.run_name, below.info.status) == ("generation 1", "FINISHED")
    assert top.data.tags | {"ns.level": "pipeline", "ns.key": "key-a", "ns.recipe": "digits"} == (top.data.tags)
    assert "mlflow.parentRunId" not in top.data.tags
    assert below.data.tags["mlflow.parentRunId"] == parent
    assert below.data.tags["ns.level"] == "generation"
    assert below.data.tags["prefect.flow_run_id"] == "f"
    assert (top.data.params["noise.dropout"], top.data.params["model"]) == ("0.5", "None")
    assert len(top.data.params) == 153
    assert len(top.data.params["long"]) == 6000
    assert history(database, parent, "gen/val_top1") == [(0, 0.0), (1, 0.5)]
    assert history(database, child, "train/loss") == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_a_resumed_run_is_the_same_run_and_repeats_no_point(database: Path) -> None:
    ids = []
    for count in (3, 5):
        tracker = open_tracker(database)
        parent = tracker.parent("run", "k", {"a": 1}, {"prefect.flow_run_id": str(count)})
        child = tracker.child(parent, "generation", "k1", {})
        tracker.log(child, [*points("loss", count), Point("nan", float("nan"), 0, 0)])
        ids.append((parent, child))
        if count == 5:
            assert client(database).get_run(child).info.status == "RUNNING"
            assert client(database).get_run(parent).data.tags["prefect.flow_run_id"] == "5"
        tracker.finish(child, "FAILED")
        tracker.close()
    assert ids[0] == ids[1]
    assert [step for step, _ in history(database, child, "loss")] == [0, 1, 2, 3, 4]
    assert len(history(database, child, "nan")) == 1


def test_one_key_under_two_parents_is_two_runs(tracker: Tracker) -> None:
    first, second = (tracker.parent(key, key, {}, {}) for key in ("a", "b"))
    children = {tracker.child(parent, "g", "same", {}) for parent in (first, second)}
    assert len({first, second} | children) == 4


def test_a_param_with_another_value_stays_and_the_new_ones_are_added(
    tracker: Tracker, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.parent("run", "k", {"lr": 0.1, "ema": 0.9}, {})
    run = tracker.parent("run", "k", {"lr": 0.2, "ema": 0.9, "epochs": 3}, {})
    assert client(database).get_run(run).data.params == {"lr": "0.1", "ema": "0.9", "epochs": "3"}
    assert [record.getMessage() for record in caplog.records] == [f"params of run {run} stay as they were: lr"]


def test_a_dataset_is_an_input_with_a_short_digest_and_the_full_one_beside(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    for _ in range(2):
        tracker.dataset(run, "pool", DIGEST, {"uri": "s3://b/x"}, {"num_samples": 9}, "unlabeled")
    (given,) = client(database).get_run(run).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("pool", DIGEST[:32])
    assert json.loads(given.dataset.source) == {"uri": "s3://b/x"}
    assert json.loads(given.dataset.profile) == {"num_samples": 9, "sha256": DIGEST}
    assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "unlabeled"}


def test_artifacts_lie_beside_the_database_and_nothing_in_the_working_directory(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, report = tmp_path / "elsewhere", tmp_path / "report.md"
    elsewhere.mkdir()
    report.write_text("# verdict", encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    tracker = open_tracker(database)
    run = tracker.parent("run", "k", {}, {})
    tracker.artifact(run, report, "reports")
    tracker.register("teacher", run, "/store/a", DIGEST, {}, ["champion"])
    tracker.close()
    (stored,) = (tmp_path / "mlflow-artifacts").rglob("report.md")
    assert stored.relative_to(tmp_path / "mlflow-artifacts").parts[0] == run
    assert stored.parent.name == "reports"
    assert list(elsewhere.iterdir()) == []


def test_more_points_than_mlflow_takes_in_one_call_all_arrive(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    tracker.log(run, points("loss", 1001))
    tracker.finish(run, "FINISHED")
    assert len(history(database, run, "loss")) == 1001


def test_without_a_run_every_method_does_nothing(tracker: Tracker, database: Path) -> None:
    assert tracker.child("", "generation", "k", {}) == ""
    tracker.log("", points("loss", 1))
    tracker.tags("", {"a": "b"})
    tracker.dataset("", "pool", DIGEST, {}, {}, "train")
    tracker.artifact("", Path("absent"))
    tracker.register("teacher", "", "s3://b/x", DIGEST, {}, ["champion"])
    tracker.finish("", "FINISHED")
    assert tracker.url("") is None
    tracker.close()
    experiments = [found.experiment_id for found in client(database).search_experiments()]
    assert client(database).search_runs(experiments) == []
    assert client(database).search_registered_models() == []
    assert kept(database) == 0


def test_the_runs_of_a_tag_are_found_the_newest_first(tracker: Tracker) -> None:
    first, other, last = (
        tracker.parent(key, key, {}, {"ns.ablation": name}) for key, name in zip("abc", "xyx", strict=True)
    )
    tracker.child(first, "g1", "k", {"ns.ablation": "x"})
    assert tracker.similar("ns.ablation", "x") == [last, first]
    assert tracker.similar("ns.ablation", "y") == [other]
    assert tracker.similar("ns.ablation", "it's none") == []


def test_a_page_compares_the_runs_that_have_one(server: Server, tmp_path: Path) -> None:
    tracker = Tracker(server.address, EXPERIMENT, tmp_path / "spool")
    one, two = (tracker.parent(key, key, {}, {}) for key in "ab")
    page = tracker.url(one)
    assert page is not None
    experiments = page.partition("/runs/")[0]
    charts = f"{experiments}/runs?workflowType=machine_learning&compareRunsMode=CHART"
    assert tracker.compare_url() == tracker.compare_url([one]) == tracker.compare_url([one, "local-waiting"]) == charts
    both = tracker.compare_url([one, two])
    assert both is not None
    number = experiments.rpartition("/")[2]
    assert unquote(both) == f'{server.address}/#/compare-runs?runs=["{one}","{two}"]&experiments=["{number}"]'
    assert '"' not in both
    tracker.close()


def test_a_file_has_no_pages(tracker: Tracker) -> None:
    run = tracker.parent("run", "k", {}, {})
    assert (tracker.url(run), tracker.compare_url([run])) == (None, None)
