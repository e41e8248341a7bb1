"""Lineage, takedown and housekeeping of a store on a real S3 server."""

import json
import time
from pathlib import Path

import pytest

from flows.housekeeping import Choice, collect
from ns_core.housekeeping import plan, survey
from ns_core.lineage import read_lineage
from ns_core.storage import open_storage
from ns_core.takedown import take_down
from tests.lineage_stores import RUN, Maker, generations, names, run_of_two

pytestmark = pytest.mark.integration
OTHER = "digits-20261124-101500-0b1c"


def test_a_run_in_a_bucket_is_followed_and_dropped(
    s3_store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(s3_store_uri)
    kept = run_of_two(storage, tmp_path / "kept")
    other = run_of_two(storage, tmp_path / "other", "-other", OTHER)
    lineage = read_lineage(storage)
    assert lineage.made.keys() == names(kept) | names(other)
    found = take_down(storage, lineage, ["p1"], frozenset(names(kept)))
    assert found.direct.keys() == names(kept, "student2", "finetuned2")
    assert plan(survey(storage), lineage, (), time.time(), 86_400.0) == []
    collect(Choice(drop=(OTHER,), days=0.0, yes=True), storage.uri, tmp_path / "home", as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["removed"] == {"artifacts_and_leftovers": len(other), "bytes": document["bytes"]}
    assert document["kept_runs"] == [RUN]
    assert read_lineage(storage).made.keys() == names(kept)
    assert not [key for key in storage.list("") if OTHER in key]


def test_what_is_planned_for_a_bucket_has_the_sizes_of_its_objects(s3_store_uri: str, tmp_path: Path) -> None:
    storage = open_storage(s3_store_uri)
    maker = Maker(storage, tmp_path)
    made = generations(maker, maker.dataset("dataset", {"l0": "labeled", "p0": "pool"}))
    items = plan(survey(storage), read_lineage(storage), (), time.time(), 0.0)
    assert {item.folder for item in items} == names(made)
    assert sum(item.size for item in items) == sum(one.size for one in storage.objects(""))
    assert items[-1].folder == made["dataset"].paths.folder
