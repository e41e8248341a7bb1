"""Whether a gate is fair: nobody is judged on images that it, or a network before it, was trained on.

In: today's dataset, and the teacher's past as the records of the store tell it. Out: nothing, or a `UserError`. Only
`index.parquet` and `selection.parquet` are read: no image, no network.

What stays when images are added (`ns_core.data.sources.splits`, `ns_core.data.prepare`):

    to the pool     the holdout and test splits, for these are cut from labelled images alone; of the pool, what equals
                    one of theirs is left out
    with labels     what `data.holdout` and `data.test` name. A split that is cut does not stay: an image's place in the
                    order of its class follows from its path and the seed alone, but how many of the first are taken
                    from how many there are, and added ones come in between. Of the 70 labelled images that a class of
                    100 leaves, 10 more images of it move one into the holdout or test split, in the mean

Another seed, and another path of an image, cut anew as well.
"""

import logging

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.standing_teacher import StandingTeacher
from ns_core.artifacts import Dataset, load
from ns_core.config import Recipe
from ns_core.data.index import INDEX
from ns_core.errors import StageFailed, UserError
from ns_core.lineage import Lineage
from ns_core.storage import Storage
from ns_core.storage.ranged import RemoteFiles
from ns_core.takedown import Hit, take_down

JUDGED = ("holdout", "test")
log = logging.getLogger("noisy_student.fairness")


def check_fair(storage: Storage, lineage: Lineage, recipe: Recipe, dataset: Dataset, teacher: StandingTeacher) -> None:
    """Raises `UserError` when today's holdout or test split has images that the teacher or a network before it learned
    from, by their bytes. Warns where the records do not tell what one of them saw."""
    judged = _judged(storage, dataset)
    words = pc.unique(judged["sha256"].combine_chunks()).to_pylist()
    found = take_down(storage, lineage, words, frozenset(lineage.ancestors([teacher.name])))
    for name, why in found.untold.items():
        log.warning("what %s was trained on cannot be told (%s): the gate is taken to be fair", name, why)
    if not found.direct:
        return
    labelled = _labelled(found.hits)
    counts = [f"{_among(judged, split, labelled)} {split}" for split in JUDGED]
    if pseudo := max((count for hit in found.hits for count in hit.selected.values()), default=0):
        counts.append(f"as pseudo-labelled {pseudo} of both")
    cause = "labelled images were added or moved, which cuts the splits anew"
    if teacher.seed not in ("", str(recipe.seed)):
        cause = f"it is of seed {teacher.seed} and the recipe of seed {recipe.seed}, which cuts others"
    raise UserError(
        f"the gate would be unfair: {teacher.name} or a network before it was trained on {', '.join(counts)} images "
        f"of today's ({cause}): set data.holdout and data.test to lists or folders that stay, of images that no "
        "teacher learned from"
    )


def _judged(storage: Storage, dataset: Dataset) -> pa.Table:
    """Split and sha256 of the images that are judged on."""
    record = load(storage, dataset.paths)
    if record is None or INDEX not in record.files:
        raise StageFailed(f"{storage.uri}/{dataset.paths.folder} was removed meanwhile: run the same command again")
    files = RemoteFiles(storage, record.prefix, {INDEX: record.files[INDEX].size})
    with files.open(INDEX) as stream:
        return pq.read_table(stream, columns=["split", "sha256"], filters=pc.field("split").isin(JUDGED))


def _labelled(hits: list[Hit]) -> pa.Array:
    """The sha256 of the asked images that somebody learned from with their labels."""
    tables = [hit.images.filter(pc.equal(hit.images["split"], "labeled"))["sha256"] for hit in hits]
    return pc.unique(pa.chunked_array([chunk for table in tables for chunk in table.chunks], pa.large_string()))


def _among(judged: pa.Table, split: str, digests: pa.Array) -> int:
    """How many images of a split have one of these digests."""
    own = judged.filter(pc.equal(judged["split"], split))["sha256"].cast(pa.large_string())
    return int(pc.sum(pc.is_in(own, value_set=digests)).as_py() or 0)
