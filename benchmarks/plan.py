"""What `plan digits` foretells, stage by stage, beside what the run then takes on the same machine.

    python -m benchmarks.plan                 about 4 minutes on 2 idle cores

The plan measures first, in a home of its own, then the recipe runs with an empty store. A stage's time is that of the
run's ledger: from the task's start to its end, worker start included. The last line of standard output is one JSON
object.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import environment

LIMITS = {"seconds": 0.30, "selected": 0.10}
"""How far the plan may be off, as a share of what was measured."""
RECIPE = "digits"


def command(home: str, *arguments: str) -> tuple[dict[str, Any], float]:
    """What a verb prints as JSON, and its seconds."""
    started = time.monotonic()
    call = [sys.executable, "-m", "flows.cli", *arguments, "--json"]
    done = subprocess.run(call, env={**os.environ, "NS_HOME": home}, stdout=subprocess.PIPE, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document, time.monotonic() - started


def compared(plan: dict[str, Any], run: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each stage of the run."""
    foretold = {
        (stage["stage"], stage["generation"]): stage["seconds"]["value"] for stage in plan["estimate"]["stages"]
    }
    return [
        {
            "stage": stage["stage"],
            "generation": stage["generation"],
            "foretold_seconds": round(foretold[stage["stage"], stage["generation"]], 2),
            "seconds": stage["seconds"],
            "ratio": round(foretold[stage["stage"], stage["generation"]] / stage["seconds"], 3),
        }
        for stage in run["stages"]
    ]


def selections(plan: dict[str, Any], run: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each generation."""
    foretold = {one["generation"]: one for one in plan["estimate"]["selections"]}
    rows = []
    for generation in run["generations"]:
        one, kept = foretold[generation["index"]], generation["pseudo_labels"]["kept"]
        ratio = round(one["kept"] / kept, 3)
        rows.append({"generation": generation["index"], "foretold": one["kept"], "kept": kept, "ratio": ratio})
        rows[-1]["basis"] = one["basis"]
    return rows


def spread(values: list[float]) -> dict[str, Any]:
    """As `ratios` of all benchmarks; the runs are stages."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def main() -> None:
    """Plans, runs, compares, prints."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="plan-") as home:
        plan, plan_seconds = command(str(Path(home) / "plan"), "plan", RECIPE)
        run, run_seconds = command(str(Path(home) / "run"), "run", RECIPE)
    rows, chosen = compared(plan, run), selections(plan, run)
    total = sum(row["foretold_seconds"] for row in rows) / sum(row["seconds"] for row in rows)
    far = [row for row in rows if abs(row["ratio"] - 1) > LIMITS["seconds"]]
    result = {
        "benchmark": "plan",
        "ratios": {
            "foretold_over_measured_seconds": spread([row["ratio"] for row in rows]),
            "foretold_over_measured_total": spread([round(total, 3)]),
            "foretold_over_measured_selected": spread([row["ratio"] for row in chosen]),
        },
        "figures": {
            "stages": rows,
            "selections": chosen,
            "plan_seconds": round(plan_seconds, 1),
            "run_seconds": round(run_seconds, 1),
            "stages_off_by_more_than_the_limit": [f"{row['stage']} {row['generation']}" for row in far],
            "limits": LIMITS,
        },
        "environment": {"load_before": round(load, 2), **environment("torch")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
