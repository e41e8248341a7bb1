"""Addresses of MLflow's pages, in its mode for training: its start page opens in the mode for LLMs."""

import json
from collections.abc import Sequence
from urllib.parse import quote


def run_page(server: str, experiment: str, run: str) -> str:
    """The page of a run."""
    return f"{server}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"


def compare_page(server: str, experiment: str, runs: Sequence[str]) -> str:
    """The page that compares these runs; the experiment's charts for fewer than two."""
    if len(runs) < 2:
        return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART"
    return f"{server}/#/compare-runs?runs={_list(runs)}&experiments={_list([experiment])}"


def _list(words: Sequence[str]) -> str:
    return quote(json.dumps(list(words), separators=(",", ":")), safe="")
