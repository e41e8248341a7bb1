"""Each line of a pod is heard once, in order, however often its stream breaks off."""

from pathlib import Path

import pytest

from ns_core.launch.kubernetes import client
from tests.kubernetes_api import KubernetesApi
from tests.unit.launch.kubernetes.conftest import stage
from tests.unit.launch.kubernetes.runs import Attempt

LINES = [f"line {number}" for number in range(40)]


@pytest.mark.parametrize(
    "cuts",
    [[3], [500], [-530], [500, -930, 931, 1200]],
    ids=["at once", "in a line", "in a line, politely", "again and again"],
)
def test_a_stream_that_is_cut_goes_on_without_a_line_twice(api: KubernetesApi, tmp_path: Path, cuts: list[int]) -> None:
    names: list[str] = []
    attempt = Attempt(stage(tmp_path))

    def begin() -> None:
        names.append(api.start())
        api.logs[names[0]].cuts.extend(cuts)
        api.say(names[0], *LINES)

    def finish() -> None:
        if not api.logs[names[0]].cuts and attempt.said():
            api.end(names[0])
        else:
            api.script.appendleft(finish)

    api.script.extend([begin, finish, api.complete])
    attempt.run()
    assert attempt.said() == LINES
    whole, *later = api.logs[names[0]].since
    assert whole is None
    if cuts != [3]:
        assert all(60 < int(since or 0) < 90 for since in later), "from a little before the last line"


def test_lines_of_one_moment_are_counted(api: KubernetesApi, tmp_path: Path) -> None:
    names: list[str] = []

    def begin() -> None:
        names.append(api.start())
        api.logs[names[0]].cuts.append(200)
        api.say(names[0], *["the same"] * 10, at=1.25)

    api.script.extend([begin, lambda: None, lambda: None, lambda: api.end(names[0]), api.complete])
    attempt = Attempt(stage(tmp_path))
    attempt.run()
    assert attempt.said() == ["the same"] * 10


def test_a_stream_whose_other_end_is_gone_is_opened_anew(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOG_READ_S", 0.2)
    names: list[str] = []

    def begin() -> None:
        names.append(api.start())
        api.say(names[0], "first")

    def go_on() -> None:
        if api.calls.count("GET pods/log") < 3:
            api.script.appendleft(go_on)
        else:
            api.say(names[0], "second")
            api.end(names[0])

    api.script.extend([begin, go_on, api.complete])
    attempt = Attempt(stage(tmp_path))
    attempt.run()
    assert attempt.said() == ["first", "second"]


def test_a_pod_that_was_replaced_is_heard_too(api: KubernetesApi, tmp_path: Path) -> None:
    names: list[str] = []

    def begin(said: str) -> None:
        names.append(api.start())
        api.say(names[-1], said)

    api.script.append(lambda: begin("of the first"))
    api.script.append(lambda: api.end(names[0], 143))
    api.script.append(lambda: begin("of the second"))
    api.script.append(lambda: api.end(names[1]))
    api.script.append(api.complete)
    attempt = Attempt(stage(tmp_path))
    attempt.run()
    assert sorted(attempt.said()) == ["of the first", "of the second"]


def test_lines_of_both_ranks_come_while_they_run(api: KubernetesApi, tmp_path: Path) -> None:
    attempt = Attempt(stage(tmp_path, pods=2))
    names: list[str] = []

    def begin() -> None:
        names.extend(api.start(index) for index in range(2))
        for index, name in enumerate(names):
            api.say(name, f"of {index}")

    def finish() -> None:
        if len(attempt.said()) < 2:
            api.script.appendleft(finish)
        else:
            for name in names:
                api.end(name)

    api.script.extend([begin, finish, api.complete])
    attempt.run()
    assert sorted(attempt.said()) == ["pod 0: of 0", "pod 1: of 1"]
