"""One value of a metric, and points as a journal keeps them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One value of a metric at a step; `timestamp_ms` is Unix time in milliseconds.

    `key`: names joined by `/`, each of ASCII letters, digits and `_-. ` and none empty or starting
    with punctuation; at most 250 characters. Another, which MLflow may refuse, is a ValueError.
    """

    key: str
    value: float
    step: int
    timestamp_ms: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(?=.{1,250}$)\w[\w\-. ]*(/\w[\w\-. ]*)*", self.key, re.ASCII):
            raise ValueError(f"not a metric key that MLflow takes: {self.key!r}")


def rows(points: Iterable[Point]) -> list[list[object]]:
    """As JSON takes them, numpy's numbers too: key, value, step, timestamp."""
    return [[p.key, float(p.value), int(p.step), int(p.timestamp_ms)] for p in points]
