"""The verb `noisy-student audit`: its arguments, the run, and the tables at the end.

In: words of the command line. Out: progress and tables on standard error, with --json one object on standard output.
Importing this module is cheap: the rest is imported by the run.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.store_commands import add_settings, home_and_store
from ns_core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ns_core.audit.audit import Audit
    from ns_core.config import Recipe
    from ns_core.evaluation.reports.page import Table
    from tasks.observe import Listener

FOLDS, MOST_FOLDS, TARGET = 4, 20, 0.95
"""What the command and the form have as defaults, and the most folds that are taken."""
CHOICES = (0, *range(2, MOST_FOLDS + 1))
"""Folds; one alone would leave its teacher without a label."""


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The verb's parser."""
    verb = verbs.add_parser("audit", help="estimate what the pseudo-labels are worth, before a student is trained")
    verb.add_argument("recipe", metavar="RECIPE", help="a name from `noisy-student recipes`")
    verb.add_argument(
        "--folds",
        type=int,
        default=FOLDS,
        metavar="K",
        help=f"parts of the labelled images, each held out of a teacher of its own (default: {FOLDS}); "
        "0: by the holdout alone, without a further teacher",
    )
    verb.add_argument(
        "--target",
        type=float,
        default=TARGET,
        metavar="PRECISION",
        help=f"that a threshold is sought for in each class (default: {TARGET})",
    )
    verb.add_argument("--json", action="store_true", help="print one JSON object and nothing else on standard output")
    add_settings(verb)
    verb.set_defaults(verb=_audit)


def check(folds: object, target: object) -> tuple[int, float]:
    """Both, or a `UserError`: a form of Prefect may send anything."""
    if not isinstance(folds, int) or isinstance(folds, bool) or folds not in CHOICES:
        raise UserError(f"folds: 0 for the holdout alone, or a whole number from 2 to {MOST_FOLDS}, got {folds!r}")
    if not isinstance(target, int | float) or not 0 < target < 1:
        raise UserError(f"target: a precision between 0 and 1, both excluded, such as 0.95; got {target!r}")
    return folds, float(target)


def _audit(options: argparse.Namespace) -> int:
    from flows.live import view
    from flows.recipes import recipe

    wanted = check(options.folds, options.target)
    assignments = [*options.set, *([] if options.seed is None else [f"seed={options.seed}"])]
    chosen = recipe(options.recipe).override(assignments)
    home, store = home_and_store(options)
    with view(sys.stderr) as listener:
        made = start(chosen, wanted, (store, home), listener)
    _print(made)
    if options.json:
        sys.stdout.write(made.model_dump_json() + "\n")
    return 0


def start(recipe: "Recipe", wanted: tuple[int, float], where: tuple[str, Path], listener: "Listener") -> "Audit":
    """`wanted`: folds and target; `where`: store and home. Raises `UserError` or `StageFailed`."""
    from flows.start import quiet_console, ready, warnings_to

    named = recipe.model_copy(update={"name": f"{recipe.name}-audit"})
    run = ready(named, *where, listener)
    from flows import place
    from flows.audit import audit
    from ns_core.audit.audit import Audit
    from tasks.observe import Watch, watching

    quiet_console()
    with watching(Watch(listener=listener)), warnings_to(listener), place.giving(run):
        made = audit(*wanted, recipe)
    assert isinstance(made, Audit), "a run of this process raises what goes wrong"
    return made


def _print(made: "Audit") -> None:
    from rich.console import Console

    from ns_core.audit import page

    console = Console(file=sys.stderr, highlight=False, markup=False)
    console.print(page.title(made))
    for table in (page.sources_table, page.classes_table, page.thresholds_table, page.calibration_table):
        _draw(console, table(made))
    console.print(*page.remarks(made), page.to_select_by_them(made), f"Report: {made.report}", sep="\n")


def _draw(console: "Console", table: "Table") -> None:
    from rich.table import Table as Drawn

    drawn = Drawn(box=None)
    for column, head in enumerate(table.heads):
        drawn.add_column(head, justify="left" if column < table.words else "right")
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)
