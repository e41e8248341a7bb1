"""filter-and-balance: pseudo-labels -> selection, with a reason for every image left out.

Files, rows in the order of the dataset's index:

    selection.parquet   one row a kept image: key, shard, offset, size, sha256, top1, confidence (the one gone by),
                        margin, the soft label as the labels have it (`data.pseudo_labels.SOFT`), copies
    dropped.parquet     key, sha256, top1, confidence, reason: below_threshold, class_full, duplicate, corrupt, leak;
                        with `max_confidence` too_confident, with `pool_fraction` not_sampled.
                        An image that could not be read when it was labelled has neither class nor confidence; those
                        that prepare-dataset left out, corrupt or as leaks, come last and have a key alone
    classes.parquet     what was made of each class (`selection.totals`); with `target_precision` also its threshold

Images are not copied: the selection is a manifest over the dataset's immutable shards. With `materialize` they are,
and it is one over `selected/selected-000000.tar` and those after it (`selection.own_shards`).

Labels are read twice, a shard at a time: to be checked, and to be written once the choice is made. Memory holds a few
shards and what `compute.memory_gigabytes` allows the choice (`selection.engine`); with `materialize` also the places
and keys of all selected images, some 60 bytes each.
"""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue

from ns_core.config import SelectConfig
from ns_core.data.index import DUPLICATES_FILE, DatasetIndex
from ns_core.errors import UserError
from ns_core.selection import manifest
from ns_core.selection.duplicates import Twins
from ns_core.selection.engine import NOT_SAMPLED, TOO_CONFIDENT, Limits, Rule, select
from ns_core.selection.own_shards import write_shards
from ns_core.selection.tables import LabelTables
from ns_core.selection.totals import Totals
from ns_core.stage import StageContext, log

_NAMED = 10
"""Classes in a warning."""


def run(config: SelectConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `pseudo_labels`.

    Raises `StageFailed` when the labels are not those of the pool, `UserError` when they know other classes, when
    nothing is kept or the wanted precision is shown in no class, `Stopped` after SIGTERM.
    """
    totals = Totals(DatasetIndex.load(context.inputs["dataset"]).class_names, _reasons(config))
    with TemporaryDirectory(prefix="ns-select-") as scratch:
        tables = LabelTables(config, context, totals.classes, Path(scratch))
        phases = _Phases(context, tables.images, 3 if config.materialize else 2)
        tables.check(phases.next("checking the labels", tables.images))
        twins, limits = _twins(config, context.inputs["dataset"]), _limits(context, Path(scratch))
        totals.thresholds = _by_class(config, context, totals.classes)
        with select(tables.ruled, _rule(config, totals.thresholds), twins, limits) as selection:
            if not selection.classes.kept.any():
                raise _nothing_kept(config, tables)
            layout = None
            if config.materialize:
                images = manifest.kept_images(tables, selection)
                layout = write_shards(config, context, images, phases.next("copying images", len(images.sizes)))
            tell = phases.next("writing the selection", tables.images)
            manifest.write(tables, selection, layout, context.output, totals, tell)
            totals.check(selection.classes, tables.images)
    _warn(totals, config)
    return totals.document()


class _Phases:
    """Progress over parts of the work that are taken for equally long."""

    def __init__(self, context: StageContext, images: int, phases: int) -> None:
        self._context, self._images, self._phases, self._begun = context, images, phases, 0

    def next(self, text: str, units: int) -> Callable[[int], None]:
        """Begins a phase of so many units; tells how many are done."""
        before, total = self._begun * self._images, self._phases * self._images
        self._begun += 1
        return lambda done: self._context.progress(before + done * self._images // units, total, text)


def _by_class(config: SelectConfig, context: StageContext, classes: int) -> NDArray[np.float32] | None:
    if not config.target_precision:
        return None
    from ns_core.selection.class_thresholds import class_thresholds  # scipy.stats, which takes half a second

    return class_thresholds(config, context, classes)


def _rule(config: SelectConfig, by_class: NDArray[np.float32] | None) -> Rule:
    return Rule(
        config.threshold,
        config.per_class,
        config.max_copies,
        config.seed,
        config.rule == "official",
        config.max_confidence,
        config.pool_fraction,
        config.pool_seed,
        by_class,
    )


def _reasons(config: SelectConfig) -> list[int]:
    """Outcomes that only these settings have."""
    band, share = config.max_confidence < 1, config.pool_fraction < 1
    return [outcome for outcome, has in ((TOO_CONFIDENT, band), (NOT_SAMPLED, share)) if has]


def _limits(context: StageContext, scratch: Path) -> Limits:
    threads = context.compute.threads or os.cpu_count() or 1
    return Limits(int(context.compute.memory_gigabytes * 2**30), threads, scratch)


def _twins(config: SelectConfig, dataset: Path) -> Twins:
    if config.duplicates != "near":
        return "bytes" if config.duplicates == "bytes" else None
    look_alikes = dataset / DUPLICATES_FILE
    if not pq.read_metadata(look_alikes).num_rows:
        log.warning(
            "select.duplicates=near: the dataset lists no look-alikes in its pool (among more than 20 million images "
            "they are not looked for), so only images with equal bytes are grouped"
        )
    return look_alikes


def _nothing_kept(config: SelectConfig, tables: LabelTables) -> UserError:
    if config.target_precision:
        return UserError(
            f"select.target_precision={config.target_precision:g} keeps none of the {tables.images} pseudo-labels: "
            "none is as confident as the holdout's images have to be for it; lower the target or train the teacher more"
        )
    if _reasons(config):
        return UserError(
            f"select.threshold={config.threshold}, max_confidence={config.max_confidence:g} and pool_fraction="
            f"{config.pool_fraction:g} keep none of the {tables.images} pseudo-labels: widen the band or the share"
        )
    return UserError(
        f"select.threshold={config.threshold} keeps none of the {tables.images} pseudo-labels: the teacher's highest "
        f"confidence is {tables.highest():.3f}; lower the threshold or train the teacher longer"
    )


def _warn(totals: Totals, config: SelectConfig) -> None:
    if config.target_precision and (not_shown := totals.not_shown()):
        log.warning(
            "select.target_precision=%g (%s) is shown for no confidence in %d of %d classes (%s%s), by the holdout",
            *(config.target_precision, config.target_rule, len(not_shown), totals.classes),
            *(", ".join(not_shown[:_NAMED]), ", ..." if len(not_shown) > _NAMED else ""),
        )
    for happened, names in totals.unseen().items():
        if names:
            log.warning(
                "%s %d of %d classes (%s%s): the student sees no pseudo-labelled image of them",
                happened,
                *(len(names), totals.classes, ", ".join(names[:_NAMED]), ", ..." if len(names) > _NAMED else ""),
            )
