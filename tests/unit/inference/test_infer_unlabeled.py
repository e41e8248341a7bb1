"""Labelling shard by shard, of shards that are ours and of a person's own."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ns_core.config import InferConfig
from ns_core.data.index import CLASSES, INDEX, SCHEMA, DatasetIndex
from ns_core.data.pseudo_labels import label_file
from ns_core.errors import StageFailed
from ns_core.inference import infer_unlabeled
from ns_core.models.checkpoint import ModelCard, save_checkpoint
from ns_core.models.factory import create_network
from tests.factories import TINY_MODEL, training_context


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    card = ModelCard(model=TINY_MODEL, class_names=tuple("0123456789"), train_size=32, test_size=32, crop_pct=1)
    save_checkpoint(folder, create_network(TINY_MODEL, 10), card)
    return folder


@pytest.fixture(scope="module")
def own(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The digits as if their pool were indexed where it lies: a dataset, and the folder of shards, all `000.tar`."""
    dataset, root = tmp_path_factory.mktemp("dataset"), tmp_path_factory.mktemp("own")
    shutil.copy(digits_folder / CLASSES, dataset)
    rows = pq.read_table(digits_folder / INDEX).to_pylist()
    for row in rows:
        if row["split"] == "pool":
            path = root / row["shard"].removesuffix(".tar") / "000.tar"
            if not path.exists():
                path.parent.mkdir()
                shutil.copy(digits_folder / row["shard"], path)
            row["shard"] = f"unlabeled/{path.relative_to(root)}"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), dataset / INDEX)
    return dataset, root


def _labels(folder: Path) -> list[dict[str, object]]:
    rows = [row for file in folder.glob("labels-*.parquet") for row in pq.read_table(file).to_pylist()]
    return sorted(rows, key=lambda row: str(row["key"]))


def test_every_image_of_the_pool_is_labelled_once_with_its_hash(
    digits_folder: Path, teacher: Path, tmp_path: Path
) -> None:
    context = training_context(tmp_path, dataset=digits_folder, teacher=teacher)
    result = infer_unlabeled.run(InferConfig(batch_size=64), context)
    pool = DatasetIndex.load(digits_folder).split("pool")
    labels = _labels(context.output)
    expected = dict(zip(pool.keys.tolist(), pool.sha256.tolist(), strict=True))
    assert {row["key"]: row["sha256"] for row in labels} == expected
    assert len(labels) == result["images"] == len(pool)
    assert {file.name for file in context.output.iterdir()} == {label_file(shard) for shard in pool.shard_names}


def test_shards_of_a_persons_own_give_the_labels_of_their_images(
    digits_folder: Path, teacher: Path, own: tuple[Path, Path], tmp_path: Path
) -> None:
    ours = training_context(tmp_path / "ours", dataset=digits_folder, teacher=teacher)
    infer_unlabeled.run(InferConfig(batch_size=64), ours)
    theirs = training_context(tmp_path / "theirs", dataset=own[0], teacher=teacher)
    theirs.places = {"unlabeled": str(own[1])}
    result = infer_unlabeled.run(InferConfig(batch_size=64), theirs)
    assert result["shards"] == 4
    assert _labels(theirs.output) == _labels(ours.output)


def test_shards_of_one_name_in_several_folders_have_files_of_their_own() -> None:
    assert label_file("pool-000003.tar") == "labels-pool-000003.parquet"
    names = {label_file(shard) for shard in ("unlabeled/a/000.tar", "unlabeled/b/000.tar", "labeled/a/000.tar")}
    assert len(names) == 3
    assert all(name.startswith("labels-000-") for name in names)


def test_an_image_that_cannot_be_read_fails_the_stage_and_is_named_with_its_shard(
    digits_folder: Path, teacher: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(digits_folder, tmp_path / "damaged"))
    pool = DatasetIndex.load(folder).split("pool")
    shard = pool.shard_names[pool.shard_codes[600]]
    with (folder / shard).open("r+b") as stream:
        stream.seek(int(pool.offsets[600]))
        stream.write(b"no picture")
    context = training_context(tmp_path, dataset=folder, teacher=teacher)
    with pytest.raises(StageFailed, match=f"{shard}: image {pool.keys[600]} cannot be read"):
        infer_unlabeled.run(InferConfig(), context)
    assert context.resume.names() == {label_file(name) for name in pool.shard_names if name < shard}
