"""Whether the stages of a recipe fit into the memory there is, for those who do not import torch.

    python -m ns_core.training.budget < QUESTION > ANSWER

In: one JSON object, a `Question`. Out: one JSON object, an `Answer`; or, for a person's mistake, exit status 2 and one
line on standard error.
"""

import json
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, TypedDict

import torch

from ns_core.config import FinetuneConfig, StudentConfig, TeacherConfig, TrainConfig
from ns_core.errors import UserError
from ns_core.models.predict import choose_device
from ns_core.training.memory import SECTIONS, Estimate, estimate, finer, more_groups

CONFIGS: tuple[type[TeacherConfig] | type[StudentConfig] | type[FinetuneConfig], ...] = (
    TeacherConfig,
    StudentConfig,
    FinetuneConfig,
)
EXIT_USER = 2


class Stage(TypedDict):
    """One that trains."""

    stage: str
    config: dict[str, Any]
    model: str
    classes: int


class Question(TypedDict):
    """Stages, and the machine that is to train them."""

    stages: list[Stage]
    processes: int
    device: str
    """As `ComputeConfig.device`."""
    memory: int
    """Of the machine, in bytes."""


class Verdict(TypedDict):
    """Of one stage."""

    estimate: dict[str, int]
    """The fields of `Estimate`, and its sums."""
    needed: int
    """Bytes of one process: of its GPU, or of the machine."""
    remedies: list[str]
    """Where that is too much: settings of which each is enough, or the best there is."""


class Answer(TypedDict):
    """In the order of the stages."""

    device: str
    memory: int
    """What one process may have, in bytes."""
    stages: list[Verdict]


def answer(question: Question) -> Answer:
    """Estimates each stage, the same one once. Raises `UserError` as `memory.estimate` does."""
    device, processes = choose_device(question["device"]).type, question["processes"]
    limit = _gpu_memory() if device == "cuda" else question["memory"] // processes
    known: dict[str, Verdict] = {}
    for stage in question["stages"]:
        if (key := json.dumps(stage)) not in known:
            known[key] = _verdict(stage, processes, device, limit)
    return {"device": device, "memory": limit, "stages": [known[json.dumps(stage)] for stage in question["stages"]]}


def _verdict(stage: Stage, processes: int, device: str, limit: int) -> Verdict:
    config_type = next(each for each in CONFIGS if stage["stage"] == each.STAGE)
    config = config_type.model_validate(stage["config"])
    found = estimate(config, stage["model"], stage["classes"], processes)
    needed = _needed(found, device)
    return {
        "estimate": {**asdict(found), "tensors": found.tensors, "update": found.update, "peak": found.peak},
        "needed": needed,
        "remedies": _remedies(config, stage, found, (processes, device, limit)) if needed > limit else [],
    }


def _needed(found: Estimate, device: str) -> int:
    return max(found.tensors, found.holdout) if device == "cuda" else found.peak


def _remedies(config: TrainConfig, stage: Stage, found: Estimate, machine: tuple[int, str, int]) -> list[str]:
    """Each with what it comes to, by an estimate of its own, and what is always left."""
    processes, device, limit = machine
    section = SECTIONS[stage["stage"]]
    look = found.holdout if device == "cuda" else found.base + found.holdout + found.checkpoint
    if look > limit:  # whatever an update takes
        smaller_is = f"a smaller {section}.image_size (now {config.image_size}) or model"
        return [f"{smaller_is}: the look at the holdout takes {_gigabytes(look)}"]

    def changed(field: str, value: int) -> int:
        other = config.model_copy(update={field: value})
        return _needed(estimate(other, stage["model"], stage["classes"], processes), device)

    remedies = []
    for parts in finer(config, processes):
        share = config.accumulation / parts
        smaller = replace(found, activations=int(found.activations * share), kept=int(found.kept * share))
        if _needed(smaller, device) <= limit and (needed := changed("accumulation", parts)) <= limit:
            remedies.append(f"{section}.accumulation={parts} (now {config.accumulation}): {_gigabytes(needed)}")
            break
    groups = more_groups(config)
    with suppress(UserError):  # there are no more groups
        needed = changed("recompute_groups", groups)
        remedies.append(f"{section}.recompute_groups={groups} (now {config.recompute_groups}): {_gigabytes(needed)}")
    return [*remedies, f"a smaller {section}.batch_size (now {config.batch_size}) or image_size"]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _gpu_memory() -> int:
    """Of the smallest GPU."""
    if not torch.cuda.is_available():
        raise UserError("compute.device=cuda, and there is no GPU here: plan where there is one, or for the CPU")
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return min(int(device.total_memory) for device in devices)


def main() -> int:
    """Reads the question, writes the answer."""
    try:
        json.dump(answer(json.load(sys.stdin)), sys.stdout)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USER
    return 0


if __name__ == "__main__":
    sys.exit(main())
