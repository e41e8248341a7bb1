"""Fifty holdout images hidden in a pool under another form: prepare-dataset drops them, and hardly anything else."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ns_core.config import DataConfig
from ns_core.data import prepare
from ns_core.data.images import encode_png
from tests.factories import settled, stage_context
from tests.near_duplicates import Change, Pixels, encoded, judged_and_pool, mirrored, resized

LEAKS, FOUND, DROPPED_IN_ERROR = 50, 48, 0.001
FORMS = (encoded, resized, mirrored)


def _write(folder: Path, images: Sequence[Pixels]) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        (folder / f"{number:04d}.png").write_bytes(encode_png(np.ascontiguousarray(image)))


@pytest.mark.parametrize("kind", ["digits", "64"])
def test_a_planted_leak_is_dropped_and_the_clean_pool_stays(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    judged, pool = judged_and_pool(kind, rng)
    holdout, test, labelled, clean = judged[2:-2], judged[-2:], pool[:4], pool[4:]
    changes: list[Change] = [FORMS[number % len(FORMS)](rng) for number in range(LEAKS)]
    chosen = rng.choice(len(holdout), LEAKS, replace=False)
    leaks = [change(holdout[row]) for change, row in zip(changes, chosen, strict=True)]
    for split, images in {"labeled": labelled, "holdout": holdout, "test": test}.items():
        for name in ("one", "two"):
            _write(tmp_path / "images" / split / name, images[::2] if name == "one" else images[1::2])
    _write(tmp_path / "images/unlabeled/clean", clean)
    _write(tmp_path / "images/unlabeled/leaks", leaks)
    places = {field: str(tmp_path / "images" / field) for field in ("labeled", "unlabeled", "holdout", "test")}
    context = stage_context(tmp_path)
    result = prepare.run(DataConfig.model_validate({"source": "folder", **places}), context)
    dropped = [row for row in pq.read_table(settled(context) / "dropped.parquet").to_pylist() if row["split"] == "pool"]
    found = sum("/leaks/" in row["path"] for row in dropped)
    assert found >= FOUND, f"{found} of {LEAKS}"
    assert len(dropped) - found <= DROPPED_IN_ERROR * len(clean)
    assert result["pool"] == len(clean) + LEAKS - len(dropped)
