"""What tests of sources do alike: make files, list a split, catch the one line of a mistake."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from ns_core.config import DataConfig
from ns_core.data.index import SPLITS, Split
from ns_core.data.source import RawSample, Source
from ns_core.data.sources import check, open_source
from ns_core.errors import UserError


def put(path: Path, content: bytes | None = None) -> None:
    """A file; sources do not look inside, so its bytes need be no picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(str(path).encode() if content is None else content)


def samples(source: Source, split: Split) -> list[RawSample]:
    """All of a split, through its parts, whose promises are checked on the way."""
    found: list[RawSample] = []
    for number, part in enumerate(source.parts[split]):
        assert (part.split, part.number) == (split, number)
        found += part.samples()
    keys = [sample.key for sample in found]
    assert all(before < after for before, after in pairwise(keys)), "keys ascend over all parts"
    assert all(sample.split == split for sample in found)
    assert all(sample.label is None for sample in found) or split != "pool"
    return found


def paths(source: Source, split: Split) -> list[str]:
    return [sample.path for sample in samples(source, split)]


def labels(source: Source, split: Split) -> Counter[int | None]:
    return Counter(sample.label for sample in samples(source, split))


def count(source: Source) -> dict[Split, int]:
    """Images by split, as the parts say."""
    return {split: sum(part.images for part in source.parts[split]) for split in SPLITS}


def splits(source: Source) -> dict[Split, list[tuple[str, str, int | None]]]:
    """(key, path, label) of all images."""
    return {split: [(s.key, s.path, s.label) for s in samples(source, split)] for split in SPLITS}


def mistake(config: DataConfig, *, at_check: bool = True) -> str:
    """The message, which is one line. `at_check`: a quick look finds it too."""
    with pytest.raises(UserError) as caught:
        open_source(config)
    message = str(caught.value)
    assert "\n" not in message
    if at_check:
        with pytest.raises(UserError) as quick:
            check(config)
        assert str(quick.value) == message
    return message
