"""Hashes and thumbnails of single pictures: what they keep, and what they do not depend on."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import cv2
import imagehash
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from sklearn.datasets import load_sample_images

from ns_core.data.signatures import (
    CHROMA_SIDE,
    DEAD_ZONE,
    LUMA_BYTES,
    LUMA_SIDE,
    SIDE,
    THUMBNAIL_BYTES,
    Signature,
    signature,
)

Pixels = NDArray[np.uint8]


def _photographs() -> list[Pixels]:
    return list(load_sample_images().images)


def _crops(side: int) -> list[Pixels]:
    """Squares that do not overlap."""
    return [
        photograph[top : top + side, left : left + side]
        for photograph in _photographs()
        for top in range(0, photograph.shape[0] - side + 1, side)
        for left in range(0, photograph.shape[1] - side + 1, side)
    ]


def _jpeg(image: Pixels, quality: int) -> Pixels:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _luma(one: Signature) -> Pixels:
    return np.frombuffer(one.thumbnail, np.uint8)[:LUMA_BYTES].reshape(LUMA_SIDE, LUMA_SIDE)


def _chroma(one: Signature) -> Pixels:
    return np.frombuffer(one.thumbnail, np.uint8)[LUMA_BYTES:].reshape(2, CHROMA_SIDE, CHROMA_SIDE)


def _differing(one: int, other: int) -> int:
    return (one ^ other).bit_count()


# The hash


def test_the_hash_is_that_of_imagehash_but_for_the_dead_zone() -> None:
    """On pictures of 32x32, which neither reduces: of imagehash's bits those stay that are beyond the zone."""
    differing = []
    for crop in _crops(SIDE):
        luma = cv2.cvtColor(crop, cv2.COLOR_RGB2YCrCb)[:, :, 0]
        theirs = imagehash.phash(Image.fromarray(luma)).hash
        coefficients = dctn(luma.astype(np.float64))[:8, :8]
        beyond = coefficients > max(np.median(coefficients), 0) + DEAD_ZONE
        ours = signature(crop).hash
        assert f"{ours:064b}" == "".join("1" if bit else "0" for bit in (theirs & beyond).ravel())
        if luma.std() > 32:
            differing.append(_differing(ours, int(str(imagehash.ImageHash(theirs)), 16)))
    assert len(differing) > 100
    assert np.mean(differing) < 5


def test_mirrored_is_the_hash_of_the_mirrored_picture() -> None:
    for crop in _crops(SIDE):
        one, other = signature(crop), signature(crop[:, ::-1])
        assert (one.hash, one.mirrored) == (other.mirrored, other.hash)
    for photograph in _photographs():
        one, other = signature(photograph), signature(photograph[:, ::-1])
        assert one.hash != one.mirrored
        assert _differing(one.mirrored, other.hash) <= 1
        assert _differing(one.hash, other.mirrored) <= 1


def test_the_hash_of_a_symmetric_picture_survives_jpeg() -> None:
    """Its odd columns of the DCT are 0 but for rounding: imagehash turns rounding into bits."""
    ours, theirs = [], []
    for crop in _crops(64):
        symmetric = ((crop.astype(int) + crop[:, ::-1]) // 2).astype(np.uint8)
        copy = _jpeg(symmetric, 50)
        ours.append(_differing(signature(symmetric).hash, signature(copy).hash))
        theirs.append(imagehash.phash(Image.fromarray(symmetric)) - imagehash.phash(Image.fromarray(copy)))
    assert max(theirs) > 20
    assert max(ours) <= 6


def test_pictures_of_one_colour_have_no_bits_but_that_of_their_brightness() -> None:
    hashes = {signature(np.full((40, 50, 3), level, np.uint8)).hash for level in range(1, 256)}
    assert hashes == {1 << 63}
    assert signature(np.zeros((40, 50, 3), np.uint8)).hash == 0


# The thumbnail


def test_the_thumbnail_is_the_picture_in_small() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[:30, :45], image[:30, 45:], image[30:] = (255, 0, 0), (0, 0, 255), (200, 200, 200)
    one = signature(image)
    assert len(one.thumbnail) == THUMBNAIL_BYTES
    luma, (red, blue) = _luma(one).astype(int), _chroma(one).astype(int)
    for (top, left), colour in {(2, 2): (76, 255, 85), (2, -3): (29, 107, 255), (-3, 5): (200, 128, 128)}.items():
        small = (luma[top, left], red[top // 2, left // 2], blue[top // 2, left // 2])
        assert np.abs(np.subtract(small, colour)).max() <= 2


# Any picture


@pytest.mark.parametrize(
    "shape", [(1, 1), (8, 8), (1, 10_000), (10_000, 1), (3, 2), (33, 31), (31, 2_000), (1, 70_000)]
)
def test_any_size_has_a_signature(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    one = signature(image)
    assert len(one.thumbnail) == THUMBNAIL_BYTES
    assert all(0 <= value < 1 << 64 for value in one[:2])
    assert abs(_luma(one).mean() - image.mean()) < (8 if image.size > 1_000 else 64)


def test_a_strip_is_averaged_along_its_length_and_not_sampled() -> None:
    strip = np.random.default_rng(0).integers(0, 256, (1, 10_000, 3), dtype=np.uint8)
    assert signature(strip) == signature(np.repeat(strip, 64, axis=0))
    assert signature(strip.swapaxes(0, 1)) == signature(np.repeat(strip, 64, axis=0).swapaxes(0, 1))


def test_the_layout_in_memory_makes_no_difference_and_the_picture_is_left_alone() -> None:
    image = _photographs()[0][:200, :300].copy()
    image.setflags(write=False)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    assert signature(image[:, ::-1]) == signature(mirrored)
    assert signature(np.asfortranarray(image)) == signature(image)
    assert signature(image[::2, ::2]) == signature(image[::2, ::2].copy())


def test_a_signature_goes_through_pickle_and_parquet_columns() -> None:
    whole = [signature(crop) for crop in _crops(100)]
    assert pickle.loads(pickle.dumps(whole)) == whole
    assert max(one.hash for one in whole) >= 1 << 63
    schema = pa.schema([("hash", pa.uint64()), ("mirrored", pa.uint64()), ("thumbnail", pa.binary(THUMBNAIL_BYTES))])
    table = pa.Table.from_pylist([one._asdict() for one in whole], schema=schema)
    assert [Signature(**row) for row in table.to_pylist()] == whole


def test_threads_get_the_same_signatures() -> None:
    crops = _crops(80) * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(signature, crops)) == [signature(crop) for crop in crops]
