"""What an ablation found: its arms beside their baseline, as data, table, Markdown and a page.

In: the campaigns of the arms, by seed. Out: an `Ablation`, kept as `ablations/{id}/ablation.json`, and texts. The
figure of an arm is its last student's, whatever its gate said; of an arm without generations the teacher's.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ns_core.artifacts import Frozen
from ns_core.evaluation.figures.arms import ArmFigures, Difference, OverSeeds, compare
from ns_core.evaluation.reports.page import Table, html_figure, html_list, html_table, markdown_table, page

FIGURE = "test_top1"
UNKNOWN = "-"


class ArmRun(Frozen):
    """A campaign of one arm and seed."""

    arm: str
    seed: int
    run_id: str
    document: dict[str, Any] | None = None
    """As `run --json` prints it; None where it failed."""
    failure: str = ""


class ArmResult(Frozen):
    """One arm over its seeds."""

    arm: str
    words: str
    paper: str
    """The paper's figure, on other data."""
    figures: ArmFigures
    by_seed: dict[int, float]
    """Test top-1, as a share."""
    own_seconds: float
    """Of the stages that no other arm has, over all seeds, whenever they were computed."""
    shared_seconds: float
    """Of those that it has in common with another arm."""
    failures: dict[int, str]
    """Seed -> reason."""


class Ablation(Frozen):
    """A study of a recipe."""

    run_id: str
    study: str
    question: str
    recipe: str
    seeds: list[int]
    arms: list[ArmResult]
    runs: dict[str, list[str]]
    """Arm -> the ids of its campaigns."""
    side_by_side: int = 1
    """Campaigns that ran at the same time."""
    report: str = ""
    """URI of the page."""
    mlflow: str | None = None
    """The page that compares the arms."""

    @property
    def failed(self) -> int:
        """Campaigns that did not end."""
        return sum(len(arm.failures) for arm in self.arms)

    @property
    def words(self) -> str:
        """What came of it, in one line."""
        told = [arm for arm in self.arms[1:] if (arm.figures.against and _apart(arm.figures.against))]
        names = ", ".join(f"{arm.arm} {_points(arm.figures.against)}" for arm in told if arm.figures.against)
        count = f"{len(self.arms)} arms, {len(self.seeds)} seed{'s' * (len(self.seeds) != 1)}"
        lost = f"; failed campaigns: {self.failed}" if self.failed else ""
        return f"{self.study} ({count}): {names or 'no arm is told apart from ' + self.arms[0].arm}{lost}"


Seconds = Mapping[str, float]
"""Artifact, `{stage}/{fingerprint}` -> what it took to make."""


def found(
    run_id: str, study: tuple[str, str], recipe: str, arms: Mapping[str, tuple[str, str]], runs: Sequence[ArmRun]
) -> Ablation:
    """The comparison, but for costs. `study`: name and question; `arms`: name -> words and paper; the first is the
    baseline."""
    by_seed: dict[str, dict[int, float]] = {arm: {} for arm in arms}
    for one in runs:
        if one.document:
            by_seed[one.arm][one.seed] = _figure(one.document)
    figures = compare(by_seed)
    results = [
        ArmResult(
            arm=arm,
            words=words,
            paper=paper,
            figures=figures[arm],
            by_seed=by_seed[arm],
            own_seconds=0.0,
            shared_seconds=0.0,
            failures={one.seed: one.failure for one in runs if one.arm == arm and one.document is None},
        )
        for arm, (words, paper) in arms.items()
    ]
    return Ablation(
        run_id=run_id,
        study=study[0],
        question=study[1],
        recipe=recipe,
        seeds=sorted({one.seed for one in runs}),
        arms=results,
        runs={arm: [one.run_id for one in runs if one.arm == arm] for arm in arms},
    )


def with_costs(ablation: Ablation, runs: Sequence[ArmRun], seconds: Seconds) -> Ablation:
    """The same with what each arm took, whoever computed it."""
    stages: dict[str, set[str]] = {arm.arm: set() for arm in ablation.arms}
    for one in runs:
        if one.document:
            stages[one.arm] |= {f"{stage['stage']}/{stage['fingerprint']}" for stage in one.document["stages"]}

    def cost(arm: str) -> dict[str, float]:
        elsewhere = set().union(*(names for other, names in stages.items() if other != arm))
        own, shared = stages[arm] - elsewhere, stages[arm] & elsewhere
        return {
            "own_seconds": round(sum(seconds.get(name, 0.0) for name in own), 1),
            "shared_seconds": round(sum(seconds.get(name, 0.0) for name in shared), 1),
        }

    return ablation.model_copy(update={"arms": [arm.model_copy(update=cost(arm.arm)) for arm in ablation.arms]})


def table(ablation: Ablation) -> Table:
    """A line for each arm."""
    figures = ("test top-1 %", "95 % interval", "change, points", "95 % interval", "p", "Holm", "seeds")
    heads = ("arm", "", *figures, "own s", "shared s", "paper %, on other data")
    rows: list[tuple[str, ...]] = []
    for arm in ablation.arms:
        figure, against = arm.figures.figure, arm.figures.against
        change = against.change if against else None
        cells = (
            _percent(figure.mean) if figure else UNKNOWN,
            _interval(figure, _percent),
            _signed(change.mean) if change else UNKNOWN,
            _interval(change, _signed),
            _p(against.p_value if against else None),
            _p(against.adjusted if against else None),
            str(figure.seeds if figure else 0),
            f"{arm.own_seconds:.0f}",
            f"{arm.shared_seconds:.0f}",
        )
        rows.append((arm.arm, arm.words, *cells, arm.paper or UNKNOWN))
    return Table(2, heads, rows)


def notes(ablation: Ablation) -> list[str]:
    """How to read the table, and what is missing from it."""
    seeds = ", ".join(map(str, ablation.seeds))
    said = [
        f"Recipe {ablation.recipe}, seeds {seeds}. Each seed draws splits, labels, weights and orders anew.",
        f"Changes are against {ablation.arms[0].arm}, paired by seed; Student t intervals; p is that of the paired t "
        "test, then the same after Holm's correction for the number of arms.",
        "The figure of an arm is its last student's, whatever its gate said. Nothing was chosen by it.",
        "Seconds are those of the stages when they were computed: the arm's own, and those it shares with another.",
    ]
    if ablation.side_by_side > 1:
        said.append(
            f"{ablation.side_by_side} campaigns ran side by side: their seconds hold what they slowed each other."
        )
    if len(ablation.seeds) < 3:
        said.append("With fewer than three seeds next to nothing is told apart.")
    said += [
        f"{arm.arm}, seed {seed} failed: {reason}" for arm in ablation.arms for seed, reason in arm.failures.items()
    ]
    return said


def render_markdown(ablation: Ablation) -> str:
    link = [f"[The arms in MLflow]({ablation.mlflow})"] if ablation.mlflow else []
    lines = [f"- {line}" for line in notes(ablation)]
    head = f"# {ablation.study}: {ablation.question}"
    return "\n\n".join([head, ablation.words, markdown_table(table(ablation)), "\n".join(lines), *link]) + "\n"


def render_html(ablation: Ablation, picture: bytes | None) -> str:
    """One page that needs nothing else."""
    title = f"{ablation.study}: {ablation.question}"
    drawn = [html_figure("change of test top-1 against the baseline, 95 % intervals", picture)] if picture else []
    head = [f"<h1>{escape(title)}</h1>", f"<p>{escape(ablation.words)}</p>"]
    return page(title, [*head, *drawn, html_table(table(ablation)), html_list(notes(ablation))])


def _figure(document: Mapping[str, Any]) -> float:
    """Test top-1 of the last student, as a share."""
    generations = document["generations"]
    return float((generations[-1]["student"] if generations else document["first_teacher"])[FIGURE])


def _apart(against: Difference) -> bool:
    """Whether the interval leaves out 0."""
    low, high = against.change.low, against.change.high
    return low is not None and high is not None and (low > 0 or high < 0)


def _points(against: Difference | None) -> str:
    return f"{_signed(against.change.mean)} points" if against else ""


def _interval(over: OverSeeds | None, show: Any) -> str:
    if over is None or over.low is None or over.high is None:
        return UNKNOWN
    return f"{show(over.low)} to {show(over.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _p(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}" if value >= 0.001 else "<0.001"
