"""A trace of some updates, for `noisy-student run --profile`: open it in chrome://tracing or Perfetto."""

import gzip
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

TRACE = "trace.json.gz"
SKIPPED, WARM_UP, TRACED = 3, 2, 6
"""Updates: the first ones allocate and choose algorithms, the next are traced but not kept."""


@contextmanager
def traced(folder: Path | None) -> Iterator[Callable[[], object]]:
    """Gives what is to be called after each update, and writes `trace.json.gz` into `folder`; None: neither.

    A run of fewer than `SKIPPED + WARM_UP` updates has no trace.
    """
    if folder is None:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    plan = schedule(wait=SKIPPED, warmup=WARM_UP, active=TRACED, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=lambda done: _write(done, folder)) as profiler:
        yield profiler.step


def _write(profiler: profile, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "trace.json"
        profiler.export_chrome_trace(str(plain))
        with plain.open("rb") as source, gzip.open(folder / TRACE, "wb") as target:
            shutil.copyfileobj(source, target)
