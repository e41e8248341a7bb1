"""Which figures of a stage become charts."""

from pathlib import Path

import pytest

from ns_core.artifacts import Report
from ns_core.evaluation.concluding import points
from ns_core.evaluation.results import FIGURES
from ns_core.storage import open_storage
from tasks.stage_figures import charted, curve, profile, stamp
from tests.lineage_stores import run_of_two
from tests.robustness_reports import student_report

TRAINING = (
    *("loss", "lr", "holdout_top1", "seconds_left", "images_per_second", "data_wait"),
    *("step_ms_p50", "step_ms_p95", "step_ms_p99"),
)


def test_a_generation_has_fewer_charts_than_slow_mlflow_down() -> None:
    labelling = {f"infer/{name}" for name in ("images_per_second", "data_wait", "seconds_left")}
    training = {charted("train-noisy-student", f"train/{name}") for name in TRAINING}
    finetuning = {charted("finetune-at-test-resolution", f"finetune/{name}") for name in TRAINING}
    evaluation = {charted(Report.stage, key) for key, _, _ in points(student_report())} | {f"val/{n}" for n in FIGURES}
    selection = {f"pl/{index}" for index in range(15)}
    timing = {f"timing/{index}" for index in range(7)}
    keys = (labelling | training | finetuning | evaluation | selection | timing) - {""}
    assert len(keys) < 50
    assert {"train/loss", "train/step_ms_p95", "finetune/loss", "finetune/holdout_top1"} <= keys
    assert {key.partition("/")[0] for key in keys} == {"infer", "train", "finetune", "val", "pl", "timing"}


def test_an_attack_is_a_curve_of_the_evaluation_and_a_single_corruption_is_in_the_report() -> None:
    assert charted(Report.stage, "fgsm_top1") == "val/fgsm_top1"
    assert charted(Report.stage, "imagenet_c/mce") == "val/imagenet_c/mce"
    assert charted(Report.stage, "corruption/fog") == ""
    assert charted(Report.stage, "mean_corruption_error") == "", "told once, as a figure of the result"


def test_an_artifact_without_a_curve_has_no_points(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    assert curve(storage, run_of_two(storage, tmp_path / "files")["teacher"]) == []


def test_a_stage_is_told_at_the_time_when_it_was_made(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "store"))
    record = run_of_two(storage, tmp_path / "files")["teacher"].model_copy(update={"seconds": 2.5})
    dated = record.model_copy(update={"provenance": {"started_at": "2026-11-22T22:15:00+00:00"}})
    assert stamp(dated) == 1795385702500
    assert stamp(record) == int(record.fingerprint[:8], 16), "of an undated record the same each time"


@pytest.mark.parametrize("gone", ["labels2", "dataset"])
def test_lineage_goes_as_far_as_the_store_has_records(tmp_path: Path, gone: str) -> None:
    storage = open_storage(str(tmp_path / "store"))
    made = run_of_two(storage, tmp_path / "files")
    storage.delete(made[gone].paths.record)
    inputs = profile(storage, made["selection2"])["inputs"]
    assert isinstance(inputs, dict)
    role = {"labels2": "pseudo_labels", "dataset": "dataset"}[gone]
    assert inputs[role] == made[gone].fingerprint
