"""The export of a checkpoint by a child process. Imports no torch.

In: a word or a place (`flows.checkpoints`) and a format. Out: the folder of an export, checked, and the line that says
so.
"""

import os
import subprocess
import sys
from pathlib import Path

from flows.checkpoints import find_checkpoint
from ns_core.errors import StageFailed, UserError, nearest
from ns_core.launch.local import WORKER_ENVIRONMENT, die_with_parent
from ns_core.models.export import FORMATS
from ns_core.models.export.request import ExportOutcome, ExportRequest
from ns_core.storage import open_storage

TAIL_LINES = 5


def export(checkpoint: str, name: str, output: str | None, store: str) -> str:
    """Exports to `output`, or to `{checkpoint}-{name}` in the working directory; the line that says what came out.

    Raises `UserError` for what a person can mend, `StageFailed` when the export or its check fails.
    """
    if name not in FORMATS:
        raise UserError(f"no format '{name}'{nearest(name, FORMATS)}: choose one of {', '.join(FORMATS)}")
    found = find_checkpoint(checkpoint, open_storage(store))
    place = Path(output or f"{found.name}-{name}")
    outcome = _in_child(ExportRequest(checkpoint=found.folder, format=name, output=place, facts=found.facts))
    return (
        f"{name}: {place}, {outcome.size / 1e6:.1f} MB, logits equal to the checkpoint's within "
        f"{outcome.max_difference:.1e} (largest {outcome.largest_logit:.2g})"
    )


def _in_child(request: ExportRequest) -> ExportOutcome:
    """`python -m ns_core.models.export`, which ends with this process."""
    child = subprocess.run(
        [sys.executable, "-m", "ns_core.models.export"],
        input=request.model_dump_json(),
        capture_output=True,
        text=True,
        errors="replace",
        env={**WORKER_ENVIRONMENT, **os.environ},
        preexec_fn=die_with_parent(os.getpid()),
    )
    if child.returncode != 0:
        last = " | ".join(line for line in child.stderr.splitlines()[-TAIL_LINES:] if line.strip())
        raise StageFailed(f"the export ended with exit status {child.returncode}; last lines: {last}")
    outcome = ExportOutcome.model_validate_json(child.stdout.splitlines()[-1])
    if outcome.mistake is not None:
        raise UserError(outcome.mistake)
    if outcome.failure is not None:
        raise StageFailed(outcome.failure)
    return outcome
