"""Rewrites the golden files beside this module: `python -m tests.golden.regenerate`.

A golden file holds what must not change by accident: its diff is explained in the commit, and the `VERSION`
of the stage is bumped where a result changes its meaning. Each file is the JSON document that one function of
`GOLDENS` returns; a test asks for `current(name)` and `recorded(name)` and compares.
"""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import JsonValue

from ns_core.config import (
    ComputeConfig,
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    Recipe,
    SelectConfig,
    StudentConfig,
    TeacherConfig,
)
from ns_core.fingerprint import stage_fingerprint
from ns_core.settings import StageConfig

FOLDER = Path(__file__).parent

SMALL = Recipe(
    name="small",
    generations=2,
    seed=7,
    data=DataConfig(labels_per_class=4, holdout_images=100, test_images=200),
    teacher=TeacherConfig(model="ns_efficientnet_xs", image_size=32, steps=60),
    select=SelectConfig(threshold=0.6, per_class=110, max_copies=3),
    student=StudentConfig(model="ns_efficientnet_s", image_size=32, steps=40, ratio=4),
    student_models=("ns_efficientnet_s", "ns_efficientnet_m"),
    finetune=FinetuneConfig(image_size=40, steps=4),
    evaluate=EvaluateConfig(corruptions=("gaussian_noise",), severities=(3,), max_images=100),
    compute=ComputeConfig(device="cpu", threads=1),
)
"""A recipe of its own, so that tuning those in `flows/recipes` leaves the goldens alone."""


def fingerprints() -> JsonValue:
    """`{stage}-g{generation}` -> 64 hex digits, for each stage of `SMALL` on the inputs that the flow gives it."""
    document: dict[str, JsonValue] = {}

    def add(config: StageConfig, generation: int, **inputs: str) -> str:
        name = stage_fingerprint(config, inputs)
        document[f"{config.STAGE}-g{generation}"] = name
        return name

    own = SMALL.for_generation(0)
    dataset = add(own.data, 0, source="digits-0123456789abcdef")
    teacher = add(own.teacher, 0, dataset=dataset)
    report = add(own.evaluate, 0, dataset=dataset, checkpoint=teacher)
    for generation in range(1, SMALL.generations + 1):
        own = SMALL.for_generation(generation)
        labels = add(own.infer, generation, dataset=dataset, teacher=teacher)
        selection = add(own.select, generation, dataset=dataset, pseudo_labels=labels)
        student = add(own.student, generation, dataset=dataset, selection=selection)
        teacher = add(own.finetune, generation, dataset=dataset, student=student)
        report = add(own.evaluate, generation, dataset=dataset, checkpoint=teacher, baseline=report)
    return document


def selection() -> JsonValue:
    """What filter-and-balance makes of 80 labels drawn from hashes: result, `[key, copies]`, `[key, reason]`.

    Without pictures or random generators, so that the table is the same on every machine.
    """
    import pyarrow.parquet as pq

    from ns_core.data.index import DatasetIndex
    from ns_core.selection.filter_and_balance import run
    from tests.factories import hashed_probabilities, label_folder, pool_without_pictures, stage_context

    with TemporaryDirectory() as folder:
        dataset = pool_without_pictures(Path(folder) / "dataset", images=80, classes=4)
        scores = hashed_probabilities(DatasetIndex.load(dataset).split("pool").keys, classes=4)
        labels = label_folder(Path(folder) / "labels", dataset, scores)
        context = stage_context(Path(folder) / "stage", {"dataset": dataset, "pseudo_labels": labels})
        with redirect_stdout(StringIO()):
            result = run(SelectConfig(threshold=0.6, per_class=9, max_copies=2, seed=3), context)
        selected = pq.read_table(context.output / "selection.parquet").to_pylist()
        dropped = pq.read_table(context.output / "dropped.parquet").to_pylist()
    # A float32 mean depends on how wide the CPU adds.
    result["mean_confidence"] = round(float(str(result["mean_confidence"])), 5)
    return {
        "result": result,
        "selected": [[row["key"], row["copies"]] for row in selected],
        "dropped": [[row["key"], row["reason"]] for row in dropped],
    }


def losses() -> JsonValue:
    """Loss of each of 20 updates of a small teacher on the digits, one thread."""
    from ns_core.data import prepare
    from ns_core.training import train_teacher
    from tests.factories import TINY, TINY_MODEL, settled, stage_context, training_context

    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        dataset = stage_context(Path(folder) / "dataset")
        prepare.run(DataConfig(holdout_images=60, test_images=100), dataset)
        context = training_context(Path(folder) / "teacher", dataset=settled(dataset))
        settings = {**TINY, "steps": 20, "epoch_steps": 1, "image_size": 32, "seed": 5}
        train_teacher.run(TeacherConfig(model=TINY_MODEL, **settings), context)
    return [point["value"] for point in context.history if point["key"] == "train/loss"]


GOLDENS: dict[str, Callable[[], JsonValue]] = {
    "fingerprints.json": fingerprints,
    "selection.json": selection,
    "losses.json": losses,
}
"""File -> the function that computes it. One that needs torch imports it when called."""


def current(name: str) -> JsonValue:
    """What the code gives now, as JSON gives it back."""
    document: JsonValue = json.loads(_text(name))
    return document


def recorded(name: str) -> JsonValue:
    """What the file holds."""
    document: JsonValue = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return document


def _text(name: str) -> str:
    return json.dumps(GOLDENS[name](), indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Rewrites every file and says which ones changed."""
    for name in GOLDENS:
        path, text = FOLDER / name, _text(name)
        same = path.exists() and path.read_text(encoding="utf-8") == text
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{name}: {'unchanged' if same else 'rewritten'}\n")


if __name__ == "__main__":
    main()
