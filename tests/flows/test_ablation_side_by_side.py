"""Arms on several seeds, several campaigns at a time, killed and gone on with, counted by their workers.

Labels alone, so that a campaign is three stages; the arms differ by nothing or by the last of them. Each worker process
that starts writes its stage into one file, whoever started it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ns_core.evaluation.reports.ablation import Ablation
from tests.prefect_server import flows_on

RECORDER = """
import json, os, sys
if "ns_core.worker" in sys.orig_argv:
    with open(sys.orig_argv[-1]) as file:
        spec = json.load(file)
    with open(os.environ["NS_TEST_WORKERS"], "a") as file:
        file.write(f"{spec['stage']} {spec['fingerprint']} {os.getpid()}\\n")
"""
ABLATION = """
import sys
from pathlib import Path
from unittest.mock import patch

from flows import place
from flows.ablation import ablation
from flows.recipes.digits import digits_smoke
from flows.studies import STUDIES, Arm, Study
from ns_core.storage import open_storage
from tasks.observe import Watch, watching

SETTINGS = (
    "generations=0",
    "compute.retries=0",
    "teacher.steps=100",  # less is at chance level, which is refused
    "evaluate.fgsm_eps=[0]",
    "evaluate.pgd_eps=[]",
    "evaluate.corruptions=[]",
    "evaluate.perturbations=[]",
)

class Lines:
    def started(self, stage, generation): raise AssertionError("of one campaign among several")
    progressed = ended = started
    def logged(self, line):
        sys.stdout.write(line + "\\n")
        sys.stdout.flush()

def seen(images):
    return lambda recipe: [f"evaluate.max_images={images}"]

def main(folder):
    count, seeds, at_once = map(int, sys.argv[2:])
    arms = [Arm(f"arm{n}", "words", seen(60 if n % 2 else 100)) for n in range(count - 1)]
    lost = Arm("lost", "a set that is not there", lambda recipe: ["evaluate.official.imagenet_a=/none"])
    study = Study("noise", "a question", (*arms, lost))
    recipe = digits_smoke().override(list(SETTINGS))
    run = place.make(recipe, "one", open_storage(str(folder / "store")), folder / "home")
    with place.giving(run), patch.dict(STUDIES, {"noise": study}), watching(Watch(listener=Lines())):
        ablation("noise", seeds, at_once, recipe)

main(Path(sys.argv[1]))
"""


class Ablated:
    """One ablation with a store and a home of its own, each call a process. `size`: arms, seeds, how many at a time."""

    def __init__(self, folder: Path, size: tuple[int, int, int]) -> None:
        self._size = size
        self.folder, self._workers = folder, folder / "workers.txt"
        (folder / "watch").mkdir()
        (folder / "watch" / "sitecustomize.py").write_text(RECORDER, encoding="utf-8")
        (folder / "ablate.py").write_text(ABLATION, encoding="utf-8")
        self.words = folder / "words.txt"

    def start(self) -> "subprocess.Popen[bytes]":
        root = str(Path(__file__).parents[2])
        own = {
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "NS_TEST_WORKERS": str(self._workers),
            "PYTHONPATH": f"{self.folder / 'watch'}:{root}",
        }
        with self.words.open("ab") as words:
            return subprocess.Popen(
                [sys.executable, str(self.folder / "ablate.py"), str(self.folder), *map(str, self._size)],
                env={**os.environ, **own},
                stdout=words,
                stderr=words,
                # A process that inherits an ignored SIGINT, as from a shell's `&`, is not interrupted.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def workers(self) -> list[tuple[str, str, int]]:
        """Stage, fingerprint and process of each that was started."""
        lines = self._workers.read_text("utf-8").splitlines() if self._workers.exists() else []
        return [(stage, fingerprint, int(pid)) for stage, fingerprint, pid in (line.split() for line in lines)]

    def committed(self) -> set[tuple[str, str]]:
        records = (self.folder / "store").glob("*/*/.artifact.json")
        made = [json.loads(record.read_text("utf-8")) for record in records]
        return {(one["stage"], one["fingerprint"]) for one in made}

    def teachers(self) -> set[str]:
        return {fingerprint for stage, fingerprint in self.committed() if stage == "train-teacher"}

    def said(self) -> str:
        return self.words.read_text("utf-8")

    def document(self) -> Ablation:
        kept = self.folder / "store" / "ablations" / "one" / "ablation.json"
        return Ablation.model_validate_json(kept.read_text("utf-8"))


def alive(pid: int) -> bool:
    """Not ended: nor a zombie, whose parent is gone and whose place init has yet to clear."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(met: Callable[[], Any], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Iterator[None]:
    """Of this module's processes."""
    with flows_on(prefect_api, tmp_path_factory.mktemp("prefect")):
        yield


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [(4, 2, 2), pytest.param((8, 3, 3), marks=pytest.mark.servers)])
def test_each_teacher_is_trained_once_and_a_killed_run_goes_on(tmp_path: Path, size: tuple[int, int, int]) -> None:
    """Of eight arms on three seeds too, where time is no matter."""
    ablated, (arms, seeds, at_once) = Ablated(tmp_path, size), size
    first = ablated.start()
    until(lambda: ablated.teachers() or first.poll() is not None, "no teacher was trained")
    assert first.poll() is None, ablated.said()
    first.kill()
    assert first.wait() == -signal.SIGKILL
    until(lambda: not any(alive(pid) for *_, pid in ablated.workers()), "a worker outlived its run")
    before, kept = ablated.workers(), ablated.committed()
    assert not (tmp_path / "store" / "ablations").exists()

    assert ablated.start().wait(400) == 0, ablated.said()
    after = ablated.workers()[len(before) :]
    assert not {one[:2] for one in after} & kept, "what the kill left whole is found"
    assert set(Counter(one[:2] for one in after).values()) == {1}, "nothing is computed by two"
    both = Counter(stage for stage, _ in {one[:2] for one in before + after})
    assert both == {"prepare-dataset": seeds, "train-teacher": seeds, "evaluate-robustness": 2 * seeds}

    made = ablated.document()
    assert made.side_by_side == at_once
    *others, lost = made.arms
    assert [len(arm.by_seed) for arm in others] == [seeds] * (arms - 1)
    assert ["/none" in reason for reason in lost.failures.values()] == [True] * seeds
    for arm in others:
        files = [tmp_path / "store" / "runs" / run / "run.json" for run in made.runs[arm.arm]]
        found = [json.loads(file.read_text("utf-8")) for file in files]
        assert [(one["recipe"].rpartition("-")[2], one["seed"]) for one in found] == [
            (arm.arm, seed) for seed in range(seeds)
        ], "no campaign is taken for another"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_interrupt_stops_every_campaign_and_its_worker(tmp_path: Path) -> None:
    ablated = Ablated(tmp_path, (2, 2, 2))
    run = ablated.start()
    until(
        lambda: [one[0] for one in ablated.workers()].count("train-teacher") == 2 or run.poll() is not None,
        "no two campaigns side by side",
    )
    run.send_signal(signal.SIGINT)
    try:
        assert run.wait(60) != 0, ablated.said()
    finally:
        run.kill()
    # What the process had no time to wait for, the kernel ends with it, which may take it a moment.
    until(lambda: not any(alive(pid) for *_, pid in ablated.workers()), "a worker goes on", 10.0)
    assert len(ablated.workers()) == 4, "nothing was started after it"
    assert ablated.said().rstrip().endswith("KeyboardInterrupt")
