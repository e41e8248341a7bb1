"""`report.json`: what is written is read again, and whoever reads it loads no torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import JsonValue, ValidationError

from ns_core.evaluation.report_file import REPORT, read_report, write_report
from ns_core.evaluation.results import Attack, Estimate, Gap, RobustnessReport

WRITTEN = RobustnessReport(
    model="tiny",
    size=32,
    class_names=["eins", "zwei", "drei"],
    attacks={"fgsm": Attack(top1={"0.1": Estimate(value=1 / 3, low=0.1, high=0.7, images=3)}, settings={}, images=3)},
    gaps=[Gap(suite="imagenet_c", what="fog 3", reason="the folder is not there")],
)


def test_what_is_written_is_read_again_bit_for_bit(tmp_path: Path) -> None:
    gate: dict[str, JsonValue] = {"verdict": "promote", "interval": [-0.1, 0.2]}
    path = write_report(tmp_path, WRITTEN, gate, "f" * 64)
    assert path == tmp_path / REPORT
    for source in (tmp_path, path.read_bytes()):
        found = read_report(source)
        assert (found.report, found.gate, found.fingerprint) == (WRITTEN, gate, "f" * 64)
    before = path.read_bytes()
    write_report(tmp_path, WRITTEN, gate, "f" * 64)
    assert path.read_bytes() == before


def test_without_a_baseline_there_is_no_gate(tmp_path: Path) -> None:
    write_report(tmp_path, WRITTEN, None, "")
    assert read_report(tmp_path).gate is None


def test_a_file_of_something_else_is_no_report() -> None:
    with pytest.raises(ValidationError):
        read_report(b'{"holdout": {"top1": 0.5}}')


def test_reading_a_report_loads_no_torch() -> None:
    program = "import sys, ns_core.evaluation.report_file; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
