"""Selecting 130,000 of each of 1,000 classes: our engine beside Polars and DuckDB's plain window query.

    python -m benchmarks.select                10 and 100 million rows; about 25 minutes on 2 cores, the tables made
    python -m benchmarks.select --rows 10      millions of rows, of one or more sizes
    python -m benchmarks.select --rows 300     ours alone, once

Label tables without soft labels (key, content hash, reason, class, confidence, margin), one file a million rows, are
made once and kept in the cache folder: 40 bytes a row, 12 GB for 300 million. Classes are Zipf distributed; confidences
are multiples of 1/1024, 15% of them 1, so that thousands are equal at each cut; margins, of float32's precision as a
teacher's, tell all but a few of them apart. The quota is the paper's in proportion: 130,000 of 300 million.

Each variant writes the keys that it selects, and how often each is to be seen, to a Parquet file, in a process of its
own with two threads; CPU seconds and peak memory are that process's. All files must agree: number, sum and hash.

    ours            `select` with 0.8 GB for DuckDB, then `Selection.of` and the keys of every file
    polars          sort and head of each class, lazily; `polars_streaming` on the streaming engine
    window          DuckDB: QUALIFY row_number() OVER (PARTITION BY class ORDER BY ...), its own memory limit

With at most one copy an image. `ours_copies` and `window_copies` repeat the images of short classes up to ten times, by
a seeded hash; Polars has none that gives the same draw. `ours_bytes` also looks for equal content. The last line of
standard output is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Variant, environment, medians, ratio, rounds
from ns_core.data.ordered import in_order
from ns_core.selection.engine import KEPT, Limits, Rule, Selection, select
from ns_core.stage import cache_folder

CLASSES, THRESHOLD, THREADS, SEED, MAX_COPIES = 1000, 0.3, 2, 7, 10
FILE_ROWS = 1_000_000
MEMORY = 800 << 20
ALONE = 300
"""Millions of rows from which on the peers are left out."""
FLOORS = {"cpu_over_polars": 2.5, "cpu_over_window": 1.2, "peak_gb_at_100m": 1.3, "seconds_at_300m": 60}
PEERS = ("polars", "polars_streaming", "window", "window_copies")


def main() -> None:
    """Makes the tables, measures, prints; or is the process that runs one variant."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rows", type=int, nargs="+", default=[10, 100], help="millions of rows")
    arguments.add_argument("--variant", help=argparse.SUPPRESS)
    arguments.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.variant:
        print(time.process_time())
        VARIANTS[given.variant](label_tables(given.rows[0]), quota(given.rows[0]), given.output)
        return
    ratios: dict[str, Any] = {}
    figures: dict[str, Any] = {"floors": FLOORS}
    for millions in given.rows:
        _measure(millions, ratios, figures)
    packages = ("duckdb", "polars", "pyarrow", "numpy")
    answer = {"benchmark": "select", "ratios": ratios, "figures": figures, "environment": environment(*packages)}
    print(json.dumps(answer))


def quota(millions: int) -> int:
    """The paper's 130,000 of 300 million, in proportion."""
    return 130_000 * millions // 300


def _measure(millions: int, ratios: dict[str, Any], figures: dict[str, Any]) -> None:
    files = label_tables(millions)
    names = [name for name in VARIANTS if millions < ALONE or name not in PEERS]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    answers: dict[str, set[tuple[int, ...]]] = {"one": set(), "copies": set()}
    with tempfile.TemporaryDirectory(prefix="select-") as folder:

        def variant(name: str) -> tuple[int, float]:
            output = Path(folder) / "selected.parquet"
            runs[name].append(_child(name, millions, output))
            answers["copies" if name.endswith(("copies", "bytes")) else "one"].add(_checksum(output))
            return millions * 1_000_000, runs[name][-1]["cpu_seconds"]

        variants: dict[str, Variant] = {name: partial(variant, name) for name in names}
        rates = rounds(variants, 3 if millions <= 10 else 1)
    assert all(len(found) == 1 for found in answers.values()), f"the variants disagree: {answers}"
    at = f"_at_{millions}m"
    if millions < ALONE:
        best = max("polars", "polars_streaming", key=lambda name: medians(rates)[name])
        ratios |= {
            f"cpu_over_polars{at}": ratio(rates["ours"], rates[best]),
            f"cpu_over_window{at}": ratio(rates["ours"], rates["window"]),
            f"cpu_over_window_with_copies{at}": ratio(rates["ours_copies"], rates["window_copies"]),
        }
    figures[f"rows{at}"] = {
        "disk_gb": round(sum(file.stat().st_size for file in files) / 1e9, 2),
        "selected": {name: sorted(found)[0][:2] for name, found in answers.items()},
        "runs": runs,
    }


def _child(name: str, millions: int, output: Path) -> dict[str, float]:
    """Runs a variant; its CPU seconds without those of the imports, wall seconds and peak resident memory."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.select",
        "--variant",
        name,
        "--rows",
        str(millions),
        "--output",
        output,
    ]
    threads = {"POLARS_MAX_THREADS": str(THREADS), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    words = [str(word) for word in command]
    process = subprocess.Popen(words, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    imports = float(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{name} ended with {process.returncode}"
    return {
        "cpu_seconds": round(used.ru_utime + used.ru_stime - imports, 2),
        "seconds": round(time.perf_counter() - started, 2),
        "peak_gb": round(used.ru_maxrss * 1024 / 1e9, 3),
    }


def _checksum(output: Path) -> tuple[int, ...]:
    """Images, copies and a hash of both, whatever their order."""
    query = "SELECT count(*), sum(copies)::BIGINT, bit_xor(hash(key, copies::INTEGER)) FROM read_parquet(?)"
    found: tuple[int, ...] = duckdb.execute(query, [str(output)]).fetchall()[0]
    return found


def label_tables(millions: int) -> list[Path]:
    """The files, made if they are not there; the larger sizes begin with the same rows."""
    folder = cache_folder() / "benchmarks" / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"labels-{number:06d}.parquet" for number in range(millions)]
    for number, file in enumerate(files):
        if not file.exists():
            print(f"making {file}", file=sys.stderr)
            made = file.with_suffix(".part")
            with duckdb.connect(config={"threads": THREADS}) as connection:
                connection.execute("SET enable_progress_bar = false")
                connection.execute(f"COPY ({_million(number)}) TO '{made}' (FORMAT parquet, COMPRESSION zstd)")
            made.rename(file)
    return files


def _million(number: int) -> str:
    """SQL of the rows of a file: each is a function of its number."""
    uniform = "(hash(i + {}) >> 11) / 9007199254740992.0"
    confidence = f"ceil((1.02 - 0.95 * power({uniform.format(10**10)}, 2)) * 1024) / 1024"
    return f"""
        SELECT printf('pool/%010d', i) AS key, sha256('image ' || i) AS sha256, NULL::VARCHAR AS reason,
            (floor(exp({uniform.format(0)} * ln({CLASSES + 1}))) - 1)::INTEGER AS top1,
            least(1, {confidence})::FLOAT AS confidence,
            (20 * {uniform.format(2 * 10**10)})::FLOAT AS margin
        FROM range({number * FILE_ROWS}, {(number + 1) * FILE_ROWS}) AS numbers(i)"""


def ours(max_copies: int, twins: Literal["bytes"] | None, files: Sequence[Path], per_class: int, output: Path) -> None:
    """The engine, and what filter-and-balance does next: the selected rows of file after file."""
    rule = Rule(THRESHOLD, per_class, max_copies, SEED, False)
    schema = pa.schema([("key", pa.string()), ("copies", pa.int32())])
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        limits = Limits(MEMORY, THREADS, Path(scratch))
        with (
            select(files, rule, twins, limits) as selection,
            pq.ParquetWriter(output, schema, use_dictionary=["copies"]) as writer,
        ):
            for table in in_order(partial(_selected, selection, files), range(len(files)), THREADS):
                writer.write_table(table)


def _selected(selection: Selection, files: Sequence[Path], number: int) -> pa.Table:
    outcome, copies = selection.of(number)
    kept = outcome == KEPT
    keys = pq.ParquetFile(files[number]).read(["key"], use_threads=False)["key"]
    return pa.table({"key": keys.filter(pa.array(kept)), "copies": copies[kept]})


def polars(engine: Literal["in-memory", "streaming"], files: Sequence[Path], per_class: int, output: Path) -> None:
    """Sort all that passes, then the head of each class."""
    order = {"top1": False, "confidence": True, "margin": True, "sha256": False, "key": False}
    eligible = pl.scan_parquet(list(files)).filter(
        pl.col("reason").is_null() & pl.col("confidence").ge(np.float32(THRESHOLD))
    )
    ranked = eligible.select(*order).sort(list(order), descending=list(order.values()))
    best = ranked.group_by("top1", maintain_order=True).head(per_class)
    chosen = best.select("key", pl.lit(1, pl.Int32).alias("copies"))
    chosen.collect(engine=engine).write_parquet(output)


def window(max_copies: int, files: Sequence[Path], per_class: int, output: Path) -> None:
    """The rule as one would write it in SQL."""
    copies = "1"
    if max_copies > 1:
        draw = f"row_number() OVER (PARTITION BY top1 ORDER BY sha256('{SEED}:' || sha256), key)"
        size = "count(*) OVER (PARTITION BY top1)"
        copies = f"least({max_copies}, {per_class} // {size} + ({draw} <= {per_class} % {size})::INTEGER)"
    names = ", ".join(f"'{file}'" for file in files)
    with duckdb.connect(config={"threads": THREADS, "temp_directory": str(output.parent / "spill")}) as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute(f"""
            COPY (SELECT key, {copies} AS copies FROM (
                SELECT key, sha256, top1 FROM read_parquet([{names}])
                WHERE reason IS NULL AND confidence >= {THRESHOLD}::FLOAT
                QUALIFY row_number() OVER (
                    PARTITION BY top1 ORDER BY confidence DESC, margin DESC, sha256, key) <= {per_class}
            )) TO '{output}' (FORMAT parquet)""")


VARIANTS: dict[str, Callable[[Sequence[Path], int, Path], None]] = {
    "ours": partial(ours, 1, None),
    "ours_copies": partial(ours, MAX_COPIES, None),
    "ours_bytes": partial(ours, MAX_COPIES, "bytes"),
    "polars": partial(polars, "in-memory"),
    "polars_streaming": partial(polars, "streaming"),
    "window": partial(window, 1),
    "window_copies": partial(window, MAX_COPIES),
}


if __name__ == "__main__":
    main()
