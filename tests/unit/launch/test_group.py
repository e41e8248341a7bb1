"""How several workers under torchrun ended, as far as it takes no processes (`tests/integration/test_torchrun.py`)."""

import pytest

from ns_core.config import ComputeConfig
from ns_core.launch import local
from ns_core.launch.spec import PARALLEL_STAGES, WorkerSpec
from ns_core.stage import MARK
from ns_core.worker import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_the_stages_that_train_are_run_by_several_processes_and_no_others(stage: str) -> None:
    compute = ComputeConfig(processes=2)
    spec = WorkerSpec(stage=stage, fingerprint="0", config={}, inputs={}, store="store", compute=compute)
    assert spec.processes == (2 if stage in PARALLEL_STAGES else 1)
    assert (stage in PARALLEL_STAGES) == STAGES[stage][1].startswith("ns_core.training.")


_KILLED = "  exitcode  : -9 (pid: 41)  (SIGKILL)\n  traceback : Signal 9 (SIGKILL) received by PID 41\n"
_FAILED = "  exitcode  : 1 (pid: 40)\n  error_file: <N/A>\n"
_SENT = "W0731 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 41 closing signal SIGTERM\n"
_EVENT = {"event": "failure", "kind": "stage", "message": "RuntimeError: Connection closed by peer"}


@pytest.mark.parametrize(
    ("words", "told"),
    [(_KILLED + _FAILED, "SIGKILL"), (_FAILED + _KILLED, "SIGKILL"), (_SENT + _KILLED + _FAILED, "closed by peer")],
    ids=["a killed rank", "a peer noticed first", "torchrun lost patience with the peer"],
)
def test_a_signal_is_the_cause_unless_torchrun_was_ending_that_rank(words: str, told: str) -> None:
    assert told in local._reason(local._of_group(local._End(1, _EVENT, []), words))


def test_torchruns_words_are_told_when_no_worker_said_any() -> None:
    end = local._of_group(local._End(1, None, []), "No module named torch\n")
    assert local._reason(end) == "the worker ended with exit status 1; last lines: No module named torch"


def test_what_two_processes_wrote_into_each_other_is_a_log_line() -> None:
    assert local._event(MARK + '{"event": "pro@ns {"event"') is None
    assert local._event(MARK + '{"event": "progress"}') == {"event": "progress"}
