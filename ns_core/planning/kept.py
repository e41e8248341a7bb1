"""What the store knows already of a recipe: its dataset, and the first selection that a teacher's labels led to.

In: a recipe and a store. Out: `Seen` and `Eligible`, each None where there is nothing. Only what has the very
fingerprints that a run of the recipe would look for counts.
"""

from typing import NamedTuple

from ns_core.artifacts import Paths, Record, load
from ns_core.config import Recipe
from ns_core.data.sources import content_digest
from ns_core.errors import UserError
from ns_core.fingerprint import stage_fingerprint
from ns_core.planning.profile import Eligible, Seen
from ns_core.storage import open_storage

DATASET = "prepare-dataset"


class Kept(NamedTuple):
    """Of a store."""

    seen: Seen | None = None
    eligible: Eligible | None = None


def kept(recipe: Recipe, store: str) -> Kept:
    """Digests of images are looked at only where some dataset lies in the store; those known from a run are not
    computed again. An S3 store is not asked: planning needs no server."""
    storage, datasets = open_storage(store), f"{DATASET}/"
    if storage.local_path(f"{datasets}any") is None or next(storage.list(datasets), None) is None:
        return Kept()
    first = recipe.for_generation(0)
    try:
        digest = content_digest(first.data)
    except UserError:  # what is wrong with the images is told where they are needed
        return Kept()
    dataset = stage_fingerprint(first.data, {"source": digest})
    record = load(storage, Paths(DATASET, dataset))
    if record is None:
        return Kept()
    seen = _seen(record)
    if not recipe.generations:
        return Kept(seen)
    own, model = recipe.for_generation(1), recipe.selector or first.teacher.model
    teacher = stage_fingerprint(first.teacher.model_copy(update={"model": model}), {"dataset": dataset})
    labels = stage_fingerprint(own.infer, {"dataset": dataset, "teacher": teacher})
    selection = stage_fingerprint(own.select, {"dataset": dataset, "pseudo_labels": labels})
    found = load(storage, Paths(own.select.STAGE, selection))
    return Kept(seen, None if found is None else _eligible(found, seen.pool, model))


def _seen(record: Record) -> Seen:
    counts = {name: int(str(record.result[name])) for name in ("classes", "labeled", "holdout", "test", "pool")}
    images = sum(counts.values()) - counts["classes"]
    size = sum(entry.size for name, entry in record.files.items() if name.endswith(".tar"))
    return Seen(**counts, image_bytes=size / max(1, images), sampled=images, whole=True)


def _eligible(record: Record, pool: int, model: str) -> Eligible | None:
    """None of a selection of more classes than its record lists."""
    listed = record.result.get("eligible_per_class")
    if not isinstance(listed, list) or not pool:
        return None
    words = f"{model}, as this store has them"
    return Eligible(per_class=tuple(int(str(one)) for one in listed), labelled=pool, teacher=words)
