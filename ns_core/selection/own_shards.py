"""Shards of the selection's own, one after the other: each saved as it is finished, and found again after a kill.

In: where the selected images lie in the pool. Out: shards in the resume folder, each under its name with the digest
of its bytes (`selected-000000.{sha256}.tar`), which the artifact adopts; and the layout that says where each image
lies now.
"""

from collections.abc import Callable

from ns_core.config import SelectConfig
from ns_core.data import dataset
from ns_core.data.reading import ShardReader
from ns_core.resume import Adopted
from ns_core.selection.copying import Images
from ns_core.selection.materialize import Layout, choose_reading, plan, shard_name, write_shard
from ns_core.stage import StageContext, Stopped, log

Tell = Callable[[int], None]


def write_shards(config: SelectConfig, context: StageContext, images: Images, tell: Tell) -> Layout:
    """Writes the shards that are missing; `tell` is called with the images done so far.

    Raises `Stopped` after SIGTERM, and what `write_shard` raises.
    """
    layout = plan(images, config.shard_megabytes << 20, config.seed)
    there = _there(context, layout)
    if there:
        log.info("going on: %d of %d shards are written already", len(there), len(layout))
    with dataset.Images.open(context, pixels=0).source.reader as reader:
        choose_reading(layout, reader)
        for number in range(len(layout)):
            name = shard_name(number)
            context.adopted[name] = there.get(name) or _written(context, layout, number, reader, tell)
            tell(int(layout.starts[number + 1]))
    return layout


def _written(context: StageContext, layout: Layout, number: int, reader: ShardReader, tell: Tell) -> Adopted:
    """Writes and saves one shard."""
    first = int(layout.starts[number])

    def told(images: int) -> None:
        if context.stopping():
            raise Stopped
        tell(first + images)

    path = context.output / shard_name(number)
    write_shard(layout, number, reader, path, told)
    return context.resume.finish(path.name, path)


def _there(context: StageContext, layout: Layout) -> dict[str, Adopted]:
    """The shards that are written already and whole, by name: of a damaged artifact, or saved by an attempt before."""
    sizes = {shard_name(number): int(size) for number, size in enumerate(layout.sizes)}
    found = {name: file for name, file in context.salvage().items() if sizes.get(name) == file.size}
    for name, candidates in context.resume.finished().items():
        for candidate in candidates if name in sizes and name not in found else ():
            if context.stopping():
                raise Stopped
            file = context.resume.whole(*candidate)
            if file is not None:
                found[name] = file
                break
    return found
