"""Rows become labels: those of the plain predict path, whatever the threads, with bad images told and left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ns_core.data.image_source import ImageSource, eval_batches
from ns_core.data.rows import Rows
from ns_core.inference.labelling import Labelled, Labeller, Pace
from ns_core.models.checkpoint import ModelCard
from ns_core.models.factory import create_network
from ns_core.models.fast import fast_predictor
from ns_core.models.predict import Predictor
from tests.factories import TINY_MODEL

CARD = ModelCard(model=TINY_MODEL, class_names=tuple("0123456789"), train_size=32, test_size=32, crop_pct=0.9)
VIEW = (CARD.test_size, CARD.crop_pct)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return create_network(TINY_MODEL, 10).eval()


@pytest.fixture(scope="module")
def predictor(network: nn.Module) -> Predictor:
    return fast_predictor(network, CARD, CPU, features=True)


def _label(source: ImageSource, predictor: Predictor, rows: Rows, workers: int = 2, batch: int = 8) -> Labelled:
    return Labeller(source, predictor, VIEW, batch, workers).label(rows)


def _with_bad(rows: Rows, *bad: int) -> Rows:
    """Those rows begin within their image, which is then of no known format."""
    offsets = rows.offsets.copy()
    offsets[list(bad)] += 16
    return replace(rows, offsets=offsets)


def test_every_row_gets_the_logits_of_the_plain_predict_path_in_its_place(
    source: ImageSource, network: nn.Module, predictor: Predictor, rows: Rows
) -> None:
    plain = Predictor(network, CARD, CPU)
    expected = np.concatenate([plain.logits(images) for images in eval_batches(source, rows, VIEW, 8)])
    labelled = _label(source, predictor, rows)
    assert labelled.logits.dtype == np.float32
    assert labelled.unreadable == {}
    assert np.allclose(labelled.logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    through_plain = _label(source, plain, rows)
    assert np.array_equal(through_plain.logits, expected)
    assert through_plain.features is None


def test_features_come_in_the_order_of_the_rows(source: ImageSource, predictor: Predictor, rows: Rows) -> None:
    labelled = _label(source, predictor, rows)
    parts = [predictor.outputs(images).features for images in eval_batches(source, rows, VIEW, 8)]
    assert np.array_equal(labelled.features, np.concatenate([part for part in parts if part is not None]))


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_threads_gives_the_same_bits(
    source: ImageSource, predictor: Predictor, rows: Rows, workers: int
) -> None:
    rows = _with_bad(rows, 3, 11, 12, 49)
    wanted, found = _label(source, predictor, rows, workers=0), _label(source, predictor, rows, workers)
    assert np.array_equal(found.logits, wanted.logits, equal_nan=True)
    assert found.features is not None
    assert wanted.features is not None
    assert np.array_equal(found.features, wanted.features, equal_nan=True)
    assert list(found.unreadable.items()) == list(wanted.unreadable.items())


def test_an_image_that_cannot_be_read_is_told_and_changes_no_bit_of_another(
    source: ImageSource, predictor: Predictor, rows: Rows
) -> None:
    whole, damaged = _label(source, predictor, rows), _label(source, predictor, _with_bad(rows, 3, 49))
    assert damaged.unreadable == dict.fromkeys((3, 49), "not an image of a known format")
    assert np.isnan(damaged.logits[[3, 49]]).all()
    assert damaged.features is not None
    assert np.isnan(damaged.features[[3, 49]]).all()
    others = np.setdiff1d(np.arange(50), [3, 49])
    assert np.array_equal(damaged.logits[others], whole.logits[others])


def test_a_shard_that_is_cut_short_is_a_reason_too(source: ImageSource, predictor: Predictor, rows: Rows) -> None:
    sizes = rows.sizes.copy()
    sizes[5] = 1 << 30
    assert "truncated" in _label(source, predictor, replace(rows, sizes=sizes)).unreadable[5]


def test_images_that_are_all_bad_leave_nothing_but_reasons(
    source: ImageSource, predictor: Predictor, rows: Rows
) -> None:
    labelled = _label(source, predictor, _with_bad(rows, *range(50)))
    assert list(labelled.unreadable) == list(range(50))
    assert np.isnan(labelled.logits).all()


def test_a_part_of_the_rows_is_labelled_as_if_it_were_all(
    source: ImageSource, predictor: Predictor, rows: Rows
) -> None:
    rows = _with_bad(rows, 20)
    whole = _label(source, predictor, rows)
    labelled = Labeller(source, predictor, VIEW, 8, 2).label(rows, slice(16, 32))
    assert np.array_equal(labelled.logits, whole.logits[16:32], equal_nan=True)
    assert list(labelled.unreadable) == [4]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_what_is_beside_a_row_moves_its_logits_by_a_rounding_at_most(
    source: ImageSource, predictor: Predictor, rows: Rows, batch: int
) -> None:
    wanted, found = _label(source, predictor, rows).logits, _label(source, predictor, rows, batch=batch).logits
    assert np.allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_shard_that_is_not_there_is_an_error_and_no_reason(
    source: ImageSource, predictor: Predictor, rows: Rows
) -> None:
    elsewhere = replace(rows, shard_names=tuple(f"no-{name}" for name in rows.shard_names))
    with pytest.raises(FileNotFoundError, match="no-"):
        _label(source, predictor, elsewhere)


def test_the_pace_counts_every_image_and_the_time_of_labelling(
    source: ImageSource, predictor: Predictor, rows: Rows
) -> None:
    labeller = Labeller(source, predictor, VIEW, 8, 1)
    assert labeller.pace == Pace()
    labeller.label(rows)
    first = labeller.pace
    labeller.label(rows, slice(0, 10))
    assert first.images == 50
    assert labeller.pace.images == 60
    assert labeller.pace.since(first).images == 10
    assert 0 <= first.waited < first.seconds < labeller.pace.seconds
    assert first.images_per_second == pytest.approx(50 / first.seconds)


def test_decoding_is_called_the_bound_when_the_network_waits_for_more_than_half_of_the_time() -> None:
    assert str(Pace(images=6000, seconds=3.0, waited=0.3)) == "2,000 images/s, data wait 10 %"
    assert str(Pace(6000, 3.0, 2.1)) == "2,000 images/s, data wait 70 %: decoding is the bound"
    assert not Pace(6000, 3.0, 1.5).decode_bound


def test_a_network_that_takes_no_time_waits_for_its_pictures(source: ImageSource, rows: Rows) -> None:
    class Instant(Predictor):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 10)

    labeller = Labeller(source, Instant(nn.Identity(), CARD, CPU), VIEW, 25, 1)
    labeller.label(rows)
    assert labeller.pace.decode_bound
