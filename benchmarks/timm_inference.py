"""timm's own inference script, driven as its users drive it: how fast its loop goes, and the labels it writes.

The wheel has no `inference.py`: `timm_train.script` says where it comes from. A run is a process of its own with all of
timm's defaults (batches of 256, two loader processes, eager float32) but for what the call names. `--log-freq 1` makes
it print the time of each batch to the millisecond: their sum is the time from the first file that is opened to the last
label. The start of the process and the making of the network do not count.
"""

import csv
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.timm_train import script

BATCH = re.compile(r"Predict: \[(\d+)/(\d+)\] Time ([\d.]+)")
_SAID = 2000


class Run(NamedTuple):
    """Of one pass over a folder."""

    seconds: float
    labels: dict[str, int]
    """File name -> number of the most probable class."""


def run(arguments: Sequence[str], seconds: float = 900) -> Run:
    """Labels a folder. `arguments`: of the script, the folder among them. Raises `RuntimeError` with what the script
    said last when it fails."""
    with tempfile.TemporaryDirectory(prefix="timm-") as folder:
        command = [sys.executable, "-W", "ignore", str(script("inference")), *arguments, "--device", "cpu"]
        command += ["--log-freq", "1", "--no-console-results", "--results-dir", folder, "--results-file", "labels"]
        command += ["--include-index", "--label-type", "none"]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        answer = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
        )
        times = [float(found[3]) for found in BATCH.finditer(answer.stdout)]
        if answer.returncode or not times:
            raise RuntimeError("timm's inference.py failed:\n" + answer.stdout[-_SAID:])
        with (Path(folder) / "labels.csv").open(encoding="utf-8", newline="") as stream:
            labels = {row["filename"]: int(row["index"]) for row in csv.DictReader(stream)}
    return Run(sum(times), labels)
