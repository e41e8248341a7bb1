"""`report.json`: every figure of an evaluation and the gate's decision, written in one place and read in one place.

In and out: the report as data (`evaluation.results`). Loads no torch: tasks and pages read it, too.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from ns_core.artifacts import Frozen
from ns_core.evaluation.results import RobustnessReport

REPORT = "report.json"


class ReportFile(Frozen):
    """What `report.json` holds."""

    fingerprint: str
    """Of the evaluation: a report that is compared with this one names it (`RobustnessReport.baseline`)."""
    report: RobustnessReport
    gate: dict[str, JsonValue] | None
    """The fields of `gate.GateDecision`; None without a baseline, or without a holdout."""


def write_report(
    folder: Path, report: RobustnessReport, gate: Mapping[str, JsonValue] | None, fingerprint: str
) -> Path:
    """`report.json` in `folder`; the same arguments give the same bytes. Figures are exact: floats are read back bit
    for bit."""
    path = folder / REPORT
    held = ReportFile(fingerprint=fingerprint, report=report, gate=None if gate is None else dict(gate))
    path.write_text(held.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return path


def read_report(source: Path | bytes) -> ReportFile:
    """`source`: the folder that holds `report.json`, or the bytes of that file."""
    return ReportFile.model_validate_json(source if isinstance(source, bytes) else (source / REPORT).read_bytes())
