"""The document of a run with three generations, as the digits recipe could leave it."""

from typing import Any

from ns_core.evaluation.reports.comparison import verdict
from ns_core.fingerprint import digest

STAGES = (
    "infer-unlabeled",
    "filter-and-balance",
    "train-noisy-student",
    "finetune-at-test-resolution",
    "evaluate-robustness",
)


def figures(holdout: float, test: float, ece: float, corruption: float, fgsm: float) -> dict[str, Any]:
    """The figures of a model as `--json` prints them."""
    return {
        "holdout_top1": holdout,
        "test_top1": test,
        "ece": ece,
        "mean_corruption_error": corruption,
        "mean_flip_probability": corruption / 4,
        "fgsm_strongest_top1": fgsm,
        "pgd_strongest_top1": fgsm / 10,
    }


def row(figure: str, measure: str, before: float, after: float, half: float) -> dict[str, Any]:
    """One figure of the last standing student against the first teacher."""
    change = after - before
    return {
        "figure": figure,
        "measure": measure,
        "before": before,
        "after": after,
        "difference": change,
        "low": change - half,
        "high": change + half,
        "p_value": 0.002 if measure == "top-1 accuracy" else None,
        "images": 400,
        "verdict": verdict(measure, change - half, change + half),
    }


def stage(name: str, generation: int, state: str, seconds: float) -> dict[str, Any]:
    """One entry of the ledger."""
    fingerprint = digest([name, generation])
    return {
        "stage": name,
        "generation": generation,
        "fingerprint": fingerprint,
        "state": state,
        "seconds": seconds,
        "uri": f"/data/store/{name}/{fingerprint[:12]}",
    }


def gate(verdict: str, gain: float, interval: tuple[float, float], reason: str) -> dict[str, Any]:
    """A decision of the gate."""
    return {
        "verdict": verdict,
        "reason": reason,
        "holdout_gain": gain,
        "interval": list(interval),
        "p_value": 0.01,
        "worst_class_change": 0.1,
        "ece_change": -0.01,
    }


def _generations(first: Any, one: Any, two: Any, three: Any) -> list[dict[str, Any]]:
    """Of the first teacher's figures and of its three students'."""
    model = {"model": "ns_efficientnet_m", "parameters": 612_010}
    rose = "Promoted the student: +5.3 points of accuracy (95% interval +2.0 to +9.0, p = 0.004)."
    fell = "Kept the teacher because the gain is below the +0.0 points required: -1.3 points of accuracy."
    again = "Promoted the student: +2.0 points of accuracy (95% interval -0.7 to +5.0, p = 0.2)."
    return [
        {
            "index": 1,
            "teacher": first,
            "student": {**one, "model": "ns_efficientnet_s", "parameters": 241_000},
            "pseudo_labels": {"kept": 812, "rows": 1100},
            "gate": gate("promote", 0.0533, (0.02, 0.09), rose),
        },
        {
            "index": 2,
            "teacher": one,
            "student": {**two, **model},
            "pseudo_labels": {"kept": 901, "rows": 1100},
            "gate": gate("keep-teacher", -0.0133, (-0.04, 0.01), fell),
        },
        {
            "index": 3,
            "teacher": one,
            "student": {**three, **model},
            "pseudo_labels": {"kept": 901, "rows": 1100},
            "gate": gate("promote", 0.02, (-0.007, 0.05), again),
        },
    ]


def example_document() -> dict[str, Any]:
    """Promoted, kept, promoted: the student of generation 3 stands, 7.5 points above the first teacher."""
    first = figures(0.85, 0.8575, 0.071, 0.412, 0.11)
    one = figures(0.9033, 0.91, 0.052, 0.301, 0.2225)
    two = figures(0.89, 0.9025, 0.058, 0.322, 0.2)
    three = figures(0.9233, 0.9325, 0.04, 0.27, 0.2525)
    return {
        "run_id": "digits-20261122-221500-3fa9",
        "recipe": "digits",
        "seed": 7,
        "stages": [
            stage("prepare-dataset", 0, "cached", 0.2),
            stage("train-teacher", 0, "cached", 0.1),
            stage("evaluate-robustness", 0, "computed", 8.4),
            *(stage(name, generation, "computed", 12.3) for generation in (1, 2, 3) for name in STAGES),
        ],
        "first_teacher": {**first, "model": "ns_efficientnet_xs", "parameters": 61_402},
        "generations": _generations(first, one, two, three),
        "report": "",
        "robustness": [
            row("clean test images", "top-1 accuracy", 0.8575, 0.9325, 0.03),
            row("corruptions made on the fly", "mean top-1 error", 0.412, 0.27, 0.02),
            row("perturbation sequences made on the fly", "mean flip probability", 0.103, 0.0675, 0.01),
            row("FGSM at 16/255", "top-1 accuracy", 0.11, 0.05, 0.03),
        ],
    }


def supervised_document() -> dict[str, Any]:
    """A run without generations, corruptions and attacks: figures that were not measured are None."""
    whole = example_document()
    unmeasured = ("mean_corruption_error", "mean_flip_probability", "fgsm_strongest_top1", "pgd_strongest_top1")
    first = {**whole["first_teacher"], **dict.fromkeys(unmeasured)}
    return {
        **whole,
        "recipe": "digits_supervised",
        "stages": whole["stages"][:3],
        "first_teacher": first,
        "generations": [],
        "robustness": [],
    }
