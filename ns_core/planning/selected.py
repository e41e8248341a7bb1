"""How many images filter-and-balance keeps, by class.

In: the settings, the size of the pool, labels of a teacher where there are some. Out: `Selected`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ns_core.config import SelectConfig
from ns_core.planning.profile import Eligible

PASSING = 0.88
"""Share of a pool that is confident enough and no duplicate, where no teacher labelled any of it. Chosen so that the
paper's setting, 300 million images of 1,000 classes and 130,000 a class at most, keeps the paper's 81 million when the
frequencies of classes fall as 1/rank."""
BETTER = 0.5
"""What a next teacher is taken to add: this share of the images that the one before was not sure enough of."""


@dataclass(frozen=True)
class Selected:
    """One selection."""

    generation: int
    """0: a selector's."""
    per_class: tuple[int, ...]
    """Unique images kept, in the order of the classes; where no teacher labelled, the most frequent class first."""
    rows: int
    """With copies."""
    measured: bool
    source: str

    @property
    def kept(self) -> int:
        return sum(self.per_class)


def from_labels(config: SelectConfig, pool: int, eligible: Eligible, later: int, generation: int) -> Selected:
    """`later`: teachers after the one that labelled."""
    pool = round(pool * config.pool_fraction)
    share = min(1.0, sum(eligible.per_class) / eligible.labelled)
    now = share
    for _ in range(later):
        now += BETTER * (1 - now)
    scale = pool / eligible.labelled * (now / share if share else 1.0)
    exact = pool == eligible.labelled and not later
    counts = [one if exact else round(one * scale) for one in eligible.per_class]
    words = f"labels by {eligible.teacher} of {eligible.labelled:,} images"
    if later:
        words += f"; each next teacher is taken to be sure of {BETTER:.0%} of the rest"
    return _kept(config, counts, generation, (not later, words))


def assumed(config: SelectConfig, pool: int, classes: int, even: bool, generation: int) -> Selected:
    """`even`: classes are equally frequent in the pool; else their frequencies fall as 1/rank."""
    pool = round(pool * config.pool_fraction)
    weights = [1.0 if even else 1 / rank for rank in range(1, classes + 1)]
    whole = sum(weights)
    counts = [int(pool * PASSING * weight / whole) for weight in weights]
    how = "equally frequent classes" if even else "frequencies of classes as 1/rank"
    source = f"no labels: {PASSING:.0%} of the pool taken to pass, {how} (fitted to the paper's 81 of 300 million)"
    return _kept(config, counts, generation, (False, source))


def _kept(config: SelectConfig, counts: Sequence[int], generation: int, basis: tuple[bool, str]) -> Selected:
    kept = [min(count, config.per_class) for count in counts]
    rows = sum(min(config.per_class, count * config.max_copies) for count in kept)
    return Selected(generation, tuple(kept), rows, *basis)
