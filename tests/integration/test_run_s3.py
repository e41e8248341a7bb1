"""A whole run whose artifacts live in a bucket: a real S3 server, real workers; then again from the cache."""

from pathlib import Path

import pytest

from ns_core.storage import open_storage
from tests.flows.command import Command

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_run_in_a_bucket_is_computed_once(s3_store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command(tmp_path)
    arguments = ("run", "digits_smoke", "--json", "--store", s3_store_uri, "--set", "evaluate.corruptions=[]")
    first = command(*arguments)
    assert first.status == 0, first.stderr
    assert set(first.states.values()) == {"computed"}
    again = command(*arguments)
    assert again.status == 0, again.stderr
    assert set(again.states.values()) == {"cached"}
    assert again.document["generations"] == first.document["generations"]
    keys = list(open_storage(s3_store_uri).list(""))
    records = [key for key in keys if key.endswith("/.artifact.json")]
    assert len(records) == len(first.states)
    assert not [key for key in keys if "/resume/" in key], "unfinished work is cleared once it is committed"
    assert not [path for path in tmp_path.rglob("*.safetensors") if "cache" not in str(path)], "no weights left here"
