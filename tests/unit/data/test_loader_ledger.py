"""The ledger of the joint stream: who is seen when, over passes, ranks, threads, kills and bad images."""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ns_core.data.image_source import ImageSource
from ns_core.data.loader import Batch, JointLoader, Sampling
from ns_core.data.reading import ShardReader
from ns_core.data.rows import Rows, Shuffle
from ns_core.errors import StageFailed
from tests.shard_builders import CLASSES, Numbered, write_rows

Seen = list[tuple[int, bytes, bytes, tuple[str, ...]]]


class Plan(NamedTuple):
    """What a loader is made of."""

    labelled: list[int]
    """Images of each shard."""
    pseudo: list[int]
    copies: list[int]
    batch: int
    ratio: int
    window: int
    seed: int

    @property
    def steps(self) -> int:
        """Until each stream has been passed through once."""
        return max(-(-sum(self.labelled) // self.batch), -(-sum(self.copies) // (self.batch * self.ratio)))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)
    labelled, pseudo = draw(sizes), draw(sizes)
    copies = draw(st.lists(st.integers(1, 3), min_size=sum(pseudo), max_size=sum(pseudo)))
    batch = draw(st.sampled_from([1, 2, 3, 4, 6, 12]))
    return Plan(
        labelled, pseudo, copies, batch, draw(st.integers(1, 28)), draw(st.integers(0, 5)), draw(st.integers(0, 9))
    )


def loader(
    folder: Path, plan: Plan, rank: int = 0, world: int = 1, bad: Sequence[int] = (), micro: int = 1
) -> JointLoader:
    labelled = write_rows(folder, "labelled", plan.labelled)
    pseudo = write_rows(folder, "pseudo", plan.pseudo, plan.copies, bad)
    streams = [(labelled, plan.batch), (pseudo, plan.batch * plan.ratio)]
    sampling = Sampling(Shuffle(plan.seed, plan.window), max_bad_fraction=0.5, micro_batches=micro)
    return JointLoader(ImageSource(ShardReader(folder)), Numbered(), streams, sampling, rank, world)


def seen(batches: Sequence[Batch]) -> Seen:
    return [(batch.step, batch.images.tobytes(), batch.targets.tobytes(), tuple(batch.keys)) for batch in batches]


def keys(batches: Sequence[Batch], stream: int) -> list[str]:
    """Of one stream, in the order of its positions."""
    return [key for one in batches for key in (one.keys[one.labelled :] if stream else one.keys[: one.labelled])]


@settings(max_examples=40)
@given(plan=plans(), workers=st.integers(0, 4))
def test_a_pass_has_each_labelled_row_once_and_each_selected_one_as_often_as_it_has_copies(
    plan: Plan, workers: int
) -> None:
    with TemporaryDirectory() as folder:
        batches = list(loader(Path(folder), plan).batches(0, plan.steps, workers))
        pseudo = write_rows(Path(folder), "pseudo", plan.pseudo)
    for batch in batches:
        assert (batch.labelled, len(batch.keys)) == (plan.batch, plan.batch * (1 + plan.ratio))
        assert batch.images.shape == (len(batch.keys), 4, 4, 3)
    expected = {f"labelled-{number}": 1 for number in range(sum(plan.labelled))}
    assert _passes(keys(batches, 0), expected)
    assert _passes(keys(batches, 1), dict(zip(pseudo.keys.to_pylist(), plan.copies, strict=True)))


def _passes(keys: list[str], expected: dict[str, int]) -> bool:
    """Every whole pass has exactly what is expected, the one begun nothing beside."""
    length = sum(expected.values())
    passes = [Counter(keys[first : first + length]) for first in range(0, len(keys), length)]
    whole = len(keys) // length
    return (
        whole > 0 and all(one == expected for one in passes[:whole]) and all(one <= Counter(expected) for one in passes)
    )


@settings(max_examples=25)
@given(plan=plans(), workers=st.integers(0, 4), data=st.data())
def test_killed_anywhere_it_goes_on_with_the_bytes_of_an_uninterrupted_run(
    plan: Plan, workers: int, data: st.DataObject
) -> None:
    steps = min(plan.steps, 8)
    killed = data.draw(st.integers(0, steps), "killed after")
    with TemporaryDirectory() as folder:
        whole = seen([loader(Path(folder), plan).batch(step) for step in range(steps)])
        first = loader(Path(folder), plan).batches(0, steps, workers)
        before = seen([next(first) for _ in range(killed)])
        first.close()
        after = seen(list(loader(Path(folder), plan).batches(killed, steps, workers)))
    assert before + after == whole


@settings(max_examples=25)
@given(plan=plans(), workers=st.integers(0, 4))
def test_ranks_together_see_the_global_batch_each_its_equal_share_of_both_streams(plan: Plan, workers: int) -> None:
    steps = min(plan.steps, 4)
    with TemporaryDirectory() as folder:
        whole = list(loader(Path(folder), plan).batches(0, steps, workers))
        for world in (world for world in (2, 3, 4) if plan.batch % world == 0):
            ranks = [list(loader(Path(folder), plan, rank, world).batches(0, steps, workers)) for rank in range(world)]
            for step, batch in enumerate(whole):
                shares = [rank[step] for rank in ranks]
                assert {share.labelled for share in shares} == {plan.batch // world}
                assert {len(share.keys) for share in shares} == {len(batch.keys) // world}
                for part in (slice(None, plan.batch // world), slice(plan.batch // world, None)):
                    stream = slice(None, plan.batch) if part.start is None else slice(plan.batch, None)
                    assert np.array_equal(
                        np.concatenate([share.images[part] for share in shares]), batch.images[stream]
                    )
                    assert np.array_equal(
                        np.concatenate([share.targets[part] for share in shares]), batch.targets[stream]
                    )
                    assert [key for share in shares for key in share.keys[part]] == batch.keys[stream]


@settings(max_examples=25)
@given(plan=plans(), micro=st.integers(2, 3))
def test_ranks_together_see_each_micro_batch_whatever_their_number(plan: Plan, micro: int) -> None:
    with TemporaryDirectory() as folder:
        whole = loader(Path(folder), plan).batch(0)
        for world in (world for world in (1, 2, 4) if plan.batch % (world * micro) == 0):
            shares = [loader(Path(folder), plan, rank, world, micro=micro).batch(0) for rank in range(world)]
            for first, images in ((0, plan.batch), (plan.batch, plan.batch * plan.ratio)):
                part, start = images // micro, first // world
                mine = part // world
                for number in range(micro):
                    seen_together = [
                        key
                        for share in shares
                        for key in share.keys[start + number * mine : start + (number + 1) * mine]
                    ]
                    assert seen_together == whole.keys[first + number * part : first + (number + 1) * part]


@settings(max_examples=25)
@given(plan=plans(), workers=st.integers(1, 4), data=st.data())
def test_bad_images_give_their_places_to_good_ones_alike_in_every_run(
    plan: Plan, workers: int, data: st.DataObject
) -> None:
    total = sum(plan.pseudo)
    bad = data.draw(st.lists(st.integers(0, total - 1), max_size=total // 2, unique=True), "bad")
    with TemporaryDirectory() as folder:
        first, second = loader(Path(folder), plan, bad=bad), loader(Path(folder), plan, bad=bad)
        batches = list(first.batches(0, plan.steps, workers))
        assert seen(batches) == seen([second.batch(step) for step in range(plan.steps)])
    assert not {f"pseudo-{number}" for number in bad} & {key for batch in batches for key in batch.keys}
    ledger = [image.key for batch in batches for image in batch.bad]
    assert set(ledger) == set(first.bad.keys) == {f"pseudo-{number}" for number in bad}
    assert len(first.bad.keys) == len(bad), "each is counted once"
    assert all(len(batch.keys) == plan.batch * (1 + plan.ratio) and "" not in batch.keys for batch in batches)


def test_a_substitute_is_the_next_good_image_of_the_stream_with_the_draws_of_the_place(tmp_path: Path) -> None:
    plan = Plan([6], [8], [1] * 8, batch=2, ratio=4, window=0, seed=1)
    (whole,) = loader(tmp_path, plan).batches(0, 1, 0)
    lost = int(whole.keys[3].removeprefix("pseudo-"))
    (batch,) = loader(tmp_path, plan, bad=[lost]).batches(0, 1, 0)
    assert batch.keys == [*whole.keys[:3], whole.keys[4], *whole.keys[4:]]
    assert np.array_equal(batch.targets[3], whole.targets[4])
    assert batch.images[3].tobytes()[:8] == whole.images[4].tobytes()[:8]
    assert batch.images[3].tobytes()[8:] == whole.images[3].tobytes()[8:]
    assert [(image.stream, image.key, image.reason) for image in batch.bad] == [
        (1, f"pseudo-{lost}", "broken on purpose")
    ]


def test_two_ranks_on_uneven_shards_make_the_same_number_of_steps(tmp_path: Path) -> None:
    """5 shards over 2 ranks of a loader that splits by shard gave 300 and 137 samples, and a hang."""
    plan = Plan([1, 9, 2, 7, 1], [3, 1, 8, 1, 1], [1] * 14, batch=4, ratio=2, window=2, seed=0)
    ranks = [list(loader(tmp_path, plan, rank, 2).batches(0, 10, 2)) for rank in (0, 1)]
    assert [len(rank) for rank in ranks] == [10, 10]
    assert {len(batch.keys) for rank in ranks for batch in rank} == {6}


def _joint(folder: Path, labelled: Rows, fraction: float) -> JointLoader:
    return JointLoader(ImageSource(ShardReader(folder)), Numbered(), [(labelled, 5)], Sampling(Shuffle(3), fraction))


def test_a_truncated_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, "labelled", [20, 20])
    shard = tmp_path / "labelled-001.tar"
    shard.write_bytes(shard.read_bytes()[: 64 * 17])
    with pytest.raises(
        StageFailed, match=r"1 of 40 labelled images cannot be read.*labelled-001\.tar: truncated, 0 of"
    ):
        list(_joint(tmp_path, rows, 0.0).batches(0, 8, 2))


def test_a_shard_that_cannot_be_read_at_all_is_no_bad_image(tmp_path: Path) -> None:
    """Missing files, a server that is away: nothing that another image's place would mend."""
    rows = write_rows(tmp_path, "labelled", [20, 20])
    (tmp_path / "labelled-001.tar").unlink()
    joint = _joint(tmp_path, rows, 1.0)
    with pytest.raises(FileNotFoundError, match=r"labelled-001\.tar"):
        list(joint.batches(0, 8, 2))
    assert len(joint.bad) == 0


def test_too_many_bad_images_end_training_at_the_same_step_and_name_the_first(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, "labelled", [20, 20], bad=[1, 2, 3, 21, 22])
    said = set()
    for workers in (0, 1, 4):
        joint, steps = _joint(tmp_path, rows, 0.1), itertools.count()
        with pytest.raises(StageFailed) as told:
            all(next(steps) >= 0 for _ in joint.batches(0, 8, workers))
        said.add((next(steps), str(told.value)))
    ((steps, message),) = said
    assert 0 < steps < 8
    assert message.startswith(
        "5 of 40 labelled images cannot be read, more than max_bad_fraction=0.1 allows: labelled-"
    )
    assert message.count("broken on purpose") == 3
    assert "raise max_bad_fraction" in message


def test_as_many_bad_images_as_are_allowed_are_named_once_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write_rows(tmp_path, "labelled", [20, 20], bad=[1, 22])
    joint = _joint(tmp_path, rows, 0.05)
    assert sum(len(batch.bad) for batch in joint.batches(0, 24, 2)) == 6, "three passes"
    assert sorted(joint.bad.keys) == ["labelled-1", "labelled-22"]
    assert len([line for line in caplog.messages if "cannot be read (broken on purpose)" in line]) == 2


def test_where_every_image_is_bad_the_search_for_a_good_one_ends(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, "labelled", [9], bad=range(9))
    with pytest.raises(
        StageFailed, match="1000 images in a row cannot be read, the last because of: broken on purpose"
    ):
        _joint(tmp_path, rows, 1.0).batch(0)


def test_what_was_bad_before_a_kill_is_not_told_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = write_rows(tmp_path, "labelled", [20], bad=[4])
    first = _joint(tmp_path, rows, 0.05)
    list(first.batches(0, 4, 0))
    caplog.clear()
    second = _joint(tmp_path, rows, 0.05)
    second.bad.restore(first.bad.state())
    list(second.batches(4, 8, 0))
    assert (second.bad.keys, caplog.messages) == (["labelled-4"], [])


def test_targets_come_with_their_images(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, "labelled", [20, 3])
    for batch in _joint(tmp_path, rows, 0.0).batches(0, 9, 2):
        numbers = np.array([int(key.removeprefix("labelled-")) for key in batch.keys], np.float32)
        assert batch.targets.shape == (5, CLASSES)
        assert np.array_equal(batch.targets, np.stack([numbers % 7, numbers, -numbers], axis=1))
        assert [int.from_bytes(image.tobytes()[:4], "little") for image in batch.images] == numbers.astype(int).tolist()
