"""Selected images copied into shards of their own: our materialising beside webdataset's reader and writer, and `cp`.

    python -m benchmarks.materialize           about 2 minutes on 2 cores

A pool of 9,600 JPEGs of 500 x 400 pixels in four shards, 0.8 GB; 27 % of them, drawn at random, are selected, as 81 of
300 million in the paper.

    ours          `plan` and `write_shard` from the columns on, globally shuffled, one shard of at most 1 GiB
    webdataset    `WebDataset` over the pool, samples of the selected keys, each to `TarWriter(encoder=False)`; in the
                  order of the pool
    cp            coreutils' of one shard of the pool: about as many bytes, with nothing to look for

Bytes over CPU seconds (user and system, of the process with all its threads, or of its child) and over wall seconds,
of the same runs. All read the same files and write to the same file system, in a folder of $TMPDIR. The pool was
written a moment before and fits in memory, so it is read from the page cache. Between runs the disk is left to settle
(`sync`), what the last one wrote is deleted, and twice as much memory as a run fills is touched and given back: in a
virtual machine, pages that were free for some seconds are the host's, and whoever takes them next pays for it.

Two of our runs are compared by sha256. Then the plan alone, of 4 million rows. The last line of standard output is one
JSON object.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import webdataset

from benchmarks.measure import Rates, Variant, environment, medians, ratio, rounds
from benchmarks.photographs import write_photographs
from ns_core.data.index import coded, joined_text
from ns_core.data.reading import ShardReader
from ns_core.data.shards import ShardImage, ShardWriter
from ns_core.selection.materialize import Images, plan, shard_name, write_shard

PHOTOGRAPHS, IMAGES, SHARDS, SHARE = 600, 9600, 4, 0.27
LIMIT, SEED, ROUNDS, MORE_ROUNDS = 1 << 30, 0, 5, 15
PLANNED = 4_000_000
FLOORS = {"ours_over_webdataset_cpu": 10.0, "ours_over_cp_cpu": 0.8, "ours_over_cp_wall": 0.8}


def main() -> None:
    """Makes the pool, measures, prints."""
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(prefix="materialize-") as name:
        folder = Path(name)
        images = _pool(folder)
        same = _digest_of_a_run(folder, images) == _digest_of_a_run(folder, images)
        assert same, "two runs gave other bytes"
        works = _works(folder, images)
        slow, slow_wall = _measure(folder, {name: works[name] for name in ("ours", "webdataset")}, ROUNDS)
        cpu, wall = _measure(folder, {name: works[name] for name in ("ours", "cp")}, MORE_ROUNDS)
    ratios = {
        "ours_over_webdataset_cpu": ratio(slow["ours"], slow["webdataset"]),
        "ours_over_webdataset_wall": ratio(slow_wall["ours"], slow_wall["webdataset"]),
        "ours_over_cp_cpu": ratio(cpu["ours"], cpu["cp"]),
        "ours_over_cp_wall": ratio(wall["ours"], wall["cp"]),
    }
    figures = {
        "bytes_a_cpu_second": {**medians(slow), **medians(cpu)},
        "bytes_a_second": {**medians(slow_wall), **medians(wall)},
        "megabytes": round(int(images.sizes.sum()) / 1e6, 1),
        "images": len(images.sizes),
        "equal_bytes": same,
        "plan": _plan_alone(),
        "floors": FLOORS,
    }
    packages = ("webdataset", "numpy", "pyarrow")
    print(json.dumps({"benchmark": "materialize", "ratios": ratios, "figures": figures, **_environment(*packages)}))


def _environment(*packages: str) -> dict[str, object]:
    answer = subprocess.run(["cp", "--version"], stdout=subprocess.PIPE, check=True, text=True).stdout
    return {"environment": {**environment(*packages), "cp": answer.splitlines()[0], "kernel": os.uname().release}}


def _pool(folder: Path) -> Images:
    """A pool as prepare-dataset writes it, below `folder/pool`, and the selected images."""
    photographs = sorted(write_photographs(folder / "photographs", PHOTOGRAPHS, 1).rglob("*.jpg"))
    contents = [path.read_bytes() for path in photographs]
    (folder / "pool").mkdir()
    rows = []
    for part in range(SHARDS):
        with ShardWriter(folder / "pool", "pool", part, 1 << 40) as writer:
            for number in range(part * IMAGES // SHARDS, (part + 1) * IMAGES // SHARDS):
                data = contents[number % PHOTOGRAPHS]
                rows.append(writer.add(ShardImage(f"pool-{number:09d}", "jpg", data, None, 500, 400, "", "")))
    chosen = np.sort(np.random.default_rng(SEED).permutation(IMAGES)[: int(SHARE * IMAGES)])
    table = pa.Table.from_pylist([rows[n] for n in chosen.tolist()])
    columns = (table["offset"].to_numpy(), table["size"].to_numpy(), joined_text(table["key"]))
    return Images(*coded(table["shard"]), *columns)


def _works(folder: Path, images: Images) -> dict[str, tuple[Callable[[Path], object], int]]:
    """Each variant, which writes into the folder that it is given, and its bytes."""
    size = int(images.sizes.sum())
    one = folder / "pool" / images.shard_names[0]
    return {
        "ours": (lambda target: _ours(folder / "pool", images, target), size),
        "webdataset": (lambda target: _webdataset(folder / "pool", images, target), size),
        "cp": (lambda target: subprocess.run(["cp", one, target], check=True), one.stat().st_size),
    }


def _measure(folder: Path, works: dict[str, tuple[Callable[[Path], object], int]], count: int) -> tuple[Rates, Rates]:
    """Bytes a CPU second, and a second, of each variant and round."""
    wall: Rates = {name: [] for name in works}

    def variant(name: str) -> Variant:
        work, size = works[name]

        def run() -> tuple[int, float]:
            target = folder / "written"
            os.sync()
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            assert len(b"x" * 2 * size)
            before, began = _cpu_seconds(), time.perf_counter()
            work(target)
            seconds, spent = time.perf_counter() - began, _cpu_seconds() - before
            wall[name].append(size / seconds)
            return size, spent

        return run

    variants = {name: variant(name) for name in works}
    for run in variants.values():  # so that no process is on anybody's account that reads its code for the first time
        run()
    for rates in wall.values():
        rates.clear()
    return rounds(variants, count), wall


def _cpu_seconds() -> float:
    """Of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _ours(pool: Path, images: Images, target: Path) -> None:
    layout = plan(images, LIMIT, SEED)
    with ShardReader(pool) as reader:
        for number in range(len(layout)):
            write_shard(layout, number, reader, target / shard_name(number))


def _webdataset(pool: Path, images: Images, target: Path) -> None:
    wanted = set(images.keys.to_pylist())
    shards = [str(pool / name) for name in images.shard_names]
    with webdataset.TarWriter(str(target / "000000.tar"), encoder=False) as writer:
        for sample in webdataset.WebDataset(shards, shardshuffle=False):
            if sample["__key__"] in wanted:
                writer.write({"__key__": sample["__key__"], "jpg": sample["jpg"]})


def _plan_alone() -> dict[str, float]:
    """Rows a second of a large plan, and the bytes that it keeps a row."""
    rng = np.random.default_rng(SEED)
    codes = np.sort(rng.integers(1000, size=PLANNED, dtype=np.int32))
    sizes = rng.integers(60_000, 110_000, PLANNED)
    names = tuple(f"pool-{number:06d}.tar" for number in range(1000))
    images = Images(names, codes, np.zeros(PLANNED, np.int64), sizes, pa.array([], pa.large_string()))
    began = time.process_time()
    layout = plan(images, 1 << 30, SEED)
    seconds = time.process_time() - began
    kept = layout.shards.nbytes + layout.offsets_in_blocks.nbytes
    return {"rows_a_cpu_second": round(PLANNED / seconds), "bytes_a_row": kept / PLANNED}


def _digest_of_a_run(folder: Path, images: Images) -> str:
    """sha256 of the names and bytes of our shards."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=folder) as target:
        _ours(folder / "pool", images, Path(target))
        for path in sorted(Path(target).iterdir()):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
