"""What a store knows of a recipe that was run with it."""

from pathlib import Path

from flows.recipes import recipe
from ns_core.data.sources import content_digest
from ns_core.fingerprint import stage_fingerprint
from ns_core.launch.spec import InputReference, WorkerSpec
from ns_core.planning.kept import kept
from ns_core.planning.selected import from_labels
from ns_core.settings import StageConfig
from ns_core.worker import run


def made(store: Path, config: StageConfig, extra: dict[str, str], **inputs: tuple[str, str]) -> tuple[str, str]:
    """A stage as a run has it; its name and fingerprint."""
    hashed = {name: fingerprint for name, (_, fingerprint) in inputs.items()} | extra
    fingerprint = stage_fingerprint(config, hashed)
    spec = WorkerSpec(
        stage=config.STAGE,
        fingerprint=fingerprint,
        config=config.model_dump(mode="json"),
        inputs={name: InputReference(stage=one[0], fingerprint=one[1]) for name, one in inputs.items()},
        extra_inputs=extra,
        store=str(store),
        compute=recipe("digits").compute,
    )
    run(spec, lambda: False)
    return config.STAGE, fingerprint


def test_labels_of_a_teacher_in_the_store_tell_the_very_selection(tmp_path: Path) -> None:
    short = recipe("digits").override(["teacher.steps=120", "teacher.epoch_steps=60", "select.threshold=0.3"])
    first, own = short.for_generation(0), short.for_generation(1)
    assert kept(short, str(tmp_path)) == (None, None)

    dataset = made(tmp_path, first.data, {"source": content_digest(first.data)})
    seen, eligible = kept(short, str(tmp_path))
    assert seen is not None
    assert (seen.labeled, seen.holdout, seen.test, seen.pool) == (50, 300, 400, 1047)
    assert eligible is None

    teacher = made(tmp_path, first.teacher, {}, dataset=dataset)
    labels = made(tmp_path, own.infer, {}, dataset=dataset, teacher=teacher)
    made(tmp_path, own.select, {}, dataset=dataset, pseudo_labels=labels)
    _, eligible = kept(short, str(tmp_path))
    assert eligible is not None
    selected = from_labels(own.select, 1047, eligible, 0, 1)
    assert selected.measured
    assert 0 < selected.kept <= 1047
    assert kept(short.override(["seed=5"]), str(tmp_path)) == (None, None), "another recipe's"
    assert kept(short.override(["teacher.lr=0.2"]), str(tmp_path)).eligible is None
