"""Corrupted photographs: our ImageNet-C corruptions beside imagecorruptions-imaug's, on one core.

    python -m benchmarks.corruptions           about 1 minute on 1 core

    ours       `corrupt` at tier 224, `frost` of drawn ice; a generator of its own for each image
    library    `imagecorruptions.corrupt`, whose `elastic_transform` is another, weaker algorithm,
               and whose `frost` reads its photograph from disk for each image, as the original does

First both make all 75 variants (15 corruptions, 5 severities) of the same photographs of 224 pixels, in turn. Then
ours alone: photographs a second of each of the 19 corruptions, all severities alike, at 224 and at 32 pixels, each at
its own tier. A pass of both before anything is timed takes the library's compiling and our tables off the account.

CPU seconds of the process, with OpenCV and BLAS on one thread. The last line of standard output is one JSON object.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy

import cv2
import imagecorruptions
import numpy as np
from PIL import Image

from benchmarks.measure import Variant, environment, ratio, rounds
from benchmarks.photographs import write_photographs
from ns_core.evaluation.corruptions import CORRUPTIONS, EXTRA, SEVERITIES, Pixels, corrupt, sample_seed, tier

SIZES = {224: 4, 32: 40}
"""Pixels a side -> photographs."""
PAIRED = 2
"""Photographs of which both sides make all variants; the library takes more than a second for one."""
ROUNDS = 7
FLOORS = {"ours_over_library": 5.0, "images_a_second_224": 150, "images_a_second_32": 1000}

Corrupt = Callable[[Pixels, str, int], Any]


def main() -> None:
    """Cuts the photographs, warms up, measures, prints."""
    cv2.setNumThreads(1)
    pictures = {size: _photographs(size, count) for size, count in SIZES.items()}
    tested = tuple(name for name in CORRUPTIONS if name not in EXTRA)
    paired = pictures[224][:PAIRED]
    both = {"ours": _all_of(paired, tested, _ours), "library": _all_of(paired, tested, _library)}
    alone = {f"{name} {size}": _all_of(pictures[size], (name,), _ours) for size in SIZES for name in CORRUPTIONS}
    for variant in (*both.values(), *alone.values()):
        variant()
    variants_a_second = rounds(both, ROUNDS)
    images_a_second = rounds(alone, ROUNDS)
    figures: dict[str, Any] = {
        "cpu_milliseconds_a_photograph_of_75_variants": {
            name: _spread([1000 * 75 / rate for rate in rates]) for name, rates in variants_a_second.items()
        }
    }
    for size in SIZES:
        spreads = {name: _spread(images_a_second[f"{name} {size}"]) for name in CORRUPTIONS}
        slowest = min(spreads, key=lambda name: spreads[name]["median"])
        figures[f"images_a_second_{size}"] = spreads
        figures[f"slowest_{size}"] = {slowest: spreads[slowest]["median"]}
    report = {
        "benchmark": "corruptions",
        "ratios": {"ours_over_library": ratio(variants_a_second["ours"], variants_a_second["library"])},
        "figures": {**figures, "floors": FLOORS},
        "environment": environment("imagecorruptions-imaug", "opencv-python-headless", "numpy", "scipy"),
    }
    print(json.dumps(report))


def _photographs(size: int, count: int) -> list[Pixels]:
    """Squares of `size` pixels, from the middle of the benchmarks' photographs."""
    with tempfile.TemporaryDirectory(prefix="corruptions-") as name:
        paths = sorted(write_photographs(Path(name), count, 1).rglob("*.jpg"))
        squares = [Image.open(path).crop((50, 0, 450, 400)) for path in paths]
        return [np.array(square.resize((size, size), Image.Resampling.LANCZOS)) for square in squares]


def _all_of(pictures: Sequence[Pixels], names: Sequence[str], corrupted: Corrupt) -> Variant:
    """Each picture under each corruption at each severity: pictures made, CPU seconds."""

    def run() -> tuple[int, float]:
        began = time.process_time()
        for name in names:
            for severity in SEVERITIES:
                for picture in pictures:
                    corrupted(picture, name, severity)
        return len(names) * len(SEVERITIES) * len(pictures), time.process_time() - began

    return run


def _ours(picture: Pixels, name: str, severity: int) -> Pixels:
    rng = np.random.default_rng(sample_seed(0, name, severity, "photograph"))
    return corrupt(picture, name, severity, rng, tier(len(picture)))


def _library(picture: Pixels, name: str, severity: int) -> Any:
    return imagecorruptions.corrupt(picture, corruption_name=name, severity=severity)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
        "runs": len(values),
    }


if __name__ == "__main__":
    main()
