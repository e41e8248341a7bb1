"""Changes of light and colour, and what storing a picture does to it.

In: a uint8 image [H, W, 3], a level as in `tables`, a generator that is not used: these five draw nothing.
Out: a new uint8 image [H, W, 3].

Source: functions of the same names in hendrycks/robustness, ImageNet-C/create_c.
"""

from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from ns_core.evaluation.corruptions.pixels import Floats, Pixels, truncated


def brightness(image: Pixels, rise: float, rng: np.random.Generator) -> Pixels:
    """The HSV value raised by `rise`, where white is 1, at equal hue and saturation; black turns grey."""
    hsv = _hsv(image)
    value = hsv[..., 2]
    np.clip(value + np.float32(rise), 0, 1, out=value)
    return _rgb(hsv)


def saturate(image: Pixels, change: tuple[float, float], rng: np.random.Generator) -> Pixels:
    """The HSV saturation times the first number, plus the second.

    Grey has no hue; with something added to its saturation it turns red, as in the original.
    """
    factor, rise = change
    hsv = _hsv(image)
    saturation = hsv[..., 1]
    np.clip(saturation * np.float32(factor) + np.float32(rise), 0, 1, out=saturation)
    return _rgb(hsv)


def _hsv(image: Pixels) -> Floats:
    """Hue in degrees, saturation and value from 0 to 1."""
    unit = np.multiply(image, np.float32(1 / 255), dtype=np.float32)
    return np.asarray(cv2.cvtColor(unit, cv2.COLOR_RGB2HSV), dtype=np.float32)


def _rgb(hsv: Floats) -> Pixels:
    return truncated(np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)))


def contrast(image: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    """Each value's distance from its channel's mean times `factor`: a table of 256 values for each channel."""
    means = np.array(cv2.mean(image)[:3]) / 255
    values = np.arange(256)[:, np.newaxis] / 255
    table = truncated((values - means) * factor + means)
    return np.asarray(cv2.LUT(image, table[np.newaxis]), dtype=np.uint8)


def pixelate(image: Pixels, scale: float, rng: np.random.Generator) -> Pixels:
    """Down to `scale` of each side and up again, with Pillow's box filter: its weights are not cv2's INTER_AREA."""
    height, width = image.shape[:2]
    small = (max(1, int(width * scale)), max(1, int(height * scale)))
    box = Image.Resampling.BOX
    return np.array(Image.fromarray(image).resize(small, box).resize((width, height), box))


def jpeg_compression(image: Pixels, quality: int, rng: np.random.Generator) -> Pixels:
    """Through Pillow's JPEG at `quality`, colours at half the resolution."""
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))
