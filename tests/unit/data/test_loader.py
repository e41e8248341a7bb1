"""Joint batches of real shards: exact ratio, the same bytes from any thread and any start, clean ends."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ns_core.data.image_source import Image, ImageSource
from ns_core.data.images import decode
from ns_core.data.index import DatasetIndex
from ns_core.data.loader import Batch, JointLoader, Sampling, View
from ns_core.data.order import StreamOrder, stream_key
from ns_core.data.randaugment import RandAugment
from ns_core.data.reading import ShardReader
from ns_core.data.rows import OneHot, Rows, Shuffle, rows_of
from ns_core.data.transforms import TrainView
from ns_core.errors import UserError

LABELLED, PSEUDO = 6, 18
NOISY = TrainView(32, 0.3, 1.0, 0.5, 3, RandAugment(8, 9.0, "bilinear"))


class _Drawn:
    """A picture of the first draws of an image's generator."""

    size = 4

    def __call__(self, _image: Image, rng: np.random.Generator) -> Image:
        return rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)

    def encoded(self, data: bytes, rng: np.random.Generator) -> Image:
        return self(decode(data), rng)


class _Noisy(_Drawn):
    """`NOISY`, and what a test does beside."""

    size = NOISY.size

    def __init__(self, first: Callable[[Image], None]) -> None:
        self._first = first

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        self._first(image)
        return NOISY(image, rng)


def _loader(source: ImageSource, view: View, streams: list[tuple[Rows, int]], seed: int) -> JointLoader:
    return JointLoader(source, view, streams, Sampling(Shuffle(seed)))


@pytest.fixture
def source(digits_folder: Path) -> Iterator[ImageSource]:
    with ShardReader(digits_folder) as reader:
        yield ImageSource(reader)


@pytest.fixture
def labelled(digits_folder: Path) -> Rows:
    """50 images."""
    split = DatasetIndex.load(digits_folder).split("labeled")
    return rows_of(split, OneHot(split.labels, 10, 0.1))


@pytest.fixture
def pseudo(digits_folder: Path) -> Rows:
    """1,587 images from four shards, all with the same soft label."""
    split = DatasetIndex.load(digits_folder).split("pool")
    return rows_of(split, np.full((len(split), 10), 0.1, np.float32))


def _joint(source: ImageSource, labelled: Rows, pseudo: Rows, view: View = NOISY, seed: int = 5) -> JointLoader:
    return _loader(source, view, [(labelled, LABELLED), (pseudo, PSEUDO)], seed)


def _bytes(batches: list[Batch]) -> list[tuple[int, bytes, bytes, tuple[str, ...]]]:
    return [(batch.step, batch.images.tobytes(), batch.targets.tobytes(), tuple(batch.keys)) for batch in batches]


def _loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_every_step_has_the_exact_ratio_and_labelled_images_first(
    source: ImageSource, labelled: Rows, pseudo: Rows
) -> None:
    index = {labelled.key(row): ("labelled", row) for row in range(len(labelled))}
    index |= {pseudo.key(row): ("pseudo", row) for row in range(len(pseudo))}
    batches = list(_joint(source, labelled, pseudo).batches(0, 20, 2))
    assert [batch.step for batch in batches] == list(range(20))
    for batch in batches:
        assert batch.labelled == LABELLED
        assert batch.images.shape == (LABELLED + PSEUDO, 32, 32, 3)
        assert batch.images.dtype == np.uint8
        assert [index[key][0] for key in batch.keys] == ["labelled"] * LABELLED + ["pseudo"] * PSEUDO
        for place, key in enumerate(batch.keys):
            stream, row = index[key]
            targets = (labelled if stream == "labelled" else pseudo).targets[np.array([row])]
            assert np.array_equal(batch.targets[place], targets[0])


def test_step_t_takes_the_positions_from_t_times_the_images_a_step_of_each_stream(
    source: ImageSource, labelled: Rows, pseudo: Rows
) -> None:
    loader = _joint(source, labelled, pseudo, seed=5)
    for step in (0, 1, 200):
        expected = []
        for stream, (rows, count) in enumerate([(labelled, LABELLED), (pseudo, PSEUDO)]):
            order = StreamOrder(len(rows), 5, stream).rows(np.arange(step * count, (step + 1) * count))
            expected += [rows.key(row) for row in order.tolist()]
        assert loader.batch(step).keys == expected


def test_batches_are_the_same_bytes_for_any_number_of_threads_and_from_any_start(
    digits_folder: Path, labelled: Rows, pseudo: Rows
) -> None:
    def run(start: int, workers: int) -> list[tuple[int, bytes, bytes, tuple[str, ...]]]:
        with ShardReader(digits_folder) as reader:
            return _bytes(list(_joint(ImageSource(reader), labelled, pseudo).batches(start, 20, workers)))

    whole = run(0, 1)
    assert len({images for _, images, _, _ in whole}) == 20
    for workers in (0, 2, 4):
        assert run(0, workers) == whole
    for start in (1, 13, 19):
        assert run(start, 2) == whole[start:]
    assert run(20, 2) == []


def test_another_seed_gives_other_batches(source: ImageSource, labelled: Rows, pseudo: Rows) -> None:
    first, second = (_joint(source, labelled, pseudo, seed=seed).batch(3) for seed in (0, 1))
    assert first.keys != second.keys
    assert not np.array_equal(first.images, second.images)


def test_each_row_comes_once_an_epoch_though_batches_straddle_its_end(source: ImageSource, labelled: Rows) -> None:
    """50 images in batches of 6: the 25 batches of 3 epochs."""
    loader = _loader(source, _Drawn(), [(labelled, 6)], seed=1)
    keys = [key for batch in loader.batches(0, 25, 2) for key in batch.keys]
    epochs = [keys[first : first + 50] for first in range(0, 150, 50)]
    assert all(Counter(epoch) == Counter(labelled.keys.to_pylist()) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_no_image_of_either_stream_shares_its_augmentation_with_another(
    source: ImageSource, labelled: Rows, pseudo: Rows
) -> None:
    loader = _loader(source, _Drawn(), [(labelled, 20), (pseudo, 20)], seed=1)
    pictures = [image.tobytes() for batch in loader.batches(0, 25, 1) for image in batch.images]
    assert len(set(pictures)) == len(pictures) == 1000


def test_an_image_is_augmented_anew_in_each_epoch(source: ImageSource, labelled: Rows) -> None:
    loader = _loader(source, NOISY, [(labelled, 50)], seed=1)
    first, second = (dict(zip(b.keys, b.images, strict=True)) for b in loader.batches(0, 2, 1))
    assert sum(np.array_equal(first[key], second[key]) for key in first) <= 2


def test_views_leave_the_images_in_memory_as_they_were_decoded(
    digits_folder: Path, source: ImageSource, labelled: Rows
) -> None:
    for _ in _loader(source, NOISY, [(labelled, 50)], seed=2).batches(0, 20, 2):
        pass
    with ShardReader(digits_folder) as reader:
        for row in range(len(labelled)):
            fresh = decode(reader.read(*labelled.place(row)))
            assert np.array_equal(source.image(labelled, row), fresh)


def test_an_error_in_a_loader_thread_reaches_the_caller_at_its_step(source: ImageSource, labelled: Rows) -> None:
    broken = labelled.key(7)

    def refuse(image: Image) -> None:
        if np.array_equal(image, source.image(labelled, 7)):
            raise ValueError(f"cannot augment {broken}")

    loader = _loader(source, _Noisy(refuse), [(labelled, 5)], seed=0)
    plain = _loader(source, NOISY, [(labelled, 5)], 0)
    good = next(step for step in range(10) if broken in plain.batch(step).keys)
    batches = loader.batches(0, 10, 3)
    assert [next(batches).step for _ in range(good)] == list(range(good))
    with pytest.raises(ValueError, match=f"cannot augment {broken}"):
        next(batches)
    assert not _loader_threads()


def test_a_loader_left_early_ends_its_threads_and_makes_no_more_batches(source: ImageSource, labelled: Rows) -> None:
    made: list[Image] = []
    stream = _loader(source, _Noisy(made.append), [(labelled, 5)], seed=0).batches(0, 100_000, 4)
    next(stream)
    stream.close()
    assert not _loader_threads()
    assert len(made) <= 5 * (1 + 2 * 4)


def test_an_image_draws_from_the_generator_of_its_stream_and_position(
    source: ImageSource, labelled: Rows, pseudo: Rows
) -> None:
    """Positions beyond 2^32, too: the generator that is keyed anew is the one that `stream_key` makes."""
    for step in (0, 3, 2**31):
        batch = _joint(source, labelled, pseudo, _Drawn(), seed=2**32 - 1).batch(step)
        for slot, image in enumerate(batch.images):
            stream, place, images = (0, slot, LABELLED) if slot < LABELLED else (1, slot - LABELLED, PSEUDO)
            position = step * images + place
            key = stream_key(2**32 - 1, (1 << 16) + stream, position & 0xFFFFFFFF, position >> 32)
            expected = np.random.Generator(key).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            assert np.array_equal(image, expected)


def test_a_batch_of_many_parts_is_that_of_one_thread(source: ImageSource, labelled: Rows, pseudo: Rows) -> None:
    """150 and 450 images, in parts of 64, share the threads."""
    loader = _loader(source, NOISY, [(labelled, 150), (pseudo, 450)], seed=3)
    assert _bytes(list(loader.batches(2, 5, 4))) == _bytes([loader.batch(step) for step in (2, 3, 4)])


def test_three_batches_are_in_memory_however_many_threads_there_are(
    source: ImageSource, labelled: Rows, pseudo: Rows
) -> None:
    """64 threads that made a batch each would hold 129, of 578 MB at 3,840 images of 224 px."""
    made: list[Image] = []
    streams = [(labelled, 64 * 32), (pseudo, 64 * 32)]
    batches = _loader(source, _Noisy(made.append), streams, seed=0).batches(0, 100, 16)
    next(batches)
    while len(made) < 3 * 64 * 64:
        time.sleep(0)
    batches.close()
    assert len(made) == 3 * 64 * 64


def test_a_batch_that_cannot_be_divided_among_the_ranks_is_a_persons_mistake(
    source: ImageSource, labelled: Rows, pseudo: Rows
) -> None:
    streams = [(labelled, LABELLED), (pseudo, PSEUDO)]
    with pytest.raises(
        UserError, match="6 images a step cannot be divided among 4 processes: set batch_size to a mult"
    ):
        JointLoader(source, NOISY, streams, Sampling(Shuffle(0)), rank=0, world=4)
