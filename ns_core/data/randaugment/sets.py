"""The four operation sets: which operations are drawn, and what a magnitude means to each.

A table leads from the name of an operation to the primitive, to its argument as a function of the
magnitude and of the picture's size, and to whether the sign of the magnitude is drawn. All that the
sets do not share is in these tables: two sets with one argument give the same bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ns_core.data.randaugment import levels, places
from ns_core.data.randaugment.operation import Operation

Size: TypeAlias = tuple[int, int]
"""Height and width of a picture in pixels."""

Argument: TypeAlias = Callable[[float, Size], float]
"""(magnitude, size) -> what the primitive takes. The magnitude is negative half of the time where the
sign is drawn, and never where it is not."""

FULL_SCALE = 10.0
"""The magnitude of full strength, but for torchvision (the official `_MAX_LEVEL`, timm's `_LEVEL_DENOM`)."""
_LAST_BIN = 30
"""torchvision's largest magnitude, which is its full strength: `num_magnitude_bins=31`."""


def _none(magnitude: float, size: Size) -> float:
    """Of an operation that the magnitude does not touch."""
    return 0.0


class Entry(NamedTuple):
    """An operation as a set has it."""

    operation: Operation
    argument: Argument = _none
    signed: bool = False
    """Whether the sign of the magnitude, and with it the direction of the change, is drawn."""


@dataclass(frozen=True)
class OperationSet:
    """What RandAugment draws from."""

    entries: Mapping[str, Entry]
    one_in: int = 1
    """An operation that is drawn is applied once in so many times."""
    fill: int = 128
    largest: float = float("inf")
    """The largest magnitude that the set has a meaning for."""


def _linear(full: float, scale: float = FULL_SCALE) -> Argument:
    """`full` at the magnitude of full strength."""
    return lambda magnitude, size: full * magnitude / scale


def _either_way(scale: float = FULL_SCALE) -> Argument:
    """A factor of a blend, 1 +- 0.9 at full strength, 0.1 at least: 1 changes nothing."""
    return lambda magnitude, size: max(0.1, 1 + 0.9 * magnitude / scale)


def _below_half(axis: int) -> Argument:
    """Pixels: 0.33 of the side at full strength, and less than half of it, since two shifts the same way
    by a whole half would leave nothing but `fill`."""

    def pixels(magnitude: float, size: Size) -> float:
        shift = min(round(0.33 * abs(magnitude) / FULL_SCALE * size[axis]), (size[axis] - 1) // 2)
        return shift if magnitude >= 0 else -shift

    return pixels


def _share(full: float, axis: int) -> Argument:
    """Pixels: so much of the side at full strength."""
    return lambda magnitude, size: full * magnitude / FULL_SCALE * size[axis]


def _bins_of_side(axis: int) -> Argument:
    """Whole pixels: 150 / 331 of the side in torchvision's last bin, the fraction cut off."""
    return lambda magnitude, size: int(150 * magnitude * size[axis] / (331 * _LAST_BIN))


PAPER = OperationSet(
    {
        "Identity": Entry(levels.identity),
        "AutoContrast": Entry(levels.autocontrast),
        "Equalize": Entry(levels.equalize),
        "Rotate": Entry(places.rotate, _linear(30), signed=True),
        "Solarize": Entry(levels.solarize, lambda magnitude, size: max(0.0, 256 - 256 * magnitude / FULL_SCALE)),
        "Color": Entry(levels.color, _either_way(), signed=True),
        "Posterize": Entry(levels.posterize, lambda magnitude, size: 8 - round(4 * magnitude / FULL_SCALE)),
        "Contrast": Entry(levels.contrast, _either_way(), signed=True),
        "Brightness": Entry(levels.brightness, _either_way(), signed=True),
        "Sharpness": Entry(levels.sharpness, _either_way(), signed=True),
        "ShearX": Entry(places.shear_x, _linear(0.3), signed=True),
        "ShearY": Entry(places.shear_y, _linear(0.3), signed=True),
        "TranslateX": Entry(places.translate_x, _below_half(1), signed=True),
        "TranslateY": Entry(places.translate_y, _below_half(0), signed=True),
    }
)
"""The fourteen operations of the paper's table, in its order, all growing stronger with the magnitude.

Translations are a share of the side, capped, so that something is left of a picture of any size."""


def official(translate: float = 100.0, cutout: float = 40.0) -> OperationSet:
    """The sixteen operations of the official code, in its order (google-research/noisystudent, randaugment.py).

    `translate` and `cutout` are its `translate_const` and `cutout_const`: the pixels of a translation
    and half the side of a cut-out at full strength; the SVHN script sets 4 and 4. Nothing is clipped:
    at 27, whose translations are 270 px, the picture must be larger to be seen. Solarize and Posterize
    grow weaker with the magnitude, unintended (github.com/tensorflow/tpu, issue 614); a threshold above
    255 and more than 8 bits, which 27 asks for, change nothing here, where TensorFlow calls a shift by a
    negative number implementation-defined. Factors go one way only, from 0.1 up, and 5 is the magnitude
    that leaves the picture as it is. Contrast is `levels.contrast_by_area`.
    """

    def factor(magnitude: float, size: Size) -> float:
        return magnitude / FULL_SCALE * 1.8 + 0.1

    return OperationSet(
        {
            "AutoContrast": Entry(levels.autocontrast),
            "Equalize": Entry(levels.equalize),
            "Invert": Entry(levels.invert),
            "Rotate": Entry(places.rotate, _linear(30), signed=True),
            "Posterize": Entry(levels.posterize, lambda magnitude, size: int(magnitude / FULL_SCALE * 4)),
            "Solarize": Entry(levels.solarize, lambda magnitude, size: int(magnitude / FULL_SCALE * 256)),
            "Color": Entry(levels.color, factor),
            "Contrast": Entry(levels.contrast_by_area, factor),
            "Brightness": Entry(levels.brightness, factor),
            "Sharpness": Entry(levels.sharpness, factor),
            "ShearX": Entry(places.shear_x, _linear(0.3), signed=True),
            "ShearY": Entry(places.shear_y, _linear(0.3), signed=True),
            "TranslateX": Entry(places.translate_x, _linear(translate), signed=True),
            "TranslateY": Entry(places.translate_y, _linear(translate), signed=True),
            "SolarizeAdd": Entry(levels.solarize_add, lambda magnitude, size: int(magnitude / FULL_SCALE * 110)),
            "Cutout": Entry(places.cutout, lambda magnitude, size: int(magnitude / FULL_SCALE * cutout)),
        }
    )


TIMM = OperationSet(
    {
        "AutoContrast": Entry(levels.autocontrast),
        "Equalize": Entry(levels.equalize),
        "Invert": Entry(levels.invert),
        "Rotate": Entry(places.rotate, _linear(30), signed=True),
        "Posterize": Entry(levels.posterize, lambda magnitude, size: 4 - int(magnitude / FULL_SCALE * 4)),
        "Solarize": Entry(levels.solarize, lambda magnitude, size: 256 - int(magnitude / FULL_SCALE * 256)),
        "SolarizeAdd": Entry(levels.solarize_add, lambda magnitude, size: int(magnitude / FULL_SCALE * 110)),
        "Color": Entry(levels.color, _either_way(), signed=True),
        "Contrast": Entry(levels.contrast, _either_way(), signed=True),
        "Brightness": Entry(levels.brightness, _either_way(), signed=True),
        "Sharpness": Entry(levels.sharpness, _either_way(), signed=True),
        "ShearX": Entry(places.shear_x, _linear(0.3), signed=True),
        "ShearY": Entry(places.shear_y, _linear(0.3), signed=True),
        "TranslateX": Entry(places.translate_x, _share(0.45, 1), signed=True),
        "TranslateY": Entry(places.translate_y, _share(0.45, 0), signed=True),
    },
    one_in=2,
    largest=FULL_SCALE,
)
"""What timm's `rand_augment_transform("rand-m{M}-n{N}-inc1")` draws: its fifteen operations of increasing
strength, each applied with probability 0.5, the magnitude always M (`mstd` is 0, as where timm is not told).

timm's scale ends at 10, and it clips what is above without a word. Its translations are by parts of a
pixel, ours by whole ones; its interpolation is drawn from bilinear and bicubic for each picture, ours set."""

TORCHVISION = OperationSet(
    {
        "Identity": Entry(levels.identity),
        "ShearX": Entry(places.shear_x, _linear(0.3, _LAST_BIN), signed=True),
        "ShearY": Entry(places.shear_y, _linear(0.3, _LAST_BIN), signed=True),
        "TranslateX": Entry(places.translate_x, _bins_of_side(1), signed=True),
        "TranslateY": Entry(places.translate_y, _bins_of_side(0), signed=True),
        "Rotate": Entry(places.rotate, _linear(30, _LAST_BIN), signed=True),
        "Brightness": Entry(levels.brightness, _either_way(_LAST_BIN), signed=True),
        "Color": Entry(levels.color, _either_way(_LAST_BIN), signed=True),
        "Contrast": Entry(levels.contrast, _either_way(_LAST_BIN), signed=True),
        "Sharpness": Entry(levels.sharpness, _either_way(_LAST_BIN), signed=True),
        "Posterize": Entry(levels.posterize, lambda magnitude, size: 8 - round(4 * magnitude / _LAST_BIN)),
        "Solarize": Entry(levels.solarize, lambda magnitude, size: 255 - 255 * magnitude / _LAST_BIN),
        "AutoContrast": Entry(levels.autocontrast),
        "Equalize": Entry(levels.equalize),
    },
    fill=0,
    largest=_LAST_BIN,
)
"""What `torchvision.transforms.RandAugment(N, M)` draws: fourteen operations at one of 31 strengths, of
which 30 is full strength, and black where nothing is."""
