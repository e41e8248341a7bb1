"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719), the input noise of the student.

In:  one uint8 picture of shape (height, width, 3), RGB, and a `numpy.random.Generator` of its own.
Out: a uint8 picture of the same shape.

A picture gets `num_ops` operations at one magnitude M, drawn uniformly with replacement from one of
four sets. "Magnitude 27" is something else in each of them:

                        paper             official           timm               torchvision
    full strength at    10                10                 10, the largest    30, the largest
    probability         1                 1                  0.5                1
    Rotate, degrees     +-30 M/10         +-30 M/10          +-30 M/10          +-30 M/30
    ShearX, ShearY      +-0.3 M/10        +-0.3 M/10         +-0.3 M/10         +-0.3 M/30
    TranslateX, -Y      +-0.33 M/10 of    +-100 px M/10      +-0.45 M/10 of     +-0.453 M/30 of
                        the side, < 0.5                      the side           the side
    Color, Contrast,    1 +- 0.9 M/10,    0.1 + 1.8 M/10     1 +- 0.9 M/10,     1 +- 0.9 M/30
      Brightness,         0.1 at least                         0.1 at least
      Sharpness
    Posterize, bits     8 - 4 M/10        4 M/10             4 - 4 M/10         8 - 4 M/30
    Solarize, from      256 - 256 M/10    256 M/10           256 - 256 M/10     255 - 255 M/30
    SolarizeAdd         -                 110 M/10           110 M/10           -
    Invert              -                 yes                yes                -
    Cutout, half side   -                 40 px M/10         -                  -
    Identity            yes               -                  -                  yes
    AutoContrast,       yes               yes                yes                yes
      Equalize
    uncovered           128               128                128                0

`paper` is what the paper says, with two choices of ours: translation is a share of the side, and
Posterize and Solarize grow stronger with M. The official 10 px * M is 45 % of a 600 px picture at
M = 27, but leaves nothing of a 32 px or a 224 px one: with `official`, M must fit the size (official
scripts: none for B0 and B1 at 224 and 240 px, 6 for B2 at 260 px, up to 27 for B7 at 600 px).

    operation.py  what an operation is
    levels.py     operations on levels
    places.py     operations on places
    sets.py       the four tables
    augment.py    the drawing

On one thread of an AMD EPYC (Zen 4) at 224 px an operation of the paper's set takes 2 to 65 us, Equalize
93; Rotate, ShearX and ShearY take 32 us with the nearest pixel and 112 to 118 bilinear. Two operations
drawn at M = 9 take 95 us, bilinear 155.
"""

from ns_core.data.randaugment.augment import Interpolation, RandAugment
from ns_core.data.randaugment.operation import Pixels

__all__ = ["Interpolation", "Pixels", "RandAugment"]
