"""What the official scripts do, frame by frame and in their own terms: the oracle of the tests beside.

After hendrycks/robustness, ImageNet-P/create_p/make_imagenet_p.py and make_cifar_p.py, with what they call: Pillow,
OpenCV, scikit-image, SciPy, torchvision 0.2's affine matrix, and for ImageMagick's motion blur its transcription in
imagecorruptions, rounded to bytes. Frames come whole, not yet cropped to 224.
"""

import math
import warnings
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import numpy.typing as npt
from imagecorruptions.corruptions import _motion_blur
from PIL import Image
from scipy.ndimage import zoom
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian

Pixels = npt.NDArray[np.uint8]


def resized(image: Pixels) -> Pixels:
    """torchvision's Resize(256)."""
    height, width = image.shape[:2]
    size = (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def cropped(image: Pixels) -> Pixels:
    """torchvision's CenterCrop(224)."""
    top, left = (round((side - 224) / 2.0) for side in image.shape[:2])
    return image[top : top + 224, left : left + 224]


def affine(image: Pixels, angle: float = 0, scale: float = 1, shear: float = 0, shift: int = 0) -> Pixels:
    """torchvision 0.2's `affine` with its `_get_inverse_affine_matrix`."""
    height, width = image.shape[:2]
    centre = (width * 0.5 + 0.5, height * 0.5 + 0.5)
    angle, shear, scale = math.radians(angle), math.radians(shear), 1.0 / scale
    d = math.cos(angle + shear) * math.cos(angle) + math.sin(angle + shear) * math.sin(angle)
    matrix = [math.cos(angle + shear), math.sin(angle + shear), 0.0, -math.sin(angle), math.cos(angle), 0.0]
    matrix = [scale / d * m for m in matrix]
    matrix[2] += matrix[0] * (-centre[0] - shift) + matrix[1] * -centre[1] + centre[0]
    matrix[5] += matrix[3] * (-centre[0] - shift) + matrix[4] * -centre[1] + centre[1]
    how = Image.Resampling.NEAREST if shift else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).transform((width, height), Image.Transform.AFFINE, matrix, how))


def motion(image: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    return np.uint8(np.rint(np.clip(_motion_blur(image.astype(np.float64), radius, sigma, angle), 0, 255)))


def motion_blur(image: Pixels, large: bool) -> Iterator[Pixels]:
    for i in range(31 if large else 21):
        yield motion(image, 10, 3, (i - 30) * 4) if large else motion(image, 6, 1.8, (i - 20) * 9)


def zoom_blur(image: Pixels, large: bool) -> Iterator[Pixels]:
    total = image / 255
    yield image
    for i in range(1, 31):
        total = total + affine(image, scale=1 + 0.004 * i) / 255
        yield np.uint8(total / (i + 1) * 255)


def brightness(image: Pixels, large: bool) -> Iterator[Pixels]:
    for i in range(31):
        hsv = rgb2hsv(image / 255.0)
        hsv[:, :, 2] = np.clip(hsv[:, :, 2] + (i - 15) * (2 if large else 1.5) / 100.0, 0, 1)
        yield np.uint8(hsv2rgb(hsv) * 255)


def translate(image: Pixels, large: bool) -> Iterator[Pixels]:
    for shift in range(-20, 21) if large else range(-7, 9):
        yield affine(image, shift=shift) if shift else image


def rotate(image: Pixels, large: bool) -> Iterator[Pixels]:
    return (affine(image, angle=i - 15) for i in range(31))


def scale(image: Pixels, large: bool) -> Iterator[Pixels]:
    return (affine(image, scale=(i * 2.5 + 40) / 100.0 if large else (i * 2 + 70) / 100.0) for i in range(31))


def shear(image: Pixels, large: bool) -> Iterator[Pixels]:
    return (affine(image, shear=i - 15) for i in range(31))


def tilt(image: Pixels, large: bool) -> Iterator[Pixels]:
    h, w = image.shape[:2]
    for i in range(31):
        phi = theta = np.deg2rad((1 if large else 0.75) * (i - 15))
        f = np.sqrt(w**2 + h**2)
        p1 = np.array([[1, 0, -w / 2], [0, 1, -h / 2], [0, 0, 1], [0, 0, 1]])
        rx = np.eye(4)
        rx[1:3, 1:3] = [[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]]
        ry = np.eye(4)
        ry[0, 0], ry[0, 2], ry[2, 0], ry[2, 2] = np.cos(phi), -np.sin(phi), np.sin(phi), np.cos(phi)
        t = np.eye(4)
        t[2, 3] = f
        p2 = np.array([[f, 0, w / 2, 0], [0, f, h / 2, 0], [0, 0, 1, 0]])
        yield cv2.warpPerspective(image, p2 @ t @ rx @ ry @ p1, (w, h))


def gaussian_blur(image: Pixels, large: bool) -> Iterator[Pixels]:
    for i in range(31):
        sigma, truncate = (0.25 + 0.035 * i, 6.0) if large else (0.3 + 0.015 * i, 7.0)
        blurred = gaussian(image / 255.0, sigma=sigma, channel_axis=-1, truncate=truncate)
        yield np.uint8(255 * np.clip(blurred, 0, 1))


STILL: dict[str, Callable[[Pixels, bool], Iterator[Pixels]]] = {
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "brightness": brightness,
    "translate": translate,
    "rotate": rotate,
    "tilt": tilt,
    "scale": scale,
    "gaussian_blur": gaussian_blur,
    "shear": shear,
}
"""Those that draw nothing."""


def clipped_zoom(layer: npt.NDArray[np.float64], factor: int) -> npt.NDArray[np.float64]:
    """Of a square layer."""
    h = layer.shape[0]
    ch = int(np.ceil(h / factor))
    top = (h - ch) // 2
    layer = zoom(layer[top : top + ch, top : top + ch], (factor, factor), order=1)
    trim = (layer.shape[0] - h) // 2
    return layer[trim : trim + h, trim : trim + h]


def snow(x: Pixels, large: bool, rng: np.random.Generator) -> Iterator[Pixels]:
    """Of the square window."""
    unit = x / 255.0
    factor, radius, sigma = (3, 14, 4) if large else (2, 10, 2)
    layer = clipped_zoom(rng.normal(size=x.shape[:2], loc=0.05, scale=0.3), factor)
    layer[layer < 0.5] = 0
    drawn = (np.clip(layer, 0, 1) * 255).astype(np.uint8)
    for i in range(31):
        blown = motion(drawn, radius, sigma, i * 4 - 150)[..., np.newaxis] / 255.0
        grey = cv2.cvtColor(np.float32(unit), cv2.COLOR_RGB2GRAY)[..., np.newaxis]
        z = 0.85 * unit + (1 - 0.85) * np.maximum(unit, grey * 1.5 + 0.5)
        yield np.uint8(np.clip(z + blown + np.rot90(blown, k=2), 0, 1) * 255)


def spatter(image: Pixels, large: bool, rng: np.random.Generator) -> Iterator[Pixels]:
    """Of the window; a frame without a drop is black, by a division by zero."""
    x = cv2.cvtColor(np.array(image, dtype=np.float32) / 255.0, cv2.COLOR_BGR2BGRA)
    loc, sd, sigma, threshold = (0.65, 0.27, 3.7, 0.69) if large else (0.6, 0.265, 1.75, 0.7)
    flow = np.array([0.05, 0.1, 0.15, 0.7] if large else [0.2, 0.8])
    liquid = gaussian(rng.normal(size=x.shape[:2], loc=loc, scale=sd), sigma=sigma)
    liquid[liquid < threshold] = 0
    for _ in range(31):
        layer = (liquid * 255).astype(np.uint8)
        dist = 255 - cv2.Canny(layer, 50, 150)
        dist = cv2.distanceTransform(dist, cv2.DIST_L2, 5)
        _, dist = cv2.threshold(dist, 20, 20, cv2.THRESH_TRUNC)
        dist = cv2.blur(dist, (3, 3)).astype(np.uint8)
        dist = cv2.equalizeHist(dist)
        dist = cv2.filter2D(dist, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
        dist = cv2.blur(dist, (3, 3)).astype(np.float32)
        m = cv2.cvtColor(layer * dist, cv2.COLOR_GRAY2BGRA)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            m /= np.max(m, axis=(0, 1))
            m *= 0.6
            colour = np.float32([175 / 255.0, 238 / 255.0, 238 / 255.0, 1]) * np.ones_like(m)
            z = np.uint8(cv2.cvtColor(np.clip(x + m * colour, 0, 1), cv2.COLOR_BGRA2BGR) * 255)
        yield z
        liquid = np.apply_along_axis(lambda column: np.convolve(column, flow, mode="same"), axis=0, arr=liquid)
