"""Looking at pictures and clips: the answers are those of the network on each alone, whatever is beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ns_core.data.transforms import eval_view
from ns_core.evaluation.figures.stability import stability
from ns_core.evaluation.looking import Looker, Views
from ns_core.evaluation.tables import Predictions, Sequences
from ns_core.models.checkpoint import ModelCard
from ns_core.models.fast import fast_predictor
from ns_core.models.predict import Predictor
from ns_core.stage import Stopped
from tests.evaluation_lists import CLASSES, Films, Pictures, labels_of, noise, tiny_network

PICTURES = Pictures(noise(45, 32, 32, 3), labels_of(45), broken=frozenset({0, 7, 44}))
FILMS = Films(
    [np.stack(noise(frames, 32, 32, 3, seed=frames)) for frames in (5, 31, 1, 16, 41, 2)],
    np.array([1, 2, -1, 4, 5, 6], np.int32),
    broken=frozenset({3}),
)


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, ModelCard]:
    return tiny_network(PICTURES.pictures)


@pytest.fixture(scope="module")
def plain(network: tuple[nn.Module, ModelCard]) -> Predictor:
    return Predictor(*network, torch.device("cpu"))


def _looker(network: tuple[nn.Module, ModelCard], batch: int, threads: int, crop_pct: float = 1.0) -> Looker:
    predictor = fast_predictor(*network, torch.device("cpu"))
    return Looker(predictor, Views(32, crop_pct, batch, threads), CLASSES)


def _silent(_: int) -> None:
    """Nobody watches."""


def _logits(predictor: Predictor, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([predictor.logits(square[np.newaxis]) for square in squares])


def _same(one: Predictions, other: Predictions) -> None:
    for column in ("key", "label", "top1", "rank", "reason"):
        assert getattr(one, column).tolist() == getattr(other, column).tolist(), column
    for column in ("confidence", "label_probability", "squares"):
        assert np.allclose(getattr(one, column), getattr(other, column), atol=1e-4), column


@pytest.mark.parametrize(("batch", "threads"), [(1, 0), (7, 1), (7, 3), (64, 2), (256, 5)])
def test_each_picture_gets_the_answer_that_it_gets_alone(
    network: tuple[nn.Module, ModelCard], plain: Predictor, batch: int, threads: int
) -> None:
    table = _looker(network, batch, threads).predictions(PICTURES, range(45), _silent)
    assert table.key.tolist() == list(PICTURES.keys)
    alone = _logits(plain, np.stack(PICTURES.pictures))
    for row in range(45):
        if row in PICTURES.broken:
            assert (table.top1[row], table.reason[row]) == (-1, "is broken")
        else:
            assert (table.top1[row], table.reason[row]) == (alone[row].argmax(), "")
    assert len(set(table.top1.tolist())) > 2, "a network that always says the same would pass"


def test_neither_the_batch_nor_threads_change_a_row(network: tuple[nn.Module, ModelCard]) -> None:
    tables = [_looker(network, *how).predictions(PICTURES, range(3, 40), _silent) for how in ((5, 0), (5, 4), (37, 1))]
    _same(tables[0], tables[2])
    for column in Predictions.__dataclass_fields__:
        one, other = (getattr(table, column) for table in tables[:2])
        assert np.array_equal(one, other), f"{column}: threads alone change nothing at all"


def test_a_part_of_a_list_is_that_part_of_the_whole(network: tuple[nn.Module, ModelCard]) -> None:
    looker = _looker(network, 8, 2)
    whole, part = (looker.predictions(PICTURES, numbers, _silent) for numbers in (range(45), range(16, 40)))
    assert part.key.tolist() == whole.key[16:40].tolist()
    assert part.top1.tolist() == whole.top1[16:40].tolist()


def test_a_list_of_which_nothing_can_be_read_is_all_reasons(network: tuple[nn.Module, ModelCard]) -> None:
    table = _looker(network, 8, 2).predictions(replace(PICTURES, broken=frozenset(range(45))), range(45), _silent)
    assert set(table.reason) == {"is broken"}
    assert set(table.top1) == {-1}
    assert len(table.readable()) == 0


def test_the_answer_is_among_the_classes_of_the_list(network: tuple[nn.Module, ModelCard]) -> None:
    classes = np.array([2, 5])
    table = _looker(network, 8, 1).predictions(
        Pictures(PICTURES.pictures, np.full(45, 5, np.int32), classes), range(45), _silent
    )
    assert set(table.top1) == {2, 5}


def test_a_picture_is_seen_as_its_list_says(network: tuple[nn.Module, ModelCard], plain: Predictor) -> None:
    pictures = noise(6, 48, 48, 3, seed=2)
    looker = _looker(network, 4, 1, crop_pct=0.5)
    for view, crop_pct in (("clean", 0.5), ("whole", 1.0)):
        table = looker.predictions(Pictures(pictures, labels_of(6), view=view), range(6), _silent)  # type: ignore[arg-type]
        wanted = _logits(plain, np.stack([eval_view(picture, 32, crop_pct) for picture in pictures]))
        assert table.top1.tolist() == wanted.argmax(axis=1).tolist()
        assert np.allclose(np.log(table.confidence), (wanted - _peak(wanted)).max(axis=1), atol=1e-3)


def _peak(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    peak: NDArray[np.float32] = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return peak


@pytest.mark.parametrize(("batch", "threads"), [(1, 0), (8, 2), (31, 1), (1000, 3)])
def test_frames_of_several_clips_share_batches_and_each_clip_gets_its_own_answers(
    network: tuple[nn.Module, ModelCard], plain: Predictor, batch: int, threads: int
) -> None:
    table = _looker(network, batch, threads).sequences(FILMS, range(6), _silent)
    assert table.reason.tolist() == ["", "", "", "ends early", "", ""]
    assert table.frames.tolist() == [5, 31, 1, 0, 41, 2]
    for row, film in enumerate(FILMS.films):
        if row == 3:
            continue
        wanted = stability(_logits(plain, film), int(FILMS.labels[row]), against_first=False)
        assert (table.right[row], table.compared[row], table.flips[row]) == wanted[1:4]
        assert table.t5d[row] == pytest.approx(wanted.t5d, nan_ok=True)
    assert table.flips.sum() > 0


def test_noises_are_compared_with_the_first_frame(network: tuple[nn.Module, ModelCard], plain: Predictor) -> None:
    looker = _looker(network, 16, 1)
    both = [looker.sequences(replace(FILMS, against_first=first), range(6), _silent) for first in (False, True)]
    top1 = _logits(plain, FILMS.films[4]).argmax(axis=1)
    assert both[1].flips[4] == (top1[1:] != top1[0]).sum()
    assert both[0].flips[4] == (top1[1:] != top1[:-1]).sum()


def test_whoever_watches_is_told_of_each_picture_and_can_stop_the_work(network: tuple[nn.Module, ModelCard]) -> None:
    looker, seen = _looker(network, 8, 2), list[int]()
    looker.predictions(PICTURES, range(45), seen.append)
    assert sum(seen) == 45
    told = list[int]()

    def stop(images: int) -> None:
        told.append(images)
        if sum(told) >= 10:
            raise Stopped

    with pytest.raises(Stopped):
        looker.sequences(FILMS, range(6), lambda images: stop(10))
    with pytest.raises(Stopped):
        looker.predictions(PICTURES, range(45), stop)
    assert isinstance(looker.sequences(FILMS, range(6), _silent), Sequences), "it can look again"
