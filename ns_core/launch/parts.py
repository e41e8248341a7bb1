"""Several workers that share a stage's work by lists are, to whoever listens, one.

In: what each says, as it comes. Out: its log lines under its number, one progress for all, every metric. A part
tells `done` and `total` of its own list, the first time when it begins; a list may be empty.
"""

from collections.abc import Mapping
from typing import Any

from ns_core.launch.listen import Ear, End, Event, LogLine


class Parts:
    """The ears of `count` parts."""

    def __init__(self, count: int, on_log: LogLine, on_event: Event) -> None:
        self._on_log, self._on_event = on_log, on_event
        self._told: dict[int, tuple[int, int]] = {}
        self.ears = [self._ear(number) for number in range(count)]

    def end(self, number: int, status: int) -> End:
        """How part `number` ended."""
        self._told.setdefault(number, (0, 0))
        return self.ears[number].end(status)

    def _ear(self, number: int) -> Ear:
        return Ear(lambda line: self._on_log(f"part {number}: {line}"), lambda event: self._event(number, event))

    def _event(self, number: int, event: dict[str, Any]) -> None:
        """Progress waits until every part has told its total: a bar that knows half of them would run back."""
        if event["event"] == "progress":
            self._told[number] = event["done"], event["total"]
            if len(self._told) < len(self.ears):
                return
            done, total = (sum(values) for values in zip(*self._told.values(), strict=True))
            event = {**event, "done": done, "total": total, "text": f"part {number}: {event['text']}"}
        self._on_event(event)


def cause(ends: Mapping[int, End]) -> int:
    """Of parts in the order in which they ended, the number of the one to tell: with a failure that a person has to act
    upon, else the first that ended badly, after which the others were stopped; else any."""
    for number, end in ends.items():
        if end.failure is not None and end.failure["kind"] == "user":
            return number
    return next((number for number, end in ends.items() if end.status != 0), 0)
