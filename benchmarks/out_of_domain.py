"""What a pool costs of which five images in six are no digits: the recipe `digits`, 5 seeds, two pools.

    python -m benchmarks.out_of_domain [--seeds N] [--first SEED] [--generations N] [--remedy SETTING] [--folder FOLDER]

For each seed two or three arms, each a whole run, through the same files and lists (`benchmarks.out_of_domain_pool`),
with the recipe's settings and without measures of robustness; about 3 minutes a seed on 2 idle cores:

    clean       the recipe's own pool, 1,047 digits
    polluted    the same and 5 other images for each digit, half of them noise, half letters and signs
    remedied    that pool with a setting that a person may change, such as `--remedy select.threshold=0.9`

Labelled, holdout and test images are the same, and so is the teacher. The harm is the last student's test top-1 with
the clean pool minus that with the polluted one. It is "below 1 point" when the whole 95 % interval over the seeds is.
The gate compares a student with its teacher, not with the student of a better pool: what it said is told beside.

The audit looks at both pools too (`noisy-student audit --folds 0`): does it notice?

One generation, unless told otherwise: the filter meets the pool with the weakest teacher there, and a second generation
would double the time. With `--folder` the stores are kept, and what was interrupted goes on where it was.

The last line of standard output is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from benchmarks.digits_gain import SEEDS, interval, run
from benchmarks.measure import environment
from benchmarks.out_of_domain_pool import DIGIT, GROUPS, Pool, group, write_pool
from flows.recipes.digits import digits

OTHERS_PER_DIGIT = 5
MOST_HARM = 1.0
"""Points."""
ARMS = ("clean", "polluted")
REMEDIED = "remedied"
SETTINGS = (
    "evaluate.corruptions=[]",
    "evaluate.perturbations=[]",
    "evaluate.fgsm_eps=[]",
    "evaluate.pgd_eps=[]",
)

Row = dict[str, Any]


def measured(seed: int, folder: Path, settings: Sequence[str], remedy: str | None = None) -> Row:
    """All arms of one seed, and what the audit says of their pools."""
    pool = write_pool(digits().override([f"seed={seed}"]).for_generation(0).data, folder / "images", OTHERS_PER_DIGIT)
    row: Row = {"seed": seed}
    lists = {arm: arm for arm in ARMS} | ({REMEDIED: "polluted"} if remedy else {})
    for arm, listed in lists.items():
        # A remedy finds the polluted arm's teacher and labels made.
        started, home = time.monotonic(), folder / listed
        given = (*settings, *pool.settings(listed), *([remedy] if remedy and arm == REMEDIED else []))
        row[arm] = of_run(run("digits", seed, home, *given), pool)
        row[arm]["audit"] = of_audit(audit(seed, home, given))
        row[arm]["seconds"] = round(time.monotonic() - started)
        print(f"seed {seed}, {arm}: {json.dumps(row[arm])}", file=sys.stderr, flush=True)
    assert row["clean"]["teacher"] == row["polluted"]["teacher"], "both arms have the same teacher"
    return row


def of_run(document: dict[str, Any], pool: Pool) -> Row:
    """What a run came to. `standing`: of the network that stands after all gates."""
    generations, teacher = document["generations"], document["first_teacher"]["test_top1"]
    promoted = [one["student"]["test_top1"] for one in generations if one["gate"]["verdict"] == "promote"]
    folders = {(one["stage"], one["generation"]): Path(one["uri"]) for one in document["stages"]}
    selections = [selected(files_of(folders["filter-and-balance", one["index"]]), pool) for one in generations]
    return {
        "teacher": teacher,
        "student": generations[-1]["student"]["test_top1"],
        "student_holdout": generations[-1]["student"]["holdout_top1"],
        "standing": (promoted or [teacher])[-1],
        "verdicts": [one["gate"]["verdict"] for one in generations],
        "selections": selections,
    }


def files_of(artifact: Path) -> Path:
    """The folder of the attempt that its record names."""
    record = json.loads((artifact / ".artifact.json").read_text("utf-8"))
    return artifact / f"attempt-{record['attempt']}"


def selected(folder: Path, pool: Pool) -> Row:
    """What filter-and-balance made of the pool. Raises `AssertionError` when an image is missing or there twice."""
    kept = pq.read_table(folder / "selection.parquet", columns=["sha256", "top1", "copies"]).to_pylist()
    dropped = pq.read_table(folder / "dropped.parquet", columns=["sha256", "reason"]).to_pylist()
    labelled = [row for row in dropped if row["sha256"]]
    above = kept + [row for row in labelled if row["reason"] != "below_threshold"]
    names = [row["sha256"] for row in kept + labelled]
    assert len(set(names)) == len(names), "every image is there once"
    right = sum(pool.truth.get(row["sha256"]) == row["top1"] for row in kept)
    rows = sum(row["copies"] for row in kept)
    others = sum(row["copies"] for row in kept if pool.kinds[row["sha256"]] != DIGIT)
    return {
        "pool": counted(names, pool),
        "above_threshold": counted([row["sha256"] for row in above], pool),
        "kept": counted([row["sha256"] for row in kept], pool),
        "rows": rows,
        "out_of_domain_rows": round(others / rows, 4),
        "labels_right": round(right / len(kept), 4),
        "leaks": len(dropped) - len(labelled),
    }


def counted(names: Sequence[str], pool: Pool) -> Row:
    """Images by group, and the share that are no digits."""
    kinds = [group(pool.kinds[name]) for name in names]
    counts = {one: kinds.count(one) for one in (DIGIT, *GROUPS)}
    return {"images": len(kinds), **counts, "out_of_domain": round(1 - counts[DIGIT] / max(1, len(kinds)), 4)}


def audit(seed: int, folder: Path, settings: Sequence[str]) -> dict[str, Any]:
    """`noisy-student audit` of the run that was made in `folder`, by the holdout alone: it finds all stages made."""
    command = [sys.executable, "-m", "flows.cli", "audit", "digits", "--seed", str(seed), "--folds", "0", "--json"]
    command += [f"--set={setting}" for setting in settings]
    outcome = subprocess.run(
        command,
        env={**os.environ, "NS_HOME": str(folder / f"digits-{seed}")},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    document: dict[str, Any] = json.loads(outcome.stdout)
    return document


def of_audit(document: dict[str, Any]) -> Row:
    """Whether it notices that the pool is other than the labelled images, and what it takes the selection for."""
    shift = document["shift"]
    return {
        "notices": any("holds other images" in note for note in shift["notes"]),
        "distance_of_confidences": round(shift["unlike"][0], 4),
        "mean_confidence_holdout_and_pool": [round(value, 4) for value in shift["mean_confidence"]],
        "precision_said": round(document["precision"]["value"], 4),
    }


def verdict(harm: dict[str, Any], gates: Sequence[str]) -> Row:
    """Whether the harm is below `MOST_HARM`; where it is not, whether the gate kept the teacher.

    `harm`: points, as `interval` makes them, one a seed; `gates`: verdict of the last gate of each seed's run.
    """
    below, on_average = harm["high"] < MOST_HARM, harm["mean"] < MOST_HARM
    harmed = [gate for value, gate in zip(harm["values"], gates, strict=True) if value >= MOST_HARM]
    kept = sum(gate != "promote" for gate in harmed)
    words = "below 1 point" if below else "below 1 point on average, not shown" if on_average else "not below 1 point"
    return {
        "harm": words,
        "interval_below_1_point": below,
        "mean_below_1_point": on_average,
        "seeds_harmed_by_1_point": len(harmed),
        "of_them_the_gate_kept_the_teacher": kept,
        "holds": below or (bool(harmed) and kept == len(harmed)),
    }


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Over the seeds; differences paired by seed, in points."""
    arms = [arm for arm in (*ARMS, REMEDIED) if arm in rows[0]]
    return {
        "test_top1": {
            "teacher": interval([row["clean"]["teacher"] for row in rows]),
            **{arm: interval([row[arm]["student"] for row in rows]) for arm in arms},
        },
        **{arm: harmed(rows, arm) for arm in arms[1:]},
        "audit_notices": {arm: sum(row[arm]["audit"]["notices"] for row in rows) for arm in ARMS},
        "by_seed": list(rows),
    }


def harmed(rows: Sequence[Row], arm: str) -> dict[str, Any]:
    """`arm` against the clean pool; differences in points."""

    def points(name: str) -> dict[str, Any]:
        return interval([100 * (row["clean"][name] - row[arm][name]) for row in rows])

    def share(place: int, part: str) -> dict[str, Any]:
        return interval([row[arm]["selections"][place][part]["out_of_domain"] for row in rows])

    harm, parts = points("student"), ("pool", "above_threshold", "kept")
    generations = range(min(len(row[arm]["selections"]) for row in rows))
    return {
        "harm_points": harm,
        "harm_points_of_the_standing_network": points("standing"),
        "student_over_teacher_points": interval([100 * (row[arm]["student"] - row[arm]["teacher"]) for row in rows]),
        "student_holdout": interval([row[arm]["student_holdout"] for row in rows]),
        "out_of_domain": {f"generation_{n + 1}": {part: share(n, part) for part in parts} for n in generations},
        "verdict": verdict(harm, [row[arm]["verdicts"][-1] for row in rows]),
    }


def cleaned(rows: Sequence[Row]) -> dict[str, Any]:
    """By how much the selection of generation 1 lowers the share of what is no digit, by seed; larger is better."""
    shares = [row["polluted"]["selections"][0] for row in rows]
    values = [one["pool"]["out_of_domain"] / max(one["kept"]["out_of_domain"], 1e-4) for one in shares]
    return {"median": median(values), "min": min(values), "max": max(values), "runs": len(values)}


def main() -> None:
    """Runs all seeds and prints the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many")
    parser.add_argument("--first", type=int, default=SEEDS[0], help="the first of them")
    parser.add_argument("--generations", type=int, default=1)
    parser.add_argument("--remedy", help="a setting that the pool is run with besides, such as select.threshold=0.9")
    parser.add_argument("--folder", type=Path, help="where the stores are kept, to go on after an interruption")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: 2 or more, an interval over seeds wants them")
    started, seeds = time.monotonic(), [options.first + number for number in range(options.seeds)]
    settings = (*SETTINGS, f"generations={options.generations}")
    with tempfile.TemporaryDirectory(prefix="out-of-domain-") as name:
        folder = options.folder or Path(name)
        rows = [measured(seed, folder / str(seed), settings, options.remedy) for seed in seeds]
    result = {
        "benchmark": "out_of_domain",
        "ratios": {"out_of_domain_share_of_the_pool_over_that_of_the_selection": cleaned(rows)},
        "figures": {
            **figures(rows),
            "remedy": options.remedy,
            "seeds": seeds,
            "seconds": round(time.monotonic() - started),
        },
        "environment": environment("torch", "timm", "scikit-learn", "opencv-python-headless"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
