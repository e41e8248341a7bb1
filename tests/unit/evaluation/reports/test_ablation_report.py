"""The report of an ablation: costs told apart, failures named, a page that needs nothing else."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ns_core.evaluation.reports.ablation import Ablation, ArmRun, found, render_html, render_markdown, with_costs
from ns_core.evaluation.reports.ablation_picture import changes

ARMS = {"all": ("the recipe as it is", "84.9 (B5)"), "none": ("no <noise>", "84.3 (B5)")}
FIGURES = {("all", 0): 0.95, ("all", 1): 0.97, ("all", 2): 0.96, ("none", 0): 0.90, ("none", 1): 0.93}
REASON = "train-noisy-student: the worker was killed"


def document(arm: str, top1: float) -> dict[str, Any]:
    """Of a campaign, as far as the comparison reads it."""
    stages = [{"stage": "train-teacher", "fingerprint": "a" * 64}]
    stages += [{"stage": "train-noisy-student", "fingerprint": arm * 16}] * 2
    student = {"test_top1": top1}
    return {
        "stages": stages,
        "first_teacher": {"test_top1": 0.5},
        "generations": [{"index": 1, "student": {"test_top1": 0.6}}, {"index": 2, "student": student}],
    }


@pytest.fixture
def ablation() -> Ablation:
    runs = [
        ArmRun(arm=arm, seed=seed, run_id=f"{arm}-{seed}", document=document(arm, top1))
        for (arm, seed), top1 in FIGURES.items()
    ]
    runs.append(ArmRun(arm="none", seed=2, run_id="none-2", failure=REASON))
    seconds = {f"train-teacher/{'a' * 64}": 100.0}
    seconds |= {f"train-noisy-student/{arm * 16}": cost for arm, cost in (("all", 30.0), ("none", 20.0))}
    made = found("id", ("noise", "does the student need its noise?"), "digits", ARMS, runs)
    return with_costs(made, runs, seconds)


def test_the_last_students_figures_are_compared_on_common_seeds(ablation: Ablation) -> None:
    everything, nothing = ablation.arms
    assert everything.by_seed == {0: 0.95, 1: 0.97, 2: 0.96}
    assert nothing.figures.against is not None
    assert nothing.figures.against.change.mean == pytest.approx(-0.045)
    assert nothing.figures.against.change.seeds == 2


def test_a_stage_that_two_arms_share_is_nobodys_own_cost_and_counts_once(ablation: Ablation) -> None:
    assert [(arm.own_seconds, arm.shared_seconds) for arm in ablation.arms] == [(30.0, 100.0), (20.0, 100.0)]


def test_a_failed_campaign_is_named_with_its_reason(ablation: Ablation) -> None:
    assert ablation.failed == 1
    assert ablation.words == "noise (2 arms, 3 seeds): no arm is told apart from all; failed campaigns: 1"
    assert f"none, seed 2 failed: {REASON}" in render_markdown(ablation)


def test_the_paper_stands_beside_and_is_marked_as_on_other_data(ablation: Ablation) -> None:
    text = render_markdown(ablation)
    assert "paper %, on other data" in text
    assert "84.3 (B5)" in text


def test_the_page_escapes_names_holds_the_picture_and_asks_no_other_address(ablation: Ablation, tmp_path: Path) -> None:
    changes(tmp_path / "changes.png", ablation)
    with Image.open(tmp_path / "changes.png") as picture:
        assert picture.width > 600
    page = render_html(ablation, (tmp_path / "changes.png").read_bytes())
    assert "no &lt;noise&gt;" in page
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", "")


def test_it_is_read_again_as_it_was_kept(ablation: Ablation) -> None:
    assert Ablation.model_validate_json(ablation.model_dump_json()) == ablation
