"""`noisy-student plan`: what a recipe will take, before any stage is started.

In: a recipe. Out: a `Plan`: for each stage that trains its network, its images and the memory of one process, against
what this machine has; and how often which network labels which images. torch is asked in a child process
(`ns_core.training.budget`), as `doctor` asks it.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ns_core.config import DataConfig, FinetuneConfig, Recipe, StudentConfig, TeacherConfig
from ns_core.errors import StageFailed, UserError

CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "svhn": 10, "stl10": 10}
"""Of the data sets that are always the same."""
ASSUMED_CLASSES = 1000
EXIT_USER = 2
_Stage = tuple[int, TeacherConfig | StudentConfig | FinetuneConfig, str]
"""Generation, settings, network."""
_COLUMNS = ("stage", "model", "parameters", "pixels", "micro-batch", "update", "updates", "images", "memory")


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


def plan(recipe: Recipe, classes: int) -> Plan:
    """Raises `UserError` for what training would refuse: an unknown network, a batch that cannot be divided."""
    import psutil

    if classes < 2:
        raise UserError(f"--classes {classes}: there are at least 2")
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
        {
            "stages": questions,
            "processes": recipe.compute.processes,
            "device": recipe.compute.device,
            "memory": psutil.virtual_memory().total,
        }
    )
    planned = [_planned(*stage, verdict) for stage, verdict in zip(stages, answer["stages"], strict=True)]
    machine = (recipe.compute.processes, answer["device"], answer["memory"])
    return Plan(recipe.name, classes, *machine, tuple(planned), tuple(labelling(recipe, classes)))


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


def ask(question: dict[str, Any]) -> dict[str, Any]:
    """A `budget.Question` to its `budget.Answer`."""
    command = [sys.executable, "-m", "ns_core.training.budget"]
    child = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, check=False)
    if child.returncode:
        last = (child.stderr.strip() or f"exit status {child.returncode}").splitlines()[-1]
        raise UserError(last) if child.returncode == EXIT_USER else StageFailed(f"the estimate failed: {last}")
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def show(plan: Plan) -> str:
    """The table, a line for each stage that does not fit, and one for the images that are labelled."""
    rows = [_COLUMNS, *(_cells(stage) for stage in plan.stages)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    where = "a GPU" if plan.device == "cuda" else "this machine"
    share = f", shared by {plan.processes} processes" if plan.processes > 1 and plan.device == "cpu" else ""
    lines.append(f"Memory is that of one process, for {plan.classes} classes; {where} has {_total(plan)}{share}.")
    too_large: dict[tuple[str, ...], list[str]] = {}
    for stage in plan.stages:
        if stage.remedies:
            # A selector is trained by the same stage as the first teacher.
            name = _name(stage) if stage.generation else f"{stage.stage} of {stage.model}"
            too_large.setdefault(stage.remedies, []).append(name)
    for remedies, names in too_large.items():
        lines.append(f"Too large: {', '.join(names)}. Set {', or '.join(remedies)}.")
    if plan.labelling:
        lines.append(f"Labels: {'; '.join(map(_pass, plan.labelling))}.")
    return "\n".join(lines)


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


def _cells(stage: PlannedStage) -> tuple[str, ...]:
    numbers = (stage.image_size, stage.micro_batch, stage.update, stage.updates, stage.images)
    millions = f"{stage.parameters / 1e6:.1f} M" if stage.parameters >= 10**6 else f"{stage.parameters:,}"
    return (_name(stage), stage.model, millions, *(f"{number:,}" for number in numbers), _gigabytes(stage.needed))


def _name(stage: PlannedStage) -> str:
    return f"{stage.stage} {stage.generation}" if stage.generation else stage.stage


def _pass(one: PlannedLabelling) -> str:
    images = "the pool" if one.most is None else f"up to {one.most:,} selected images"
    when = f"in generation {one.generation}" if one.generation else "to select once for all generations"
    return f"{images} by {one.model} {when}"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    words = [cell.ljust(width) for cell, width in zip(cells[:2], widths, strict=False)]
    numbers = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join([*words, *numbers])


def _total(plan: Plan) -> str:
    return _gigabytes(plan.memory * (plan.processes if plan.device == "cpu" else 1))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
