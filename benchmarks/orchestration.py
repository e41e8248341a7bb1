"""What orchestration costs: CPU seconds a stage of a campaign whose stages are all in the store.

    python -m benchmarks.orchestration                 about 15 minutes on 2 cores

A campaign of three generations of the digits' recipe, its settings as small as they go, is computed once into a local
store. Then, round after round, it is asked for again, so that nothing is computed:

    plain      a Python process that resolves the same stages without Prefect and MLflow: found, checked, found again
    server     `noisy-student run` against the servers of `noisy-student ui`
    temporary  `noisy-student run`, which starts a Prefect server for itself

Each run is of the campaign and, beside it, of its first teacher alone (generations=0): what the two differ by is the
cost of a further stage, the rest is start-up: interpreter, imports, servers, MLflow's client, the report. CPU is user
and system time of the command and of all that it waited for; Prefect's server is told apart, by looking ten times a
second. `added` is what is beyond `plain`, start-up and report included, over the number of stages; the limit is 2 s.
The ratios are the limit over what is added, so that above 1 it is kept to. The last line of standard output is one JSON
object.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import environment

ROUNDS = 5
LIMIT_SECONDS = 2.0
SAMPLE_SECONDS = 0.1
SETTINGS = (
    *("teacher.steps=20", "teacher.epoch_steps=10", "student.steps=10", "finetune.steps=2"),
    *("evaluate.corruptions=[]", "evaluate.perturbations=[]", "evaluate.fgsm_eps=[]", "evaluate.pgd_eps=[]"),
    *("select.threshold=0.1", "compute.threads=1"),
)
CAMPAIGN, TEACHER = 3, 0
"""Generations."""
PLAIN = """
import json, sys
from ns_core.artifacts import Paths, find, materialize
from ns_core.storage import open_storage
store, stages = sys.argv[1], json.loads(sys.argv[2])
def never():
    raise AssertionError("a stage is not in the store")
for stage, fingerprint in stages:
    storage, paths = open_storage(store), Paths(stage, fingerprint)
    assert find(storage, paths) is not None
    materialize(storage, paths, never)
"""
Stages = list[tuple[str, str]]


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one command, without and of Prefect's server."""

    own: float
    server: float

    @property
    def total(self) -> float:
        return self.own + self.server


def is_server(process: psutil.Process) -> bool:
    """Whether a process is Prefect's server."""
    words = " ".join(process.cmdline())
    return "prefect.server" in words or "prefect server" in words


def seconds_of(servers: Sequence[psutil.Process]) -> float:
    """CPU of servers that go on running."""
    times = [process.cpu_times() for process in servers]
    return float(sum(each.user + each.system for each in times))


def measured(command: Sequence[str], env: dict[str, str], output: Path) -> Cost:
    """Runs a command to its end; Prefect servers that it starts are told apart."""
    with output.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    servers: dict[int, float] = {}
    watched = psutil.Process(process.pid)
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        with suppress(psutil.Error):
            for child in watched.children(recursive=True):
                with suppress(psutil.Error):
                    if is_server(child):
                        servers[child.pid] = seconds_of([child])
        time.sleep(SAMPLE_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    server = sum(servers.values())
    return Cost(own=usage.ru_utime + usage.ru_stime - server, server=server)


@dataclass
class Campaign:
    """A home whose store holds every stage of the campaign."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """The caller's, without what leads to servers of the caller's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "NS_", "AWS_"))}
        return {**kept, "NS_HOME": str(self.home), "OMP_NUM_THREADS": "1"}

    def command(self, generations: int) -> list[str]:
        settings = [f"--set={one}" for one in (*SETTINGS, f"generations={generations}")]
        return [sys.executable, "-m", "flows.cli", "run", "digits_smoke", "--json", *settings]

    def run(self, generations: int) -> tuple[Cost, list[dict[str, Any]]]:
        """The cost of a run and what it says of its stages."""
        output = self.home.parent / "answer.json"
        cost = measured(self.command(generations), self.environment, output)
        return cost, json.loads(output.read_text(encoding="utf-8"))["stages"]

    def cached(self, generations: int) -> tuple[Cost, int]:
        """As `run`, with the number of stages, none of which may be computed."""
        cost, stages = self.run(generations)
        assert {stage["state"] for stage in stages} == {"cached"}, stages
        return cost, len(stages)

    def plain(self, stages: Stages) -> Cost:
        command = [sys.executable, "-c", PLAIN, str(self.home / "store"), json.dumps(stages)]
        return measured(command, self.environment, self.home.parent / "answer.txt")

    @contextmanager
    def served(self) -> Iterator[list[psutil.Process]]:
        """Prefect's server of `noisy-student ui` for this home, by its processes."""
        command = [sys.executable, "-m", "flows.cli", "ui", "--prefect-port", "0", "--mlflow-port", "0"]
        null = subprocess.DEVNULL
        process = subprocess.Popen(command, env=self.environment, stdin=null, stdout=null, stderr=null)
        try:
            while not (self.home / "ui.json").exists():
                assert process.poll() is None, "the servers did not start"
                time.sleep(SAMPLE_SECONDS)
            yield [child for child in psutil.Process(process.pid).children(recursive=True) if is_server(child)]
        finally:
            process.terminate()
            process.wait()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most over the rounds."""
    middle = statistics.median(values)
    return {"median": round(middle, 3), "min": round(min(values), 3), "max": round(max(values), 3), "runs": len(values)}


class Rounds:
    """CPU seconds by variant and kind, one value a round."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = {}

    def add(self, variant: str, plain: float, whole: tuple[Cost, int], first: tuple[Cost, int]) -> None:
        """One round's two runs of a variant, and what its stages cost without orchestration."""
        (cost, stages), (least, few) = whole, first
        further = (cost.own - least.own) / (stages - few)
        row = {
            "added_per_stage": (cost.total - plain) / stages,
            "added_per_stage_without_server": (cost.own - plain) / stages,
            "further_stage": further,
            "further_stage_of_server": (cost.server - least.server) / (stages - few),
            "start_up": least.own - few * further,
            "start_up_of_server": least.server,
            "total": cost.total,
            "total_of_server": cost.server,
        }
        for name, value in row.items():
            self.values.setdefault(variant, {}).setdefault(name, []).append(value)
        print(variant, {name: round(value, 2) for name, value in row.items()}, file=sys.stderr)


def against_server(campaign: Campaign) -> tuple[tuple[Cost, int], tuple[Cost, int]]:
    """The campaign, then its teacher alone, with a running server whose own CPU is counted as well."""
    runs = []
    with campaign.served() as servers:
        for generations in (CAMPAIGN, TEACHER):
            before = seconds_of(servers)
            cost, stages = campaign.cached(generations)
            runs.append((Cost(cost.own, seconds_of(servers) - before), stages))
    return runs[0], runs[1]


def main() -> None:
    """Computes the campaign once, measures the rounds and prints the result."""
    rounds, plain = Rounds(), list[float]()
    with tempfile.TemporaryDirectory(prefix="orchestration-") as folder:
        campaign = Campaign(Path(folder) / "home")
        _, computed = campaign.run(CAMPAIGN)
        stages = [(stage["stage"], stage["fingerprint"]) for stage in computed]
        campaign.cached(CAMPAIGN)  # the pages of files and databases are read once
        for _ in range(ROUNDS):
            plain.append(campaign.plain(stages).total)
            rounds.add("temporary", plain[-1], campaign.cached(CAMPAIGN), campaign.cached(TEACHER))
            rounds.add("server", plain[-1], *against_server(campaign))
    kept = {
        f"limit_over_added_{variant}": spread([LIMIT_SECONDS / value for value in rows["added_per_stage"]])
        for variant, rows in rounds.values.items()
    }
    result = {
        "benchmark": "orchestration",
        "ratios": kept,
        "figures": {
            "stages": len(stages),
            "limit_cpu_seconds_per_stage": LIMIT_SECONDS,
            "plain_cpu_seconds": spread(plain),
            **{variant: {name: spread(row) for name, row in rows.items()} for variant, rows in rounds.values.items()},
        },
        "environment": environment("prefect", "mlflow"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
