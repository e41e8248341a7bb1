"""What the benchmarks share: rounds of ours and the peers in turn, ratios, and what the machine was.

Each variant is a function that does its work once and returns how many units it did and in how many seconds.
All variants run in turn, round after round, in an order drawn anew, so that a slow minute of the machine falls
on all of them; ratios are taken within a round.
"""

import os
import platform
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

Variant = Callable[[], tuple[int, float]]
Rates = dict[str, list[float]]


def rounds(variants: Mapping[str, Variant], count: int) -> Rates:
    """Units a second of each variant in each of `count` rounds."""
    rates: Rates = {name: [] for name in variants}
    order = random.Random(0)
    for number in range(count):
        for name in order.sample(list(variants), len(variants)):
            units, seconds = variants[name]()
            rates[name].append(units / seconds)
            print(f"round {number + 1}/{count}: {name}: {units / seconds:,.0f} a second", file=sys.stderr)
    return rates


def ratio(ours: Sequence[float], peer: Sequence[float]) -> dict[str, Any]:
    """Ours over the peer's, round by round; larger is better."""
    values = [one / other for one, other in zip(ours, peer, strict=True)]
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
        "runs": len(values),
    }


def medians(rates: Rates) -> dict[str, float]:
    """For the figures: the middle round of each variant."""
    return {name: round(statistics.median(values), 1) for name, values in rates.items()}


def environment(*packages: str) -> dict[str, Any]:
    """The machine, how busy it was, and the versions of what was measured."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_end": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
