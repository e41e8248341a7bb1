"""Several parts are heard as one worker (real ones: `tests/integration/test_parts.py`)."""

import json
from typing import Any

from ns_core.launch.listen import End
from ns_core.launch.parts import Parts, cause
from ns_core.stage import MARK


class Heard:
    """Parts, and what was passed on of what they said."""

    def __init__(self, count: int) -> None:
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.parts = Parts(count, self.lines.append, self.events.append)

    def say(self, part: int, **event: Any) -> None:
        self.parts.ears[part].hear(f"{MARK}{json.dumps(event)}\n".encode())

    def progress(self, part: int, done: int, total: int) -> None:
        self.say(part, event="progress", done=done, total=total, text=f"{done} labelled")


def test_progress_is_the_sum_once_every_part_has_told_its_own() -> None:
    heard = Heard(2)
    heard.progress(1, 10, 300)
    assert heard.events == []
    heard.progress(0, 0, 200)
    heard.progress(1, 50, 300)
    assert [(event["done"], event["total"], event["text"]) for event in heard.events] == [
        (10, 500, "part 0: 0 labelled"),
        (50, 500, "part 1: 50 labelled"),
    ]


def test_a_part_that_ended_without_a_word_holds_nobody_up() -> None:
    heard = Heard(3)
    heard.progress(0, 1, 2)
    heard.parts.end(1, 0)
    heard.progress(2, 0, 3)
    heard.parts.end(0, 0)
    assert [(event["done"], event["total"]) for event in heard.events] == [(1, 5)]
    heard.progress(2, 3, 3)
    assert (heard.events[-1]["done"], heard.events[-1]["total"]) == (4, 5)


def test_log_lines_tell_their_part_and_metrics_pass_as_they_are() -> None:
    heard = Heard(2)
    heard.parts.ears[1].hear(b"going on\n")
    point = {"event": "metric", "key": "infer/images_per_s", "value": 9.5, "step": 3, "timestamp_ms": 1}
    heard.say(0, **point)
    assert heard.lines == ["part 1: going on"]
    assert heard.events == [point]


def _end(status: int, kind: str = "") -> End:
    return End(status, {"event": "failure", "kind": kind, "message": "why"} if kind else None, [])


def test_the_part_that_ended_badly_first_is_the_cause() -> None:
    stopped = _end(143)
    assert cause({2: _end(0), 1: _end(-9), 0: stopped}) == 1
    assert cause({1: _end(1, "stage"), 2: stopped, 0: stopped}) == 1


def test_a_failure_that_a_person_has_to_act_upon_comes_first() -> None:
    assert cause({1: _end(-9), 2: _end(143), 0: _end(2, "user")}) == 0


def test_parts_that_ended_well_have_no_cause_to_tell() -> None:
    ends = {1: _end(0), 0: _end(0)}
    assert ends[cause(ends)].status == 0
