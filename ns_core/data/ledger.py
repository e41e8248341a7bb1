"""Where every image of a source went, and when that is too little to go on with.

In: the tables of parts (`ingest.PART_SCHEMA`) as they come. Out: counts by split and state, which add up to the
images that came in; or a `UserError` that names the first few images to blame.
"""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from ns_core.config import DataConfig
from ns_core.data.index import Split
from ns_core.data.ingest import CORRUPT, KEPT, LEAK, NEAR_DUPLICATE, SAME_BYTES
from ns_core.data.source import Source
from ns_core.errors import UserError

_EXAMPLES = 3
_WORDS = {
    SAME_BYTES: "the same bytes as a holdout or test image",
    NEAR_DUPLICATE: "a near-duplicate of a holdout or test image",
}


class Ledger:
    """Counts and examples; nothing here grows with the images."""

    def __init__(self, config: DataConfig, source: Source) -> None:
        self._config, self._class_names = config, source.class_names
        self.counts: Counter[tuple[Split, str]] = Counter()
        """Images by split and state."""
        self.reasons: Counter[tuple[Split, str, str]] = Counter()
        """Of what was left out, by split, state and reason."""
        self._labelled: Counter[int] = Counter()
        self._left_out: dict[tuple[Split, str], list[str]] = {}
        self._of_class: dict[int, list[str]] = {}
        self._gone: Counter[int] = Counter()
        """Labelled images left out of each class."""

    @property
    def near_leaks(self) -> int:
        return sum(count for (_, state, reason), count in self.reasons.items() if (state, reason) == _NEAR)

    def total(self, state: str) -> int:
        """Images of a state over all splits."""
        return sum(count for (_, of), count in self.counts.items() if of == state)

    def take(self, split: Split, table: pa.Table) -> None:
        """Counts one part."""
        for pair in pc.value_counts(table["state"]).to_pylist():
            self.counts[split, pair["values"]] += pair["counts"]
        kept = pc.equal(table["state"], KEPT)
        if split == "labeled":
            for pair in pc.value_counts(table["label"].filter(kept)).to_pylist():
                self._labelled[pair["values"]] += pair["counts"]
        for row in table.filter(pc.invert(kept)).select(["path", "label", "state", "reason"]).to_pylist():
            self.reasons[split, row["state"], row["reason"]] += 1
            said = f"{row['path']} ({_WORDS.get(row['reason'], row['reason'])})"
            _keep(self._left_out.setdefault((split, row["state"]), []), said)
            if split == "labeled":
                self._gone[row["label"]] += 1
                _keep(self._of_class.setdefault(row["label"], []), said)

    def check_left(self, split: Split) -> None:
        """A finished split still has images, and the labelled one some of each class; else `UserError`."""
        if not self.counts[split, KEPT]:
            said = self._left_out.get((split, CORRUPT), []) + self._left_out.get((split, LEAK), [])
            left_out = self.counts[split, CORRUPT] + self.counts[split, LEAK]
            raise UserError(f"the {split} split has no image left: {_first(said, left_out)}; add other images")
        if split == "labeled":
            for label, name in enumerate(self._class_names):
                if not self._labelled[label]:
                    gone = _first(self._of_class.get(label, []), self._gone[label])
                    raise UserError(f"class '{name}' has no labelled image left: {gone}; add other images")

    def check_corrupt(self) -> None:
        """The share of corrupt images is within its limit; else `UserError`."""
        corrupt, images, limit = self.total(CORRUPT), sum(self.counts.values()), self._config.max_corrupt_fraction
        if corrupt > limit * images:
            said = [one for (_, state), some in self._left_out.items() if state == CORRUPT for one in some]
            raise UserError(
                f"{corrupt} of {images} images ({corrupt / images:.2%}) cannot be decoded: "
                f"{_first(said, corrupt)}; mend or remove them, or raise data.max_corrupt_fraction (now {limit:g})"
            )


_NEAR = (LEAK, NEAR_DUPLICATE)


def _keep(examples: list[str], said: str) -> None:
    if len(examples) < _EXAMPLES:
        examples.append(said)


def _first(said: list[str], of: int) -> str:
    """For a person: the first few, and how many more."""
    if not said:
        return "none came in"
    shown = said[:_EXAMPLES]
    return ", ".join(shown) + (f" and {of - len(shown)} more" if of > len(shown) else "")
