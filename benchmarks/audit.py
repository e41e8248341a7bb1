"""Whether an audit of the digits' pseudo-labels tells the truth: 10 seeds, the pool's hidden labels being the truth.

    python -m benchmarks.audit          about 25 minutes on 2 cores

Each seed is another draw of the 50 labels, of holdout, test and pool, of all weights and augmentations: seeds on which
nothing in the recipe was chosen. For each the teacher of `noisy-student run digits --seed N` labels the pool and a
selection is made; the audit sees no label of the pool. Its interval for the selection's precision is to hold the true
one in 9 of 10 seeds at least; so are those of the classes, in 9 of 10 of all. The ratio is the mean error of what the
teacher itself believes, its mean confidence in what is kept, over the audit's.

The last line of standard output is one JSON object.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.measure import environment
from flows.audit_command import start
from ns_core.audit.figures import Share
from tasks.observe import StageOutcome

SEEDS = tuple(range(21, 31))
FOLDS, TARGET = 4, 0.95


class Quiet:
    """Nobody watches."""

    def started(self, stage: str, generation: int) -> None: ...
    def progressed(self, event: dict[str, Any]) -> None: ...
    def logged(self, line: str) -> None: ...
    def ended(self, outcome: StageOutcome) -> None: ...


def kept(store: Path, selection: str) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32]]:
    """Of each kept image the predicted class, whether that is right, and the confidence."""
    from sklearn.datasets import load_digits

    truth: Any = load_digits()
    (file,) = (store / "filter-and-balance" / selection[:12]).glob("attempt-*/selection.parquet")
    table = pq.read_table(file, columns=["key", "top1", "confidence"])
    numbers = [int(key.removeprefix("digit-")) for key in table["key"].to_pylist()]
    top1 = table["top1"].to_numpy().astype(np.int64)
    return top1, truth.target[numbers] == top1, table["confidence"].to_numpy()


def one_seed(seed: int, folder: Path) -> dict[str, Any]:
    """The audit of one seed beside the truth."""
    from flows.recipes.digits import digits

    started = time.monotonic()
    recipe = digits().override([f"seed={seed}"])
    made = start(recipe, (FOLDS, TARGET), (str(folder / "store"), folder / "home"), Quiet())
    top1, right, confidence = kept(folder / "store", made.selection)
    true = float(right.mean())

    def beside(share: Share, fact: float) -> dict[str, Any]:
        return {**share.model_dump(), "true": fact, "covered": share.low <= fact <= share.high}

    classes = [
        beside(one.precision, float(right[top1 == one.label].mean()))
        for one in made.classes
        if (top1 == one.label).any()
    ]
    return {
        "seed": seed,
        "both": beside(made.precision, true),
        **{name: beside(share, true) for name, share in made.by_source.items()},
        "classes_covered": [sum(one["covered"] for one in classes), len(classes)],
        "mean_confidence": float(confidence.mean()),
        "kept": made.kept,
        "holdout_top1": made.holdout_top1,
        "folds_on_holdout": made.folds_on_holdout,
        "prior_shift_p_value": made.shift.p_value,
        "seconds": round(time.monotonic() - started, 1),
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds; a source is `both`, the `holdout` alone or the `folds` alone."""
    sources = ("both", "holdout", "folds")
    return {
        "covered": {name: sum(row[name]["covered"] for row in rows) for name in sources},
        "seeds": len(rows),
        "classes_covered": [sum(row["classes_covered"][place] for row in rows) for place in (0, 1)],
        "mean_bias_points": {
            name: round(100 * float(np.mean([row[name]["value"] - row[name]["true"] for row in rows])), 3)
            for name in sources
        },
        "mean_width_points": {
            name: round(100 * float(np.mean([row[name]["high"] - row[name]["low"] for row in rows])), 2)
            for name in sources
        },
        "by_seed": rows,
    }


def main() -> None:
    """Audits all seeds and prints the result."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="audit-") as name:
        for seed in SEEDS:
            rows.append(one_seed(seed, Path(name)))
            print(f"seed {seed}: {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
    ours = float(np.mean([abs(row["both"]["value"] - row["both"]["true"]) for row in rows]))
    believed = float(np.mean([abs(row["mean_confidence"] - row["both"]["true"]) for row in rows]))
    ratio = round(believed / ours, 3)
    spread = {"median": ratio, "min": ratio, "max": ratio, "runs": len(rows)}
    result = {
        "benchmark": "audit",
        "ratios": {"error_of_mean_confidence_over_audits": spread},
        "figures": figures(rows),
        "environment": environment("torch", "scipy"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
