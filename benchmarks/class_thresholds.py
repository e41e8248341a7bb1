"""What a selection by `select.target_precision` keeps of the digits' pool, by the pool's hidden labels: 10 seeds.

    python -m benchmarks.class_thresholds          about 7 minutes on 2 cores

The seeds are those of `benchmarks.audit`; teacher, labels and holdout are those of `noisy-student run digits --seed N`.
Each way to choose (one threshold for all; a target, estimated or assured) makes its selection of the same
labels, through the stage. Told of each: images kept, the share of their labels that is right, and of all classes that
something is kept of, in how many less than the target is right. A class has some 100 images in the pool and 30 on the
holdout.

The last line of standard output is one JSON object.
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.audit import SEEDS, Quiet
from benchmarks.measure import environment
from flows.audit_command import start
from ns_core.config import ComputeConfig, Recipe, SelectConfig
from ns_core.errors import UserError
from ns_core.resume import ResumeFolder
from ns_core.selection import filter_and_balance
from ns_core.stage import StageContext
from ns_core.storage import open_storage

WAYS: dict[str, list[str]] = {
    "one threshold": [],
    "0.9 estimated": ["select.target_precision=0.9"],
    "0.95 estimated": ["select.target_precision=0.95"],
    "0.8 assured": ["select.target_precision=0.8", "select.target_rule=assured"],
    "0.9 assured": ["select.target_precision=0.9", "select.target_rule=assured"],
}
"""On a threshold for all of 0.3, and with room for every image, so that nothing but confidence decides."""
SHARED = ["select.threshold=0.3", "select.per_class=1000", "select.max_copies=1"]


def selected(config: SelectConfig, store: Path, folder: Path) -> dict[str, Any] | None:
    """What the stage makes of the labels of the only run in `store`; None where it is refused."""
    inputs = {}
    for name, stage in (("dataset", "prepare-dataset"), ("pseudo_labels", "infer-unlabeled")):
        (inputs[name],) = (store / stage).glob("*/attempt-*")
    output, scratch = folder / "output", folder / "scratch"
    output.mkdir(parents=True)
    scratch.mkdir()
    resume = ResumeFolder(open_storage(str(folder / "resume")), "stage/resume", scratch)
    context = StageContext(inputs, {}, output, resume, ComputeConfig(threads=1), "0" * 64)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            filter_and_balance.run(config, context)
    except UserError as error:
        print(error, file=sys.stderr)
        return None
    return judged(output / "selection.parquet", config.target_precision)


def judged(selection: Path, target: float) -> dict[str, Any]:
    """By the hidden labels; `below`: classes of what is kept that have less than the target."""
    from sklearn.datasets import load_digits

    truth: Any = load_digits()
    table = pq.read_table(selection, columns=["key", "top1"])
    numbers = [int(key.removeprefix("digit-")) for key in table["key"].to_pylist()]
    top1 = table["top1"].to_numpy()
    right = truth.target[numbers] == top1
    by_class = {int(one): float(right[top1 == one].mean()) for one in np.unique(top1)}
    return {
        "kept": len(right),
        "precision": float(right.mean()),
        "worst_class": min(by_class.values()),
        "classes": len(by_class),
        "below": sum(value < target for value in by_class.values()),
        "by_class": by_class,
    }


def one_seed(seed: int, folder: Path) -> dict[str, Any]:
    """Every way, by the labels of one teacher. `folder`: of all seeds, whose servers it is home to."""
    from flows.recipes.digits import digits

    recipe: Recipe = digits().override([f"seed={seed}", *SHARED])
    store = folder / f"store-{seed}"
    start(recipe, (0, 0.95), (str(store), folder / "home"), Quiet())
    found = {}
    for number, (way, settings) in enumerate(WAYS.items()):
        config = recipe.override(settings).for_generation(1).select
        found[way] = selected(config, store, folder / f"seed-{seed}-way-{number}")
    return found


def figures(rows: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds, of each way; a refusal keeps nothing and is counted apart."""
    told = {}
    for way in WAYS:
        made = [row[way] for row in rows.values() if row[way] is not None]
        told[way] = {"refused": len(rows) - len(made)}
        if made:
            told[way] |= {
                "mean_kept": round(float(np.mean([one["kept"] for one in made])), 1),
                "mean_precision": round(float(np.mean([one["precision"] for one in made])), 4),
                "lowest_precision": round(min(one["precision"] for one in made), 4),
                "mean_of_worst_class": round(float(np.mean([one["worst_class"] for one in made])), 4),
                "classes": sum(one["classes"] for one in made),
                "classes_below_target": sum(one["below"] for one in made),
            }
    return told


def main() -> None:
    """Selects on all seeds and prints the result."""
    rows = {}
    with tempfile.TemporaryDirectory(prefix="thresholds-") as name:
        for seed in SEEDS:
            rows[seed] = one_seed(seed, Path(name))
            print(f"seed {seed}: {json.dumps(rows[seed])}", file=sys.stderr, flush=True)
    result = {
        "benchmark": "class_thresholds",
        "figures": figures(rows) | {"by_seed": rows},
        "environment": environment("torch", "scipy"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
