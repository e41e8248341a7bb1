"""report-ablation: what an ablation leaves for people, in the store and in Prefect; `ablation.json` is last."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from ns_core.artifacts import Paths, load
from ns_core.evaluation.reports.ablation import Ablation, ArmRun, found, render_html, render_markdown, with_costs
from ns_core.storage import Storage, open_storage
from tasks.advisory import show_in_prefect, tried
from tasks.mlflow_links import charts_of_arms
from tasks.run import Run

PREFECT_KEY = "ablation-report"


@task(name="report-ablation", cache_policy=NO_CACHE)
def report_ablation(
    run: Run,
    study: tuple[str, str],
    recipe: str,
    arms: Mapping[str, tuple[str, str]],
    runs: Sequence[ArmRun],
    side_by_side: int = 1,
) -> Ablation:
    """Compares the arms and writes `ablations/{run_id}/`."""
    storage, folder = open_storage(run.store), f"ablations/{run.run_id}"
    made = with_costs(found(run.run_id, study, recipe, arms, runs), runs, _seconds(storage, runs))
    links = {"report": f"{storage.uri}/{folder}/report.html", "mlflow": charts_of_arms(run, f"{recipe}-{study[0]}")}
    made = made.model_copy(update={**links, "side_by_side": side_by_side})
    picture = tried("the picture of the arms", lambda: _picture(made))
    text = render_markdown(made)
    storage.put_bytes(f"{folder}/report.md", text.encode())
    storage.put_bytes(f"{folder}/report.html", render_html(made, picture).encode())
    show_in_prefect(PREFECT_KEY, f"Ablation {made.study}", text, made.report, picture)
    storage.put_bytes(f"{folder}/ablation.json", made.model_dump_json(indent=1).encode())
    return made


def _seconds(storage: Storage, runs: Sequence[ArmRun]) -> dict[str, float]:
    """What each artifact of the arms took when it was made."""
    documents = [one.document for one in runs if one.document]
    stages = {(stage["stage"], stage["fingerprint"]) for document in documents for stage in document["stages"]}
    records = {f"{stage}/{fingerprint}": load(storage, Paths(stage, fingerprint)) for stage, fingerprint in stages}
    return {name: record.seconds for name, record in records.items() if record is not None}


def _picture(ablation: Ablation) -> bytes:
    from ns_core.evaluation.reports.ablation_picture import changes

    with tempfile.TemporaryDirectory(prefix="ns-ablation-") as folder:
        path = Path(folder) / "changes.png"
        changes(path, ablation)
        return path.read_bytes()
