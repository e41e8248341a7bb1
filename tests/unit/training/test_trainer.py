"""The training loop, through train-teacher: it goes on where it was cut off, and stops where it must."""

import hashlib
import itertools
import json
import logging
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ns_core.config import TeacherConfig
from ns_core.data.dataset import Images
from ns_core.data.index import DatasetIndex
from ns_core.errors import StageFailed, UserError
from ns_core.models.checkpoint import WEIGHTS, ModelCard, load_checkpoint
from ns_core.models.factory import create_network, drop_paths
from ns_core.stage import MARK, StageContext, Stopped
from ns_core.training import train_teacher
from ns_core.training.distributed import Ranks
from ns_core.training.job import Job, finish, holdout_check, joint_loader, labelled_rows, seed_worker
from ns_core.training.schedule import learning_rate
from ns_core.training.trainer import Trainer
from tests.factories import TINY, TINY_MODEL, training_context

Curve = list[tuple[str, int, float]]
CPU = torch.device("cpu")
ALONE = Ranks(rank=0, world=1, local_rank=0, device=CPU)
SPEED = ("seconds_left", "images_per_second", "data_wait", "step_ms_p50", "step_ms_p95", "step_ms_p99")


class _Killed(Exception):
    """Stands for SIGKILL: nothing is saved after it."""


def _config(**settings: Any) -> TeacherConfig:
    return TeacherConfig(**{**TINY, "model": TINY_MODEL, **settings})


def _after(updates: int) -> Callable[[], bool]:
    """SIGTERM during update number `updates` (1, 2, ...)."""
    calls = itertools.count(1)
    return lambda: next(calls) >= updates


def _kill_after(updates: int) -> Callable[[], bool]:
    asked = _after(updates)

    def stopping() -> bool:
        if asked():
            raise _Killed
        return False

    return stopping


def _outcome(context: StageContext) -> tuple[str, Curve]:
    """sha256 of the weights, and the curve without its times."""
    digest = hashlib.sha256((context.output / WEIGHTS).read_bytes()).hexdigest()
    points = [point for point in context.history if not point["key"].endswith(SPEED)]
    return digest, [(point["key"], point["step"], point["value"]) for point in points]


def _whole(config: TeacherConfig, folder: Path, dataset: Path) -> tuple[str, Curve]:
    context = training_context(folder, dataset=dataset)
    train_teacher.run(config, context)
    return _outcome(context)


def _trainer(config: TeacherConfig, context: StageContext) -> Trainer:
    """As train-teacher makes it."""
    images = Images.open(context)
    seed_worker(config.seed, 1)
    size = config.image_size
    card = ModelCard(
        model=config.model,
        class_names=images.index.class_names,
        train_size=size,
        test_size=size,
        crop_pct=config.crop_pct,
        bn_eps=config.bn_eps,
    )
    noise = (config.dropout, config.stochastic_depth, config.bn_momentum, config.bn_eps)
    network = create_network(config.model, 10, *noise)
    loader = joint_loader(images, config, ALONE, labelled_rows(images, 0.1))
    return Trainer(Job(config, card, network, loader, holdout_check(images, card, ALONE)), context, ALONE)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsproptf"])
def test_stopped_in_the_middle_of_an_epoch_it_ends_in_the_bits_of_an_uninterrupted_run(
    digits_folder: Path, tmp_path: Path, optimizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noisy_student")
    config = _config(optimizer=optimizer, lr=0.01)
    first = training_context(tmp_path / "cut", dataset=digits_folder)
    first.stopping = _after(7)
    with pytest.raises(Stopped):
        train_teacher.run(config, first)
    assert "stopped after update 7 of 13; saved" in caplog.text
    second = training_context(tmp_path / "cut", dataset=digits_folder)
    train_teacher.run(config, second)
    assert "going on from update 7 of 13" in caplog.text
    assert _outcome(second) == _whole(config, tmp_path / "whole", digits_folder)


@pytest.mark.parametrize("updates", [1, 5, 12])
def test_stopped_at_the_first_update_at_an_epochs_end_or_before_the_last_it_ends_alike(
    digits_folder: Path, tmp_path: Path, updates: int
) -> None:
    first = training_context(tmp_path / "cut", dataset=digits_folder)
    first.stopping = _after(updates)
    with pytest.raises(Stopped):
        train_teacher.run(_config(), first)
    second = training_context(tmp_path / "cut", dataset=digits_folder)
    train_teacher.run(_config(), second)
    assert _outcome(second) == _whole(_config(), tmp_path / "whole", digits_folder)


def test_stopped_at_every_second_update_it_ends_alike(digits_folder: Path, tmp_path: Path) -> None:
    for attempt in itertools.count():
        context = training_context(tmp_path / "cut", dataset=digits_folder)
        context.stopping = _after(2)
        try:
            train_teacher.run(_config(), context)
            break
        except Stopped:
            assert attempt < 6
    assert attempt == 6
    assert _outcome(context) == _whole(_config(), tmp_path / "whole", digits_folder)


def test_killed_between_checkpoints_it_does_the_lost_updates_again_and_ends_alike(
    digits_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noisy_student")
    for updates, going_on in ((4, 0), (8, 0), (4, 5), (2, 5)):
        context = training_context(tmp_path / "cut", dataset=digits_folder)
        context.stopping = _kill_after(updates)
        caplog.clear()
        with pytest.raises(_Killed):
            train_teacher.run(_config(), context)
        assert ("going on from update 5 of 13" in caplog.text) == (going_on == 5)
    last = training_context(tmp_path / "cut", dataset=digits_folder)
    train_teacher.run(_config(), last)
    assert _outcome(last) == _whole(_config(), tmp_path / "whole", digits_folder)


def test_sigterm_during_the_last_update_lets_it_finish(digits_folder: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path / "cut", dataset=digits_folder)
    context.stopping = _after(13)
    train_teacher.run(_config(), context)
    assert _outcome(context) == _whole(_config(), tmp_path / "whole", digits_folder)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    digits_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noisy_student")
    config = _config(checkpoint_steps=2)
    first = training_context(tmp_path / "cut", dataset=digits_folder)
    first.stopping = _after(7)
    with pytest.raises(Stopped):
        train_teacher.run(config, first)
    (newest,) = (name for name in first.resume.names() if name.endswith("7.safetensors"))
    first.resume.save(newest, lambda path: path.write_bytes(b"rotten"))
    second = training_context(tmp_path / "cut", dataset=digits_folder)
    train_teacher.run(config, second)
    assert "going on from update 6 of 13" in caplog.text
    assert _outcome(second) == _whole(config, tmp_path / "whole", digits_folder)


def test_another_seed_gives_other_weights(digits_folder: Path, tmp_path: Path) -> None:
    first, second = (_whole(_config(steps=1, seed=s), tmp_path / str(s), digits_folder)[0] for s in (0, 1))
    assert first != second


def test_the_curve_has_loss_rate_and_holdout_accuracy_at_each_epochs_end(digits_folder: Path, tmp_path: Path) -> None:
    config = _config()
    context = training_context(tmp_path, dataset=digits_folder)
    result = train_teacher.run(config, context)
    _, curve = _outcome(context)
    names = ("train/loss", "train/lr", "train/holdout_top1")
    assert [(key, step) for key, step, _ in curve] == [(name, step) for step in (5, 10, 13) for name in names]
    values = {(key, step): value for key, step, value in curve}
    for step in (5, 10, 13):
        assert values["train/lr", step] == learning_rate(config, step - 1)
        assert 0 < values["train/loss", step] < 5
    assert values["train/holdout_top1", 13] == result["holdout_top1"]
    network, card = load_checkpoint(context.output)
    assert holdout_check(Images.open(context), card, ALONE)(network) == result["holdout_top1"]


def test_training_learns_the_images_it_is_shown(digits_folder: Path, tmp_path: Path) -> None:
    """Updates without effect, or labels in another order than the images, would stay at 10 % of 60."""
    config = _config(steps=150, epoch_steps=150, batch_size=25, lr=0.1, image_size=32, dropout=0.0, ema_decay=0.5)
    context = training_context(tmp_path, dataset=digits_folder)
    top1 = train_teacher.run(config, context)["holdout_top1"]
    assert isinstance(top1, float)
    assert top1 > 0.5


def test_weights_that_are_not_finite_at_the_end_are_no_checkpoint(digits_folder: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder)
    trainer = _trainer(_config(), context)
    torch.nn.init.constant_(next(trainer.train.average.network.parameters()), math.nan)
    with pytest.raises(StageFailed, match="not finite"):
        finish(trainer.job, trainer.train.average.network, 0.5, context)
    assert not (context.output / WEIGHTS).exists()


def _no_dropout(trainer: Trainer) -> None:
    trainer.train.network.drop_rate = 0.0  # type: ignore[assignment]


def _eval_mode(trainer: Trainer) -> None:
    trainer.train.network.eval()


def _no_stochastic_depth(trainer: Trainer) -> None:
    for layer in drop_paths(trainer.train.network):
        layer.drop_prob = 0.0


@pytest.mark.parametrize(
    ("sabotage", "message"),
    [
        (_no_dropout, "dropout is 0.0"),
        (_no_stochastic_depth, "no block drops its branch"),
        (_eval_mode, "the network is in eval mode"),
    ],
)
def test_noise_that_goes_off_behind_the_trainers_back_fails_at_the_end_of_the_epoch(
    digits_folder: Path, tmp_path: Path, sabotage: Callable[[Trainer], None], message: str
) -> None:
    context = training_context(tmp_path, dataset=digits_folder)
    trainer = _trainer(_config(), context)

    def stopping() -> bool:
        if trainer.step == 7:
            sabotage(trainer)
        return False

    context.stopping = stopping
    with pytest.raises(AssertionError, match=message):
        trainer.fit()
    assert trainer.step == 10


def test_a_look_at_the_holdout_leaves_the_noise_on(digits_folder: Path, tmp_path: Path) -> None:
    """Reproductions fail by `eval()` for the holdout and no `train()` after it."""
    context = training_context(tmp_path, dataset=digits_folder)
    trainer = _trainer(_config(epoch_steps=1), context)
    modes = []

    def stopping() -> bool:
        modes.append(all(module.training for module in trainer.train.network.modules()))
        return False

    context.stopping = stopping
    trainer.fit()
    assert modes == [True] * 13


def test_memory_that_runs_out_is_told_with_the_settings_that_mend_it(digits_folder: Path, tmp_path: Path) -> None:
    """A petabyte is asked for in the forward pass of update 2."""
    trainer = _trainer(_config(), training_context(tmp_path, dataset=digits_folder))
    passes = itertools.count()

    def greedy(*_: object) -> None:
        if next(passes) == 2:
            torch.empty(1 << 50, dtype=torch.uint8)

    trainer.train.network.register_forward_pre_hook(greedy)
    with pytest.raises(
        UserError, match=r"this machine ran out of memory at update 2: set teacher.accumulation=2 \(now 1"
    ):
        trainer.fit()


def test_log_metrics_and_progress_say_how_fast_it_goes_and_how_long_it_takes(
    digits_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "noisy_student")
    context = training_context(tmp_path, dataset=digits_folder)
    train_teacher.run(_config(), context)
    pace = r"[\d,]+ images/s, data wait [\d.]+ %, step \d+ ms \(95th percentile \d+\)"
    lines = [message for message in caplog.messages if message.startswith("update ")]
    assert len(lines) == 3
    assert all(re.search(rf", {pace}, \d:\d\d:\d\d left$", line) for line in lines), lines
    events = [json.loads(line.removeprefix(MARK)) for line in capsys.readouterr().out.splitlines()]
    shown = [event["text"] for event in events if event["event"] == "progress"]
    assert shown
    assert all(re.fullmatch(rf"loss [\d.]+, {pace}", text) for text in shown), shown
    left = [point["value"] for point in context.history if point["key"] == "train/seconds_left"]
    assert left[0] > 0
    assert left[-1] == 0


def test_a_loss_that_is_nan_stops_the_run_and_names_update_and_images(digits_folder: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder)
    trainer = _trainer(_config(), context)
    with torch.no_grad():
        next(trainer.train.network.parameters()).fill_(math.nan)
    keys = ", ".join(trainer.job.loader.batch(0).keys)
    with pytest.raises(StageFailed, match=f"loss is nan at update 0; keys of the batch: {keys} ...; lower"):
        trainer.fit()
    assert context.resume.names() == set()


def test_a_learning_rate_that_is_far_too_high_is_told_as_such(digits_folder: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder)
    with pytest.raises(StageFailed, match=r"loss is (nan|inf) at update [1-9]\d*; .*lower the learning rate"):
        train_teacher.run(_config(lr=1e30), context)


def test_a_network_without_branches_is_refused_under_stochastic_depth(digits_folder: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path, dataset=digits_folder)
    with pytest.raises(UserError, match="model 'test_efficientnet' has no residual branch to drop: set stochastic"):
        train_teacher.run(_config(model="test_efficientnet"), context)


@pytest.mark.parametrize(("look", "updates"), [(2, 10), (3, 13)])
def test_stopped_or_killed_while_the_holdout_is_read_the_updates_before_it_are_kept(
    digits_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, look: int, updates: int
) -> None:
    """As the holdout waits for a server that is away, or takes longer than the grace of a SIGTERM."""
    caplog.set_level(logging.INFO, "noisy_student")
    context, looks = training_context(tmp_path / "cut", dataset=digits_folder), itertools.count(1)
    job = _trainer(_config(), context).job

    def holdout(network: torch.nn.Module) -> float:
        if next(looks) == look:
            raise Stopped
        return job.holdout(network)

    with pytest.raises(Stopped):
        Trainer(replace(job, holdout=holdout), context, ALONE).fit()
    second = training_context(tmp_path / "cut", dataset=digits_folder)
    train_teacher.run(_config(), second)
    assert f"going on from update {updates} of 13" in caplog.text
    assert _outcome(second) == _whole(_config(), tmp_path / "whole", digits_folder)


def test_sigterm_while_the_loader_waits_for_a_server_saves_the_updates_done(
    digits_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The read of the 31st image never ends: it belongs to update 3 (0, 1, ...)."""
    caplog.set_level(logging.INFO, "noisy_student")
    first = _trainer(_config(), training_context(tmp_path / "cut", dataset=digits_folder))
    reader, reads = first.job.loader.source.reader, itertools.count()
    read = reader.read

    def interrupted(shard: str, offset: int, size: int) -> bytes:
        if next(reads) >= 30:
            raise Stopped
        return read(shard, offset, size)

    reader.read = interrupted  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        first.fit()
    assert "stopped after update 3 of 13; saved" in caplog.text
    second = training_context(tmp_path / "cut", dataset=digits_folder)
    train_teacher.run(_config(), second)
    assert _outcome(second) == _whole(_config(), tmp_path / "whole", digits_folder)


@pytest.fixture
def damaged(digits_folder: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """The digits with two labelled images that do not decode, and their keys."""
    folder = Path(shutil.copytree(digits_folder, tmp_path / "damaged"))
    split = DatasetIndex.load(folder).split("labeled")
    for row in (7, 31):
        with (folder / split.shard_names[split.shard_codes[row]]).open("r+b") as shard:
            shard.seek(int(split.offsets[row]))
            shard.write(b"no picture")
    return folder, [str(split.keys[row]) for row in (7, 31)]


def test_images_that_cannot_be_read_are_counted_and_named_and_a_resumed_run_counts_alike(
    damaged: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """13 steps of 8 are two passes; both are met before update 7, where the first attempt ends."""
    folder, keys = damaged
    config = _config(max_bad_fraction=0.05)
    whole = training_context(tmp_path / "whole", dataset=folder)
    result = train_teacher.run(config, whole)
    assert result["bad_images"] == 2
    assert sorted(str(key) for key in list[Any](result["bad_keys"])) == sorted(keys)
    first = training_context(tmp_path / "cut", dataset=folder)
    first.stopping = _after(7)
    with pytest.raises(Stopped):
        train_teacher.run(config, first)
    second = training_context(tmp_path / "cut", dataset=folder)
    assert train_teacher.run(config, second) == result
    assert _outcome(second) == _outcome(whole)


def test_more_images_that_cannot_be_read_than_allowed_fail_the_stage(
    damaged: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, keys = damaged
    with pytest.raises(StageFailed, match=rf"2 of 50 labelled images .*({keys[0]}|{keys[1]}) \(.*raise max_bad_frac"):
        train_teacher.run(_config(max_bad_fraction=0.03), training_context(tmp_path, dataset=folder))


def test_a_window_of_shards_trains_on_another_order_of_the_same_images(digits_folder: Path, tmp_path: Path) -> None:
    mixed, windowed = (_whole(_config(window_shards=n), tmp_path / str(n), digits_folder)[0] for n in (0, 1))
    assert mixed != windowed
