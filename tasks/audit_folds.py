"""A dataset without a fold of its labelled images (`ns_core.audit.folds`): an artifact of the store, made right here.

It takes a second or two: an index is written, and no image is touched.
"""

import tempfile
import time
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from ns_core.artifacts import Dataset, Paths, commit, load, materialize, new_attempt, timed_record
from ns_core.audit.folds import WHOLE, FoldConfig, write_fold
from ns_core.fingerprint import stage_fingerprint
from ns_core.localize import localize
from ns_core.provenance import collect
from ns_core.stage import cache_folder
from ns_core.storage import Storage, open_storage
from tasks.run import Run


@task(name="hold-out-fold", task_run_name="hold-out-fold-{config.fold}", cache_policy=NO_CACHE)
def hold_out_fold(run: Run, dataset: Dataset, config: FoldConfig) -> Dataset:
    """The dataset whose pool is the fold. Raises `UserError` where the labelled images are too few."""
    storage, inputs = open_storage(run.store), {"dataset": dataset.fingerprint}
    paths = Paths(Dataset.stage, stage_fingerprint(config, inputs))
    record, _ = materialize(storage, paths, lambda: _make(storage, paths, dataset, config))
    return Dataset.of(record)


def in_folds(run: Run, dataset: Dataset) -> Run:
    """The run as stages on a fold need it: they find the whole dataset's shards."""
    storage = open_storage(run.store)
    record = load(storage, dataset.paths)
    assert record is not None, f"{dataset.paths.folder} was in the store a moment ago"
    return run.model_copy(update={"places": {**run.places, WHOLE: f"{storage.uri}/{record.prefix}"}})


def _make(storage: Storage, paths: Paths, dataset: Dataset, config: FoldConfig) -> None:
    started, source = time.monotonic(), load(storage, dataset.paths)
    assert source is not None, f"{dataset.paths.folder} was in the store a moment ago"
    with tempfile.TemporaryDirectory(prefix="ns-fold-") as name:
        counts = write_fold(localize(storage, source, cache_folder()), Path(name), config)
        document = {
            "type": Dataset.model_fields["type"].default,
            "stage": paths.stage,
            "version": config.VERSION,
            "fingerprint": paths.fingerprint,
            "attempt": new_attempt(),
            "science": config.science(),
            "inputs": {"dataset": dataset.fingerprint},
            "result": {**dataset.result, **counts},
            "provenance": collect(),
        }
        commit(storage, timed_record(document, started), Path(name))
