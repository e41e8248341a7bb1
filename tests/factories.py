"""What tests of several stages build alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ns_core.config import ComputeConfig
from ns_core.stage import ResumeFolder, StageContext
from ns_core.storage import open_storage


def stage_context(
    tmp_path: Path,
    inputs: Mapping[str, Path] | None = None,
    results: Mapping[str, Mapping[str, Any]] | None = None,
) -> StageContext:
    """A context whose output, scratch and store are new folders below `tmp_path`.

    A second call with the same `tmp_path` is the next attempt: an empty output, the same resume folder.
    """
    attempt = sum(1 for _ in tmp_path.glob("output-*"))
    output, scratch = tmp_path / f"output-{attempt}", tmp_path / f"scratch-{attempt}"
    output.mkdir(parents=True)
    scratch.mkdir()
    store = open_storage(str(tmp_path / "store"))
    return StageContext(
        inputs=inputs or {},
        results=results or {},
        output=output,
        resume=ResumeFolder(store, "stage/resume", scratch),
        compute=ComputeConfig(threads=2),
        fingerprint="0" * 64,
    )
