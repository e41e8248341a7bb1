"""What a person sees of a run: on a terminal, in a file, and in the table at the end."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from flows.live import LiveView, Pace, PlainView, view
from flows.run_summary import print_summary
from ns_core.errors import StageFailed
from tasks.observe import StageOutcome
from tests.example_document import example_document

ROOT = Path(__file__).parents[2]


class Clock:
    """A clock that moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def outcome(stage: str, generation: int, state: Literal["computed", "cached"], seconds: float = 12.34) -> StageOutcome:
    return StageOutcome(
        stage=stage, generation=generation, fingerprint="f" * 64, state=state, seconds=seconds, uri="/store/x"
    )


def progress(done: int, total: int, text: str = "") -> dict[str, Any]:
    return {"event": "progress", "done": done, "total": total, "text": text}


def screen(output: str) -> list[str]:
    """The lines that a terminal shows after `output`: carriage return, line feed, cursor up, erase line."""
    lines, row, column = [""], 0, 0
    for escape, count, kind, char in re.findall(r"(\x1b\[\??([\d;]*)([A-Za-z]))|([^\x1b])", output):
        if escape:
            row -= int(count or 1) if kind == "A" else 0
            if kind == "K":
                lines[row] = "" if count == "2" else lines[row][:column]
        elif char == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif char == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=90)


def shown(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return screen(console.file.getvalue().replace("\n", "\r\n"))


def test_finished_stages_stay_on_the_terminal_as_one_line_each(terminal: Console) -> None:
    with LiveView(terminal) as live:
        for stage, state in (("prepare-dataset", "cached"), ("train-teacher", "computed")):
            live.started(stage, 0)
            live.progressed(progress(3, 10, "loss 0.31"))
            live.ended(outcome(stage, 0, state))  # type: ignore[arg-type]

    assert [line.split() for line in shown(terminal)] == [
        ["g0", "prepare-dataset", "cached"],
        ["g0", "train-teacher", "computed", "12.3", "s"],
    ]


def test_the_running_stage_shows_its_share_its_end_and_what_the_worker_says(terminal: Console) -> None:
    clock = Clock()
    with LiveView(terminal, clock) as live:
        live.started("train-noisy-student", 1)
        live.progressed(progress(0, 100, "loss 2.30"))
        clock.now += 9
        live.progressed(progress(45, 100, "loss 0.31"))
        last = shown(terminal)[-1]

    assert re.fullmatch(r"g1 train-noisy-student +[━╸╺]+ +45 % 0:00:11 left loss 0\.31", last)


def test_log_lines_stand_above_the_running_stage_and_their_brackets_are_no_markup(terminal: Console) -> None:
    with LiveView(terminal) as live:
        live.started("train-teacher", 0)
        live.logged("[red]resumed from step 40[/]")
        lines = shown(terminal)

    assert lines[0] == "[red]resumed from step 40[/]"
    assert lines[1].startswith("g0 train-teacher")


def test_a_stage_that_fails_is_not_left_looking_finished(terminal: Console) -> None:
    clock, stream = Clock(), io.StringIO()
    for listener in (LiveView(terminal, clock), PlainView(stream, clock)):
        with suppress(StageFailed), listener:
            listener.started("train-teacher", 0)
            clock.now += 5
            raise StageFailed

    assert shown(terminal) == ["g0 train-teacher                did not finish (5.0 s)"]
    assert stream.getvalue().splitlines()[-1] == "g0 train-teacher: did not finish (5.0 s)"


def test_a_file_gets_whole_lines_and_progress_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with PlainView(stream, clock) as plain:
        plain.started("train-teacher", 0)
        for done in range(0, 41):
            plain.progressed(progress(done, 80, f"step {done}"))
            clock.now += 0.5
        plain.logged("saved a checkpoint")
        plain.ended(outcome("train-teacher", 0, "computed", 200.4))

    assert stream.getvalue().splitlines() == [
        "g0 train-teacher: started",
        "g0 train-teacher: 20/80, 25 %, 0:00:30 left, step 20",
        "g0 train-teacher: 40/80, 50 %, 0:00:20 left, step 40",
        "    saved a checkpoint",
        "g0 train-teacher: computed 0:03:20",
    ]


def test_the_end_estimate_follows_the_last_minute_and_starts_anew_after_a_retry() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert (
        pace.left({"done": 50, "total": 1000, "text": ""}) == ""
    )  # resumed from step 50: those steps were not made now
    for done in (60, 70):
        clock.now += 100
        slow = pace.left({"done": done, "total": 1000, "text": ""})
    clock.now += 1
    assert slow == "2:35:00 left"
    assert pace.left({"done": 80, "total": 1000, "text": ""}) == "0:01:32 left"
    assert pace.left({"done": 80, "total": 1000, "text": "fog 3: 9 images/s, 0:01:00 left"}) == "", "said once"
    assert pace.left({"done": 0, "total": 1000, "text": ""}) == ""


@pytest.fixture
def pseudo_terminal() -> Iterator[io.TextIOWrapper]:
    """A stream that is a terminal."""
    reader, writer = os.openpty()
    with open(writer, "w") as stream:
        yield stream
    os.close(reader)


def test_only_a_terminal_that_moves_its_cursor_gets_the_live_view(
    pseudo_terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    with view(pseudo_terminal) as listener:
        assert isinstance(listener, LiveView)
    monkeypatch.setenv("TERM", "dumb")
    with view(pseudo_terminal) as listener:
        assert isinstance(listener, PlainView)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with view(io.StringIO()) as listener:
        assert isinstance(listener, PlainView)


def model(test_top1: float, **other: object) -> dict[str, object]:
    return {
        "model": "ns_efficientnet_s",
        "parameters": 345_678,
        "holdout_top1": 0.9,
        "test_top1": test_top1,
        "ece": 0.0312,
        "mean_corruption_error": 0.234,
        "fgsm_strongest_top1": 0.4,
        **other,
    }


def generation(index: int, test_top1: float, verdict: str) -> dict[str, object]:
    pseudo_labels = {"kept": 1234, "rows": 3000}
    return {
        "index": index,
        "student": model(test_top1),
        "pseudo_labels": pseudo_labels,
        "gate": {"verdict": verdict},
    }


def summary(
    *generations: dict[str, object],
    teacher: dict[str, object] | None = None,
    robustness: Sequence[dict[str, object]] = (),
    mlflow: dict[str, str | None] | None = None,
) -> str:
    stream = io.StringIO()
    document = {
        "first_teacher": teacher or model(0.91),
        "generations": list(generations),
        "stages": [{"state": "computed"}] * 9 + [{"state": "cached"}] * 4,
        "report": "s3://bucket/with a [bracket]/report.html",
        "robustness": list(robustness),
        "mlflow": mlflow or {"run": None, "compare": None, "table": None},
    }
    print_summary(document, stream)
    return stream.getvalue()


def test_the_table_has_a_row_for_the_teacher_and_for_each_generation() -> None:
    text = summary(generation(1, 0.94, "promote"), generation(2, 0.935, "keep-teacher"))
    rows = [line.split() for line in text.splitlines()]

    figures = ["ns_efficientnet_s", "346", "k", "90.0"]
    assert ["teacher", *figures, "91.0", "0.031", "23.4", "40.0"] in rows
    assert ["g1", *figures, "94.0", "0.031", "23.4", "40.0", "1,234", "promote"] in rows
    assert ["g2", *figures, "93.5", "0.031", "23.4", "40.0", "1,234", "keep-teacher"] in rows
    assert "13 stages: 9 computed, 4 cached." in text
    assert "Report: s3://bucket/with a [bracket]/report.html\n" in text


def test_robustness_against_the_first_teacher_is_a_table_of_its_own_and_tells_losses() -> None:
    rows = example_document()["robustness"]
    lines = [line.split() for line in summary(generation(1, 0.94, "promote"), robustness=rows).splitlines()]
    assert ["FGSM", "at", "16/255", "top-1", "11.0", "5.0", "-6.0", "-9.0", "to", "-3.0", "worse"] in lines
    figures = ["41.2", "27.0", "-14.2", "-16.2", "to", "-12.2", "better"]
    assert ["corruptions", "made", "on", "the", "fly", "error", *figures] in lines
    assert "student against" not in summary(generation(1, 0.94, "promote"))


def test_the_last_line_leads_to_the_comparison_with_other_runs_or_says_what_does() -> None:
    run, compare = "http://mlflow/#/experiments/1/runs/a", f"http://mlflow/#/compare-runs?runs={'a' * 200}"
    text = summary(generation(1, 0.94, "promote"), mlflow={"run": run, "compare": compare})
    assert text.splitlines()[-1] == f"Compare: {compare}", "one line, which a terminal can open by a click"
    assert summary(mlflow={"run": run, "compare": None}).splitlines()[-1] == f"Compare: {run}"
    assert "`noisy-student ui`" in summary().splitlines()[-1]


def test_a_figure_that_was_not_measured_is_a_dash() -> None:
    teacher = model(0.91, mean_corruption_error=None, fgsm_strongest_top1=None)
    row = next(line for line in summary(teacher=teacher).splitlines() if "teacher " in line)

    assert row.split()[-3:] == ["0.031", "-", "-"]


@pytest.mark.parametrize(
    ("generations", "sentence"),
    [
        (
            [generation(1, 0.94, "promote"), generation(2, 0.99, "keep-teacher")],
            "The student beats the teacher by +3.0 points on the test split: "
            "94.0 % (generation 1) against 91.0 % (first teacher).\n",
        ),
        (
            [generation(1, 0.94, "keep-teacher")],
            "The student beats the teacher by +3.0 points on the test split: "
            "94.0 % (generation 1) against 91.0 % (first teacher). No gate promoted a student.\n",
        ),
        (
            [generation(1, 0.90, "promote")],
            "The student does not beat the teacher on the test split, it is 1.0 points worse: "
            "90.0 % (generation 1) against 91.0 % (first teacher).\n",
        ),
        (
            [generation(1, 0.91, "promote")],
            "The student does not beat the teacher on the test split, they are level: "
            "91.0 % (generation 1) against 91.0 % (first teacher).\n",
        ),
        ([], "No generation was run, so there is no student to compare with the teacher.\n"),
    ],
)
def test_the_verdict_is_told_as_it_is_and_chosen_by_the_gate(
    generations: list[dict[str, object]], sentence: str
) -> None:
    assert sentence in summary(*generations)


def test_importing_these_modules_loads_neither_prefect_nor_mlflow_nor_torch() -> None:
    heavy = "{'prefect', 'mlflow', 'torch'}"
    code = f"import flows.live, flows.ui, flows.doctor, sys; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert run.stdout == "set()\n"
