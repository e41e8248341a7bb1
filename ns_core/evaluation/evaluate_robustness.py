"""evaluate-robustness: what a checkpoint is worth, clean, corrupted, perturbed and attacked, and the gate.

Out: a Parquet file for each scene and `CHUNK` images (`evaluation.tables`), `report.json` with every figure
(`evaluation.results`, `evaluation.report_file`), `examples.parquet` with thumbnails for galleries. Every figure is
computed from the tables, and can be again, without the network. With an input `baseline` (the teacher's report) the
figures are also given relative to it, and the gate decides on the holdout. The test split is for the report only.

Each table is saved as soon as it is whole, so a worker that comes after a killed one looks at the rest only. Several
workers may share the scenes: each takes a part of the list and commits nothing, and one that comes after them finds
all tables there. A picture of an official set that cannot be read has a row with the reason, and is a gap.
"""

import numpy as np
from pydantic import JsonValue

from ns_core.config import EvaluateConfig
from ns_core.data.dataset import Images
from ns_core.errors import NotFound, StageFailed, UserError
from ns_core.evaluation import sets
from ns_core.evaluation.attacks.autoattack_package import require
from ns_core.evaluation.concluding import Baseline, Conclusion
from ns_core.evaluation.corruptions import corrupt
from ns_core.evaluation.measuring import Measuring
from ns_core.evaluation.plan import HOLDOUT, plan
from ns_core.evaluation.saved_tables import SavedTables
from ns_core.evaluation.tables import Tables
from ns_core.models.checkpoint import load_checkpoint
from ns_core.models.predict import set_threads
from ns_core.stage import StageContext


def run(config: EvaluateConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `checkpoint`; `dataset` unless official sets alone are measured; `baseline` unless this is the first.

    Raises `UserError` when there is nothing to look at, and for a folder that does not hold its official set;
    `StageFailed` for a baseline of another holdout, and for an image of the dataset that cannot be read; `Stopped`
    after SIGTERM. With `context.part` it measures its part of the work and returns nothing.
    """
    try:
        return _evaluated(config, context)
    except NotFound as error:
        raise StageFailed(
            f"{error.args[0]} was cleared by a process that has finished this evaluation: run the same command again"
        ) from error


def _evaluated(config: EvaluateConfig, context: StageContext) -> dict[str, JsonValue]:
    set_threads(context.compute.threads)
    _check_packages(config)
    _check_official(config, context)
    network, card = load_checkpoint(context.inputs["checkpoint"])
    images = Images.open(context) if "dataset" in context.inputs else None
    planned = plan(config, images, card.class_names)
    holdout = planned.samples.get(HOLDOUT)
    baseline = Baseline.of(context, card.class_names, None if holdout is None else holdout.keys)
    units, part = planned.units, context.part
    mine = units[part[0] :: part[1]] if part else units
    saved = Measuring(config, context, planned, (network, card), SavedTables(context)).over(mine)
    if part:
        return {}
    context.adopted.update(saved)
    tables = Tables(saved, lambda name: context.resume.open(saved[name]))
    return Conclusion(config, context, planned, card, baseline).of(tables)


def _check_official(config: EvaluateConfig, context: StageContext) -> None:
    """Raises `UserError` for a folder that holds something else than when its digest was taken: what is seen now would
    be filed under what was there then."""
    for name, folder in config.official.given().items():
        wanted = context.fingerprints.get(f"official.{name}")
        if wanted is not None and sets.digest(name, folder) != wanted:
            raise UserError(
                f"evaluate.official.{name}: {folder} does not hold what it held when this run looked at it first: "
                "start the run again"
            )


def _check_packages(config: EvaluateConfig) -> None:
    """Raises `UserError` for an optional package that is asked for and not there, before anything is looked at."""
    if config.autoattack_eps:
        require()
    if "frost" in config.corruptions and config.frost == "photographs":
        corrupt(np.zeros((32, 32, 3), np.uint8), "frost", 1, np.random.default_rng(0), 32, frost=config.frost)
