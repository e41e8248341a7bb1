"""What becomes of memory that a CPU frees between one update, or one batch, and the next.

glibc gives a block back to the system when it is freed if it is above 32 MB, and often below. The next update asks for
the same blocks again and gets zeroed pages, one fault each 4 kB: EfficientNet-B0 at 64 pixels, batches of 128, took
110,000 faults an update, and 1.2 times the CPU time of one that kept its memory (2026-11-23). With recomputation it is
the other way round: what is kept is cut into pieces that no later block fits into. Labelling on 2 threads with the same
network at 224 pixels, 20 images at once: 179 images a second where memory is kept, 110 where it is not (bfloat16).

Nothing happens where the C library is another one. Other than by these calls, only an environment variable that is
there before the process starts could set this.
"""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
"""Of glibc's mallopt."""
_LARGEST = 2**31 - 1


def settle(recomputes: bool) -> None:
    """For the work that follows: keeps what is freed, or, where activations are computed again, returns it.

    Kept: up to 2 GB at a stretch. Returned: blocks of a megabyte and more. With recomputation EfficientNet-B0 (16
    images of 224) took 1.5 GB instead of 2.0 so, B4 (4 of 380) 2.2 instead of 3.0.
    """
    if recomputes:
        _mallopt({_MMAP_MAX: 1 << 16, _MMAP_THRESHOLD: 1 << 20, _TRIM_THRESHOLD: 16 << 20})
    else:
        _mallopt({_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST, _ARENA_MAX: 1})


def _mallopt(options: dict[int, int]) -> None:
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)
