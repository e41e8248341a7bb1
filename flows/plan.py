"""`noisy-student plan`: what a recipe will take, before any stage is started.

In: a recipe. Out: a `Plan`: for each stage that trains its network, its images and the memory of one process, against
what this machine or a type of device has; how often which network labels which images; and what was measured of it
(`ns_core.planning`). torch is asked in child processes, as `doctor` asks it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ns_core.config import DataConfig, FinetuneConfig, Recipe, StudentConfig, TeacherConfig
from ns_core.errors import StageFailed, UserError
from ns_core.launch.local import WORKER_ENVIRONMENT
from ns_core.planning.devices import Device
from ns_core.planning.profile import Profile
from ns_core.planning.timing import Target

BUDGET, MEASURE = "ns_core.training.budget", "ns_core.planning.measure"
SECTIONS = {TeacherConfig.STAGE: "teacher", StudentConfig.STAGE: "student", FinetuneConfig.STAGE: "finetune"}
"""Stage -> section of the recipe."""

CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "svhn": 10, "stl10": 10}
"""Of the data sets that are always the same."""
ASSUMED_CLASSES = 1000
EXIT_USER = 2
_Stage = tuple[int, TeacherConfig | StudentConfig | FinetuneConfig, str]
"""Generation, settings, network."""
_UNLIMITED = 10**18
"""Bytes: what a device type has is looked at here."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage that trains; memory in bytes, of one process."""

    stage: str
    generation: int
    model: str
    parameters: int
    image_size: int
    micro_batch: int
    """Images that one process has in work at once."""
    update: int
    """Images of an update, over all processes."""
    updates: int
    images: int
    """In all updates."""
    needed: int
    """The most that a process takes."""
    estimate: dict[str, int]
    """What that is made of (`ns_core.training.memory.Estimate`)."""
    remedies: tuple[str, ...]
    """Settings to change where it is more than there is."""


@dataclass(frozen=True)
class PlannedLabelling:
    """One pass of a network over images without labels. Each student is taken to be promoted."""

    generation: int
    model: str
    of: Literal["pool", "selection"]
    most: int | None
    """Images at most; None: as many as the pool has, which is not looked at."""


@dataclass(frozen=True)
class Plan:
    """The stages in their order."""

    recipe: str
    classes: int
    processes: int
    device: str
    """`cpu` or `cuda` of this machine, or a type of device."""
    memory: int
    """What there is for one process, in bytes: of its GPU, or its share of this machine's."""
    stages: tuple[PlannedStage, ...]
    labelling: tuple[PlannedLabelling, ...]

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return asdict(self)


def classes_of(data: DataConfig) -> int | None:
    """The number of classes, where it is known without looking at the data."""
    if data.source == "imagenet":
        return ASSUMED_CLASSES
    return CLASSES.get(data.dataset if data.source == "torchvision" else data.source)


def plan(recipe: Recipe, classes: int, target: Target | None = None) -> Plan:
    """`target`: None for this machine. Raises `UserError` for what training would refuse: an unknown network, a batch
    that cannot be divided among the processes, one for each device."""
    import psutil

    if classes < 2:
        raise UserError(f"--classes {classes}: there are at least 2")
    elsewhere = target if target is not None and target.device is not None and target.device.name != "cpu" else None
    processes = elsewhere.count if elsewhere else recipe.compute.processes
    stages = _stages(recipe)
    questions = [
        {
            "stage": type(config).STAGE,
            "config": config.model_dump(mode="json") | {"seed": 0},  # equal stages are estimated once
            "model": model,
            "classes": classes,
        }
        for _, config, model in stages
    ]
    answer = ask(
        BUDGET,
        {
            "stages": questions,
            "processes": processes,
            "device": "cpu" if elsewhere else recipe.compute.device,
            "memory": _UNLIMITED if elsewhere else psutil.virtual_memory().total,
        },
    )
    planned = [_planned(*stage, verdict) for stage, verdict in zip(stages, answer["stages"], strict=True)]
    machine = (processes, answer["device"], answer["memory"])
    if elsewhere and elsewhere.device is not None:
        planned = [_on_device(stage, elsewhere.device) for stage in planned]
        machine = (processes, elsewhere.device.name, elsewhere.device.memory)
    return Plan(recipe.name, classes, *machine, tuple(planned), tuple(labelling(recipe, classes)))


def measure(recipe: Recipe, classes: int, timed: bool, sample: float | None = None) -> Profile:
    """Of this machine and the recipe's own images; not `timed`: operations of its networks alone. `sample`: share of
    the pool. Raises `UserError` as the stages do."""
    question = {"recipe": recipe.model_dump(mode="json"), "classes": classes, "timed": timed, "sample": sample}
    return Profile.model_validate(ask(MEASURE, question))


def reachable(data: DataConfig) -> bool:
    """Whether the recipe says where its images are."""
    return data.source == "digits" or bool(data.root if data.source == "torchvision" else data.labeled)


def labelling(recipe: Recipe, classes: int) -> list[PlannedLabelling]:
    """The passes of infer-unlabeled, in their order."""
    passes, selector = list[PlannedLabelling](), ""
    if recipe.selector and recipe.generations:
        selector = recipe.selector
        passes.append(PlannedLabelling(0, selector, "pool", None))
    teacher = recipe.teacher.model
    for generation in range(1, recipe.generations + 1):
        if recipe.selection == "each" or (generation == 1 and not selector):
            passes.append(PlannedLabelling(generation, teacher, "pool", None))
        elif generation > 1 or teacher != selector:  # the first teacher, as selector, has labelled the pool
            passes.append(PlannedLabelling(generation, teacher, "selection", recipe.select.per_class * classes))
        teacher = recipe.for_generation(generation).student.model
    return passes


def ask(module: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """What the process `module` answers: `BUDGET`'s or `MEASURE`'s."""
    environment = {**WORKER_ENVIRONMENT, **os.environ}
    child = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if child.returncode:
        last = (child.stderr.strip() or f"exit status {child.returncode}").splitlines()[-1]
        raise UserError(last) if child.returncode == EXIT_USER else StageFailed(f"the estimate failed: {last}")
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def _on_device(stage: PlannedStage, device: Device) -> PlannedStage:
    """What a GPU holds: neither the interpreter nor a checkpoint that is being written."""
    needed = max(stage.estimate["tensors"], stage.estimate["holdout"])
    section = SECTIONS[stage.stage]
    remedies = (f"{section}.accumulation", f"{section}.recompute_groups", "more --devices")
    return replace(stage, needed=needed, remedies=remedies if needed > device.memory else ())


def _stages(recipe: Recipe) -> list[_Stage]:
    """Those that train, in their order."""
    first = recipe.for_generation(0).teacher
    stages: list[_Stage] = [(0, first, first.model)]
    if recipe.generations and recipe.selector not in ("", first.model):
        stages.append((0, first.model_copy(update={"model": recipe.selector}), recipe.selector))
    for generation in range(1, recipe.generations + 1):
        own = recipe.for_generation(generation)
        stages += [(generation, own.student, own.student.model), (generation, own.finetune, own.student.model)]
    return stages


def _planned(
    generation: int, config: TeacherConfig | StudentConfig | FinetuneConfig, model: str, verdict: dict[str, Any]
) -> PlannedStage:
    found = verdict["estimate"]
    images = config.batch_size * (1 + config.ratio if isinstance(config, StudentConfig) else 1)
    return PlannedStage(
        stage=type(config).STAGE,
        generation=generation,
        model=model,
        parameters=found["weights"],
        image_size=config.image_size,
        micro_batch=found["images"],
        update=images,
        updates=config.steps,
        images=images * config.steps,
        needed=verdict["needed"],
        estimate=found,
        remedies=tuple(verdict["remedies"]),
    )
