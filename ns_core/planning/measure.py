"""The process that measures: torch is loaded here and not where a person plans.

    python -m ns_core.planning.measure < QUESTION > PROFILE

In: one JSON object, a `Question`. Out: one JSON object, a `Profile`; or, for a person's mistake, exit status 2 and one
line on standard error. What the stages say meanwhile is dropped.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ns_core.config import Recipe
from ns_core.errors import UserError
from ns_core.planning.profile import Eligible, Machine, Profile, Rate, Seen, flops_of
from ns_core.planning.timing import TRAINING
from ns_core.planning.work import networks

if TYPE_CHECKING:
    from ns_core.artifacts import Record
    from ns_core.planning.sampled import Bench, TrainingConfig

EXIT_USER = 2
WHOLE_TEACHER_SECONDS = 30.0
"""A first teacher that takes less, worker start left out, is trained to its end, so that what it selects is known."""
LABELLING_FIXED = 1.0
"""Seconds of infer-unlabeled for all but its pool, where it is not run: its gate refuses networks that know nothing."""
_WITHOUT_TORCH, _WITH_TORCH = "ns_core.data.prepare", "ns_core.evaluation.evaluate_robustness"
_LOADED_BY = {"digits": ("sklearn.datasets",), "torchvision": ("torchvision.datasets",)}
"""What a source of images loads besides; this process has it by the time at which it prepares."""


class Question(TypedDict):
    """What is to be measured."""

    recipe: dict[str, Any]
    classes: int
    """For counting alone; measured, the data tell."""
    timed: bool
    """False: floating point operations and weights alone."""
    sample: float | None
    """Share of the pool."""


def answer(question: Question) -> Profile:
    """Raises `UserError` as the stages do."""
    from ns_core.planning.counting import count

    recipe = Recipe.model_validate(question["recipe"])
    flops, parameters = count(networks(recipe), question["classes"])
    profile = Profile(recipe=recipe.name, flops=flops, parameters=parameters)
    if not question["timed"]:
        return profile
    with tempfile.TemporaryDirectory(prefix="ns-plan-") as scratch:
        return Measuring(recipe, profile, Path(scratch)).whole(question["sample"])


class Measuring:
    """Of one recipe, from a sample of its images to a profile."""

    def __init__(self, recipe: Recipe, profile: Profile, scratch: Path) -> None:
        self._recipe, self._profile, self._scratch = recipe, profile, scratch
        self._compute = recipe.compute.model_copy(update={"processes": 1, "profile": False})
        self._own = recipe.for_generation(0)
        self._rates, self._unmeasured = dict[tuple[str, str, int], Rate](), list[str]()
        self._eligible: Eligible | None = None

    def whole(self, share: float | None) -> Profile:
        """Everything, or what a sample of a minute or so can tell."""
        began, load = time.monotonic(), os.getloadavg()[0]
        starts = _starts(self._own.data.source)
        bench, seen = self._prepared(share)
        splits = (seen.holdout, seen.test) if seen.whole else _splits(bench)
        cold = self._cold(bench, splits)
        self._teacher(bench, seen, splits)
        for generation in range(1, self._recipe.generations + 1):
            self._student(bench, self._recipe.for_generation(generation), splits)
        again = _starts(self._own.data.source)  # whatever disturbs a start makes it longer
        starts = {stage: round(min(starts[stage], again[stage]) + cold.get(stage, 0.0), 3) for stage in starts}
        machine = Machine(
            device=_device(self._compute.device),
            name=_name(),
            cores=len(os.sched_getaffinity(0)),
            load=round(load, 2),
            seconds=round(time.monotonic() - began, 1),
            date=time.strftime("%Y-%m-%d", time.gmtime()),
        )
        found = {"machine": machine, "starts": starts, "rates": tuple(self._rates.values()), "seen": seen}
        found |= {"eligible": self._eligible, "unmeasured": tuple(dict.fromkeys(self._unmeasured))}
        return self._profile.model_copy(update=found)

    def _prepared(self, share: float | None) -> "tuple[Bench, Seen]":
        from ns_core.data.sources import shard_roots
        from ns_core.planning.sampled import Bench
        from ns_core.planning.sampling import sample

        taken = sample(self._own.data, share, self._scratch / "sample")
        places = shard_roots(taken.data)
        record, seconds = self._run(taken.data, {}, places)
        result = record.result
        prepared = sum(int(str(result[split])) for split in ("labeled", "holdout", "test", "pool"))
        sizes = [entry.size for name, entry in record.files.items() if name.endswith(".tar")]
        counts = {name: int(str(result[name])) for name in ("labeled", "holdout", "test", "pool")}
        seen = Seen(
            classes=taken.classes,
            **(counts if taken.whole else taken.totals),
            image_bytes=sum(sizes) / max(1, prepared),
            sampled=prepared,
            whole=taken.whole,
        )
        fixed = 0.1 * seconds  # which part does not grow is not measured; it is small
        self._add(
            Rate(
                stage="prepare-dataset",
                unit="images",
                fixed=fixed,
                per_unit=(seconds - fixed) / prepared,
                sampled=prepared,
            )
        )
        dataset = self._scratch / "store" / record.prefix
        return Bench(dataset, places, self._compute, self._scratch), seen

    def _cold(self, bench: "Bench", splits: tuple[int, int]) -> dict[str, float]:
        """Stage -> seconds more that their work takes in a process that has just begun."""
        from ns_core.planning.sampled import cold_evaluation, cold_training, shortened

        config = self._own.teacher
        forward = flops_of(self._profile.flops, config.model, config.image_size)
        short = shortened(config, forward)
        if short is None:
            return {}
        seconds, checkpoint = cold_training(bench, short, config.model)
        again = cold_evaluation(bench, self._own.evaluate, checkpoint, forward, splits[1])
        return {**dict.fromkeys(TRAINING, seconds), self._own.evaluate.STAGE: again}

    def _teacher(self, bench: "Bench", seen: Seen, splits: tuple[int, int]) -> None:
        """The first teacher: to its end, where that is short, and then what it selects."""
        from ns_core.planning.sampled import evaluation, labelling

        config = self._own.teacher
        checkpoint = self._trained(bench, config, config.model)
        if checkpoint is None:
            return
        rate = self._rates[config.STAGE, config.model, config.image_size]
        fixed, folder = LABELLING_FIXED, checkpoint
        if seen.whole and rate.per_unit * config.batch_size * config.steps < WHOLE_TEACHER_SECONDS:
            folder, fixed = self._taught(bench, seen)
        if seen.pool:
            self._add(labelling(bench, self._own.infer, folder, fixed))
        forward = flops_of(self._profile.flops, config.model, config.image_size)
        self._add(evaluation(bench, self._own.evaluate, folder, forward, splits))
        selector = self._recipe.selector
        if selector and selector != config.model and (other := self._trained(bench, config, selector)):
            self._add(labelling(bench, self._own.infer, other, fixed))

    def _taught(self, bench: "Bench", seen: Seen) -> tuple[Path, float]:
        """The whole teacher's checkpoint, and the seconds of labelling that do not grow with the pool."""
        from ns_core.planning.sampled import labelling, training_rate

        config = self._own.teacher
        record, seconds = self._run(config, {"dataset": self._dataset}, bench.places)
        folder = self._scratch / "store" / record.prefix
        points = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        self._add(training_rate(config, config.model, points, seconds))
        if not seen.pool or not self._recipe.generations:
            return folder, LABELLING_FIXED
        inputs = {"dataset": self._dataset, "teacher": record}
        labels, label_seconds = self._run(self._own.infer, inputs, bench.places)
        per_image = labelling(bench, self._own.infer, folder, 0.0).per_unit
        inputs = {"dataset": self._dataset, "pseudo_labels": labels}
        selection, select_seconds = self._run(self._recipe.for_generation(1).select, inputs, bench.places)
        self._add(Rate(stage="filter-and-balance", unit="rows", fixed=select_seconds, per_unit=0.0, sampled=seen.pool))
        eligible = selection.result.get("eligible_per_class")
        if isinstance(eligible, list) and self._recipe.selector in ("", config.model):
            teacher = f"the first teacher, trained to its end for this plan ({config.model})"
            per_class = tuple(int(str(one)) for one in eligible)
            self._eligible = Eligible(per_class=per_class, labelled=seen.pool, teacher=teacher)
        return folder, max(0.0, label_seconds - per_image * (seen.pool + seen.holdout))

    def _student(self, bench: "Bench", own: Recipe, splits: tuple[int, int]) -> None:
        """A student, its finetuning, and what it labels and how it is evaluated afterwards."""
        from ns_core.planning.sampled import evaluation, labelling

        model, size = own.student.model, own.finetune.image_size
        if (own.student.STAGE, model, own.student.image_size) in self._rates:
            return
        self._trained(bench, own.student, model)
        checkpoint = self._trained(bench, own.finetune, model)
        if checkpoint is None:
            return
        known = [rate.fixed for (stage, *_), rate in self._rates.items() if stage == own.infer.STAGE]
        self._add(labelling(bench, own.infer, checkpoint, known[0] if known else LABELLING_FIXED))
        self._add(evaluation(bench, own.evaluate, checkpoint, flops_of(self._profile.flops, model, size), splits))

    def _trained(self, bench: "Bench", config: "TrainingConfig", model: str) -> Path | None:
        """The folder of a checkpoint; None where a sample would take too long."""
        from ns_core.planning.sampled import shortened, training

        short = shortened(config, flops_of(self._profile.flops, model, config.image_size))
        if short is None:
            self._unmeasured.append(f"{model} at {config.image_size} pixels: a single update would take too long here")
            return None
        rate, folder = training(bench, short, model)
        self._add(rate)
        return folder

    def _run(self, config: Any, inputs: "dict[str, Record]", places: Mapping[str, str]) -> "tuple[Record, float]":
        """A stage as a worker runs it, into a store of our own."""
        from ns_core import worker
        from ns_core.fingerprint import stage_fingerprint
        from ns_core.launch.spec import InputReference, WorkerSpec

        extra = {} if inputs else {"source": "sample"}
        hashed = {**{name: record.fingerprint for name, record in inputs.items()}, **extra}
        spec = WorkerSpec(
            stage=config.STAGE,
            fingerprint=stage_fingerprint(config, hashed),
            config=config.model_dump(mode="json"),
            inputs={name: InputReference(stage=one.stage, fingerprint=one.fingerprint) for name, one in inputs.items()},
            extra_inputs=extra,
            store=str(self._scratch / "store"),
            places=dict(places),
            compute=self._compute,
        )
        began = time.perf_counter()
        record = worker.run(spec, lambda: False)
        assert record is not None, "a worker without a part commits"
        if config.STAGE == "prepare-dataset":
            self._dataset = record
        return record, time.perf_counter() - began

    def _add(self, rate: Rate) -> None:
        self._rates[rate.stage, rate.model, rate.image_size] = rate


def _starts(source: str) -> dict[str, float]:
    """Seconds until a worker of each stage has loaded what it needs, and then ends."""
    from ns_core.launch.local import WORKER_ENVIRONMENT
    from ns_core.worker import STAGES

    took = dict[str, float]()
    preparing = ", ".join((_WITHOUT_TORCH, *_LOADED_BY.get(source, ())))
    for module in (_WITHOUT_TORCH, preparing, _WITH_TORCH):
        began = time.perf_counter()
        command = [sys.executable, "-c", f"import ns_core.worker, {module}"]
        subprocess.run(command, check=True, env={**WORKER_ENVIRONMENT, **os.environ})
        took[module] = time.perf_counter() - began
    needs = {"prepare-dataset": preparing, "filter-and-balance": _WITHOUT_TORCH}
    return {stage: took[needs.get(stage, _WITH_TORCH)] for stage in STAGES}


def _splits(bench: "Bench") -> tuple[int, int]:
    """Holdout and test images of the sample."""
    from ns_core.data.index import DatasetIndex

    index = DatasetIndex.load(bench.dataset)
    return len(index.split("holdout")), len(index.split("test"))


def _device(wanted: str) -> Any:
    from ns_core.models.predict import choose_device

    return choose_device(wanted).type


def _name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> int:
    """Reads the question, writes the answer."""
    question: Question = json.load(sys.stdin)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nobody, redirect_stdout(nobody):
            profile = answer(question)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USER
    sys.stdout.write(profile.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
