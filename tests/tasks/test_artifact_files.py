"""Files of artifacts: the same bytes from a folder and from a bucket, where no more travels than is read."""

from pathlib import Path

import numpy as np
import pytest

from ns_core.artifacts import Report
from ns_core.evaluation.tables import Scene
from ns_core.storage.local import LocalStorage
from tasks.artifact_files import ArtifactFiles
from tests.evaluation_tables import predictions, written
from tests.local_bucket import LocalBucket
from tests.stored_reports import store_report

SCENE = Scene("clean", "test")
REPORT = Report(fingerprint="a" * 64, result={})
BIG = 3 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one evaluation, which has a large file too."""
    folder = tmp_path / "evaluation"
    written(folder, {SCENE: predictions([True, False, True])})
    (folder / "report.json").write_bytes(b"{}")
    (folder / "large").write_bytes(bytes(BIG))
    store_report(LocalStorage(tmp_path / "store"), folder, REPORT.fingerprint)
    return tmp_path / "store"


@pytest.mark.parametrize("kind", [LocalStorage, LocalBucket])
def test_files_and_tables_are_read_from_either_kind_of_store(root: Path, kind: type[LocalStorage]) -> None:
    files = ArtifactFiles(kind(root), REPORT)
    assert files.read(REPORT, "report.json") == b"{}"
    tables = files.tables(REPORT)
    assert tables.scenes == [SCENE]
    np.testing.assert_array_equal(tables.predictions(SCENE).right, [True, False, True])


def test_of_a_bucket_only_what_is_read_travels(root: Path) -> None:
    bucket = LocalBucket(root)
    files = ArtifactFiles(bucket, REPORT)
    files.tables(REPORT).predictions(SCENE)
    assert bucket.fetched == 0
    assert 0 < sum(bucket.ranges) < BIG / 10
