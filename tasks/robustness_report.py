"""robustness-report: what evaluate-robustness found, for a person, as soon as it is known.

One page `runs/<run_id>/robustness-g<N>.html`, pictures beside it and in MLflow, tables in Prefect. Advisory as a whole:
what cannot be made is a warning. An evaluation that came from the store gets them too, in each run.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from ns_core.artifacts import Report
from ns_core.evaluation.report_file import REPORT, read_report
from ns_core.evaluation.reports.examples import EXAMPLES, Example, read_examples
from ns_core.evaluation.reports.report import RunPaths
from ns_core.evaluation.reports.robustness_report import WORST_CLASSES, Evaluated, render_html, render_markdown
from ns_core.evaluation.reports.robustness_tables import (
    baseline_corruptions,
    baseline_perturbations,
    clean,
    corruption_suites,
    name_of,
    perturbation_suites,
)
from ns_core.evaluation.results import RobustnessReport
from ns_core.storage import open_storage
from tasks.advisory import show_in_prefect, tried
from tasks.artifact_files import ArtifactFiles
from tasks.run import StageCall
from tasks.tracker import tracker

Draw = Callable[[Path], None]


@task(name="robustness-report", task_run_name="robustness-report-g{call.generation}", cache_policy=NO_CACHE)
def report_robustness(call: StageCall, report: Report) -> None:
    """To be called with evaluate-robustness's own call once that has ended. Never fails."""
    tried(f"the report of the evaluation of generation {call.generation}", lambda: _report(call, report))


def _report(call: StageCall, report: Report) -> None:
    run, generation = call.run, call.generation
    storage, paths = open_storage(run.store), RunPaths(run.run_id)
    baseline = call.inputs.get("baseline")
    files = ArtifactFiles(storage, *filter(None, (report, baseline)))
    held = read_report(files.read(report, REPORT))
    evaluated = Evaluated(
        run_id=run.run_id,
        generation=generation,
        fingerprint=report.fingerprint,
        report=held.report,
        baseline=read_report(files.read(baseline, REPORT)).report if baseline else None,
        gate=held.gate,
    )
    examples = tried("the galleries", lambda: _examples(files, report)) or []
    with tempfile.TemporaryDirectory(prefix="ns-robustness-") as name:
        folder = Path(name)
        drawn = _drawn(evaluated, folder)
        inside = {caption: file.read_bytes() for caption, file in drawn.items()}
        page = folder / Path(paths.robustness(generation)).name
        page.write_text(render_html(evaluated, inside, examples), encoding="utf-8")
        storage.put_file(paths.robustness(generation), page)
        for file in drawn.values():
            storage.put_file(paths.picture(file.stem), file)
        for file in (*drawn.values(), page):
            tracker(run).artifact(call.mlflow_run, file, "report")
    key, description = f"noisy-student-robustness-g{generation}", f"Robustness of generation {generation}, {run.run_id}"
    uri = f"{storage.uri}/{paths.robustness(generation)}"
    show_in_prefect(key, description, render_markdown(evaluated), uri, next(iter(inside.values()), None))


def _examples(files: ArtifactFiles, report: Report) -> list[Example]:
    with files.open(report, EXAMPLES) as stream:
        return read_examples(stream)


def _drawn(evaluated: Evaluated, folder: Path) -> dict[str, Path]:
    """Caption -> PNG file, of those that could be made."""
    makers = _makers(evaluated.report, evaluated.baseline)
    files = {caption: folder / f"{name}-g{evaluated.generation}.png" for caption, (name, _) in makers.items()}
    for caption, (_, make) in makers.items():
        tried(f"picture {files[caption].stem}", partial(make, files[caption]))
    return {caption: file for caption, file in files.items() if file.exists()}


def _makers(now: RobustnessReport, before: RobustnessReport | None) -> dict[str, tuple[str, Draw]]:
    """Caption -> name of the file, and who draws it."""
    from ns_core.evaluation.reports import robustness_pictures as pictures

    makers: dict[str, tuple[str, Draw]] = {}
    draw: Draw
    errors, flips = baseline_corruptions(now, before), baseline_perturbations(now, before)
    for suite, measured in corruption_suites(now).items():
        other = errors.get(suite)
        draw = partial(pictures.corruption_bars, now=measured, before=other)
        makers[f"Error by corruption, {name_of(suite)}"] = f"{suite}_bars", draw
        draw = partial(pictures.severity_curves, now=measured, before=other)
        makers[f"Error by severity, {name_of(suite)}"] = f"{suite}_severity", draw
    for suite, one in perturbation_suites(now).items():
        draw = partial(pictures.flip_bars, now=one, before=flips.get(suite))
        makers[f"Flip probability, {name_of(suite)}"] = f"{suite}_bars", draw
    if now.attacks:
        # Of a baseline that was attacked with other settings there is no comparison, and no curve beside ours.
        same = {kind for kind, attack in now.attacks.items() if attack.against_baseline}
        beside = {kind: attack for kind, attack in before.attacks.items() if kind in same} if before else {}
        draw = partial(pictures.attack_curves, attacks=now.attacks, before=beside)
        makers["Accuracy under attack"] = "attacks", draw
    ours, theirs = clean(now, before)
    if ours:
        draw = partial(pictures.class_bars, report=now, before=before, worst=WORST_CLASSES)
        makers["Accuracy by class"] = "class_accuracies", draw
        draw = partial(pictures.confidence_curves, now=ours, before=theirs)
        makers["Calibration and risk-coverage"] = "confidence", draw
    return makers
