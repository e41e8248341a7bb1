"""An ablation: the arms of a study, each a campaign of its own over several seeds, and one comparison of them.

In: a study, a recipe, how many seeds, how many campaigns at a time. Out: an `Ablation`, which is also what
`ablations/{id}/` of the store keeps. What arms share (data, teacher, often labels and selection) is computed by the
first that comes to it and found by the others; so a run that was killed goes on where it was. The baseline goes first,
on every seed, as most of what is shared is in it. An arm that fails is listed with its reason, and the others go on.

Several campaigns at a time are threads of this process, each of which waits for a worker process of its own.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Annotated, Any

from prefect import Task, flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows import place
from flows.attended import attended
from flows.form import name_of, parsed
from flows.noisy_student import noisy_student
from flows.recipes.digits import digits
from flows.results import RunResult
from flows.studies import Study, StudyName, study_named
from ns_core.config import Recipe
from ns_core.errors import StageFailed, UserError
from ns_core.evaluation.reports.ablation import Ablation, ArmRun
from tasks.ablation_report import report_ablation
from tasks.claims import until
from tasks.observe import Listener, StageOutcome, Watch, current, watching
from tasks.run import Run
from tasks.tracking import tracker

DIGITS = digits()
MOST_SEEDS = 30
MOST_SIDE_BY_SIDE = 16
PROGRESS_SECONDS = 30.0
"""Between two lines on one stage, of campaigns that run side by side."""
POLL_SECONDS = 0.5
STOP_SECONDS = 30.0
"""For campaigns that run side by side to end when all are stopped; a worker has 20 s of it for its checkpoint. What is
left then ends with the process."""


def _name() -> str:
    """The run's own name; for a run of a worker one that a retry gives again."""
    run = place.given()
    if run is not None:
        return run.run_id
    words = f"{name_of(flow_run.parameters['recipe'])}-ablation-{flow_run.parameters['study']}"
    return place.run_id(words, flow_run.scheduled_start_time, str(flow_run.id)[-4:])


@flow(name="ablation", flow_run_name=_name, validate_parameters=False)
def ablation(
    study: Annotated[StudyName, Field(title="Study", json_schema_extra={"position": 0})] = "noise",
    seeds: Annotated[int, Field(title="Seeds", ge=1, le=MOST_SEEDS)] = 3,
    side_by_side: Annotated[int, Field(title="Side by side", ge=1, le=MOST_SIDE_BY_SIDE)] = 1,
    recipe: Recipe = DIGITS,
) -> Ablation | State[Ablation]:
    """The arms of a study against its baseline, over several seeds.

    Args:
        study: the question, as in the paper's ablation tables
        seeds: how often each arm is run, on the recipe's seed and those after it; 1 to 30. One proves nothing, and five
            tell differences of a standard deviation or two
        side_by_side: campaigns that run at the same time, each with a worker of its own on the same processors, GPU and
            memory; 1 to 16
        recipe: the experiment that the arms change in a setting or two
    """

    def body() -> Ablation:
        base, chosen = parsed(recipe, Recipe), study_named(study)
        count, at_once = _whole("seeds", seeds, MOST_SEEDS), _whole("side_by_side", side_by_side, MOST_SIDE_BY_SIDE)
        run = place.given() or place.in_worker(base, flow_run.name)
        return _compared(run, chosen, base, count, at_once)

    made = attended(body)
    if place.given() or isinstance(made, State):
        return made
    return Completed(message=made.words, data=made)


def _whole(name: str, value: object, most: int) -> int:
    if not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(f"{name}: a whole number from 1 to {most}, got {value!r}")
    return value


@dataclass(frozen=True)
class Campaign:
    """One arm on one seed."""

    number: int
    """Among those of the ablation, seed by seed."""
    arm: str
    recipe: Recipe
    run: Run

    @property
    def words(self) -> str:
        return f"{self.recipe.name}, seed {self.recipe.seed}"


def _compared(run: Run, study: Study, base: Recipe, seeds: int, at_once: int) -> Ablation:
    chosen = study.arms_of(base)
    arms = {arm.name: arm.recipe(base, study.name) for arm in chosen}  # a recipe that cannot be is told now
    campaigns = list[Campaign]()
    for seed in range(base.seed, base.seed + seeds):
        for name, recipe in arms.items():
            seeded = recipe.override([f"seed={seed}"])
            own = run.model_copy(update={"run_id": _run_id(run, seeded)})
            campaigns.append(Campaign(len(campaigns), name, seeded, own))
    in_turn = sorted(campaigns, key=lambda one: one.number % len(arms))
    if at_once == 1:
        runs = [_campaign(one, current().listener) for one in in_turn]
    else:
        tracker(run)  # one for all threads
        runs = _Threads(in_turn, current().listener).run(at_once)
    told = {arm.name: (arm.words, arm.paper) for arm in chosen}
    runs.sort(key=lambda one: one.seed)
    return report_ablation(run, (study.name, study.question), base.name, told, runs, at_once)


def _campaign(one: Campaign, listener: Listener | None) -> ArmRun:
    """What goes wrong in it is in what it returns; a cancelled run goes no further."""
    if listener:
        listener.logged(one.words)
    try:
        with watching(Watch(listener=listener)), place.giving(one.run), _subflow(one.number):
            made = noisy_student(one.recipe)
    except (UserError, StageFailed) as error:
        reason = " ".join(str(error).split())
        get_run_logger().error("%s failed: %s", one.words, reason)
        if listener:
            listener.logged(f"{one.words} failed: {reason}")
        return ArmRun(arm=one.arm, seed=one.recipe.seed, run_id=one.run.run_id, failure=reason)
    assert isinstance(made, RunResult), "a campaign of this process raises what goes wrong"
    return ArmRun(arm=one.arm, seed=one.recipe.seed, run_id=one.run.run_id, document=made.document())


@contextmanager
def _subflow(number: int) -> Iterator[None]:
    """Inside, the campaign is this subflow of the ablation, in whatever order they start.

    Prefect counts the calls of a flow. A run that was killed and goes on finds a subflow by that count, and would
    take one campaign for another where threads had called in another order.
    """
    parent = FlowRunContext.get()
    assert parent is not None, "an ablation is a flow"
    key = Task(name=noisy_student.name, fn=noisy_student.fn).task_key
    with parent.model_copy(update={"task_run_dynamic_keys": {key: number - 1}}):
        yield


def _run_id(run: Run, recipe: Recipe) -> str:
    """The arm's own: of this ablation, arm and seed, so that a retry writes the same report again."""
    mark = hashlib.sha256(f"{run.run_id} {recipe.name} {recipe.seed}".encode()).hexdigest()[:4]
    return f"{run.run_id}-{recipe.name.rsplit('-', 1)[-1]}-s{recipe.seed}-{mark}"


class _Threads:
    """Runs campaigns side by side; what ends one by other than its own failure, Ctrl-C for one, ends all."""

    def __init__(self, campaigns: Sequence[Campaign], listener: Listener | None) -> None:
        self._todo, self._stop = deque(campaigns), threading.Event()
        lock = threading.Lock()
        tell = listener.logged if listener else lambda line: None
        self._ears = {one.number: _Ear(f"{one.arm} s{one.recipe.seed}", tell, self._stop, lock) for one in campaigns}
        self._made, self._wrong = list[ArmRun](), list[BaseException]()

    def run(self, at_once: int) -> list[ArmRun]:
        """Each thread starts in a copy of the caller's context, where Prefect keeps which flow it is in."""
        with until(self._stop):
            contexts = [copy_context() for _ in range(min(at_once, len(self._todo)))]
        threads = [threading.Thread(target=one.run, args=(self._thread,), daemon=True) for one in contexts]
        try:
            for thread in threads:
                thread.start()
            while living := [thread for thread in threads if thread.is_alive()]:
                living[0].join(POLL_SECONDS)  # a signal that the kernel gave to another thread is seen at the next look
        except BaseException:
            self._stop.set()
            deadline = time.monotonic() + STOP_SECONDS
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, deadline - time.monotonic()))
            raise
        if self._wrong:
            raise self._wrong[0]
        return self._made

    def _thread(self) -> None:
        try:
            while not self._stop.is_set() and (one := self._next()) is not None:
                self._made.append(_campaign(one, self._ears[one.number]))
        except BaseException as error:
            self._wrong.append(error)
            self._stop.set()

    def _next(self) -> Campaign | None:
        try:
            return self._todo.popleft()
        except IndexError:
            return None


@dataclass
class _Ear:
    """Listens to one campaign of several: whole lines with its name, as a moving line shows only one stage.

    Whatever it hears once all are stopped ends the campaign, and with it the worker that spoke; `KeyboardInterrupt` for
    a thread, which gets none of its own.
    """

    name: str
    tell: Callable[[str], None]
    stop: threading.Event
    lock: threading.Lock
    _stage: str = field(default="", init=False)
    _next: float = field(default=0.0, init=False)

    def started(self, stage: str, generation: int) -> None:
        self._stage, self._next = f"g{generation} {stage}", time.monotonic() + PROGRESS_SECONDS
        self.logged(f"{self._stage}: started")

    def progressed(self, event: dict[str, Any]) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            self.logged(f"{self._stage}: {event['done']} of {event['total']} {event['text']}")

    def logged(self, line: str) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt
        with self.lock:
            self.tell(f"{self.name}: {line}")

    def ended(self, outcome: StageOutcome) -> None:
        self.logged(f"g{outcome.generation} {outcome.stage}: {outcome.state} {outcome.seconds:.1f} s")
