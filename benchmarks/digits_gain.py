"""What Noisy Student gains on the digits demo: 5 seeds, with the supervised control.

    python -m benchmarks.digits_gain          about 15 minutes on 2 cores

Each seed is a whole `noisy-student run digits --seed N` in an empty store: another draw of the 50 labels,
of holdout and test, of all weights and augmentations. The control, `digits_supervised`, trains the last
student's network on the same 50 labels alone, so that the gain is not just the larger network. The final
student is the last generation's, whatever the gate said; every choice in the recipe was made on the
holdout of seeds 1, 2 and 3, and the seeds here are others. Robustness is that of the run's own report: the student that
stands against the first teacher, measure by measure.

The last line of standard output is one JSON object.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from scipy.stats import t

SEEDS = (11, 12, 13, 14, 15)
ACCURACIES = ("teacher", "first_student", "student", "control")


def run(recipe: str, seed: int, folder: Path, *settings: str) -> dict[str, Any]:
    """The document of one run; the runs of a recipe and seed share a home and store. `settings` as for `--set`."""
    command = [sys.executable, "-m", "flows.cli", "run", recipe, "--seed", str(seed), "--json"]
    command += [f"--set={setting}" for setting in settings]
    environment = {**os.environ, "NS_HOME": str(folder / f"{recipe}-{seed}")}
    outcome = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    document: dict[str, Any] = json.loads(outcome.stdout)
    return document


def interval(values: list[float]) -> dict[str, Any]:
    """Mean with its 95 % Student t interval over seeds."""
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return {"mean": mean(values), "low": mean(values) - half, "high": mean(values) + half, "values": values}


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies and paired differences over the seeds; differences in points."""
    column = {name: [row[name] for row in rows] for name in rows[0]}
    gain = [100 * (row["student"] - row["teacher"]) for row in rows]
    over_control = [100 * (row["student"] - row["control"]) for row in rows]
    return {
        "test_top1": {name: interval(column[name]) for name in ACCURACIES},
        "robustness": robustness([row["robustness"] for row in rows]),
        "gain_points": interval(gain),
        "gain_over_supervised_control_points": interval(over_control),
        "seconds": interval(column["seconds"]),
        "seeds": list(SEEDS),
    }


def robustness(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Figure -> before, after and difference over the seeds, and how many runs by themselves tell them apart."""
    made: dict[str, Any] = {}
    for rows in zip(*runs, strict=True):
        figure = {row["figure"] for row in rows}
        assert len(figure) == 1, figure
        told = {name: interval([row[name] for row in rows]) for name in ("before", "after", "difference")}
        verdicts = dict(Counter(row["verdict"] for row in rows))
        made[figure.pop()] = {"measure": rows[0]["measure"], **told, "verdicts_of_single_runs": verdicts}
    return made


def main() -> None:
    """Runs all seeds and prints the result."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="digits-gain-") as name:
        for seed in SEEDS:
            started = time.monotonic()
            document = run("digits", seed, Path(name))
            seconds = time.monotonic() - started
            control = run("digits_supervised", seed, Path(name))
            students = [generation["student"]["test_top1"] for generation in document["generations"]]
            rows.append(
                {
                    "teacher": document["first_teacher"]["test_top1"],
                    "first_student": students[0],
                    "student": students[-1],
                    "control": control["first_teacher"]["test_top1"],
                    "robustness": document["robustness"],
                    "seconds": seconds,
                }
            )
            print(f"seed {seed}: {rows[-1]}", file=sys.stderr, flush=True)
    fewer = [(1 - row["teacher"]) / (1 - row["student"]) for row in rows]
    spread = {"median": median(fewer), "min": min(fewer), "max": max(fewer), "runs": len(fewer)}
    environment = {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": version("torch"),
        "timm": version("timm"),
    }
    result = {
        "benchmark": "digits_gain",
        "ratios": {"teacher_errors_per_student_error": spread},
        "figures": figures(rows),
        "environment": environment,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
