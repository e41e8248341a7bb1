"""What a run takes: hours, images a second, bytes and money of each stage, and what of that was measured.

In: a `Question`: a recipe, a profile, what it runs on, prices. Out: an `Estimate`.
"""

from dataclasses import asdict, dataclass
from typing import Any

from ns_core.config import Recipe
from ns_core.planning.counts import Counted, counted
from ns_core.planning.prices import Prices
from ns_core.planning.profile import Profile
from ns_core.planning.selected import Selected, assumed, from_labels
from ns_core.planning.stored import stored
from ns_core.planning.timing import TRAINING, Target, Took, took
from ns_core.planning.work import Counts, Work, stages

MEASURED, ASSUMED = "measured", "assumed"
BUSY = 0.5
"""Of the cores: a larger load when measuring began is told with the times."""
EVEN_SOURCES = ("digits", "torchvision")
"""Their classes are about equally frequent."""


@dataclass(frozen=True)
class Figure:
    """A number and where it is from."""

    value: float
    basis: str
    """`measured` or `assumed`."""
    source: str


@dataclass(frozen=True)
class StageEstimate:
    """One stage of a run."""

    stage: str
    generation: int
    model: str
    image_size: int
    unit: str
    amount: int
    operations: float
    """Floating point, of the whole stage."""
    seconds: Figure
    per_second: float
    """Units, worker start included."""
    devices: int
    device: str
    """Type that is paid for; empty: one without a price, such as a GPU of this machine."""
    cost: Figure | None
    stored: Figure
    """Bytes of its artifact."""

    @property
    def name(self) -> str:
        return f"{self.stage} {self.generation}" if self.generation else self.stage


@dataclass(frozen=True)
class Estimate:
    """Of a whole run in which every student is promoted."""

    recipe: str
    target: str
    images: dict[str, Figure]
    """By split, and `image_bytes`."""
    selections: tuple[Selected, ...]
    stages: tuple[StageEstimate, ...]
    seconds: float
    """One stage after the other."""
    device_hours: dict[str, float]
    """By type that is paid for."""
    stored: float
    currency: str
    cost: float | None
    """Of all stages that have a price."""
    month: Figure
    """Storage of all artifacts."""
    unmeasured: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON; each selection with its totals."""
        own = asdict(self)
        own["selections"] = [asdict(one) | {"kept": one.kept, "basis": _basis(one.measured)} for one in self.selections]
        return own


@dataclass(frozen=True)
class Question:
    """What is to be estimated."""

    recipe: Recipe
    profile: Profile
    """With operations of each network at least."""
    classes: int
    """Where the profile saw no images."""
    target: Target
    prices: Prices
    pool: int | None = None
    """Images of the pool, as a person says."""


def estimate(question: Question) -> Estimate:
    """Raises `UserError` for a pool of no images."""
    recipe, profile, prices = question.recipe, question.profile, question.prices
    found = counted(recipe, question.classes, profile.seen, question.pool)
    counts = found.counts
    selections = selections_of(recipe, profile, counts)
    kept = {one.generation: one.kept for one in selections}
    work = stages(recipe, counts, kept, profile.flops)
    chosen = {one.generation: one for one in selections}
    each = [_stage(one, question, found, chosen.get(one.generation)) for one in work]
    hours = dict[str, float]()
    for one in each:
        if one.device:
            hours[one.device] = hours.get(one.device, 0.0) + one.devices * one.seconds.value / 3600
    costs = [one.cost.value for one in each if one.cost is not None]
    total = sum(one.stored.value for one in each)
    month = Figure(total / 1e9 * prices.gigabyte_month, ASSUMED, prices.source("storage"))
    return Estimate(
        recipe=recipe.name,
        target=_told(question.target, profile),
        images=_images(found),
        selections=tuple(selections),
        stages=tuple(each),
        seconds=sum(one.seconds.value for one in each),
        device_hours=hours,
        stored=total,
        currency=prices.currency,
        cost=sum(costs) if costs else None,
        month=month,
        unmeasured=profile.unmeasured,
    )


def selections_of(recipe: Recipe, profile: Profile, counts: Counts) -> list[Selected]:
    """Each that a run makes, in their order."""
    if not recipe.generations:
        return []
    made = range(1, recipe.generations + 1)
    if recipe.selection == "once":
        made = range(1) if recipe.selector else range(1, 2)
    even = recipe.data.source in EVEN_SOURCES
    found = []
    for later, generation in enumerate(made):
        if profile.eligible is not None:
            found.append(from_labels(recipe.select, counts.pool, profile.eligible, later, generation))
        else:
            found.append(assumed(recipe.select, counts.pool, counts.classes, even, generation))
    return found


def _stage(one: Work, question: Question, found: Counted, selection: Selected | None) -> StageEstimate:
    recipe, profile, counts = question.recipe, question.profile, found.counts
    copied = selection.kept * counts.image_bytes if selection and recipe.select.materialize else 0.0
    time = took(one, profile, question.target, counts, copied)
    weights = profile.parameters.get(one.model, 0)
    size = stored(one, recipe, counts, selection, weights)
    return StageEstimate(
        stage=one.stage,
        generation=one.generation,
        model=one.model,
        image_size=one.image_size,
        unit=one.unit,
        amount=one.amount,
        operations=one.flops,
        seconds=Figure(time.seconds, _basis(time.measured and not _scaled(one, found)), time.source),
        per_second=one.amount / time.seconds,
        devices=time.devices,
        device=time.billed,
        cost=_cost(time, question.prices),
        stored=Figure(float(size), ASSUMED, "bytes of a row, an image or a weight (ns_core.planning.stored)"),
    )


def _scaled(one: Work, found: Counted) -> bool:
    """Whether the amount itself is assumed."""
    return not found.measured and one.stage not in TRAINING


def _cost(time: Took, prices: Prices) -> Figure | None:
    if time.billed not in prices.device_hours:
        return None
    value = time.devices * time.seconds / 3600 * prices.device_hours[time.billed]
    return Figure(value, ASSUMED, prices.source(time.billed))


def _images(found: Counted) -> dict[str, Figure]:
    names = ("classes", "labeled", "holdout", "test", "pool", "image_bytes")
    basis = _basis(found.measured)
    return {name: Figure(float(getattr(found.counts, name)), basis, found.source) for name in names}


def _basis(measured: bool) -> str:
    return MEASURED if measured else ASSUMED


def _told(target: Target, profile: Profile) -> str:
    if target.device is not None:
        return f"{target.count:,} x {target.device.words}"
    machine = profile.machine
    if machine is None:
        return f"this machine ({target.count} cores)"
    # A machine that does something else is as slow while it is measured as it is then.
    busy = f", busy while it was measured: load {machine.load:g}" if machine.load > BUSY * machine.cores else ""
    return f"this machine ({machine.name}, {machine.cores} cores{busy})"
