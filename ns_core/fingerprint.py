"""One identity: sha256 over (stage, version, science settings, fingerprints of the inputs).

The same 64 hex digits name the artifact's folder (their first 12), Prefect's cache key and an MLflow
tag. Because inputs enter by their own fingerprints, the whole pipeline is a Merkle chain: change one
field and just that stage and what follows it get new names.

Refuses rather than guesses: a value that has no single stable spelling (a set, a path, an object, NaN)
is an error that names where it stands.
"""

import hashlib
import json
import math
from collections.abc import Mapping

from ns_core.settings import StageConfig

SHORT = 12
"""Digits of a fingerprint in folder names: 48 bits, a 1 in 10^6 chance of a clash among 24,000 artifacts.
Every reader compares the full fingerprint in the record."""


def canonical_json(value: object, where: str = "value") -> str:
    """The one spelling of `value`: sorted keys, no spaces, ASCII, finite numbers.

    Raises `TypeError` for what has no stable spelling and `ValueError` for NaN and infinities.
    """
    _refuse_unstable(value, where)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: object) -> str:
    """sha256 of the canonical JSON of `value`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def stage_fingerprint(config: StageConfig, inputs: Mapping[str, str]) -> str:
    """The identity of what `config` makes of `inputs` (name -> fingerprint of the input artifact)."""
    return digest(
        {
            "stage": config.STAGE,
            "version": config.VERSION,
            "science": config.science(),
            "inputs": dict(inputs),
        }
    )


def _refuse_unstable(value: object, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: a fingerprint needs finite numbers")
        return
    if isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            _refuse_unstable(item, f"{where}[{position}]")
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: only text keys have one spelling in JSON")
            _refuse_unstable(item, f"{where}.{key}")
        return
    raise TypeError(
        f"{where} is a {type(value).__name__}, which has no stable spelling: "
        "pass text, numbers, lists or dicts (for a path: the fingerprint of what it holds)"
    )
