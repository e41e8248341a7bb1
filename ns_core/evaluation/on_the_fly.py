"""Corrupted pictures and sequences of frames, made of a list's images when they are asked for.

In: `Samples`. Out: `Samples` and `Clips` of the same keys and labels. The chance in a picture hangs on its key and on
what is done to it, so that it is the same for every checkpoint, batch, thread and worker.

Which picture is corrupted: all checkpoints, whatever their resolution, have to see the same ones. An image whose short
side is above 260 pixels, where the official parameters end, is brought to the official protocol first (short side to
256, central 224 pixels), and what comes out is seen whole, as the official files are. A smaller one is corrupted as it
was ingested, and then goes through the checkpoint's clean view.
"""

from threading import Lock
from typing import Literal

import numpy as np

from ns_core.data.images import CorruptImage
from ns_core.data.transforms import eval_view
from ns_core.evaluation.corruptions import LEAST_SIDE, corrupt, sample_seed, tier
from ns_core.evaluation.perturbations import against_first, sequence
from ns_core.evaluation.samples import Clips, Pixels, Samples, View
from ns_core.evaluation.sources import Derived

Frost = Literal["drawn", "photographs"]

LARGE = 260
"""Pixels of the short side above which the official protocol comes first."""
OFFICIAL_EDGE, OFFICIAL_CROP = 256, 224
"""make_imagenet_c.py: Resize(256), CenterCrop(224)."""
PREPARED_BYTES = 512 << 20
"""Pictures kept ready for the next corruption: 3,500 at 224 pixels. Decoding and shrinking one of 500 x 375 takes about
as long as corrupting it, and each is corrupted 75 times."""


class Prepared(Derived):
    """Images as they are before they are corrupted; the first ones from memory: `Samples`."""

    view: View = "clean"

    def __init__(self, source: Samples, limit: int = PREPARED_BYTES) -> None:
        """`limit`: bytes that are kept."""
        super().__init__(source)
        self._room, self._lock = limit, Lock()
        self._kept: dict[int, tuple[Pixels, View]] = {}

    def image(self, number: int) -> Pixels:
        """uint8[H,W,3], of 260 pixels at most on the shorter side."""
        return self.picture(number)[0]

    def picture(self, number: int) -> tuple[Pixels, View]:
        """The image, and how what is made of it is seen."""
        known = self._kept.get(number)
        if known is not None:
            return known
        made = self._made(self.source.image(number))
        with self._lock:
            if number not in self._kept and made[0].nbytes <= self._room:
                self._room -= made[0].nbytes
                self._kept[number] = made
        return made

    def _made(self, image: Pixels) -> tuple[Pixels, View]:
        if min(image.shape[:2]) <= LARGE:
            return image, self.source.view
        return eval_view(image, OFFICIAL_CROP, OFFICIAL_CROP / OFFICIAL_EDGE), "whole"


class Corrupted(Derived):
    """One corruption at one severity of all images of a list: `Samples`."""

    view: View = "clean"
    """Of the images that were not brought to the official protocol; see `picture`."""

    def __init__(self, source: Prepared, name: str, severity: int, seed: int, frost: Frost = "drawn") -> None:
        super().__init__(source)
        self._prepared, self._name, self._severity = source, name, severity
        self._seed, self._frost = seed, frost

    def image(self, number: int) -> Pixels:
        """uint8[H,W,3]: the picture that all checkpoints see."""
        return self.picture(number)[0]

    def picture(self, number: int) -> tuple[Pixels, View]:
        """The corrupted picture, and how this one is seen."""
        image, view = self._prepared.picture(number)
        seed = sample_seed(self._seed, self._name, self._severity, self.keys[number])
        rng = np.random.default_rng(seed)
        return corrupt(_large_enough(image), self._name, self._severity, rng, _tier(image), frost=self._frost), view


class Perturbed(Derived):
    """One perturbation, at difficulty 1, of all images of a list: `Clips`.

    Of an image at the official parameters for 224 pixels, above 144, `perturbations.sequence` keeps to the official
    protocol itself: frames are cut out of it after it was moved, so that what comes in at the borders is its own.
    """

    view: View = "clean"
    """Of frames of their image's own size; see `clip`."""
    step = 1

    def __init__(self, source: Samples, name: str, seed: int) -> None:
        super().__init__(source)
        self._name, self._seed = name, seed
        self.against_first = against_first(name)

    def frames(self, number: int) -> Pixels:
        """uint8[T,H,W,3]"""
        return self.clip(number)[0]

    def clip(self, number: int) -> tuple[Pixels, View]:
        """The frames, and how these are seen."""
        image = _large_enough(self.source.image(number))
        seed, level = sample_seed(self._seed, f"sequence of {self._name}", 1, self.keys[number]), _tier(image)
        made = sequence(image, self._name, np.random.default_rng(seed), level)
        return made, (self.source.view if level < OFFICIAL_CROP else "whole")


def picture_of(samples: Samples, number: int) -> tuple[Pixels, View]:
    """A picture and how it is seen: of one made on the fly by its own size, else as its list says."""
    if isinstance(samples, Corrupted | Prepared):
        return samples.picture(number)
    return samples.image(number), samples.view


def clip_of(clips: Clips, number: int) -> tuple[Pixels, View]:
    """As `picture_of`, uint8[T,H,W,3]."""
    return clips.clip(number) if isinstance(clips, Perturbed) else (clips.frames(number), clips.view)


def _tier(image: Pixels) -> int:
    return tier(min(image.shape[:2]))


def _large_enough(image: Pixels) -> Pixels:
    """The same image. Raises `CorruptImage` for one that no corruption is defined for."""
    height, width, _ = image.shape
    if min(height, width) < LEAST_SIDE:
        raise CorruptImage(f"{height}x{width} pixels are too few to corrupt: {LEAST_SIDE} a side at least")
    return image
