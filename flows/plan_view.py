"""What `noisy-student plan` prints.

In: a `Plan` and an `Estimate`. Out: text: the table of what trains and its memory, the table of times and costs, what
is selected, and where each figure is from.
"""

from collections.abc import Iterable

from flows.plan import Plan, PlannedLabelling, PlannedStage
from ns_core.planning.estimate import MEASURED, Estimate, Figure, StageEstimate
from ns_core.planning.selected import Selected

_COLUMNS = ("stage", "model", "parameters", "pixels", "micro-batch", "update", "updates", "images", "memory")
_TIMES = ("stage", "model", "work", "a second", "time", "device-hours", "cost", "stored", "basis")
LISTED_CLASSES = 20
"""Of a selection; more are told by the smallest, the middle and the largest."""


def show_estimate(found: Estimate) -> str:
    """Times, selections, totals, sources."""
    sources = list(dict.fromkeys(stage.seconds.source for stage in found.stages))
    rows = [_TIMES, *(_times(stage, found.currency, sources) for stage in found.stages)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths, 2) for row in rows]
    lines += [_images(found), *(_selected(one) for one in found.selections), *_totals(found)]
    lines += [f"{reason}: not measured." for reason in found.unmeasured]
    lines += [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    prices = dict.fromkeys(stage.cost.source for stage in found.stages if stage.cost is not None)
    lines += [f"Cost: {source}." for source in prices]
    return "\n".join(lines)


def show_memory(plan: Plan) -> str:
    """The table, a line for each stage that does not fit, and one for the images that are labelled."""
    rows = [_COLUMNS, *(_cells(stage) for stage in plan.stages)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths, 2) for row in rows]
    where = {"cuda": "a GPU", "cpu": "this machine"}.get(plan.device, f"a device ({plan.device})")
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


def _line(cells: tuple[str, ...], widths: list[int], words: int) -> str:
    """`words`: how many columns, from the left, are text."""
    left = [cell.ljust(width) for cell, width in zip(cells[:words], widths, strict=False)]
    right = [cell.rjust(width) for cell, width in zip(cells[words:], widths[words:], strict=True)]
    return "  ".join([*left, *right]).rstrip()


def _total(plan: Plan) -> str:
    return _gigabytes(plan.memory * (plan.processes if plan.device == "cpu" else 1))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _times(stage: StageEstimate, currency: str, sources: list[str]) -> tuple[str, ...]:
    hours = f"{stage.devices * stage.seconds.value / 3600:,.2f}" if stage.device else ""
    cost = "" if stage.cost is None else f"{stage.cost.value:,.2f} {currency}"
    basis = f"{stage.seconds.basis} [{sources.index(stage.seconds.source) + 1}]"
    work = f"{stage.amount:,} {stage.unit}"
    speed = f"{stage.per_second:,.0f}"
    return (
        stage.name,
        stage.model,
        work,
        speed,
        duration(stage.seconds.value),
        hours,
        cost,
        _bytes(stage.stored.value),
        basis,
    )


def duration(seconds: float) -> str:
    """`48 s`, `12.5 min`, `6.2 h`, `5.2 days`."""
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 86400:,.1f} days"


def _images(found: Estimate) -> str:
    number = {name: f"{figure.value:,.0f}" for name, figure in found.images.items()}
    figure = found.images["pool"]
    return (
        f"Images: {number['labeled']} labelled, {number['holdout']} holdout, {number['test']} test, {number['pool']} "
        f"in the pool, {number['image_bytes']} bytes each {_basis(figure)}."
    )


def _selected(one: Selected) -> str:
    when = f"generation {one.generation}" if one.generation else "all generations"
    ordered = sorted(one.per_class)
    classes = ", ".join(f"{count:,}" for count in one.per_class)
    if len(ordered) > LISTED_CLASSES:
        classes = f"{ordered[0]:,} to {ordered[-1]:,}, median {ordered[len(ordered) // 2]:,}"
    basis = _basis(Figure(one.kept, MEASURED if one.measured else "assumed", one.source))
    return f"Selected for {when}: {one.kept:,} images, {one.rows:,} with copies; of each class {classes} {basis}."


def _totals(found: Estimate) -> Iterable[str]:
    hours = ", ".join(f"{value:,.1f} {name}" for name, value in found.device_hours.items())
    cost = "" if found.cost is None else f", {found.cost:,.2f} {found.currency}"
    told = f" ({hours} device-hours{cost})" if hours else ""
    order = "one stage after the other, every student promoted"
    yield f"In all {duration(found.seconds)} on {found.target}, {order}{told}."
    month = f"; {found.month.value:,.2f} {found.currency} a month ({found.month.source})"
    yield f"Stored: {_bytes(found.stored)} of artifacts{month if found.month.value else ''}."


def _basis(figure: Figure) -> str:
    return f"({figure.basis}: {figure.source})"


def _bytes(size: float) -> str:
    for limit, length, unit in ((1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if size < limit:
            return f"{size / length:.1f} {unit}"
    return f"{size / 1e12:,.1f} TB"
