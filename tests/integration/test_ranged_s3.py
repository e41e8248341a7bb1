"""A table in a bucket of a real S3 server: what a stage reads of it, and what that costs."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_core.data.pseudo_labels import label_table
from ns_core.storage.ranged import RemoteFiles
from ns_core.storage.s3 import S3Storage

pytestmark = pytest.mark.integration

ROWS, CLASSES = 10_000, 300


class Counting(S3Storage):
    """Counts what is asked of it."""

    def __init__(self, uri: str) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        super().__init__(bucket, prefix, retries=2)
        self.ranges: list[int] = []

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        self.ranges.append(length)
        return super().read_range(key, offset, length)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Pseudo-labels as infer-unlabeled writes them, about 6 MB."""
    logits = np.random.default_rng(0).standard_normal((ROWS, CLASSES)).astype(np.float32)
    texts = pa.table({"key": [f"{row:06d}" for row in range(ROWS)], "sha256": [f"{row:064x}" for row in range(ROWS)]})
    pq.write_table(label_table(texts, logits), tmp_path / "labels.parquet", compression="zstd")
    return tmp_path / "labels.parquet"


def test_three_columns_of_a_table_in_s3_cost_a_few_requests_and_little_of_it(s3_store_uri: str, labels: Path) -> None:
    storage, size = Counting(s3_store_uri), labels.stat().st_size
    storage.put_file("labels/labels.parquet", labels)
    wanted = ["top1", "confidence", "margin"]
    with RemoteFiles(storage, "labels", {"labels.parquet": size}).open("labels.parquet") as file:
        table = pq.read_table(file, columns=wanted)
        assert (len(storage.ranges) <= 6, sum(storage.ranges) < size / 4) == (True, True), (size, storage.ranges)
        assert table.equals(pq.read_table(labels, columns=wanted))
        assert file.seek(-1000, io.SEEK_END) == size - 1000
        assert file.read() == labels.read_bytes()[-1000:]
        assert (file.tell(), file.read(1)) == (size, b"")
