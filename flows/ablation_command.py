"""The verb `noisy-student ablate`: its arguments, the run, and the table at the end.

In: words of the command line. Out: progress and a table on standard error, with --json one object on standard output.
Importing this module is cheap: the rest is imported by the run.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from flows.store_commands import add_set, add_store, home_and_store

if TYPE_CHECKING:
    from ns_core.config import Recipe
    from ns_core.evaluation.reports.ablation import Ablation
    from tasks.observe import Listener

EXIT_FAILED = 1


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The verb's parser."""
    verb = verbs.add_parser("ablate", help="compare the arms of a study over several seeds, as the paper's tables do")
    verb.add_argument("study", metavar="STUDY", nargs="?", help="a name from `noisy-student ablate --list`")
    verb.add_argument("--list", action="store_true", help="list the studies and their arms")
    verb.add_argument("--recipe", default="digits", metavar="RECIPE", help="which the arms change (default: digits)")
    verb.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each arm (default: 3)")
    verb.add_argument("--seed", type=int, metavar="SEED", help="the first of them (default: the recipe's)")
    verb.add_argument(
        "--side-by-side", type=int, default=1, metavar="N", help="campaigns at a time on this machine (default: 1)"
    )
    add_set(verb)
    verb.add_argument("--json", action="store_true", help="print one JSON object and nothing else on standard output")
    add_store(verb)
    verb.set_defaults(verb=_ablate)


def _ablate(options: argparse.Namespace) -> int:
    from flows.recipes import recipe
    from flows.studies import STUDIES, study_named
    from ns_core.errors import UserError

    if options.list:
        for study in STUDIES.values():
            sys.stdout.write(f"{study.name}: {study.question}\n")
            sys.stdout.write("".join(f"  {arm.name:16} {arm.words}\n" for arm in study.arms))
        return 0
    if not options.study:
        raise UserError(f"which study? {', '.join(STUDIES)}; `noisy-student ablate --list` tells their arms")
    study = study_named(options.study)
    assignments = [*options.set, *([] if options.seed is None else [f"seed={options.seed}"])]
    base = recipe(options.recipe).override(assignments)
    for arm in study.arms_of(base):
        arm.recipe(base, study.name)
    return _run(options, base)


def _run(options: argparse.Namespace, base: "Recipe") -> int:
    from flows.live import view

    with view(sys.stderr) as listener:
        made = _started(options, base, listener)
    _print(made)
    if options.json:
        sys.stdout.write(made.model_dump_json() + "\n")
    return EXIT_FAILED if made.failed else 0


def _started(options: argparse.Namespace, base: "Recipe", listener: "Listener") -> "Ablation":
    from flows import place
    from flows.start import quiet_console, ready, warnings_to
    from ns_core.evaluation.reports.ablation import Ablation
    from tasks.observe import Watch, watching

    home, store = home_and_store(options)
    named = base.model_copy(update={"name": f"{base.name}-ablation-{options.study}"})
    run = ready(named, store, home, listener)
    from flows.ablation import ablation

    quiet_console()
    with watching(Watch(listener=listener)), warnings_to(listener), place.giving(run):
        made = ablation(options.study, options.seeds, options.side_by_side, base)
    assert isinstance(made, Ablation), "a run of this process raises what goes wrong"
    return made


def _print(made: "Ablation") -> None:
    from rich.console import Console
    from rich.table import Table

    from ns_core.evaluation.reports.ablation import notes, table

    shown = table(made)
    drawn = Table(box=None)
    for column, head in enumerate(shown.heads):
        drawn.add_column(head, justify="left" if column < shown.words else "right")
    for row in shown.rows:
        drawn.add_row(*row)
    console = Console(file=sys.stderr, highlight=False, markup=False)
    console.print(drawn)
    console.print(*notes(made), made.words, f"Report: {made.report}", sep="\n")
