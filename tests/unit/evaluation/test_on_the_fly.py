"""Corrupted pictures and sequences made when they are asked for: the same for everybody who asks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ns_core.data.images import CorruptImage
from ns_core.data.transforms import eval_view
from ns_core.evaluation.corruptions import corrupt, sample_seed
from ns_core.evaluation.on_the_fly import Corrupted, Perturbed, Prepared, clip_of, picture_of
from ns_core.evaluation.perturbations import frames
from ns_core.evaluation.sources import Drawn
from tests.evaluation_lists import Pictures, labels_of, noise

SMALL = Pictures(noise(12, 32, 32, 3), labels_of(12))


def _mixed() -> Pictures:
    """Of 32, 300 x 400, 200 and 7 pixels."""
    sizes = ((32, 32), (300, 400), (200, 220), (7, 40))
    return Pictures([noise(1, *size, 3, seed=7)[0] for size in sizes], labels_of(4))


def test_a_small_image_is_corrupted_as_it_was_ingested_with_noise_of_its_key() -> None:
    made = Corrupted(Prepared(SMALL), "gaussian_noise", 3, seed=5)
    rng = np.random.default_rng(sample_seed(5, "gaussian_noise", 3, SMALL.keys[4]))
    assert np.array_equal(made.image(4), corrupt(SMALL.pictures[4], "gaussian_noise", 3, rng, 32))
    assert picture_of(made, 4)[1] == "clean"
    assert (list(made.keys), made.labels.tolist()) == (list(SMALL.keys), SMALL.labels.tolist())


def test_what_is_drawn_into_a_picture_depends_on_key_corruption_severity_and_seed_alone() -> None:
    made = Corrupted(Prepared(SMALL), "shot_noise", 2, seed=5)
    alone = Corrupted(Prepared(Drawn(SMALL, np.array([3, 8]))), "shot_noise", 2, seed=5)
    assert np.array_equal(made.image(8), alone.image(1))
    others = [
        Corrupted(Prepared(SMALL), "shot_noise", 2, seed=6),
        Corrupted(Prepared(SMALL), "shot_noise", 3, seed=5),
        Corrupted(Prepared(SMALL), "gaussian_noise", 2, seed=5),
    ]
    assert not any(np.array_equal(made.image(8), other.image(8)) for other in others)
    twins = Corrupted(Prepared(Pictures([SMALL.pictures[0]] * 2, labels_of(2))), "shot_noise", 2, seed=5)
    assert not np.array_equal(twins.image(0), twins.image(1)), "another key, another noise"


def test_threads_get_the_pictures_that_one_alone_gets() -> None:
    made, order = Corrupted(Prepared(SMALL), "impulse_noise", 5, seed=1), [*range(12), *reversed(range(12))]
    alone = [Corrupted(Prepared(SMALL), "impulse_noise", 5, seed=1).image(number) for number in order]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(made.image, order))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_large_image_is_brought_to_the_official_protocol_and_seen_whole() -> None:
    mixed = _mixed()
    prepared = Prepared(mixed)
    made = Corrupted(prepared, "brightness", 1, seed=0)
    assert [picture_of(prepared, number)[1] for number in range(3)] == ["clean", "whole", "clean"]
    assert np.array_equal(prepared.image(1), eval_view(mixed.pictures[1], 224, 0.875))
    assert prepared.image(2) is mixed.pictures[2]
    assert [picture_of(made, number)[0].shape[:2] for number in range(3)] == [(32, 32), (224, 224), (200, 220)]
    assert [picture_of(made, number)[1] for number in range(3)] == ["clean", "whole", "clean"]


def test_an_image_that_is_too_small_to_corrupt_says_so() -> None:
    for made in (Corrupted(Prepared(_mixed()), "brightness", 1, seed=0).image, Perturbed(_mixed(), "tilt", 0).frames):
        with pytest.raises(CorruptImage, match="7x40 pixels are too few"):
            made(3)


def test_images_are_kept_ready_as_far_as_there_is_room() -> None:
    mixed = _mixed()
    roomy, cramped = Prepared(mixed), Prepared(mixed, limit=1000)
    assert roomy.image(1) is roomy.image(1)
    assert cramped.image(1) is not cramped.image(1)
    assert np.array_equal(cramped.image(1), roomy.image(1))


def test_sequences_have_the_picture_s_size_or_the_official_one() -> None:
    made = Perturbed(_mixed(), "translate", seed=0)
    found = [clip_of(made, number) for number in range(3)]
    assert [film.shape for film, _ in found] == [
        (frames("translate", 32), 32, 32, 3),
        (frames("translate", 299), 224, 224, 3),
        (frames("translate", 224), 224, 224, 3),
    ]
    assert [view for _, view in found] == ["clean", "whole", "whole"]
    assert (made.against_first, made.step) == (False, 1)
    assert Perturbed(SMALL, "gaussian_noise", seed=0).against_first


def test_a_sequence_depends_on_key_and_seed_alone() -> None:
    made, other = (Perturbed(SMALL, "gaussian_noise", seed) for seed in (0, 1))
    alone = Perturbed(Drawn(SMALL, np.array([6])), "gaussian_noise", 0)
    assert np.array_equal(made.frames(6), alone.frames(0))
    assert not np.array_equal(made.frames(6), other.frames(6))
