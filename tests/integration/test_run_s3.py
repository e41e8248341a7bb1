"""A whole run whose artifacts live in a bucket: a real S3 server, real workers; then again from the cache."""

from pathlib import Path

import pytest

from ns_core.storage import open_storage
from tests.flows.command import Command, Outcome

SETTINGS = ("evaluate.corruptions=[]", "evaluate.perturbations=[]", "evaluate.fgsm_eps=[]", "evaluate.pgd_eps=[]")
STUDENT = ("train-noisy-student", "finetune-at-test-resolution", "evaluate-robustness")

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_run_in_a_bucket_is_computed_once(s3_store_uri: str, tmp_path: Path, prefect_api: str) -> None:
    command = Command(tmp_path, prefect_api)
    settings = [part for one in SETTINGS for part in ("--set", one)]
    arguments = ("run", "digits_smoke", "--json", "--store", s3_store_uri, *settings)
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


@pytest.mark.long
def test_a_run_on_shards_of_ones_own_in_a_bucket_leaves_them_there_and_follows_when_they_move(
    s3_store_uri: str, digits_folder: Path, tmp_path: Path, prefect_api: str
) -> None:
    """Shards that exist, in S3; the store is a folder. Moved, they are the same data: what did not change is cached,
    and what did reads them in their new place."""
    bucket, command = open_storage(s3_store_uri), Command(tmp_path, prefect_api)
    fields = {"labeled": "labeled", "pool": "unlabeled", "holdout": "holdout", "test": "test"}
    for shard in digits_folder.glob("*.tar"):
        bucket.put_file(f"old/{fields[shard.name.partition('-')[0]]}/{shard.name}", shard)

    def run(place: str, *more: str) -> Outcome:
        places = [f"data.{field}={s3_store_uri}/{place}/{field}" for field in fields.values()]
        settings = ["data.source=webdataset", *SETTINGS, *places, *more]
        result = command("run", "digits_smoke", "--json", *(part for one in settings for part in ("--set", one)))
        assert result.status == 0, result.stderr
        return result

    first = run("old")
    assert set(first.states.values()) == {"computed"}
    assert not list((command.home / "store").rglob("*.tar")), "nothing is written again"
    for key in list(bucket.list("old/")):
        bucket.move(key, key.replace("old/", "new/", 1))
    again = run("new", "student.lr=0.05")
    computed = {place for place, state in again.states.items() if state == "computed"}
    assert computed == {(stage, 1) for stage in STUDENT}
