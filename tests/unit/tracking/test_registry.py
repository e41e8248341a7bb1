"""Registered models: written through a tracker, read through the registry."""

from pathlib import Path

import pytest

from ns_core.errors import Unreachable
from ns_core.registry import Registry, open_registry
from ns_core.tracking import Tracker
from tests.mlflow_lines import CLOSED_PORT, DIGEST, EXPERIMENT, away, client, kept, open_tracker


def test_aliases_are_set_and_moved_and_a_repeat_adds_no_version(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    first = ("file:///store/one", DIGEST)
    second = ("s3://store/two", DIGEST[::-1])

    def aliases() -> dict[str, str]:
        registered = client(database).get_registered_model("ns-teacher")
        return {alias: str(version) for alias, version in registered.aliases.items()}

    for _ in range(2):
        tracker.register("ns-teacher", run, *first, {"arch": "b0"}, ["champion", "teacher-gen1"])
        assert aliases() == {"champion": "1", "teacher-gen1": "1"}
    tracker.register("ns-teacher", run, *second, {"arch": "b1"}, ["champion"])
    assert aliases() == {"champion": "2", "teacher-gen1": "1"}
    tracker.register("ns-teacher", run, *first, {"arch": "b0"}, ["champion"])
    assert aliases() == {"champion": "1", "teacher-gen1": "1"}

    registry = client(database)
    assert len(registry.search_model_versions("name = 'ns-teacher'")) == 2
    version = registry.get_model_version_by_alias("ns-teacher", "teacher-gen1")
    assert (version.run_id, version.source) == (run, first[0])
    assert version.tags == {"ns.checkpoint_uri": first[0], "ns.sha256": DIGEST}
    models = registry.search_logged_models([registry.get_run(run).info.experiment_id])
    assert sorted(model.params["arch"] for model in models) == ["b0", "b1"]
    assert {model.source_run_id for model in models} == {run}


def place(letter: str) -> str:
    """Of weights in a store, as `ns.checkpoint_uri` has it."""
    return f"s3://bucket/store/train-teacher/{letter * 12}/attempt-1/model.safetensors"


def test_tags_of_a_version_are_set_by_every_call(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    for verdict in ("pending", "promote"):
        tracker.register("teacher", run, place("a"), DIGEST, {}, [], tags={"ns.verdict": verdict})
    tracker.register("teacher", run, place("a"), DIGEST, {}, ["champion"])
    (version,) = client(database).search_model_versions("name = 'teacher'")
    assert version.tags == {"ns.checkpoint_uri": place("a"), "ns.sha256": DIGEST, "ns.verdict": "promote"}


def test_the_version_of_an_alias_is_read_with_its_tags(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    tracker.register("teacher", run, place("a"), DIGEST, {}, ["champion", "first"], tags={"ns.verdict": "promote"})
    tracker.register("teacher", run, place("b"), DIGEST[::-1], {}, ["candidate"])
    registry = Registry(f"sqlite:///{database}", EXPERIMENT)
    champion = registry.standing("teacher", "champion")
    assert champion is not None
    assert (champion.model, champion.version, champion.aliases) == ("teacher", "1", ("champion", "first"))
    assert (champion.root, champion.folder) == ("s3://bucket/store", f"train-teacher/{'a' * 12}")
    assert champion.tags["ns.verdict"] == "promote"
    assert registry.registered()[0] == champion == registry.model("teacher@champion")
    assert [one.aliases for one in registry.registered()] == [("champion", "first"), ("candidate",)]


def test_what_no_alias_points_at_and_what_others_made_stands_for_nothing(tracker: Tracker, database: Path) -> None:
    run = tracker.parent("run", "k", {}, {})
    tracker.register("teacher", run, place("a"), DIGEST, {}, ["champion"])
    tracker.register("foreign", run, "s3://elsewhere/weights.pt", DIGEST[::-1], {}, ["champion"])
    with open_registry(f"sqlite:///{database}", EXPERIMENT) as registry:
        assert registry is not None
        assert registry.standing("teacher", "teacher-gen9") is None
        assert registry.standing("nobody", "champion") is None
        assert registry.standing("foreign", "champion") is None


def test_a_registry_that_is_away_says_so(tracker: Tracker, database: Path) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9 does not answer .*refused.*NS_TRACKING_URI"):
        Registry(CLOSED_PORT, EXPERIMENT).standing("teacher", "champion")
    with away(database), pytest.raises(Unreachable):
        Registry(f"sqlite:///{database}", EXPERIMENT).standing("teacher", "champion")


def test_a_file_that_nobody_has_made_is_no_registry_and_is_not_made(tmp_path: Path) -> None:
    with open_registry(f"sqlite:///{tmp_path}/mlflow.db", EXPERIMENT) as registry:
        assert registry is None
    assert list(tmp_path.iterdir()) == []


def test_an_alias_that_was_given_meanwhile_is_not_taken_back(database: Path) -> None:
    with away(database):
        late = open_tracker(database, "spool of one machine")
        run = late.parent("run", "k", {}, {})
        late.register("teacher", run, place("a"), DIGEST, {}, ["champion", "first"])
        late.close()
    tracker = open_tracker(database, "spool of another")
    tracker.register("teacher", tracker.parent("other", "k2", {}, {}), place("b"), DIGEST[::-1], {}, ["champion"])
    open_tracker(database, "spool of one machine").close()
    assert kept(database, "spool of one machine") == 0
    registry = Registry(f"sqlite:///{database}", EXPERIMENT)
    folders = {alias: one.folder for one in registry.registered() for alias in one.aliases}
    assert folders == {"champion": f"train-teacher/{'b' * 12}", "first": f"train-teacher/{'a' * 12}"}
    tracker.register("teacher", run, place("a"), DIGEST, {}, ["champion"])
    tracker.close()
