"""One process's pass over the work of an evaluation, from what is saved already to the last table.

In: a plan, a network, the tables that earlier attempts left. Out: the tables of all units it was given.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property

from torch import nn

from ns_core.config import EvaluateConfig
from ns_core.evaluation.attacks.attacking import SUITES as ATTACKS
from ns_core.evaluation.attacks.attacking import Attack, Attacker
from ns_core.evaluation.looking import Looker, Views
from ns_core.evaluation.plan import Plan, Unit, cost
from ns_core.evaluation.saved_tables import SavedTables
from ns_core.evaluation.tables import SEQUENCE_SUITES, Scene, Table
from ns_core.models.checkpoint import ModelCard
from ns_core.models.fast import fast_predictor
from ns_core.models.predict import Predictor, assert_noise_free, at_once, choose_device
from ns_core.resume import Adopted
from ns_core.stage import StageContext, Stopped, log

_GRADIENTS = 4
"""A batch that is attacked has so many times fewer pictures: gradients keep every layer's output."""
_AUTOATTACKED = 256
"""As `EvaluateConfig.batch_size`, and no setting: AutoAttack's draws hang on what is in a batch."""


class Measuring:
    """Looks at the pictures of a plan with one network."""

    def __init__(
        self,
        config: EvaluateConfig,
        context: StageContext,
        plan: Plan,
        network: tuple[nn.Module, ModelCard],
        saved: SavedTables,
    ) -> None:
        self._config, self._context, self._plan = config, context, plan
        self._network, self._card = network
        self._saved = saved
        self._bar = Bar(context)

    def over(self, units: Sequence[Unit]) -> dict[str, Adopted]:
        """The tables of these units, by name. Raises `Stopped` after SIGTERM: whole tables are saved by then."""
        steps = self._config.pgd_steps
        found = self._saved.find([unit.file for unit in units])
        missing = [unit for unit in units if unit.file not in found]
        if found:
            log.info("going on: %d of %d tables are there already", len(found), len(units))
        known = sum(cost(unit, steps) for unit in units if unit.file in found)
        self._bar.begin(known, known + sum(cost(unit, steps) for unit in missing))
        for unit in missing:
            self._bar.at(unit, cost(unit, steps))
            found[unit.file] = self._saved.save(unit.file, self._look(unit))
        self._bar.end()
        return {unit.file: found[unit.file] for unit in units}

    def _look(self, unit: Unit) -> Table:
        """Every picture or clip of a unit."""
        scene, watch = unit.scene, self._bar.watch
        if scene in self._plan.clips:
            return self._looker.sequences(self._plan.clips[scene], unit.numbers, watch)
        samples = self._plan.samples[scene]
        if scene.suite not in ATTACKS:
            return self._looker.predictions(samples, unit.numbers, watch)
        attacker = self._autoattacker if scene.suite == "autoattack" else self._attacker
        return attacker.predictions(samples, unit.numbers, Attack.of(scene, self._config.pgd_steps), watch)

    @cached_property
    def _looker(self) -> Looker:
        compute = self._context.compute
        predictor = fast_predictor(self._network, self._card, choose_device(compute.device), "float32", compute.compile)
        assert_noise_free(predictor)
        return Looker(predictor, self._views(self._config.batch_size), len(self._card.class_names))

    @cached_property
    def _attacker(self) -> Attacker:
        views = self._views(max(1, self._config.batch_size // _GRADIENTS))
        return Attacker(self._plain, views, len(self._card.class_names))

    @cached_property
    def _autoattacker(self) -> Attacker:
        return Attacker(self._plain, self._views(_AUTOATTACKED // _GRADIENTS), len(self._card.class_names))

    @cached_property
    def _plain(self) -> Predictor:
        return Predictor(self._network, self._card, choose_device(self._context.compute.device))

    def _views(self, batch: int) -> Views:
        """`batch`: of pictures up to 128 pixels a side."""
        card = self._card
        return Views(
            card.test_size, card.crop_pct, at_once(batch, card.test_size), self._context.compute.loader_workers
        )


class Bar:
    """How far the work is, counted in predictions of single images, so that the time that is left can be told."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._known = self._done = self._total = 0
        self._unit: Unit | None = None
        self._cost = self._seen = 0
        """Of the unit, and how many of its images were seen."""
        self._began = self._unit_began = time.monotonic()

    def begin(self, known: int, total: int) -> None:
        """`known`: of the `total`, what was there already."""
        self._known = self._done = known
        self._total, self._began = total, time.monotonic()
        self._context.progress(self._done, self._total)

    def at(self, unit: Unit, cost: int) -> None:
        """This unit is next; the one before is done."""
        self._finish()
        self._unit, self._cost, self._seen, self._unit_began = unit, cost, 0, time.monotonic()

    def watch(self, images: int) -> None:
        """So many images or clips more of the unit. Raises `Stopped` after SIGTERM."""
        if self._context.stopping():
            raise Stopped
        assert self._unit is not None
        self._seen += images
        now = self._done + self._cost * self._seen // len(self._unit.numbers)
        spent = time.monotonic()
        rate = self._seen / max(spent - self._unit_began, 1e-9)
        left = (self._total - now) * (spent - self._began) / max(now - self._known, 1)
        things = "sequences" if self._unit.scene.suite in SEQUENCE_SUITES else "images"
        text = f"{told(self._unit.scene)}: {rate:,.0f} {things}/s, {timedelta(seconds=round(left))} left"
        self._context.progress(min(now, self._total - 1), self._total, text)

    def end(self) -> None:
        """Everything is saved."""
        self._finish()
        seconds = time.monotonic() - self._began
        work = f"{self._done - self._known:,}"
        log.info("measured in %.1f s what takes as long as %s predictions of single images", seconds, work)
        self._context.progress(self._total, self._total)

    def _finish(self) -> None:
        self._done += self._cost
        self._cost = 0


def told(scene: Scene) -> str:
    """A scene as a person reads it: `fog 3`, `clean test`, `PGD 8`, `imagenet_c fog 3`."""
    suite, name, level = scene
    strength = "" if level == "0" and suite not in ATTACKS else f" {level}"
    if suite in ATTACKS:
        return {"fgsm": "FGSM", "pgd": "PGD", "autoattack": "AutoAttack"}[suite] + strength
    if suite == "perturbations":
        return f"{name} sequences"
    return f"{name}{strength}" if suite in ("corruptions", name) else f"{suite} {name}{strength}"
