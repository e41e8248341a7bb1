"""A campaign whose student is killed, cancelled and cancelled again while it hangs: nothing is left running, nothing
half-written counts, and each run goes on from the update that the one before had saved. The tests follow each other."""

import re
import signal
from collections.abc import Iterator
from time import monotonic

import psutil
import pytest

from ns_core.artifacts import TYPES
from ns_core.config import Recipe
from ns_core.launch.local import GRACE_SECONDS
from tests.campaigns import Campaign, checkpoints, deployed_in_s3, records, smallest
from tests.deployed import Deployed
from tests.servers import lasting_servers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

STUDENT = "train-noisy-student"
STEPS, EPOCH = 20_000, 20
"""It never comes to the end."""
PREFECT_GRACE_SECONDS = 30.0
"""Between Prefect's SIGTERM for a flow and its SIGKILL: ours has to be over by then."""
SLACK_SECONDS = 60.0
"""For a machine that does much else."""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with lasting_servers() as servers, deployed_in_s3(servers, tmp_path_factory.mktemp("worker")) as made:
        yield made


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return smallest(f"student.steps={STEPS}", f"student.epoch_steps={EPOCH}")


def _cancel(campaign: Campaign) -> float:
    """As the page's button does; the seconds until the run's state is final."""
    began = monotonic()
    campaign.deployed.cancel(campaign.id)
    run = campaign.ended(GRACE_SECONDS + PREFECT_GRACE_SECONDS + SLACK_SECONDS)
    seconds = monotonic() - began
    assert (run["state"]["type"], run["state"]["name"]) == ("CANCELLED", "Cancelled")
    return seconds


def _assert_nothing_is_left(campaign: Campaign) -> None:
    """No process, no run or task that seems to go on, nothing committed of the student."""
    deployed = campaign.deployed
    deployed.until(lambda: not deployed.family(), SLACK_SECONDS, "the flow's process ends")
    assert {run["state"]["type"] for run in campaign.subflows().values()} <= {"CANCELLED", "CRASHED"}
    campaign.until_tasks_ended()
    made = {record["stage"] for record in records(deployed).values()}
    assert made == {"prepare-dataset", "train-teacher", "evaluate-robustness", "infer-unlabeled", "filter-and-balance"}
    assert not [key for key in deployed.storage.list(f"{STUDENT}/") if "/resume/" not in key]
    assert made < TYPES.keys()


def _number(line: str, pattern: str) -> int:
    found = re.search(pattern, line)
    assert found is not None, line
    return int(found[1])


def test_a_run_whose_worker_is_killed_fails_with_one_line(deployed: Deployed, recipe: Recipe) -> None:
    campaign = Campaign.start(deployed, recipe)
    campaign.checkpointed(STUDENT).kill()
    state = campaign.ended()["state"]
    assert state["type"] == "FAILED"
    assert state["message"].startswith(f"{STUDENT}: the worker was killed (SIGKILL: out of memory, or by hand)")
    assert "\n" not in state["message"]
    assert campaign.mlflow().info.status == "FAILED"


def test_a_new_run_goes_on_where_it_was_and_cancelled_saves_and_leaves_nothing_running(
    deployed: Deployed, recipe: Recipe
) -> None:
    saved = checkpoints(deployed, STUDENT)
    campaign = Campaign.start(deployed, recipe)
    worker = campaign.worker_of(STUDENT)
    resumed = _number(campaign.said("going on from update"), rf"update (\d+) of {STEPS}$")
    assert resumed == saved[-1]
    assert "computed" not in " ".join(line for line in campaign.log() if re.search(r"^[a-z-]+/[0-9a-f]{12} ", line))
    deployed.until(lambda: checkpoints(deployed, STUDENT)[-1] > resumed, SLACK_SECONDS, "it trains")
    seconds = _cancel(campaign)
    _assert_nothing_is_left(campaign)
    assert not worker.is_running()
    stopped = _number(campaign.said("stopped after update"), rf"update (\d+) of {STEPS}; saved$")
    assert checkpoints(deployed, STUDENT)[-1] == stopped > resumed
    assert campaign.mlflow().info.status == "KILLED"
    print(f"cancelled within {seconds:.1f} s")  # noqa: T201


def test_a_worker_that_hangs_is_killed_after_its_grace(deployed: Deployed, recipe: Recipe) -> None:
    saved = checkpoints(deployed, STUDENT)
    campaign = Campaign.start(deployed, recipe)
    worker = campaign.worker_of(STUDENT)
    assert _number(campaign.said("going on from update"), rf"update (\d+) of {STEPS}$") == saved[-1]
    worker.send_signal(signal.SIGSTOP)
    before = checkpoints(deployed, STUDENT)
    began = monotonic()
    seconds = _cancel(campaign)
    _assert_nothing_is_left(campaign)
    with pytest.raises(psutil.NoSuchProcess):
        worker.status()
    assert seconds >= GRACE_SECONDS
    assert not [line for line in campaign.log() if "stopped after update" in line]
    assert checkpoints(deployed, STUDENT) == before
    assert campaign.mlflow().info.status == "KILLED"
    print(f"a worker that hung: {seconds:.1f} s, all gone {monotonic() - began:.1f} s")  # noqa: T201
