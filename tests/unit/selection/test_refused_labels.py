"""What filter-and-balance refuses, in one line each: labels that are not the pool's, and settings that keep nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from ns_core.config import Recipe, SelectConfig
from ns_core.data.index import SplitIndex
from ns_core.data.pseudo_labels import TEACHER
from ns_core.errors import StageFailed, UserError
from ns_core.selection import filter_and_balance
from tests.factories import hashed_probabilities, label_folder, stage_context
from tests.pool_tables import change_labels

CLASSES = 4
CONFIG = SelectConfig(threshold=0.6, per_class=12, max_copies=3, seed=1)


def _select(tmp_path: Path, dataset: Path, labels: Path, config: SelectConfig = CONFIG) -> dict[str, Any]:
    return filter_and_balance.run(config, stage_context(tmp_path, {"dataset": dataset, "pseudo_labels": labels}))


def _set(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    place = table.schema.get_field_index(column)
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


CHANGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "missing": lambda table: table.slice(1),
    "extra": lambda table: pa.concat_tables([table, _set(table.slice(0, 1), "key", 0, "image-9999")]),
    "other": lambda table: _set(table, "key", 4, "image-9999"),
    "twice": lambda table: pa.concat_tables([table, table.slice(3, 1)]),
    "instead": lambda table: pa.concat_tables([table.slice(1), table.slice(3, 1)]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_labels_of_other_images_than_the_pools_are_refused(
    dataset: Path, labels: Path, tmp_path: Path, change: str
) -> None:
    file = change_labels(labels, 2, CHANGES[change])
    with pytest.raises(StageFailed, match=f"does not label exactly the 120 images of the pool: {file.name}"):
        _select(tmp_path, dataset, labels)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_label_files_of_other_shards_than_the_pools_are_refused(
    dataset: Path, labels: Path, tmp_path: Path, change: str
) -> None:
    file = sorted(labels.iterdir())[2]
    other = file.with_name("labels-pool-000777.parquet")
    if change == "missing":
        file.rename(other)
    else:
        shutil.copy(file, other)
    named = file.name if change == "missing" else other.name
    with pytest.raises(StageFailed, match=f"does not label exactly the 120 images of the pool: {named}"):
        _select(tmp_path, dataset, labels)


def test_labels_of_other_bytes_under_a_known_key_are_refused(dataset: Path, labels: Path, tmp_path: Path) -> None:
    change_labels(labels, 1, lambda table: _set(table, "sha256", 5, "0" * 64))
    with pytest.raises(StageFailed, match=r"labels other bytes than the pool holds: labels-pool-000001\.parquet"):
        _select(tmp_path, dataset, labels)


@pytest.mark.parametrize("top_k", [0, 2])
def test_labels_of_another_class_list_are_refused(dataset: Path, pool: SplitIndex, tmp_path: Path, top_k: int) -> None:
    """A teacher of more classes than the dataset has, whole labels or the best two of them."""
    labels = label_folder(tmp_path / "labels", dataset, hashed_probabilities(pool.keys, CLASSES + 2), top_k=top_k)
    with pytest.raises(UserError, match=r"knows other classes than the dataset: .*, and the dataset has 4") as caught:
        _select(tmp_path, dataset, labels)
    assert "\n" not in str(caught.value)


def test_whole_labels_of_fewer_classes_are_refused(dataset: Path, pool: SplitIndex, tmp_path: Path) -> None:
    labels = label_folder(tmp_path / "labels", dataset, hashed_probabilities(pool.keys, CLASSES - 1))
    with pytest.raises(UserError, match="knows other classes than the dataset: 3, and the dataset has 4"):
        _select(tmp_path, dataset, labels)


def test_a_threshold_that_keeps_nothing_is_told_with_the_highest_confidence(
    dataset: Path, labels: Path, probabilities: NDArray[np.float32], tmp_path: Path
) -> None:
    highest = probabilities.max()
    config = SelectConfig(threshold=float(np.nextafter(highest, np.float32(1))))
    with pytest.raises(UserError) as caught:
        _select(tmp_path, dataset, labels, config)
    assert f"select.threshold={config.threshold} keeps none of the 120 pseudo-labels" in str(caught.value)
    assert f"highest confidence is {highest:.3f}" in str(caught.value)
    assert "\n" not in str(caught.value)
    at_highest = SelectConfig(threshold=float(highest), per_class=5, max_copies=1)
    assert _select(tmp_path, dataset, labels, at_highest)["kept"] == 1


@pytest.mark.parametrize("mistake", ["threshold=1.5", "threshold=-0.1", "per_class=0", "max_copies=0"])
def test_a_setting_out_of_range_is_told_in_one_line(mistake: str) -> None:
    with pytest.raises(UserError) as caught:
        Recipe().override([f"select.{mistake}"])
    assert "\n" not in str(caught.value)
    assert f"select.{mistake.partition('=')[0]}" in str(caught.value)


def test_a_table_of_another_teachers_labels_is_refused(dataset: Path, labels: Path, tmp_path: Path) -> None:
    """Each file names its teacher; one that a person copied from another run's labels is found out."""
    mine, other = "a" * 64, "b" * 64

    def signed(teacher: str) -> Callable[[pa.Table], pa.Table]:
        return lambda table: table.replace_schema_metadata({TEACHER: teacher})

    for number in range(len(list(labels.iterdir()))):
        change_labels(labels, number, signed(mine))
    context = stage_context(tmp_path, {"dataset": dataset, "pseudo_labels": labels})
    context.fingerprints = {"pseudo_labels/teacher": mine}
    assert filter_and_balance.run(CONFIG, context)["kept"]
    file = change_labels(labels, 2, signed(other))
    context = stage_context(tmp_path, {"dataset": dataset, "pseudo_labels": labels})
    context.fingerprints = {"pseudo_labels/teacher": mine}
    with pytest.raises(StageFailed, match=f"{file.name} holds labels of the teacher bbbbbbbbbbbb, .* of aaaaaaaaaaaa"):
        filter_and_balance.run(CONFIG, context)
