"""The command line `noisy-student`: parses, calls, prints. Each verb imports what it needs when it runs.

Exit status: 0 done, 1 a run failed, 2 a person's mistake, 130 Ctrl-C. Results go to standard output,
progress and messages to standard error.
"""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from flows import ablation_command, audit_command, deploy_command, evaluate_command, store_commands
from flows.store_commands import add_settings, add_store, home_and_store

if TYPE_CHECKING:
    from ns_core.config import Recipe

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130

_CHECKPOINTS = """checkpoints:
  RUN                  the model that stands at its end; a run id, the beginning of one, or 'latest'
  RUN:teacher          its first teacher
  RUN:student2         the student of its generation 2, as the gate saw it
  STAGE/FINGERPRINT    an artifact of the store, such as train-noisy-student/0123456789ab
  URI or FOLDER        the same with its root before it, or a folder with model.safetensors and model.json;
                       a folder's name has a slash: ./mine"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb."""
    options = _parser().parse_args(arguments)
    from ns_core.errors import StageFailed, UserError

    try:
        status: int = options.verb(options)
        return status
    except UserError as error:
        print(f"noisy-student: {error}", file=sys.stderr)
        return EXIT_USER
    except StageFailed as error:
        print(f"noisy-student: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:  # a defect of ours or of a server: one line, and the way to the rest
        if os.environ.get("NS_DEBUG"):
            raise
        reason = " ".join(str(error).split()) or "no message"
        print(f"noisy-student: {type(error).__name__}: {reason[:300]} (NS_DEBUG=1 shows where)", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("noisy-student: interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="noisy-student",
        description="Noisy Student self-training: a teacher labels a pool, a larger noised student learns from it.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_run(verbs)
    _add_prepare(verbs)
    _add_plan(verbs)
    recipes = verbs.add_parser("recipes", help="list the recipes")
    recipes.set_defaults(verb=_recipes)
    report = verbs.add_parser("report", help="print the tables of a run")
    report.add_argument("run", metavar="RUN", help="run id, the beginning of one, or 'latest'")
    add_store(report)
    report.set_defaults(verb=_report)
    _add_export(verbs)
    evaluate = evaluate_command.add(verbs, _CHECKPOINTS)
    add_store(evaluate)
    evaluate.set_defaults(verb=_evaluate)
    ablation_command.add(verbs)
    audit_command.add(verbs)
    store_commands.add_verbs(verbs)
    deploy_command.add_verbs(verbs)
    ui = verbs.add_parser("ui", help="start the Prefect and MLflow pages over the local state; Ctrl-C stops both")
    ui.add_argument("--prefect-port", type=int, default=4200, metavar="PORT")
    ui.add_argument("--mlflow-port", type=int, default=5000, metavar="PORT")
    add_store(ui)
    ui.set_defaults(verb=_ui)
    doctor = verbs.add_parser("doctor", help="check store, tracking, device and disk; one line each")
    add_store(doctor)
    doctor.set_defaults(verb=_doctor)
    return parser


def _add_run(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = verbs.add_parser("run", help="run a recipe; what is in the store already is not computed again")
    run.add_argument("recipe", metavar="RECIPE", help="a name from `noisy-student recipes`")
    add_settings(run)
    run.add_argument("--profile", action="store_true", help="training that is computed leaves a trace of some updates")
    run.add_argument("--json", action="store_true", help="print one JSON object and nothing else on standard output")
    run.set_defaults(verb=_run)


def _add_prepare(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    prepare = verbs.add_parser("prepare", help="turn images into shards, as the first stage of a run does")
    prepare.add_argument("recipe", metavar="RECIPE", help="whose `data` section is used, see `noisy-student recipes`")
    add_settings(prepare)
    prepare.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    prepare.set_defaults(verb=_prepare)


def _add_plan(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from flows import plan_command

    plan = plan_command.add(verbs)
    add_settings(plan)
    plan.set_defaults(verb=_plan)


def _add_export(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from ns_core.models.export import FORMATS

    formats = "\n".join(f"  {name:13} {words}" for name, words in FORMATS.items())
    export = verbs.add_parser(
        "export",
        help="write a checkpoint for timm, the Hugging Face Hub, torch.export or ONNX",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{_CHECKPOINTS}\n\nformats:\n{formats}",
    )
    export.add_argument("checkpoint", metavar="CHECKPOINT", help="a run, an artifact or a folder, see below")
    export.add_argument("--format", required=True, metavar="FORMAT", help=", ".join(FORMATS))
    export.add_argument("--output", metavar="DIR", help="new or empty folder (default: {checkpoint}-{format}, here)")
    add_store(export)
    export.set_defaults(verb=_export)


def _chosen(options: argparse.Namespace) -> "Recipe":
    from flows.recipes import recipe

    assignments = [*options.set, *([] if options.seed is None else [f"seed={options.seed}"])]
    if getattr(options, "profile", False):
        assignments.append("compute.profile=true")
    return recipe(options.recipe).override(assignments)


def _run(options: argparse.Namespace) -> int:
    from flows.live import view
    from flows.run_summary import print_summary
    from flows.start import start

    chosen = _chosen(options)
    home, store = home_and_store(options)
    with view(sys.stderr) as listener:
        result = start(chosen, store, home, listener)
    document = result.document()
    print_summary(document, sys.stderr)
    if options.json:
        print(json.dumps(document))
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from flows.live import view
    from flows.start import prepare

    chosen = _chosen(options)
    home, store = home_and_store(options)
    with view(sys.stderr) as listener:
        document = prepare(chosen, store, home, listener)
    if options.json:
        print(json.dumps(document))
    else:
        counts = document["result"]
        print(
            f"{counts['labeled']} labelled, {counts['pool']} unlabelled, {counts['holdout']} holdout and "
            f"{counts['test']} test images of {counts['classes']} classes; {counts['corrupt']} corrupt, "
            f"{counts['leaks']} leaks dropped ({counts['near_leaks']} of them near-duplicates); "
            f"{counts['pool_look_alikes']} look-alikes in the pool\n{document['uri']} ({document['state']})"
        )
    return 0


def _plan(options: argparse.Namespace) -> int:
    from flows import plan_command

    return plan_command.run(options, _chosen(options))


def _recipes(options: argparse.Namespace) -> int:
    from flows.recipes import RECIPES

    width = max(map(len, RECIPES))
    for name, make in RECIPES.items():
        print(f"{name:{width}}  {make().description}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from ns_core.evaluation.reports.report import RunPaths, find_run
    from ns_core.storage import open_storage

    _, store = home_and_store(options)
    storage = open_storage(store)
    paths = RunPaths(find_run(storage, options.run))
    print(storage.read(paths.markdown).decode())
    print(f"{storage.uri}/{paths.html}", file=sys.stderr)
    return 0


def _export(options: argparse.Namespace) -> int:
    from flows.export import export

    _, store = home_and_store(options)
    print(export(options.checkpoint, options.format, options.output, store))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    home, store = home_and_store(options)
    return evaluate_command.run(options, store, home)


def _ui(options: argparse.Namespace) -> int:
    from flows.ui import serve

    home, store = home_and_store(options)
    return serve(home, store, options.prefect_port, options.mlflow_port)


def _doctor(options: argparse.Namespace) -> int:
    from flows import environment
    from flows.doctor import diagnose, show

    home, store = home_and_store(options)
    return show(diagnose(home, store, environment.default_tracking(home)))


if __name__ == "__main__":
    sys.exit(main())
