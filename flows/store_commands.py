"""The verbs that look at a store as a whole: `noisy-student lineage` and `noisy-student gc`.

In: words of the command line. Importing this module is cheap: the rest is imported by the run.
"""

import argparse
from pathlib import Path

_LINEAGE = """artifacts and models:
  STAGE/FINGERPRINT    an artifact, such as train-noisy-student/0123456789ab; its first 4 digits do if no other has them
  RUN                  the model that stands at the end of a run; a run id, the beginning of one, or 'latest'
  RUN:teacher          its first teacher
  RUN:student2         the student of its generation 2
  NAME@ALIAS           a registered model of MLflow, such as noisy-student-digits@champion
  NAME/VERSION         the same by its version

images (--keys): one key or sha256 a line, or a CSV or Parquet table with a column `key` or `sha256`; - is standard
input. Told are the datasets that hold them, the models that were trained on them or descend from such, and what to
run again without them."""

_GC = """what stays: the artifacts of all finished runs (or of those that --keep names, or all but those that --drop
names), of runs that MLflow holds for running, those that an alias of a registered model points at, all that these were
made of, the reports on their checkpoints, and whatever was written to within the safety age (--older-than).
Nothing is removed without --yes."""


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds both."""
    raw = argparse.RawDescriptionHelpFormatter
    lineage = verbs.add_parser(
        "lineage",
        help="what an artifact or model was made of, and what was made of it; which models saw given images",
        formatter_class=raw,
        epilog=_LINEAGE,
    )
    lineage.add_argument("subject", nargs="?", metavar="ARTIFACT|MODEL", help="see below; may be left out with --keys")
    lineage.add_argument("--keys", metavar="FILE", help="which models saw these images, and what to run again")
    lineage.set_defaults(verb=_lineage)
    gc = verbs.add_parser(
        "gc",
        help="list the artifacts that no kept run reaches; --yes removes them",
        formatter_class=raw,
        epilog=_GC,
    )
    runs = gc.add_mutually_exclusive_group()
    runs.add_argument("--keep", nargs="+", action="extend", default=[], metavar="RUN", help="drop all but these runs")
    runs.add_argument("--drop", nargs="+", action="extend", default=[], metavar="RUN", help="drop these runs")
    gc.add_argument("--older-than", type=float, default=1.0, metavar="DAYS", help="safety age (default: 1)")
    gc.add_argument("--without-registry", action="store_true", help="do not ask MLflow what it points at")
    gc.add_argument("--yes", action="store_true", help="remove what is listed")
    gc.set_defaults(verb=_gc)
    for verb in (lineage, gc):
        verb.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        add_store(verb)


def add_store(verb: argparse.ArgumentParser) -> None:
    """The option `--store` of every verb that has to do with one."""
    verb.add_argument(
        "--store",
        metavar="URI",
        help="folder or s3://bucket/prefix of the artifacts (default: $NS_STORE, or .noisy-student/store)",
    )


def add_set(verb: argparse.ArgumentParser) -> None:
    """The option `--set` of every verb that takes a recipe."""
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change a field of the recipe; may be given again",
    )


def add_settings(verb: argparse.ArgumentParser) -> None:
    """`--set`, `--seed` and `--store`."""
    add_set(verb)
    verb.add_argument("--seed", type=int, help="seed of the whole experiment")
    add_store(verb)


def home_and_store(options: argparse.Namespace) -> tuple[Path, str]:
    """Where local state lies, and the store that was asked for or is the default."""
    from flows import environment

    home = environment.home()
    return home, options.store or environment.default_store(home)


def _lineage(options: argparse.Namespace) -> int:
    from flows.lineage import show

    home, store = home_and_store(options)
    return show(options.subject or "", options.keys or "", store, home, as_json=options.json)


def _gc(options: argparse.Namespace) -> int:
    from flows.housekeeping import Choice, collect

    home, store = home_and_store(options)
    choice = Choice(
        keep=tuple(options.keep),
        drop=tuple(options.drop),
        days=options.older_than,
        registry=not options.without_registry,
        yes=options.yes,
    )
    return collect(choice, store, home, as_json=options.json)
