"""Pictures that were drawn, as pixels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Draw = Callable[[Path], None]


def pixels(tmp_path: Path, draw: Draw) -> NDArray[np.uint8]:
    """The decoded picture, uint8[H,W,3]; it must be a PNG."""
    path = tmp_path / "picture.png"
    draw(path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))
