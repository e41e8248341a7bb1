"""Joint batches of real shards: exact ratio, the same bytes from any thread and any start, clean ends."""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ns_core.data.images import decode
from ns_core.data.index import DatasetIndex, ShardReader
from ns_core.data.loader import Batch, JointLoader, View
from ns_core.data.order import StreamOrder
from ns_core.data.randaugment import RandAugment
from ns_core.data.rows import Image, ImageSource, Rows, eval_batches, one_hot, rows_of
from ns_core.data.transforms import TrainView, eval_view

LABELLED, PSEUDO = 6, 18
NOISY = TrainView(32, 0.3, 1.0, 0.5, 3, RandAugment(8, 9.0))


def _draws(_image: Image, rng: np.random.Generator) -> Image:
    """A picture of the first draws of an image's generator."""
    return rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)


@pytest.fixture
def source(digits_folder: Path) -> Iterator[ImageSource]:
    with ShardReader(digits_folder) as reader:
        yield ImageSource(reader)


@pytest.fixture
def labelled(digits_folder: Path) -> Rows:
    """50 images."""
    split = DatasetIndex.load(digits_folder).split("labeled")
    return rows_of(split, one_hot(split.labels, 10, 0.1))


@pytest.fixture
def pseudo(digits_folder: Path) -> Rows:
    """1,587 images from four shards, all with the same soft label."""
    split = DatasetIndex.load(digits_folder).split("pool")
    return rows_of(split, np.full((len(split), 10), 0.1, np.float32))


def _joint(source: ImageSource, labelled: Rows, pseudo: Rows, view: View = NOISY, seed: int = 5) -> JointLoader:
    return JointLoader(source, view, [(labelled, LABELLED), (pseudo, PSEUDO)], seed)


def _bytes(batches: list[Batch]) -> list[tuple[int, bytes, bytes, tuple[str, ...]]]:
    return [(batch.step, batch.images.tobytes(), batch.targets.tobytes(), tuple(batch.keys)) for batch in batches]


def _loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_every_step_has_the_exact_ratio_and_labelled_images_first(
    source: ImageSource, labelled: Rows, pseudo: Rows
) -> None:
    index = {key: ("labelled", row) for row, key in enumerate(labelled.keys)}
    index |= {key: ("pseudo", row) for row, key in enumerate(pseudo.keys)}
    batches = list(_joint(source, labelled, pseudo).batches(0, 20, 2))
    assert [batch.step for batch in batches] == list(range(20))
    for batch in batches:
        assert batch.labelled == LABELLED
        assert batch.images.shape == (LABELLED + PSEUDO, 32, 32, 3)
        assert batch.images.dtype == np.uint8
        assert [index[key][0] for key in batch.keys] == ["labelled"] * LABELLED + ["pseudo"] * PSEUDO
        for place, key in enumerate(batch.keys):
            stream, row = index[key]
            assert np.array_equal(batch.targets[place], (labelled if stream == "labelled" else pseudo).targets[row])


def test_step_t_takes_the_positions_from_t_times_the_images_a_step_of_each_stream(
    source: ImageSource, labelled: Rows, pseudo: Rows
) -> None:
    loader = _joint(source, labelled, pseudo, seed=5)
    for step in (0, 1, 200):
        expected = []
        for stream, (rows, count) in enumerate([(labelled, LABELLED), (pseudo, PSEUDO)]):
            order = StreamOrder(len(rows), 5, stream).rows(np.arange(step * count, (step + 1) * count))
            expected += [rows.keys[row] for row in order]
        assert loader.batch(step).keys == expected


def test_batches_are_the_same_bytes_for_1_2_and_4_threads_and_from_any_start(
    digits_folder: Path, labelled: Rows, pseudo: Rows
) -> None:
    def run(start: int, workers: int) -> list[tuple[int, bytes, bytes, tuple[str, ...]]]:
        with ShardReader(digits_folder) as reader:
            return _bytes(list(_joint(ImageSource(reader), labelled, pseudo).batches(start, 20, workers)))

    whole = run(0, 1)
    assert len({images for _, images, _, _ in whole}) == 20
    assert run(0, 2) == whole
    assert run(0, 4) == whole
    for start in (1, 13, 19):
        assert run(start, 2) == whole[start:]
    assert run(20, 2) == []


def test_another_seed_gives_other_batches(source: ImageSource, labelled: Rows, pseudo: Rows) -> None:
    first, second = (_joint(source, labelled, pseudo, seed=seed).batch(3) for seed in (0, 1))
    assert first.keys != second.keys
    assert not np.array_equal(first.images, second.images)


def test_each_row_comes_once_an_epoch_though_batches_straddle_its_end(source: ImageSource, labelled: Rows) -> None:
    """50 images in batches of 6: the 25 batches of 3 epochs."""
    loader = JointLoader(source, _draws, [(labelled, 6)], seed=1)
    keys = [key for batch in loader.batches(0, 25, 2) for key in batch.keys]
    epochs = [keys[first : first + 50] for first in range(0, 150, 50)]
    assert all(Counter(epoch) == Counter(labelled.keys) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_no_image_of_either_stream_shares_its_augmentation_with_another(
    source: ImageSource, labelled: Rows, pseudo: Rows
) -> None:
    loader = JointLoader(source, _draws, [(labelled, 20), (pseudo, 20)], seed=1)
    pictures = [image.tobytes() for batch in loader.batches(0, 25, 1) for image in batch.images]
    assert len(set(pictures)) == len(pictures) == 1000


def test_an_image_is_augmented_anew_in_each_epoch(source: ImageSource, labelled: Rows) -> None:
    loader = JointLoader(source, NOISY, [(labelled, 50)], seed=1)
    first, second = (dict(zip(b.keys, b.images, strict=True)) for b in loader.batches(0, 2, 1))
    assert sum(np.array_equal(first[key], second[key]) for key in labelled.keys) <= 2


def test_views_leave_the_images_in_memory_as_they_were_decoded(
    digits_folder: Path, source: ImageSource, labelled: Rows
) -> None:
    for _ in JointLoader(source, NOISY, [(labelled, 50)], seed=2).batches(0, 20, 2):
        pass
    with ShardReader(digits_folder) as reader:
        for row in range(len(labelled)):
            fresh = decode(reader.read(labelled.shards[row], int(labelled.offsets[row]), int(labelled.sizes[row])))
            assert np.array_equal(source.image(labelled, row), fresh)


class _CountingReader(ShardReader):
    """Counts reads; the first `together` of them wait for each other."""

    def __init__(self, folder: Path, together: int = 1) -> None:
        super().__init__(folder)
        self.reads, self._counting = 0, threading.Lock()
        self._barrier, self._together = threading.Barrier(together), together

    def read(self, shard: str, offset: int, size: int) -> bytes:
        with self._counting:
            self.reads += 1
            waits = self.reads <= self._together
        if waits:
            self._barrier.wait(timeout=60)
        return super().read(shard, offset, size)


def test_an_image_is_read_once_as_long_as_memory_has_room(digits_folder: Path, labelled: Rows) -> None:
    with _CountingReader(digits_folder) as reader:
        source = ImageSource(reader, limit=10 * 32 * 32 * 3)
        for row in (*range(50), *range(50)):
            source.image(labelled, row)
        assert reader.reads == 50 + 40


def test_two_threads_that_decode_one_image_take_the_room_of_one(digits_folder: Path, labelled: Rows) -> None:
    with _CountingReader(digits_folder, together=2) as reader:
        source = ImageSource(reader, limit=2 * 32 * 32 * 3)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda row: source.image(labelled, row), (0, 0)))
        for row in (1, 1, 0):
            source.image(labelled, row)
        assert reader.reads == 3


def test_an_error_in_a_loader_thread_reaches_the_caller_at_its_step(source: ImageSource, labelled: Rows) -> None:
    broken = labelled.keys[7]

    def view(image: Image, _rng: np.random.Generator) -> Image:
        if np.array_equal(image, source.image(labelled, 7)):
            raise ValueError(f"cannot augment {broken}")
        return image

    loader = JointLoader(source, view, [(labelled, 5)], seed=0)
    good = next(
        step for step in range(10) if broken in JointLoader(source, _draws, [(labelled, 5)], 0).batch(step).keys
    )
    batches = loader.batches(0, 10, 3)
    assert [next(batches).step for _ in range(good)] == list(range(good))
    with pytest.raises(ValueError, match=f"cannot augment {broken}"):
        next(batches)
    assert not _loader_threads()


def test_a_shard_that_is_cut_short_is_named(digits_folder: Path, labelled: Rows, tmp_path: Path) -> None:
    shard = shutil.copy(digits_folder / labelled.shards[0], tmp_path)
    Path(shard).write_bytes(Path(shard).read_bytes()[:20_000])
    with ShardReader(tmp_path) as reader:
        loader = JointLoader(ImageSource(reader), NOISY, [(labelled, 50)], seed=0)
        with pytest.raises(OSError, match=rf"{labelled.shards[0]}: truncated"):
            list(loader.batches(0, 1, 2))


def test_a_loader_left_early_ends_its_threads_and_makes_no_more_batches(source: ImageSource, labelled: Rows) -> None:
    made = []

    def view(image: Image, rng: np.random.Generator) -> Image:
        made.append(1)
        return NOISY(image, rng)

    stream = JointLoader(source, view, [(labelled, 5)], seed=0).batches(0, 100_000, 4)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not _loader_threads()
    assert len(made) <= 5 * (1 + 2 * 4)


def test_clean_views_come_in_the_order_of_the_rows_and_the_last_batch_is_short(
    source: ImageSource, labelled: Rows
) -> None:
    some = replace(labelled, keys=labelled.keys[:7])
    batches = list(eval_batches(source, some, (24, 0.9), 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    expected = np.stack([eval_view(source.image(labelled, row), 24, 0.9) for row in range(7)])
    assert np.array_equal(np.concatenate(batches), expected)


def test_label_smoothing_moves_a_tenth_of_the_mass_to_all_classes() -> None:
    smoothed = one_hot(np.array([2, 0], np.int32), 4, 0.1)
    assert smoothed.dtype == np.float32
    assert np.allclose(smoothed, [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]])
    assert one_hot(np.array([1], np.int32), 2).tolist() == [[0.0, 1.0]]
