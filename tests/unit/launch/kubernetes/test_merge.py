"""A person's fields in a pod, as `kubectl patch` would put them."""

from ns_core.launch.kubernetes.merge import merged

BASE = {
    "nodeSelector": {"a": "1"},
    "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}, {"name": "scratch", "emptyDir": {}}],
    "containers": [{"name": "worker", "env": [{"name": "A", "value": "1"}], "command": ["python", "-m", "x"]}],
}


def test_entries_of_one_name_are_merged_and_others_added() -> None:
    patch = {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "pool"}}],
        "containers": [
            {"name": "worker", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]},
            {"name": "proxy", "image": "p"},
        ],
    }
    result = merged(BASE, patch)
    assert [volume["name"] for volume in result["volumes"]] == ["shm", "scratch", "data"]
    worker, proxy = result["containers"]
    assert worker["env"] == [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]
    assert worker["command"] == ["python", "-m", "x"]
    assert proxy == {"name": "proxy", "image": "p"}


def test_null_and_delete_take_away_and_a_plain_list_is_replaced() -> None:
    patch = {
        "nodeSelector": {"a": None, "b": "2"},
        "volumes": [{"name": "scratch", "$patch": "delete"}],
        "containers": [{"name": "worker", "command": ["sh"]}],
    }
    result = merged(BASE, patch)
    assert result["nodeSelector"] == {"b": "2"}
    assert [volume["name"] for volume in result["volumes"]] == ["shm"]
    assert result["containers"][0]["command"] == ["sh"]


def test_what_is_merged_is_left_as_it_was() -> None:
    merged(BASE, {"containers": [{"name": "worker", "env": [{"name": "A", "value": "9"}]}], "volumes": None})
    assert BASE["containers"][0]["env"] == [{"name": "A", "value": "1"}]
    assert len(BASE["volumes"]) == 2


def test_replace_takes_the_place_of_an_object() -> None:
    assert merged({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}) == {"a": {"c": 2}}
