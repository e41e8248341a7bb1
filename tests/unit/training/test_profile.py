"""A trace of the updates, where it was asked for."""

import gzip
import json
from pathlib import Path

from ns_core.config import ComputeConfig, TeacherConfig
from ns_core.training import train_teacher
from ns_core.training.profile import TRACE
from tests.factories import TINY, TINY_MODEL, training_context


def test_a_run_that_is_profiled_leaves_a_trace_of_six_updates(digits_folder: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder)
    context.compute = ComputeConfig(device="cpu", threads=1, loader_workers=1, profile=True)
    train_teacher.run(TeacherConfig(**{**TINY, "model": TINY_MODEL}), context)
    with gzip.open(context.output / TRACE, "rt") as trace:
        events = json.load(trace)["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert sum(name.startswith("ProfilerStep") for name in names) >= 6
    assert any("convolution_backward" in name for name in names)


def test_a_run_that_is_not_leaves_none(digits_folder: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder)
    train_teacher.run(TeacherConfig(**{**TINY, "model": TINY_MODEL}), context)
    assert not (context.output / TRACE).exists()
