"""evaluate-robustness on a tiny checkpoint: what it leaves, what does not matter to that, and how it goes on."""

import hashlib
import json
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ns_core.config import EvaluateConfig
from ns_core.config.evaluation import CORRUPTIONS
from ns_core.data.image_source import ImageSource, eval_batches
from ns_core.data.index import DatasetIndex, Split
from ns_core.data.reading import ShardReader
from ns_core.data.rows import OneHot, rows_of
from ns_core.errors import StageFailed, UserError
from ns_core.evaluation import evaluate_robustness
from ns_core.evaluation.attacks.gradients import adversarial
from ns_core.evaluation.report_file import ReportFile, read_report
from ns_core.evaluation.reports.examples import read_examples
from ns_core.evaluation.tables import Scene, Tables, write_table
from ns_core.models.checkpoint import ModelCard, Normalize, load_checkpoint, save_checkpoint
from ns_core.models.factory import create_network
from ns_core.models.predict import Predictor
from ns_core.resume import Adopted
from ns_core.stage import StageContext, Stopped
from tests.artifact_builders import flip
from tests.factories import TINY_MODEL, settled, training_context

SMALL: dict[str, Any] = {
    "corruptions": ("gaussian_noise", "brightness"),
    "severities": (1, 5),
    "perturbations": ("gaussian_noise", "translate"),
    "fgsm_eps": (0.0, 8.0),
    "pgd_eps": (8.0,),
    "pgd_steps": 2,
    "max_images": 60,
    "max_sequences": 10,
    "max_attacked": 40,
    "seed": 3,
}
CLEAN_ONLY: dict[str, Any] = {"corruptions": (), "perturbations": (), "fgsm_eps": (), "pgd_eps": (), "seed": 3}
TABLES = 2 + 2 * 2 + 2 + 3
"""Of `SMALL`: clean, corrupted, perturbed and attacked scenes."""


def _pictures(dataset: Path, split: Split) -> NDArray[np.uint8]:
    """uint8[N,32,32,3], in the order of the index."""
    part = DatasetIndex.load(dataset).split(split)
    with ShardReader(dataset) as reader:
        rows = rows_of(part, OneHot(part.labels, 10))
        (images,) = eval_batches(ImageSource(reader), rows, (32, 1.0), len(rows))
    return images


def _checkpoint(folder: Path, dataset: Path, seed: int, names: tuple[str, ...] = ()) -> Path:
    """Fresh weights with BatchNorm statistics of the test images, so that the answers differ among them."""
    names = names or tuple(DatasetIndex.load(dataset).class_names)
    card = ModelCard(model=TINY_MODEL, class_names=names, train_size=32, test_size=32, crop_pct=1)
    torch.manual_seed(seed)
    network = create_network(TINY_MODEL, 10, bn_momentum=1.0).train()
    with torch.no_grad():
        network(Normalize(card)(torch.from_numpy(_pictures(dataset, "test"))))
    folder.mkdir()
    save_checkpoint(folder, network, card)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("checkpoint") / "first", digits_folder, seed=0)


def _run(folder: Path, config: dict[str, Any], **inputs: Path) -> tuple[dict[str, Any], ReportFile, StageContext]:
    """Headline, report, and the context of the run."""
    context = training_context(folder, **inputs)
    headline = evaluate_robustness.run(EvaluateConfig(**config), context)
    return headline, read_report(settled(context)), context


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path, checkpoint: Path) -> Path:
    """The report of a teacher."""
    _, _, context = _run(tmp_path_factory.mktemp("base"), SMALL, dataset=digits_folder, checkpoint=checkpoint)
    return context.output


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _saved(folder: Path) -> dict[str, int]:
    """Files of the resume folder and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "store" / "stage" / "resume").glob("*")}


def test_a_report_holds_what_was_asked_for_and_rests_on_the_tables_beside_it(
    digits_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    headline, file, context = _run(tmp_path, SMALL, dataset=digits_folder, checkpoint=checkpoint)
    report, tables = file.report, Tables.of(context.output)
    assert len(tables.scenes) == TABLES
    assert (report.model, report.size, len(report.class_names)) == (TINY_MODEL, 32, 10)
    index = DatasetIndex.load(digits_folder)
    for name, part in (("holdout", report.holdout), ("test", report.test)):
        assert part is not None
        table, split = tables.predictions(Scene("clean", name)), index.split(name)  # type: ignore[arg-type]
        assert (table.key.tolist(), table.label.tolist()) == (split.keys.tolist(), split.labels.tolist())
        assert part.top1.value == pytest.approx(table.right.mean())
    assert report.corruptions is not None
    assert report.corruptions.images == 60
    for name in ("gaussian_noise", "brightness"):
        for severity in ("1", "5"):
            table = tables.predictions(Scene("corruptions", name, severity))
            assert report.corruptions.errors[name][severity] == pytest.approx(1 - table.right.mean())
    assert report.perturbations is not None
    assert report.perturbations.sequences == 10
    flips = tables.sequences(Scene("perturbations", "translate", "1"))
    assert report.perturbations.flip_probability["translate"] == pytest.approx((flips.flips / flips.compared).mean())
    assert set(report.attacks) == {"fgsm", "pgd"}
    assert report.attacks["fgsm"].images == 40
    assert report.attacks["pgd"].settings["steps"] == 2
    assert (report.gaps, report.images, report.subsets, file.gate) == ([], None, {}, None)
    assert file.fingerprint == context.fingerprint
    assert headline["test_top1"] == report.test.top1.value  # type: ignore[union-attr]


def test_the_main_figures_become_points_of_curves(digits_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    _, file, context = _run(tmp_path, SMALL, dataset=digits_folder, checkpoint=checkpoint)
    points = {(point["key"], point["step"]): point["value"] for point in context.history}
    made, moved = file.report.corruptions, file.report.perturbations
    assert made is not None
    assert moved is not None
    assert points["corruption/brightness", 0] == made.means["brightness"]
    assert points["flip_probability/translate", 0] == moved.flip_probability["translate"]
    assert points["fgsm_top1", 8] == file.report.attacks["fgsm"].top1["8"].value
    assert len(points) == len(context.history) == 1 + 2 + 1 + 2 + 3


def test_examples_lie_beside_the_report_and_their_failing_fails_nothing(
    digits_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inputs = {"dataset": digits_folder, "checkpoint": checkpoint}
    _, _, context = _run(tmp_path / "good", SMALL, **inputs)
    assert {example.kind for example in read_examples(context.output / "examples.parquet")} == {"worst"}

    def broken(*_: Any) -> None:
        raise RuntimeError("no thumbnails today")

    monkeypatch.setattr("ns_core.evaluation.concluding.write_examples", broken)
    _, file, context = _run(tmp_path / "bad", SMALL, **inputs)
    assert file.report.test is not None
    assert not (context.output / "examples.parquet").exists()
    assert "no thumbnails today" in caplog.text


def test_neither_the_batch_nor_threads_change_an_answer(digits_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The noise of an image hangs on its key: not on its place in a batch, nor on what came before."""
    found = []
    for batch, threads in ((7, 0), (256, 3)):
        context = training_context(tmp_path / str(batch), dataset=digits_folder, checkpoint=checkpoint)
        context.compute = context.compute.model_copy(update={"loader_workers": threads})
        evaluate_robustness.run(EvaluateConfig(**SMALL, batch_size=batch), context)
        found.append(Tables.of(settled(context)))
    assert found[0].scenes == found[1].scenes
    for scene in found[0].scenes:
        if scene.suite == "perturbations":
            flips = [tables.sequences(scene) for tables in found]
            assert flips[0].flips.tolist() == flips[1].flips.tolist()
        else:
            said = [tables.predictions(scene) for tables in found]
            assert said[0].top1.tolist() == said[1].top1.tolist(), scene
            assert np.allclose(said[0].confidence, said[1].confidence, atol=1e-3)


def test_a_scene_is_the_same_whatever_else_is_looked_at(
    digits_folder: Path, checkpoint: Path, baseline: Path, tmp_path: Path
) -> None:
    config = {**CLEAN_ONLY, "corruptions": ("brightness",), "severities": (5,), "max_images": 60}
    _, _, context = _run(tmp_path, config, dataset=digits_folder, checkpoint=checkpoint)
    name = Scene("corruptions", "brightness", "5").file(0)
    assert (context.output / name).read_bytes() == (baseline / name).read_bytes()


def test_an_image_that_is_wrong_when_clean_counts_as_wrong_under_attack(
    digits_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Strong attacks undo some mistakes by chance; counted alone, their accuracy would be too high."""
    eps = (0.0, 8.0, 32.0, 64.0, 128.0, 255.0)
    config = {**CLEAN_ONLY, "fgsm_eps": eps, "max_attacked": 100}
    _, file, _ = _run(tmp_path, config, dataset=digits_folder, checkpoint=checkpoint)
    predictor = Predictor(*load_checkpoint(checkpoint), torch.device("cpu"))
    pixels = torch.tensor(_pictures(digits_folder, "test")).permute(0, 3, 1, 2).float() / 255
    truth = torch.tensor(DatasetIndex.load(digits_folder).split("test").labels, dtype=torch.long)
    clean = predictor(pixels).argmax(dim=1) == truth
    undone, top1 = 0, file.report.attacks["fgsm"].top1
    for strength in eps:
        attacked = predictor(adversarial("fgsm", predictor, pixels, truth, strength, 1)).argmax(dim=1) == truth
        undone += int((attacked & ~clean).sum())
        assert top1[f"{strength:g}"].value == pytest.approx((clean & attacked).double().mean().item())
    assert undone > 0
    assert file.report.test is not None
    assert top1["0"].value == file.report.test.top1.value


def test_two_parts_and_whoever_commits_leave_the_files_of_one_worker(
    digits_folder: Path, checkpoint: Path, baseline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = EvaluateConfig(**SMALL)
    for part in (0, 1):
        context = training_context(tmp_path, dataset=digits_folder, checkpoint=checkpoint)
        context.part = (part, 2)
        assert evaluate_robustness.run(config, context) == {}
        assert (list(context.output.iterdir()), context.adopted, context.history) == ([], {}, [])
        assert len(_saved(tmp_path)) == ((TABLES + 1) // 2, TABLES)[part]
    before = _saved(tmp_path)
    last = training_context(tmp_path, dataset=digits_folder, checkpoint=checkpoint)
    caplog.set_level("INFO")
    evaluate_robustness.run(config, last)
    assert f"{TABLES} of {TABLES} tables are there already" in caplog.text
    assert _saved(tmp_path) == before
    assert _digests(settled(last)) == _digests(baseline)


def test_after_sigterm_the_next_attempt_looks_at_the_rest_only(
    digits_folder: Path, checkpoint: Path, baseline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, looks = EvaluateConfig(**SMALL), [0]

    def stopping() -> bool:
        looks[0] += 1
        return looks[0] > 60 + 100 + 60 + 30

    context = training_context(tmp_path, dataset=digits_folder, checkpoint=checkpoint)
    context.stopping = stopping
    with pytest.raises(Stopped):
        evaluate_robustness.run(config, context)
    before = _saved(tmp_path)
    assert sorted(name.split(".")[0] for name in before) == [
        "clean-holdout-0-00000",
        "clean-test-0-00000",
        "corruptions-gaussian_noise-1-00000",
    ]
    caplog.set_level("INFO")
    again = training_context(tmp_path, dataset=digits_folder, checkpoint=checkpoint)
    evaluate_robustness.run(config, again)
    assert f"3 of {TABLES} tables are there already" in caplog.text
    assert before.items() <= _saved(tmp_path).items(), "none was written again"
    assert _digests(settled(again)) == _digests(baseline)


def test_a_saved_table_that_is_damaged_is_made_again(
    digits_folder: Path, checkpoint: Path, baseline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = training_context(tmp_path, dataset=digits_folder, checkpoint=checkpoint)
    first.part = (0, 1)
    evaluate_robustness.run(EvaluateConfig(**SMALL), first)
    (victim,) = (tmp_path / "store" / "stage" / "resume").glob("clean-test-*")
    flip(victim)
    _, _, again = _run(tmp_path, SMALL, dataset=digits_folder, checkpoint=checkpoint)
    assert f"{victim.name} is damaged" in caplog.text
    assert _digests(again.output) == _digests(baseline)


def test_of_an_artifact_that_was_set_aside_the_whole_tables_are_kept(
    digits_folder: Path, checkpoint: Path, baseline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = training_context(tmp_path, dataset=digits_folder, checkpoint=checkpoint)
    aside = tmp_path / "store" / "stage" / "attempt-0"
    shutil.copytree(baseline, aside)
    lost = Scene("clean", "test").file(0)
    context.salvage = lambda: {
        name: Adopted(name, (aside / name).stat().st_size, digest, "attempt-0")
        for name, digest in _digests(aside).items()
        if name != lost
    }
    evaluate_robustness.run(EvaluateConfig(**SMALL), context)
    assert f"{TABLES - 1} of {TABLES} tables are kept; measured again: {lost}" in caplog.text
    assert {file.folder for name, file in context.adopted.items() if name != lost} == {"attempt-0"}
    assert context.adopted[lost].folder == "resume"
    assert read_report(context.output) == read_report(baseline)


def test_only_a_baseline_brings_the_gate_and_figures_relative_to_the_teacher(
    digits_folder: Path, baseline: Path, tmp_path: Path
) -> None:
    other = _checkpoint(tmp_path / "other", digits_folder, seed=1)
    inputs = {"dataset": digits_folder, "checkpoint": other, "baseline": baseline}
    headline, file, _ = _run(tmp_path / "student", SMALL, **inputs)
    report, teacher = file.report, read_report(baseline)
    assert file.gate is not None
    assert report.holdout is not None
    assert teacher.report.holdout is not None
    gain = report.holdout.top1.value - teacher.report.holdout.top1.value
    assert file.gate["holdout_gain"] == pytest.approx(gain)
    assert file.gate["verdict"] in ("promote", "keep-teacher", "stop")
    assert headline["gate"] == file.gate
    assert report.baseline == teacher.fingerprint
    assert report.holdout.against_baseline is not None
    assert report.holdout.against_baseline.difference.value == pytest.approx(gain)
    assert report.corruptions is not None
    assert report.corruptions.normaliser == "baseline"


def test_a_checkpoint_against_its_own_report_has_as_many_errors_and_no_gain(
    digits_folder: Path, checkpoint: Path, baseline: Path, tmp_path: Path
) -> None:
    inputs = {"dataset": digits_folder, "checkpoint": checkpoint, "baseline": baseline}
    headline, file, _ = _run(tmp_path / "same", {**SMALL, "min_gain": 0.0}, **inputs)
    assert file.gate is not None
    assert (file.gate["holdout_gain"], file.gate["p_value"], file.gate["verdict"]) == (0, 1, "promote")
    assert headline["mean_corruption_error_vs_teacher"] == pytest.approx(1)
    headline, file, _ = _run(tmp_path / "strict", {**CLEAN_ONLY, "min_gain": 0.01}, **inputs)
    assert file.gate is not None
    assert file.gate["verdict"] == "keep-teacher"
    assert headline["mean_corruption_error"] is headline["mean_corruption_error_vs_teacher"] is None


def test_a_baseline_of_another_holdout_or_of_other_classes_is_refused_before_anything_is_looked_at(
    digits_folder: Path, checkpoint: Path, baseline: Path, tmp_path: Path
) -> None:
    scene = Scene("clean", "holdout")
    other = Path(shutil.copytree(baseline, tmp_path / "baseline"))
    table = Tables.of(baseline).predictions(scene)
    table.key[:] = table.key[::-1].copy()
    write_table(table, other / scene.file(0))
    inputs = {"dataset": digits_folder, "checkpoint": checkpoint}
    with pytest.raises(StageFailed, match="the baseline was evaluated on another holdout"):
        _run(tmp_path / "keys", CLEAN_ONLY, **inputs, baseline=other)
    document = json.loads((baseline / "report.json").read_text(encoding="utf-8"))
    document["report"]["class_names"][0] = "zero"
    (other / "report.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError, match="the baseline has other classes"):
        _run(tmp_path / "classes", CLEAN_ONLY, **inputs, baseline=other)
    assert not _saved(tmp_path / "keys")
    assert not _saved(tmp_path / "classes")


def test_a_checkpoint_of_other_classes_than_the_dataset_s_is_refused(digits_folder: Path, tmp_path: Path) -> None:
    other = _checkpoint(tmp_path / "other", digits_folder, seed=0, names=tuple("abcdefghij"))
    with pytest.raises(UserError, match="the checkpoint knows 10 classes"):
        _run(tmp_path / "run", CLEAN_ONLY, dataset=digits_folder, checkpoint=other)


def test_with_nothing_to_look_at_the_person_is_told(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to look at: give a dataset"):
        _run(tmp_path, SMALL, checkpoint=checkpoint)


def test_a_package_that_is_missed_is_told_before_anything_is_looked_at(
    digits_folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("ns_core.evaluation.attacks.autoattack_package.version", missing)
    with pytest.raises(UserError, match="autoattack needs the package"):
        _run(tmp_path, {**SMALL, "autoattack_eps": (1.0,)}, dataset=digits_folder, checkpoint=checkpoint)
    assert not _saved(tmp_path)


def test_every_corruption_goes_through(digits_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    names = get_args(CORRUPTIONS)
    config = {**CLEAN_ONLY, "corruptions": names, "severities": (2,), "max_images": 10}
    _, file, _ = _run(tmp_path, config, dataset=digits_folder, checkpoint=checkpoint)
    assert file.report.corruptions is not None
    assert set(file.report.corruptions.errors) == set(names)
    assert file.report.gaps == []


def test_sigterm_at_once_leaves_nothing_half_made(digits_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder, checkpoint=checkpoint)
    context.stopping = lambda: True
    with pytest.raises(Stopped):
        evaluate_robustness.run(EvaluateConfig(**SMALL), context)
    assert (_saved(tmp_path), list(context.output.iterdir())) == ({}, [])


def test_progress_never_falls_and_ends_at_its_total(
    digits_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path, SMALL, dataset=digits_folder, checkpoint=checkpoint)
    lines = [line.removeprefix("@ns ") for line in capsys.readouterr().out.splitlines() if line.startswith("@ns ")]
    events = [event for event in map(json.loads, lines) if event["event"] == "progress"]
    done = [event["done"] for event in events]
    assert done == sorted(done)
    assert events[0]["done"] == 0
    # FGSM: 40 images at eps 0, 40 at 8; PGD: 40 with two steps.
    assert {event["total"] for event in events} == {160 + 4 * 60 + 20 * 31 + 40 * 2 + 40 * 5 + 40 * 8}
    assert done[-1] == events[-1]["total"]
