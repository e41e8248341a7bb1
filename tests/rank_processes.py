"""Trainings as processes of their own, alone or under torchrun, that can be killed (`tests/train_in_ranks.py`)."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.torch import load_file
from torch import Tensor

from ns_core.config import StudentConfig
from ns_core.data.index import DatasetIndex
from ns_core.models.checkpoint import WEIGHTS
from tests.factories import hashed_probabilities, selection_folder

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = "train_in_ranks.py"
DEADLINE_S = 60.0

Ledger = dict[int, list[str]]


@dataclass
class Training:
    """One folder in which attempts go on from each other."""

    folder: Path
    arguments: list[str]
    """Dataset and selection."""

    def start(self, config: StudentConfig, processes: int) -> "subprocess.Popen[bytes]":
        self.folder.mkdir(exist_ok=True)
        settings = self.folder / "config.json"
        settings.write_text(config.model_dump_json())
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        how = torchrun if processes > 1 else []
        script = str(REPOSITORY / "tests" / SCRIPT)
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *how, script, str(self.folder), *self.arguments, str(settings)],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, config: StudentConfig, processes: int) -> None:
        attempt = self.start(config, processes)
        assert attempt.wait(DEADLINE_S) == 0, (self.folder / "log.txt").read_text()[-3000:]

    def kill_at(self, update: int, config: StudentConfig, processes: int, draw: random.Random) -> int:
        """SIGKILL to one training process, drawn by lot, once `update` has begun; the last update in the ledger."""
        attempt = self.start(config, processes)
        deadline = time.monotonic() + DEADLINE_S
        while max(self.ledger(), default=-1) < update:
            assert attempt.poll() is None, (self.folder / "log.txt").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        family = [psutil.Process(attempt.pid), *psutil.Process(attempt.pid).children(recursive=True)]
        training = [process for process in family if _is_training(process)]
        assert len(training) == processes
        draw.choice(training).send_signal(signal.SIGKILL)
        assert attempt.wait(DEADLINE_S) != 0
        for process in family:  # torchrun has ended the others
            assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        return max(self.ledger())

    def lines(self) -> list[dict[str, Any]]:
        """What all attempts wrote, in time; one may be at it."""
        path = self.folder / "ledger.jsonl"
        written = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in written if line.endswith("\n")]

    def ledger(self) -> Ledger:
        """Keys by update, those of process 0 first, of the attempt that made the update last."""
        updates: dict[int, dict[int, list[str]]] = {}
        worlds: dict[int, int] = {}
        for line in self.lines():
            step = line["step"]
            if worlds.get(step) != line["world"]:
                worlds[step], updates[step] = line["world"], {}
            updates[step][line["rank"]] = line["keys"]
        return {step: [key for rank in sorted(parts) for key in parts[rank]] for step, parts in updates.items()}

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "output" / WEIGHTS)


def _is_training(process: psutil.Process) -> bool:
    """And no torchrun, whose command line names the script too."""
    words = process.cmdline()
    return any(word.endswith(SCRIPT) for word in words) and "torch.distributed.run" not in words


def pseudo_labelled(dataset: Path, folder: Path) -> list[str]:
    """Dataset and selection: 40 images of the pool, one to three times each."""
    pool, rows = DatasetIndex.load(dataset).split("pool"), np.arange(40) * 30
    probabilities = hashed_probabilities(pool.keys[rows], 10).astype(np.float16)
    copies = np.array([1, 3, 2, 1] * 10, np.int32)
    return [str(dataset), str(selection_folder(folder, pool, rows, probabilities, copies))]
