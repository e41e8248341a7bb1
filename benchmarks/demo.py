"""What `make demo` costs: seconds and memory of the first run and of the same run from the cache.

    python -m benchmarks.demo                 about 3 minutes on 2 cores

Memory is the resident set summed over the command and all its descendants (workers, Prefect's server),
sampled five times a second; pages that processes share count once for each of them. The last line of
standard output is one JSON object.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import psutil

SAMPLE_SECONDS = 0.2
LIMITS = {"first_seconds": 180, "again_seconds": 30, "peak_gigabytes": 2.5}
"""What the demo is to keep to on two idle cores."""


def resident(process: psutil.Process) -> int:
    """Bytes of a process and all its descendants, those that just ended left out."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
    return total


def measured(home: str) -> dict[str, Any]:
    """One run of the demo's recipe: its seconds, its peak memory and what its stages did."""
    started, peak = time.monotonic(), 0
    command = [sys.executable, "-m", "flows.cli", "run", "digits", "--json"]
    with tempfile.TemporaryFile("w+") as answer:
        process = psutil.Popen(command, env={**os.environ, "NS_HOME": home}, stdout=answer)
        while process.poll() is None:
            peak = max(peak, resident(process))
            time.sleep(SAMPLE_SECONDS)
        seconds = time.monotonic() - started
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        answer.seek(0)
        stages = json.load(answer)["stages"]
    return {
        "seconds": round(seconds, 1),
        "peak_gigabytes": round(peak / 1e9, 2),
        "stages": len(stages),
        "cached": sum(stage["state"] == "cached" for stage in stages),
    }


def main() -> None:
    """Runs the demo twice in an empty home and prints the result."""
    with tempfile.TemporaryDirectory(prefix="demo-") as home:
        first, again = measured(home), measured(home)
    ratio = first["seconds"] / again["seconds"]
    result = {
        "benchmark": "demo",
        "ratios": {"computed_over_cached_seconds": {"median": ratio, "min": ratio, "max": ratio, "runs": 1}},
        "figures": {"first": first, "again": again, "limits": LIMITS},
        "environment": {
            "cpu": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load_before": os.getloadavg()[0],
            "python": platform.python_version(),
            "torch": version("torch"),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
