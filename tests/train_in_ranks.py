"""Trains a small student as one process of several, and keeps a ledger of what it sees. A script for tests.

    torchrun --nproc-per-node 2 tests/train_in_ranks.py FOLDER DATASET SELECTION CONFIG.json
    python tests/train_in_ranks.py ...                                  alone

`FOLDER/resume` is shared by all processes and attempts; `FOLDER/ledger.jsonl` gets one line an update and process;
the leading process leaves its artifact in `FOLDER/output`.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from ns_core.config import ComputeConfig, StudentConfig
from ns_core.resume import ResumeFolder
from ns_core.stage import StageContext
from ns_core.storage import open_storage
from ns_core.training import train_noisy_student
from ns_core.training.feed import Fed
from ns_core.training.trainer import Trainer


def main(folder: Path, dataset: Path, selection: Path, config: StudentConfig) -> None:
    rank = int(os.environ.get("RANK", "0"))

    class Recording(Trainer):
        def _update(self, fed: Fed) -> None:
            entry = {"step": fed.batch.step, "rank": rank, "world": self.ranks.world, "keys": fed.batch.keys}
            with (folder / "ledger.jsonl").open("a") as ledger:
                ledger.write(json.dumps(entry) + "\n")
            super()._update(fed)

    train_noisy_student.Trainer = Recording  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as scratch:
        output = folder / "output" if rank == 0 else Path(scratch) / "output"
        output.mkdir(exist_ok=True)
        context = StageContext(
            inputs={"dataset": dataset, "selection": selection},
            results={},
            output=output,
            resume=ResumeFolder(open_storage(str(folder)), "resume", Path(scratch)),
            compute=ComputeConfig(device="cpu", threads=1, loader_workers=1),
            fingerprint="0" * 64,
        )
        train_noisy_student.run(config, context)


if __name__ == "__main__":
    *folders, settings = (Path(argument) for argument in sys.argv[1:])
    main(*folders, StudentConfig.model_validate_json(settings.read_text()))
