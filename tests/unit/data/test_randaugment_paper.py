"""The paper's set, bilinear, gives the bytes that it gave when it was the only one.

The digests were taken with OpenCV 5.0.0 from the module that had no other set; students trained with
it can be trained again. OpenCV's warps round otherwise on a CPU without AVX2 and fused multiply-add;
all else gives the same bytes without them.
"""

from hashlib import sha256

import cv2
import numpy as np
import pytest

from ns_core.data.randaugment import RandAugment
from ns_core.data.randaugment.sets import PAPER
from tests.randaugment_operations import operate, texture

SIZES = [(32, 32), (17, 40), (1, 1), (2, 5), (224, 224)]
MAGNITUDES = [0.0, 1.5, 5.0, 9.0, 10.0, 13.0, 27.0, 30.0]
PICTURES = "21446e005570bfef47107e0cca3ae13d423206a5baf6a5ec5ce05bd86e172153"
OPERATIONS = {
    "Identity": "0f9a672ab51f0c3a82ad92af795cde6cfd24dccb4b4b875418891d21264d9a8c",
    "AutoContrast": "44a91a72d4ee75bbfb8dad1a62d21affb5fc81f26c4d3be7af5a48c3d7a1a74f",
    "Equalize": "993d50fd04d7eacea68f694d7fcd5749ce37e2f4c57305b503fb244876813c9e",
    "Rotate": "acddb5d700defa9bc7a643e86821a1111d6b33101ee2e48130849d9329870724",
    "Solarize": "39393cac62a5d206fc2854fae59679a6358a7ed15b2ec61a5abed1a4cd49c618",
    "Color": "248ab2184e80e3931bf4e1e5ff5660eb592c583e2f26efb4c6b13efced6acdb0",
    "Posterize": "98499eabf8d29f86924eb0053bfc77a07a288f2ccbe636698e735e722272e52f",
    "Contrast": "860b06c3e0e8b07add6004cf1378e01fc3f34559485700565f5077712995d83a",
    "Brightness": "7d793e1e85d59f69ae66993c313f4ef5aa4bf2c6a623a46218a6d595daeb5880",
    "Sharpness": "d20d5cbeae0aef575580a4c90591b5b7151d219828aa6a4d36bd8858b78b6a97",
    "ShearX": "9ac70bcc4a36ce380532a74194543b2ae6aebfbd636838887c5733fa33829374",
    "ShearY": "218ab7f7ededea698e5cf564937e362b40885704961bb2cbca5bc531f073c959",
    "TranslateX": "e290f1749978766c7f94377a6597cac628b97e92f0701309206b72e44106253e",
    "TranslateY": "56683461981d4e59534ab2b8520edc917b4d8fa1aebd7a9598fc4d4b3a80ee2b",
}
"""Over the sizes, the magnitudes and both signs, in this order, filled with 77."""
DRAWN = {
    9.0: "6a0e935230a2fa7124e0b058a517471675da4d30ca5ff525b8d93d66e58acfad",
    27.0: "1ebb4cdc35e04274b2e280f8edee55cf5c20f0adefbf74785687f433ead024d3",
}
"""Two operations at a time, a hundred times each size, and the state of the generator after them."""


AVX2, FMA3 = 11, 12
"""OpenCV's `CV_CPU_AVX2` and `CV_CPU_FMA3`, which its Python module does not name."""
warps = pytest.mark.skipif(
    not (cv2.checkHardwareSupport(AVX2) and cv2.checkHardwareSupport(FMA3)),
    reason="OpenCV's warps round otherwise on this CPU",
)
WARPED = {"Rotate", "ShearX", "ShearY"}


def test_the_pictures_are_those_of_the_digests() -> None:
    assert sha256(b"".join(texture(*size).tobytes() for size in SIZES)).hexdigest() == PICTURES


@pytest.mark.parametrize("name", [pytest.param(name, marks=[warps] * (name in WARPED)) for name in PAPER.entries])
def test_an_operation_gives_the_bytes_it_always_gave(name: str) -> None:
    seen = sha256()
    for size in SIZES:
        for magnitude in MAGNITUDES:
            for signed in (magnitude, -magnitude):
                seen.update(operate(PAPER, name, texture(*size), signed, 77, "bilinear").tobytes())
    assert seen.hexdigest() == OPERATIONS[name]


@warps
@pytest.mark.parametrize("magnitude", DRAWN)
def test_the_same_operations_are_drawn_as_always(magnitude: float) -> None:
    seen, rng, augment = sha256(), np.random.default_rng(5), RandAugment(2, magnitude, "bilinear")
    for size in SIZES:
        for _ in range(100):
            seen.update(augment(texture(*size), rng).tobytes())
    seen.update(str(rng.bit_generator.state["state"]).encode())
    assert seen.hexdigest() == DRAWN[magnitude]
