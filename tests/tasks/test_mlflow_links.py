"""The ways between Prefect and MLflow, with a real MLflow server."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.mlflow_lines import Server
from tests.tasks.campaigns import client, recipe_of, run_of

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(folder / "served"))
        for process_wide in ("_tracking_store", "_model_registry_store"):
            patch.setattr(f"mlflow.server.handlers.{process_wide}", None)
        patch.setattr(logging.getLogger("werkzeug"), "disabled", True)
        running = Server()
        yield running.address
        running.stop()


def compared(link: str) -> list[str]:
    """The runs that a compare page shows."""
    runs: list[str] = json.loads(parse_qs(urlsplit(urlsplit(link).fragment).query)["runs"][0])
    return runs


def test_a_campaign_is_compared_with_the_latest_others_of_its_recipe(server: str, tmp_path: Path) -> None:
    from tasks.mlflow_links import COMPARED, links, links_in_words
    from tasks.tracking import open_parent

    run = run_of(tmp_path, server)
    alone = open_parent(run, recipe_of("alone"))
    found = links(alone, "alone")
    assert found["run"] is not None
    assert found["compare"] is not None
    assert f"/runs/{alone.mlflow_run}?" in found["run"]
    assert found["compare"].endswith("compareRunsMode=CHART"), "nothing to compare with: the charts of all runs"
    assert found["table"] is None

    campaigns = [open_parent(run, recipe_of("many", seed=seed)) for seed in range(COMPARED + 2)]
    ids = [each.mlflow_run for each in campaigns]
    found = links(campaigns[0], "many")
    assert found["table"] is not None
    assert found["compare"] is not None
    assert compared(found["table"]) == [ids[0], *ids[:1:-1]], "this one, then the latest; the oldest other is left out"
    charts = urlsplit(urlsplit(found["compare"]).fragment)
    asked = parse_qs(charts.query)
    assert asked["compareRunsMode"] == ["CHART"]
    experiment = charts.path.split("/")[2]
    shown = client(run).search_runs([experiment], asked["searchFilter"][0])
    assert {one.info.run_id for one in shown} == set(ids), "no other recipe's, and no generation's"
    words = links_in_words(found)
    assert all(f"]({address})" in words for address in found.values())


@pytest.mark.parametrize("name", ["it's", 'a "b"', 'it\'s "b"'])
def test_a_recipe_with_quotes_in_its_name_still_leads_to_charts(server: str, tmp_path: Path, name: str) -> None:
    from tasks.mlflow_links import links
    from tasks.tracking import open_parent

    run = run_of(tmp_path, server)
    both = [open_parent(run, recipe_of(name, seed=seed)).mlflow_run for seed in (0, 1)]
    link = links(open_parent(run, recipe_of(name)), name)["compare"]
    assert link is not None
    charts = urlsplit(urlsplit(link).fragment)
    words = parse_qs(charts.query).get("searchFilter", [""])[0]
    assert set(both) <= {one.info.run_id for one in client(run).search_runs([charts.path.split("/")[2]], words)}


def test_the_arms_of_an_ablation_stand_beside_each_other_and_nothing_else_does(server: str, tmp_path: Path) -> None:
    from tasks.mlflow_links import charts_of_arms
    from tasks.tracking import open_parent, tracker

    run, arms = run_of(tmp_path, server), {"cats-noise-all", "cats-noise-none"}
    for recipe in ("cats", "cats-ratio-1", "digits-noise-all", *arms):
        for seed in (0, 1):
            open_parent(run, recipe_of(recipe, seed=seed))
    tracker(run).close()  # what is buffered is sent
    link = charts_of_arms(run, "cats-noise")
    assert link is not None
    charts = urlsplit(urlsplit(link).fragment)
    wanted = parse_qs(charts.query)["searchFilter"][0]
    shown = client(run).search_runs([charts.path.split("/")[2]], wanted)
    assert {(one.data.tags["ns.recipe"], one.data.tags["ns.seed"]) for one in shown} == {
        (arm, seed) for arm in arms for seed in ("0", "1")
    }


def test_the_flow_run_leads_to_its_page_in_mlflow(server: str, tmp_path: Path) -> None:
    from prefect import flow

    from tasks.tracking import open_child, open_parent, tracker
    from tests.tasks.test_selection_report import shown_in_prefect

    @flow(name="one-campaign")
    def one() -> list[str]:
        run = open_parent(run_of(tmp_path, server), recipe_of("linked"))
        child = open_child(run, recipe_of("linked"), 1)
        return [tracker(run).url(each) or "" for each in (run.mlflow_run, child)]

    parent, child = one()
    assert parent.startswith(server)
    assert parent in shown_in_prefect("mlflow-run")[0]
    assert child in shown_in_prefect("mlflow-generation")[0]
