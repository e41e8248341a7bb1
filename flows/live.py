"""Shows a run to the person at the terminal, stage by stage while it goes on; `flows.run_summary` ends it.

In: what `tasks.observe.Listener` is told. Out: text on one stream,
standard error by convention, so that standard output keeps the result alone. On a terminal the running stage
is a moving line below what was said before; anywhere else (a file, a pipe, CI) there are only whole lines.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

if TYPE_CHECKING:
    from tasks.observe import Listener, StageOutcome

PLAIN_EVERY_SECONDS = 10.0
"""Between two progress lines where no line can be rewritten."""
PACE_SECONDS = 60.0
"""How far back the end estimate looks: the parts of one stage differ in speed."""
LABEL_WIDTH = len("g10 finetune-at-test-resolution")
Clock = Callable[[], float]


@contextmanager
def view(stream: TextIO) -> "Iterator[Listener]":
    """`LiveView` on a terminal that can move its cursor, else `PlainView`.

    `FORCE_COLOR` makes no terminal of a file here: rich would write cursor movements into a CI log.
    """
    console = Console(file=stream)
    moves = stream.isatty() and not console.is_dumb_terminal
    with LiveView(console) if moves else PlainView(stream) as listener:
        yield listener


class Pace:
    """When a stage will end, judged by its speed in the last minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._seen = clock, deque[tuple[float, int]]()

    def left(self, event: dict[str, Any]) -> str:
        """`0:00:12 left`, or an empty string until two different counts tell a speed; so where the stage says it."""
        now, done, total = self._clock(), event["done"], event["total"]
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # a retry: it goes on from an earlier checkpoint, or from the start
        while len(self._seen) > 1 and now - self._seen[0][0] > PACE_SECONDS:
            self._seen.popleft()
        self._seen.append((now, done))
        seconds, gained = now - self._seen[0][0], done - self._seen[0][1]
        if not gained or event["text"].endswith(" left"):
            return ""
        return f"{timedelta(seconds=round((total - done) * seconds / gained))} left"


class LiveView:
    """A moving line for the running stage; finished stages and log lines scroll up above it.

    Finished stages leave the moving part, so that it never outgrows the terminal: a run of ten generations
    has more than fifty stages.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[left]}", style="cyan", markup=False),
            TextColumn("{task.fields[text]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self._label, self._since, self._pace = "", 0.0, Pace(clock)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        self._progress.stop()

    def started(self, stage: str, generation: int) -> None:
        """A new moving line; a stage that is still there ended without an artifact."""
        self._leave()
        self._label = _label(stage, generation)
        self._since, self._pace = self._clock(), Pace(self._clock)
        self._progress.add_task(f"{self._label:{LABEL_WIDTH}}", total=None, left="", text="")

    def progressed(self, event: dict[str, Any]) -> None:
        """`event`: a `ns_core.stage.Progress`."""
        done, total = event["done"], event["total"]
        left = self._pace.left(event)
        now = {"completed": done, "total": total, "left": left, "text": event["text"]}
        for row in self._progress.task_ids:
            self._progress.update(row, refresh=True, **now)

    def logged(self, line: str) -> None:
        """Above the moving line, as the worker wrote it: brackets are no markup, colours stay."""
        self._console.print(Text.from_ansi(line, style="dim"), soft_wrap=True, highlight=False)

    def ended(self, outcome: "StageOutcome") -> None:
        """The stage's last line."""
        self._clear()
        style = "green" if outcome.state == "computed" else "dim"
        self._finish(_label(outcome.stage, outcome.generation), _ending(outcome), style)

    def _leave(self) -> None:
        if self._progress.task_ids:
            self._clear()
            self._finish(self._label, f"did not finish ({_duration(self._clock() - self._since)})", "red")

    def _clear(self) -> None:
        for row in self._progress.task_ids:
            self._progress.remove_task(row)
        self._progress.refresh()  # or the next line is printed above the old moving line

    def _finish(self, label: str, ending: str, style: str) -> None:
        self._console.print(Text.assemble(f"{label:{LABEL_WIDTH}} ", (ending, style)), highlight=False)


class PlainView:
    """Whole lines only: a stage's start and end, its progress every 10 s, log lines indented."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._label, self._since, self._next, self._pace = "", 0.0, 0.0, Pace(clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def started(self, stage: str, generation: int) -> None:
        """A line at once; progress only once 10 s have passed, which a short stage never reaches."""
        self._leave()
        self._label = _label(stage, generation)
        self._since, self._pace = self._clock(), Pace(self._clock)
        self._next = self._since + PLAIN_EVERY_SECONDS
        self._write(f"{self._label}: started")

    def progressed(self, event: dict[str, Any]) -> None:
        """`event`: a `ns_core.stage.Progress`. Each one counts for the estimate, few are shown."""
        done, total = event["done"], event["total"]
        left = self._pace.left(event)
        if self._clock() < self._next:
            return
        self._next = self._clock() + PLAIN_EVERY_SECONDS
        share = f"{100 * done // max(total, 1)} %"
        parts = (part for part in (f"{done}/{total}", share, left, event["text"]) if part)
        self._write(f"{self._label}: {', '.join(parts)}")

    def logged(self, line: str) -> None:
        """Indented below its stage."""
        self._write(f"    {line}")

    def ended(self, outcome: "StageOutcome") -> None:
        """The stage's last line."""
        self._label = ""
        self._write(f"{_label(outcome.stage, outcome.generation)}: {_ending(outcome)}")

    def _leave(self) -> None:
        if self._label:
            self._write(f"{self._label}: did not finish ({_duration(self._clock() - self._since)})")
            self._label = ""

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _label(stage: str, generation: int) -> str:
    return f"g{generation} {stage}"


def _ending(outcome: "StageOutcome") -> str:
    return "cached" if outcome.state == "cached" else f"computed {_duration(outcome.seconds)}"


def _duration(seconds: float) -> str:
    """`12.3 s`; from 100 s on `0:03:20`."""
    return f"{seconds:.1f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))
