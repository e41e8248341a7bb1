"""Photographs to measure on: JPEGs of about 500 x 400 pixels, cut from the two that scikit-learn ships."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

WIDTH, HEIGHT, QUALITY = 500, 400, 95
"""About 85 kB an image, 4:2:0; ImageNet's average is 500 x 400 and 110 kB."""


def write_photographs(root: Path, count: int, classes: int, seed: int = 0) -> Path:
    """`count` JPEGs in `classes` folders below `root`, crops at random places, half of them mirrored.

    Crops overlap, so they are for measuring speed and for nothing else.
    """
    rng = np.random.default_rng(seed)
    bunch: Any = load_sample_images()
    photographs = [Image.fromarray(image) for image in bunch.images]
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        scale = rng.uniform(1.0, 1.1)
        large = photograph.resize((round(photograph.width * scale), round(photograph.height * scale)))
        left, top = (int(rng.integers(room + 1)) for room in (large.width - WIDTH, large.height - HEIGHT))
        crop = large.crop((left, top, left + WIDTH, top + HEIGHT))
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path = root / f"class{number % classes:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=QUALITY)
    return root
