"""The verb `plan`: what a recipe will take, on this machine or on devices of a cluster.

In: the arguments. Out: text or one JSON object. Nothing of the recipe is started and nothing is left but a profile that
was asked for. The rest of `flows.plan` is imported when the verb runs.
"""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ns_core.config import Recipe
    from ns_core.planning.kept import Kept
    from ns_core.planning.profile import Profile
    from ns_core.planning.timing import Target

_EPILOG = """what is measured:
  without --device-type and --profile some stages run for seconds on a sample of your images, on this machine.
  --write-profile FILE keeps what came out, --profile FILE takes it again: on the machine where it was measured.
  --device-type NAME is arithmetic alone, by operations and data sheets; with --profile the counts are measured ones."""


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """The verb with its own options; those that all verbs have are the caller's to add."""
    plan = verbs.add_parser(
        "plan",
        help="what a recipe takes: hours, memory, storage, cost, selected images; starts nothing",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    plan.add_argument("recipe", metavar="RECIPE", help="a name from `noisy-student recipes`")
    plan.add_argument("--classes", type=int, metavar="N", help="of your own images (default: 1000)")
    plan.add_argument("--pool-images", type=int, metavar="N", help="images without labels that there will be")
    plan.add_argument("--sample", type=float, metavar="FRACTION", help="of the pool that is looked at, 0 to 1")
    # Not `profile`, by which `run` asks for a trace.
    plan.add_argument("--profile", dest="measured", metavar="FILE", help="measured before, by --write-profile")
    plan.add_argument("--write-profile", metavar="FILE", help="keep what was measured")
    plan.add_argument("--no-measure", action="store_true", help="nothing is timed: all figures are assumed")
    plan.add_argument("--device-type", metavar="NAME", help="of a cluster, such as h100 or tpu-v3")
    plan.add_argument("--devices", type=int, metavar="N", help="how many of them (default: 1)")
    plan.add_argument("--prices", metavar="FILE", help="JSON: currency, device_hours by type, gigabyte_month")
    plan.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return plan


def run(options: argparse.Namespace, recipe: "Recipe") -> int:
    """Prints the plan of a recipe. Raises `UserError` for options that contradict each other."""
    from flows.plan import ASSUMED_CLASSES, classes_of, plan
    from flows.plan_view import show_estimate, show_memory
    from ns_core.planning.estimate import Question, estimate
    from ns_core.planning.prices import read_prices

    _check(options, recipe)
    target, prices = _target(options), read_prices(options.prices)
    known = classes_of(recipe.data) or ASSUMED_CLASSES
    classes = known if options.classes is None else options.classes
    memory = plan(recipe, classes, target)
    profile = _profile(options, recipe, classes)
    if options.write_profile:
        profile.write(options.write_profile)
    known_already = _kept(options, recipe)
    profile = profile.model_copy(
        update={
            "seen": profile.seen or known_already.seen,
            "eligible": known_already.eligible or profile.eligible,
        }
    )
    if profile.seen is not None and options.classes is None:
        classes = profile.seen.classes
    found = estimate(Question(recipe, profile, classes, target, prices, options.pool_images))
    if options.json:
        document: dict[str, Any] = memory.document() | {"estimate": found.document()}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write(f"{show_memory(memory)}\n\n{show_estimate(found)}\n")
    return 0


def _check(options: argparse.Namespace, recipe: "Recipe") -> None:
    from flows.plan import reachable
    from ns_core.errors import UserError

    if options.devices is not None and (options.device_type is None or options.devices < 1):
        raise UserError(f"--devices {options.devices}: give at least 1, with --device-type")
    if options.sample is not None and not 0 < options.sample <= 1:
        raise UserError(f"--sample {options.sample:g}: give a share of the pool, above 0 and up to 1")
    told = {"--profile": options.measured, "--device-type": options.device_type, "--no-measure": options.no_measure}
    given = [name for name, value in told.items() if value]
    asked = {"--sample": options.sample, "--write-profile": options.write_profile}
    for name, value in asked.items():
        if value is not None and given:
            raise UserError(f"{name}: with {given[0]} nothing is measured; leave one of both out")
        if value is not None and not reachable(recipe.data):
            raise UserError(f"{name}: nothing can be measured: set data.labeled and data.unlabeled to your images")
    if options.measured and options.no_measure:
        raise UserError("--no-measure: with --profile nothing is measured anyway; leave one of both out")


def _target(options: argparse.Namespace) -> "Target":
    from ns_core.planning.devices import device_of
    from ns_core.planning.timing import Target

    if options.device_type is None:
        return Target(None, len(os.sched_getaffinity(0)))
    return Target(device_of(options.device_type), options.devices or 1)


def _kept(options: argparse.Namespace, recipe: "Recipe") -> "Kept":
    from flows.plan import reachable
    from flows.store_commands import home_and_store
    from ns_core.planning.kept import Kept, kept

    return kept(recipe, home_and_store(options)[1]) if reachable(recipe.data) else Kept()


def _profile(options: argparse.Namespace, recipe: "Recipe", classes: int) -> "Profile":
    """What was measured, now or before; always with the operations of all networks."""
    from flows.plan import measure, reachable
    from ns_core.errors import UserError
    from ns_core.planning.profile import Profile

    if options.measured:
        kept = Profile.read(options.measured)
        if kept.recipe != recipe.name:
            raise UserError(f"--profile {options.measured}: measured for recipe '{kept.recipe}', not '{recipe.name}'")
        counted = measure(recipe, classes, timed=False)
        return kept.model_copy(update={"flops": counted.flops, "parameters": counted.parameters})
    timed = not options.no_measure and options.device_type is None
    if timed and not reachable(recipe.data):
        return measure(recipe, classes, timed=False).model_copy(
            update={"unmeasured": ("The recipe does not say where its images are: times of this machine",)}
        )
    if timed:
        sys.stderr.write("measuring on this machine: a minute or two\n")
    return measure(recipe, classes, timed, options.sample)
