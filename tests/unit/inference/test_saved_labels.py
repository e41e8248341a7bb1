"""Files that wait to be committed: what of them is read again, in a folder and in a bucket."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_core.data.pseudo_labels import TEACHER, label_table
from ns_core.errors import NotFound
from ns_core.inference.saved_labels import Counts, Saved, SavedLabels
from ns_core.resume import ResumeFolder
from ns_core.stage import StageContext
from ns_core.storage import Storage
from ns_core.storage.local import LocalStorage
from tests.artifact_builders import flip
from tests.factories import stage_context
from tests.local_bucket import LocalBucket

NAME, IMAGES, CLASSES = "labels-pool-000007.parquet", 5000, 120


def _table(seed: int = 0, top_k: int = 0, bad: int = 2) -> pa.Table:
    logits = np.random.default_rng(seed).standard_normal((IMAGES, CLASSES)).astype(np.float32)
    texts = pa.table(
        {"key": [f"{row:06d}" for row in range(IMAGES)], "sha256": [f"{row:064x}" for row in range(IMAGES)]}
    )
    return label_table(texts, logits, 1.5, top_k, unreadable={7 * row: f"reason {row}" for row in range(bad)})


def _context(tmp_path: Path, storage: Storage) -> StageContext:
    context = stage_context(tmp_path)
    scratch = tmp_path / "scratch-of-bucket"
    scratch.mkdir(exist_ok=True)
    context.resume = ResumeFolder(storage, "stage/resume", scratch)
    return context


def _saved(context: StageContext, name: str = NAME, seed: int = 0) -> Saved:
    table = _table(seed)
    return SavedLabels(context).save(name, table, Counts.of(table, CLASSES), {"temperature": 1.5})


def _same(one: Saved, two: Saved) -> None:
    assert (one.file, one.extra) == (two.file, two.extra)
    assert one.counts.document() == two.counts.document()


@pytest.mark.parametrize("kind", [LocalStorage, LocalBucket])
def test_a_saved_file_is_found_with_its_counts(tmp_path: Path, kind: type[LocalStorage]) -> None:
    context = _context(tmp_path, kind(tmp_path / "store"))
    saved = _saved(context)
    assert not list(context.output.iterdir())
    found = SavedLabels(context).find([NAME, "labels-pool-000008.parquet"])
    assert found.keys() == {NAME}
    _same(found[NAME], saved)
    assert found[NAME].counts.predicted.sum() == IMAGES - 2


def test_of_a_file_in_a_bucket_the_footer_alone_is_read(tmp_path: Path) -> None:
    bucket = LocalBucket(tmp_path / "store")
    context = _context(tmp_path, bucket)
    saved = _saved(context)
    assert saved.file.size > 600_000
    bucket.ranges.clear()
    SavedLabels(context).find([NAME])
    assert sum(bucket.ranges) < 300_000
    assert bucket.fetched == 0


def test_counts_add_up_and_name_the_first_unreadable_images() -> None:
    table = _table(top_k=3, bad=5)
    counts = Counts.of(table, CLASSES)
    assert (counts.images, counts.unreadable) == (IMAGES, 5)
    assert counts.predicted.sum() == counts.confidence.sum() == IMAGES - 5
    assert counts.kept_mass == pytest.approx(np.nansum(table["kept_mass"].to_numpy()), rel=1e-6)
    assert counts.named == (("000000", "reason 0"), ("000007", "reason 1"), ("000014", "reason 2"))
    assert Counts.parse(counts.document()).document() == counts.document()


def test_the_name_carries_the_digest_and_the_table_comes_back(tmp_path: Path) -> None:
    context = stage_context(tmp_path)
    saved = _saved(context)
    path = tmp_path / "store" / "stage" / "resume" / f"labels-pool-000007.{saved.file.sha256}.parquet"
    assert path.stat().st_size == saved.file.size
    assert pq.read_table(path).equals(_table())
    assert saved.file == replace(_saved(context).file)


def test_a_file_of_other_bytes_than_its_name_says_is_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = stage_context(tmp_path)
    saved = _saved(context)
    path = tmp_path / "store" / "stage" / "resume" / saved.file.saved
    flip(path)
    assert SavedLabels(context).find([NAME]) == {}
    assert f"{saved.file.saved} is damaged" in caplog.text
    assert not path.exists()


def test_beside_a_damaged_file_another_attempts_whole_one_counts(tmp_path: Path) -> None:
    context = stage_context(tmp_path)
    both = sorted((_saved(context, seed=seed) for seed in (1, 2)), key=lambda saved: saved.file.saved)
    flip(tmp_path / "store" / "stage" / "resume" / both[0].file.saved)
    _same(SavedLabels(context).find([NAME])[NAME], both[1])


@pytest.mark.parametrize("kind", [LocalStorage, LocalBucket])
def test_an_empty_file_is_no_file(tmp_path: Path, kind: type[LocalStorage]) -> None:
    context = _context(tmp_path, kind(tmp_path / "store"))
    path = tmp_path / "store" / "stage" / "resume" / f"labels-pool-000007.{'0' * 64}.parquet"
    path.parent.mkdir(parents=True)
    path.touch()
    assert SavedLabels(context).find([NAME]) == {}


def test_a_file_that_goes_while_it_is_looked_for_is_not_taken_for_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Rival(LocalStorage):
        """Somebody commits and clears the folder after it was listed."""

        def size(self, key: str) -> int | None:
            self.delete_tree("stage/resume/")
            return super().size(key)

    context = _context(tmp_path, Rival(tmp_path / "store"))
    _saved(context)
    with pytest.raises(NotFound), caplog.at_level(logging.WARNING):
        SavedLabels(context).find([NAME])
    assert not caplog.text


def test_forgotten_files_are_made_anew_and_those_of_another_attempt_stay(tmp_path: Path) -> None:
    context = stage_context(tmp_path)
    saved, labels = _saved(context), SavedLabels(context)
    labels.forget(replace(saved, file=replace(saved.file, folder="attempt-old")))
    assert NAME in labels.find([NAME])
    labels.forget(saved)
    assert labels.find([NAME]) == {}


def test_every_file_names_the_teacher_whose_labels_it_holds(tmp_path: Path) -> None:
    context = _context(tmp_path, LocalStorage(tmp_path / "store"))
    context.fingerprints = {"teacher": "c" * 64}
    file = _saved(context).file
    with context.resume.open(file) as stream:
        assert pq.read_schema(stream).metadata[TEACHER] == b"c" * 64
