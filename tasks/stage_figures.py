"""What of a stage goes onto MLflow's charts, and what its inputs were.

In: the record of an artifact, and the curve beside it. Out: `Point`s under the prefixes of a generation's run
(`train/`, `finetune/`, `infer/`, `val/`, `pl/`, `timing/`), and a dataset's source and profile.
MLflow's pages slow down beyond about 50 charts a run, so what only one of a kind can be compared by (each corruption,
each class) stays in the reports, which lie beside the charts.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from ns_core.artifacts import Artifact, Paths, PseudoLabels, Record, Report, Selection, load
from ns_core.errors import NotFound
from ns_core.evaluation.results import FIGURES
from ns_core.lineage import INPUTS
from ns_core.storage import Storage
from ns_core.tracking import Point

CURVE = "metrics.jsonl"
_IN_REPORTS = ("corruption/", "flip_probability/", *FIGURES)
"""Of an evaluation's curve: figures that its pages show one by one, and those that `figures` tells."""
_PACE = ("step_ms_p50", "step_ms_p95", "data_wait", "seconds_left", "lr")
"""Of training's curve: what nobody compares two finetunings by."""
_WALKED = 200
"""Records that are read for the lineage of one dataset."""


def charted(stage: str, key: str) -> str:
    """The metric that a point of a stage's curve goes to; empty for one that is on no chart."""
    prefix, _, name = key.rpartition("/")
    if stage == Report.stage:
        return "" if key.startswith(_IN_REPORTS) else f"val/{key}"
    return "" if name == "step_ms_p99" or (prefix == "finetune" and name in _PACE) else key


def curve(storage: Storage, record: Record) -> list[Point]:
    """The charted points of the curve that an artifact keeps."""
    try:
        lines = storage.read(f"{record.prefix}/{CURVE}").decode().splitlines()
    except NotFound:
        return []
    points = [json.loads(line) for line in lines]
    named = [(charted(record.stage, point["key"]), point) for point in points]
    return [Point(key, point["value"], point["step"], point["timestamp_ms"]) for key, point in named if key]


def figures(artifact: Artifact) -> dict[str, float]:
    """The scalars of a result that belong on a chart."""
    result = artifact.result
    if isinstance(artifact, Selection):
        shares = {f"pl/dropped_{reason}": float(count) for reason, count in result["dropped"].items()}
        names = ("kept", "rows", "mean_confidence", "duplication", "largest_duplication", "effective_images")
        return {**{f"pl/{name}": float(result[name]) for name in names}, **shares}
    if isinstance(artifact, PseudoLabels):
        return {"pl/images": float(result["images"])}
    if isinstance(artifact, Report):
        return {f"val/{name}": float(result[name]) for name in FIGURES if result.get(name) is not None}
    return {}


def stamp(record: Record) -> int:
    """When the artifact was made, in Unix milliseconds: the same whenever it is told again, so that MLflow keeps one
    point."""
    try:
        started = datetime.fromisoformat(str(record.provenance["started_at"])).timestamp()
    except (KeyError, ValueError):
        return int(record.fingerprint[:8], 16)
    return round(1000 * (started + record.seconds))


def source(storage: Storage, record: Record) -> dict[str, object]:
    """Where a dataset lies: the artifact, and the attempt's files in it."""
    return {"uri": f"{storage.uri}/{record.paths.folder}", "files": f"{storage.uri}/{record.prefix}"}


def profile(storage: Storage, record: Record) -> dict[str, object]:
    """A dataset's counts, what it was made of by role, and what that was made of, back to the images.

    Artifacts are `{stage}/{fingerprint}`; an input that is none, or is gone, is its digest alone.
    """
    counts = {name: value for name, value in record.result.items() if isinstance(value, int | float)}
    direct = {role: _named(storage, role, digest) for role, digest in sorted(record.inputs.items())}
    inputs = {role: name for role, (name, _) in direct.items()}
    made_of, waiting = set[str](), [one for _, one in direct.values() if one]
    while waiting and len(made_of) < _WALKED:
        for role, digest in waiting.pop().inputs.items():
            name, one = _named(storage, role, digest)
            if one and name not in made_of:
                waiting.append(one)
            made_of.add(name)
    return {**counts, "inputs": inputs, "made_of": sorted(made_of - set(inputs.values()))}


def _named(storage: Storage, role: str, digest: str) -> tuple[str, Record | None]:
    """An input in words, and its record."""
    for stage in INPUTS.get(role, ()):
        record = load(storage, Paths(stage, digest))
        if record is not None:
            return f"{stage}/{digest}", record
    return digest, None


def result_points(artifact: Artifact, record: Record, generation: int) -> Iterator[Point]:
    """The figures of a result and the stage's time, with the generation as step."""
    values: Mapping[str, Any] = {f"timing/{record.stage}_s": record.seconds, **figures(artifact)}
    return (Point(name, float(value), generation, stamp(record)) for name, value in values.items())
