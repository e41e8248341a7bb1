"""Motion blur as ImageMagick does it, which is what the official scripts call through Wand.

In: a float32 image [H, W, C] or layer [H, W]; radius, sigma and angle as Wand's `motion_blur` takes them.
Out: the blurred floats, on the scale of what came in.

Source: `MotionBlurImage`, `GetMotionBlurKernel` and `GetOptimalKernelWidth1D` of ImageMagick 6, effect.c.
"""

import math

import cv2
import numpy as np

from ns_core.evaluation.corruptions.pixels import Floats

Taps = dict[tuple[int, int], float]
"""(rows down, columns to the right) of a pixel that is looked at -> its weight."""


def motion_taps(radius: float, sigma: float, angle: float) -> Taps:
    """The pixels that one pixel is blurred from; the weights sum to 1.

    One half of a Gaussian of `sigma` pixels, in 2 * ceil(radius) + 1 steps of one pixel from the pixel itself towards
    `angle` degrees, clockwise from the right; each step rounded to a whole pixel (halves down), and steps that meet in
    a pixel added up.
    """
    width = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    rise, run = width * math.sin(math.radians(angle)), width * math.cos(math.radians(angle))
    length = math.hypot(rise, run)
    taps: Taps = {}
    for step, weight in enumerate((weights / weights.sum()).tolist()):
        place = (math.ceil(step * rise / length - 0.5), math.ceil(step * run / length - 0.5))
        taps[place] = taps.get(place, 0.0) + weight
    return taps


def motion_blurred(image: Floats, radius: float, sigma: float, angle: float) -> Floats:
    """`image`, float32 [H, W] or [H, W, C], blurred along `angle` (see `motion_taps`); its edge pixels go on for ever.

    A sum of 10 to 45 shifted copies: 1,600 to 3,300 of 224 pixels a second, where `cv2.filter2D` with the taps in one
    kernel did 200 to 1,300, most of it in Fourier transforms.
    """
    height, width = image.shape[:2]
    taps = motion_taps(radius, sigma, angle)
    rows, columns = [place[0] for place in taps], [place[1] for place in taps]
    above, left = -min(rows), -min(columns)
    wide = cv2.copyMakeBorder(image, above, max(rows), left, max(columns), cv2.BORDER_REPLICATE)
    total = np.zeros_like(image)
    for (down, right), weight in taps.items():
        top, start = above + down, left + right
        cv2.scaleAdd(wide[top : top + height, start : start + width], weight, total, total)
    return total
