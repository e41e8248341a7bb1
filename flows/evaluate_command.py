"""The verb `noisy-student evaluate`: its arguments, the run, and the table at the end.

In: words of the command line. Out: progress and a table on standard error, with --json one object on standard output.
What can be wrong is found before Prefect starts. Importing this module is cheap: the rest is imported by the run.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.evaluate import Evaluation
    from flows.subject import Subject
    from ns_core.config import EvaluateConfig, Recipe
    from ns_core.storage import Storage
    from tasks.run import Run

SUITES = {
    "clean": "accuracy and calibration on the images as they are; always measured where there are images",
    "corruptions": "15 kinds at 5 severities, made on the fly",
    "perturbations": "10 kinds of sequences, made on the fly",
    "fgsm": "one gradient step",
    "pgd": "ten gradient steps",
    "autoattack": "AutoAttack's standard set; minutes for a hundred images, not measured unless asked for",
    "official": "all sets that --official gives",
}
"""Name -> what it is, in a line."""
USUAL = frozenset(SUITES) - {"autoattack"}
BUDGETS = ("max_images", "max_sequences", "max_attacked", "max_official")
"""Fields of `EvaluateConfig` that --samples lowers; 0 is no limit."""
SETS = ("a", "r", "o", "v2", "sketch", "c", "p")

_MORE = """  timm:NAME            timm's network, with --weights FILE or --pretrained

images: those the checkpoint was trained and tested on, or --images FOLDER with a folder for each class.
Without either, official sets alone are measured.

official sets: {sets},
cifar10_c, cifar10_p
  --official imagenet_a=/data/imagenet-a imagenet_c=/data/imagenet-c

suites:
{suites}"""


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", checkpoints: str) -> argparse.ArgumentParser:
    """The verb's parser, but for `--store`. `checkpoints`: what a checkpoint's words may be, for the help."""
    suites = "\n".join(f"  {name:14} {words}" for name, words in SUITES.items())
    sets = ", ".join(f"imagenet_{name}" for name in SETS)
    verb = verbs.add_parser(
        "evaluate",
        help="measure how robust a checkpoint is, one of a run or any of timm's",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{checkpoints}\n{_MORE.format(sets=sets, suites=suites)}",
    )
    verb.add_argument("checkpoint", metavar="CHECKPOINT", help="a run, an artifact, a folder or timm:NAME, see below")
    verb.add_argument(
        "--suite",
        nargs="+",
        action="extend",
        metavar="NAME",
        help=f"{', '.join(SUITES)} (default: all but autoattack)",
    )
    verb.add_argument(
        "--official",
        nargs="+",
        action="extend",
        default=[],
        metavar="SET=FOLDER",
        help="an official set's own files, see below",
    )
    verb.add_argument(
        "--images", metavar="FOLDER", help="class folders to measure on, such as ImageNet's validation set"
    )
    weights = verb.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights", default="", metavar="FILE", help="of timm:NAME: a .safetensors, .pth or .bin file"
    )
    weights.add_argument("--pretrained", action="store_true", help="download timm's own weights of timm:NAME")
    verb.add_argument(
        "--classes", default="", metavar="FILE", help="of timm:NAME: class names, one a line (default: ImageNet's)"
    )
    verb.add_argument("--against", default="", metavar="CHECKPOINT", help="compare with this one, image by image")
    verb.add_argument("--samples", type=int, metavar="N", help="look at N images of each suite at most")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the recipe's `evaluate`; compute.FIELD; data.FIELD for shards that lie elsewhere",
    )
    verb.add_argument("--recipe", metavar="RECIPE", help="whose settings are taken (default: the paper's)")
    verb.add_argument("--json", action="store_true", help="print one JSON object and nothing else on standard output")
    return verb


def run(options: argparse.Namespace, store: str, home: Path) -> int:
    """Evaluates and prints. Raises `UserError` or `StageFailed`."""
    from flows.evaluation_table import print_evaluation
    from flows.live import view
    from flows.official import check_official
    from flows.start import ready
    from flows.subject import find_baseline, find_subject
    from ns_core.storage import open_storage

    recipe, storage = _recipe(options), open_storage(store)
    subject = find_subject(options.checkpoint, storage, options.weights, options.pretrained, options.classes)
    if options.against:
        find_baseline(options.against, storage)
    config = _measured(recipe.evaluate, subject, options.suite)
    check_official(config)
    with view(sys.stderr) as listener:
        named = recipe.model_copy(update={"name": f"evaluate-{subject.name}"})
        made = _flow(ready(named, store, home, listener), config, options, listener)
    document = _document(made, open_storage(store))
    print_evaluation(document, sys.stderr)
    if options.json:
        sys.stdout.write(json.dumps(document) + "\n")
    return 0


def _flow(run: "Run", config: "EvaluateConfig", options: argparse.Namespace, listener: Any) -> "Evaluation":
    from flows import place
    from flows.evaluate import Evaluation, evaluate
    from flows.start import quiet_console, warnings_to
    from tasks.observe import Watch, watching

    quiet_console()
    with watching(Watch(listener=listener)), warnings_to(listener), place.giving(run):
        made = evaluate(
            options.checkpoint, options.against, options.weights, options.pretrained, options.classes, config
        )
    assert isinstance(made, Evaluation), "an evaluation of this process raises what goes wrong"
    return made


def _recipe(options: argparse.Namespace) -> "Recipe":
    """A recipe whose `evaluate` is what the options say, and whose data needs no folders but those of shards that are
    read where they lie."""
    from flows.recipes import recipe
    from ns_core.config import DataConfig, OfficialSets, Recipe
    from ns_core.errors import UserError

    chosen = recipe(options.recipe) if options.recipe else Recipe()
    own = [one if one.startswith(("compute.", "data.")) else f"evaluate.{one}" for one in options.set]
    official = OfficialSets.model_fields
    for assignment in options.official:
        name, equals, folder = assignment.partition("=")
        name = name.strip().lower().replace("-", "_")
        if not equals or not folder.strip():
            raise UserError(f"--official {assignment}: write it as SET=FOLDER, such as imagenet_a=/data/imagenet-a")
        if name not in official or name == "images":
            raise UserError(_no_set(name, [one for one in official if one != "images"]))
        own.append(f"evaluate.official.{name}={_absolute(folder.strip())}")
    if options.images:
        own.append(f"evaluate.official.images={_absolute(options.images)}")
    chosen = chosen.override(own)
    if chosen.data.source != "webdataset":
        chosen = chosen.model_copy(update={"data": DataConfig()})
    if options.samples is None:
        return chosen
    return chosen.override(_budgets(chosen.evaluate, options.samples))


def _budgets(config: "EvaluateConfig", samples: int) -> list[str]:
    from ns_core.errors import UserError

    if samples < 10:
        raise UserError(f"--samples {samples}: at least 10, or no interval means anything")
    budgets = {name: getattr(config, name) or samples for name in BUDGETS}
    return [f"evaluate.{name}={min(samples, most)}" for name, most in budgets.items()]


def _no_set(name: str, known: list[str]) -> str:
    from ns_core.errors import nearest

    if name == "images":
        return "--official images: images of your own are given by --images FOLDER"
    return f"--official: no set '{name}'{nearest(name, known)}: choose of {', '.join(known)}"


def _absolute(folder: str) -> Path:
    return Path(folder).expanduser().absolute()


def _measured(config: "EvaluateConfig", subject: "Subject", suites: list[str] | None) -> "EvaluateConfig":
    """The settings with the suites that are chosen. Raises `UserError` for one that cannot be measured."""
    from flows.subject import FIELDS, measurable, only
    from ns_core.errors import UserError, nearest
    from ns_core.evaluation.attacks import autoattack_package

    if suites is not None:
        for name in suites:
            if name not in SUITES:
                raise UserError(f"--suite: no suite '{name}'{nearest(name, SUITES)}: choose of {', '.join(SUITES)}")
        config = only(config, frozenset(suites))
        if "official" in suites and config.official.model_copy(update={"images": ""}).given() == {}:
            raise UserError("--suite official: no set is given; add --official SET=FOLDER")
    left = measurable(config, subject)
    for name in suites or ():
        if name in (*FIELDS, "clean") and left is not config:
            raise UserError(f"--suite {name}: there are no images ({subject.without}): give --images FOLDER")
    if left.autoattack_eps:
        autoattack_package.require()
    return left


def _document(made: "Evaluation", storage: "Storage") -> dict[str, Any]:
    """What `--json` prints."""
    from ns_core.artifacts import load
    from ns_core.evaluation.report_file import REPORT, read_report
    from ns_core.evaluation.reports.report import RunPaths

    record = load(storage, made.report.paths)
    assert record is not None, f"{made.report.paths.folder} was in the store a moment ago"
    held = read_report(storage.read(f"{record.prefix}/{REPORT}"))
    page = RunPaths(made.run_id).robustness(made.generation)
    return {
        "run_id": made.run_id,
        "checkpoint": made.checkpoint,
        "model": made.model,
        "store": storage.uri,
        "fingerprint": made.report.fingerprint,
        "baseline": made.baseline.fingerprint if made.baseline else None,
        "stages": [stage.model_dump(mode="json") for stage in made.stages],
        "gate": held.gate,
        "report": held.report.model_dump(mode="json"),
        "page": f"{storage.uri}/{page}" if storage.size(page) is not None else None,
    }
