"""prepare-dataset on a pool of a million tiny images: memory, speed, and what kill -9 costs.

    python -m benchmarks.prepare_pool [IMAGES]        about 20 minutes on 2 cores

Generates the images (PNGs of random pixels, a thousand a folder), starts `noisy-student prepare`, kills the whole
process tree with SIGKILL once 40 % of the pool's shards are saved, starts it again and lets it end. Shards saved
before the kill must not be written again, the index must hold every image once, and the dataset must equal, byte
for byte, one that was never interrupted. Memory is the resident set, sampled five times a second: of the worker,
and of all processes of the command (Prefect's server included). The last line of standard output is one JSON object.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks.measure import environment
from ns_core.data.images import encode_png

Answer = TypeVar("Answer")

SIDE, PER_FOLDER, CLASSES = 8, 1000, 10
SAMPLE_SECONDS = 0.2
LIMIT_GIGABYTES = 1.0
"""Of the worker's memory, in 10^9 bytes."""


def generate(root: Path, images: int) -> None:
    """A pool of `images`, and 20 labelled, 5 holdout and 5 test images a class."""
    rng = np.random.default_rng(0)
    counts = {"labeled": 20, "holdout": 5, "test": 5}
    places = [(root / split / f"class{name}", count) for split, count in counts.items() for name in range(CLASSES)]
    places += [
        (root / "unlabeled" / f"{first:09d}", min(PER_FOLDER, images - first)) for first in range(0, images, PER_FOLDER)
    ]
    for folder, count in places:
        folder.mkdir(parents=True)
        for number, pixels in enumerate(rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)):
            (folder / f"{number:04d}.png").write_bytes(encode_png(pixels))


class Command:
    """`noisy-student prepare` in a home of its own, watched to its end or until `enough`."""

    def __init__(self, root: Path, home: Path) -> None:
        fields = [f"data.{field}={root / field}" for field in ("labeled", "unlabeled", "holdout", "test")]
        overrides = [part for field in fields for part in ("--set", field)]
        self.command = [sys.executable, "-m", "flows.cli", "prepare", "folder", "--json", *overrides]
        self.environment = {**os.environ, "NS_HOME": str(home), "NS_CACHE": str(home / "cache")}
        self.worker_peak = self.tree_peak = 0

    def run(self, enough: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """The command's answer, or None when it was killed."""
        with tempfile.TemporaryFile("w+") as answer:
            process = psutil.Popen(self.command, env=self.environment, stdout=answer, stderr=subprocess.DEVNULL)
            while process.poll() is None:
                tree = _tree(process)
                self._sample(tree)
                if enough():
                    for each in tree:
                        with suppress(psutil.NoSuchProcess):
                            each.send_signal(signal.SIGKILL)
                    process.wait()
                    return None
                time.sleep(SAMPLE_SECONDS)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, self.command)
            answer.seek(0)
            document: dict[str, Any] = json.load(answer)
            return document

    def _sample(self, tree: list[psutil.Process]) -> None:
        total = 0
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                resident = each.memory_info().rss
                total += resident
                if "ns_core.worker" in each.cmdline():
                    self.worker_peak = max(self.worker_peak, resident)
        self.tree_peak = max(self.tree_peak, total)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return [process]


def main() -> None:
    """Interrupted, gone on with, and once more in one go in another home; compares and prints."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="pool-") as name:
        figures = _measured(Path(name), images)
    ratio = round(LIMIT_GIGABYTES / figures["worker_peak_gigabytes"], 3)
    answer = {
        "benchmark": "prepare_pool",
        "ratios": {"memory_limit_over_peak": {"median": ratio, "min": ratio, "max": ratio, "runs": 1}},
        "figures": figures,
        "environment": environment("pillow", "pyarrow", "numpy"),
    }
    print(json.dumps(answer))


def _measured(folder: Path, images: int) -> dict[str, Any]:
    """The figures; fails when a shard was written again, an image is missing or the two datasets differ."""
    _, generated = _timed(lambda: generate(folder / "images", images))
    command, plain = Command(folder / "images", folder / "home"), Command(folder / "images", folder / "other")
    store, quota = folder / "home" / "store", 0.4 * images / 10_000
    assert command.run(lambda: len(_saved(store)) >= quota) is None, "it ended before it could be killed"
    before = _saved(store)
    result, went_on = _timed(command.run)
    other, whole = _timed(plain.run)
    assert result is not None
    assert other is not None
    after = _shards(Path(result["uri"]))
    rewritten = [shard for shard, stamp in before.items() if after[shard] != stamp]
    assert not rewritten, f"written again: {rewritten[:5]}"
    index = pq.read_table(next(Path(result["uri"]).glob("attempt-*/index.parquet")), columns=["key"])
    assert index.num_rows == images + 30 * CLASSES
    assert _digests(Path(result["uri"])) == _digests(Path(other["uri"])), "the interrupted run differs"
    worker, tree = (max(peaks) / 1e9 for peaks in _peaks(command, plain))
    return {
        "images": images,
        "generate_seconds": round(generated, 1),
        "whole_seconds": round(whole, 1),
        "images_per_second": round(images / whole, 1),
        "worker_peak_gigabytes": round(worker, 3),
        "all_processes_peak_gigabytes": round(tree, 3),
        "limit_gigabytes": LIMIT_GIGABYTES,
        "shards_saved_before_the_kill": len(before),
        "of_them_written_again": len(rewritten),
        "seconds_after_the_kill": round(went_on, 1),
    }


def _timed(work: Callable[[], Answer]) -> tuple[Answer, float]:
    started = time.monotonic()
    return work(), time.monotonic() - started


def _peaks(*commands: Command) -> tuple[list[int], list[int]]:
    return [command.worker_peak for command in commands], [command.tree_peak for command in commands]


def _saved(store: Path) -> dict[str, tuple[int, int]]:
    """Shards of the pool that an attempt has saved: name -> (inode, time written)."""
    return _stamps(store.glob("prepare-dataset/*/resume/pool-*.tar"))


def _shards(artifact: Path) -> dict[str, tuple[int, int]]:
    return _stamps(artifact.glob("attempt-*/pool-*.tar"))


def _stamps(files: Any) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def _digests(artifact: Path) -> dict[str, str]:
    """File -> sha256, as the record has it."""
    record = json.loads((artifact / ".artifact.json").read_text(encoding="utf-8"))
    return {name: entry["sha256"] for name, entry in record["files"].items()}


if __name__ == "__main__":
    main()
