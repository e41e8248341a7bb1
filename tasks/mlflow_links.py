"""The ways between the pages of Prefect and of MLflow: tags there, artifacts here, addresses for people.

Where MLflow is a file and no server, there is no address: `noisy-student ui` starts the pages.
"""

from collections.abc import Mapping
from urllib.parse import quote

from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from tasks.advisory import asked, tried
from tasks.run import Run
from tasks.tracker import tracker

COMPARED = 3
"""Other runs of the recipe at most, the latest, beside this one in MLflow's compare page."""
NO_SERVER = "MLflow keeps its runs in a file; `noisy-student ui` shows them side by side"

NOWHERE: dict[str, str | None] = dict.fromkeys(("run", "compare", "table"))
"""The links of a run where there is no server."""


def prefect_tags() -> dict[str, str]:
    """The way from MLflow back to Prefect: as tags, and as the run's description, which can be clicked."""
    name, page = flow_run.name, flow_run.ui_url
    tags = {
        "prefect.flow_run_id": flow_run.id,
        "prefect.flow_run_name": name,
        "prefect.flow_run_url": page,
        "mlflow.note.content": f"[{name} in Prefect]({page})" if page else "",
    }
    return {tag: value for tag, value in tags.items() if value}


def links(run: Run, recipe: str) -> dict[str, str | None]:
    """Pages of MLflow; None where there is no server.

    `run`: the run's own. `compare`: charts of all runs of the recipe, which have other seeds or settings, for the same
    ones are the same run in MLflow; of all recipes while it is the only one. `table`: settings and figures of this run
    and the latest others side by side; None while it is the only one.
    """
    line = tracker(run)
    page, charts = line.url(run.mlflow_run), line.compare_url()
    if page is None or charts is None:
        return NOWHERE
    others = [other for other in line.similar("ns.recipe", recipe) if line.url(other) != page]
    if not others:
        return {"run": page, "compare": charts, "table": None}
    table = line.compare_url((run.mlflow_run, *others[:COMPARED]))
    return {"run": page, "compare": f"{charts}{_only(recipe)}", "table": table}


def charts_of_arms(run: Run, study: str) -> str | None:
    """Charts of the campaigns of an ablation, whose recipes are `{study}-{arm}`; None where there is no server."""
    charts = tracker(run).compare_url()
    return charts and f"{charts}{_only(f'{study}-%', 'LIKE')}"


def _only(recipe: str, how: str = "=") -> str:
    """The part of an address that leaves a recipe's parents alone on the page; nothing for a name with both quotes."""
    mark = '"' if "'" in recipe else "'"
    if mark in recipe:
        return ""
    wanted = f"tags.`ns.recipe` {how} {mark}{recipe}{mark} and tags.`ns.level` = 'pipeline'"
    return f"&searchFilter={quote(wanted, safe='')}"


def links_in_words(found: Mapping[str, str | None]) -> str:
    """The links as Markdown, or how to come to what they would lead to."""
    if not found["run"]:
        return "In MLflow's pages this run stands beside others; where no server runs, `noisy-student ui` starts them."
    words = {"run": "This run in MLflow", "compare": "charts of its recipe's runs", "table": "compared with other runs"}
    return " · ".join(f"[{text}]({found[name]})" for name, text in words.items() if found[name])


def show_run_in_prefect(run: Run, mlflow_run: str, key: str, name: str) -> None:
    """An artifact of the flow run that leads to its run in MLflow; nothing outside a flow."""
    if not flow_run.id:
        return

    def show() -> None:
        page = tracker(run).url(mlflow_run)
        text = f"[{name} in MLflow]({page})" if page else f"{_no_page(run)}: `{name}`"
        asked(lambda: create_markdown_artifact(text, key=key, description=f"{name} in MLflow"))

    tried("the link to MLflow", show)


def _no_page(run: Run) -> str:
    if run.tracking_uri.startswith("http"):
        return f"MLflow did not answer when this began; it is at {run.tracking_uri}, and is told later what it missed"
    return NO_SERVER
