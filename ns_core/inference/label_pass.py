"""The pass of the teacher over the shards of a list, from what is there already to the last one.

In: a worklist, a teacher that passed the gate, the files that earlier attempts left. Out: the files of all shards.

While a shard is labelled, another thread makes the table of the one before, compresses and writes it: at 1,000 classes
that takes 70 us an image, which a GPU with a small network would feel.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa

from ns_core.config import InferConfig
from ns_core.data.pseudo_labels import label_file, label_table
from ns_core.data.read_ahead import ShardsAhead
from ns_core.errors import StageFailed
from ns_core.inference.labelling import Labelled, Pace
from ns_core.inference.saved_labels import NAMED, Counts, Saved, SavedLabels
from ns_core.inference.teacher_gate import Collapse
from ns_core.inference.watched import WatchedLabeller
from ns_core.inference.worklist import Worklist, spread
from ns_core.stage import StageContext, emit, log

_SHARDS_AHEAD = 2
"""The one that is labelled and the next."""
_WARN_AFTER = 10.0
"""Seconds of labelling that tell what it waits for; a demonstration has ended by then."""


@dataclass(frozen=True)
class CheckedTeacher:
    """A teacher that passed the gate on the holdout."""

    labeller: WatchedLabeller
    class_names: Sequence[str]
    temperature: float
    """Of the calibrated confidence."""


class LabelPass:
    """One process's pass."""

    def __init__(
        self, config: InferConfig, context: StageContext, work: Worklist, teacher: CheckedTeacher, labels: SavedLabels
    ) -> None:
        self._config, self._context, self._work = config, context, work
        self._teacher, self._labels = teacher, labels
        self._saved: dict[str, Saved] = {}
        self._collapse = Collapse(config, teacher.class_names)
        self._total = self._known = self._done = 0
        """Images: of the list, in files of earlier attempts, in all files."""
        self._began = teacher.labeller.pace
        self._last = Pace()
        self._warned = False

    def over(self, shards: Sequence[str]) -> dict[str, Saved]:
        """The files of these shards, by name and in the order of the list.

        They are labelled in another order, spread over the list: `Collapse` looks at the first ones. Raises
        `UserError` for a teacher that has collapsed, `StageFailed` for too many unreadable images or an output that is
        not finite, `Stopped` after SIGTERM.
        """
        order = spread(shards)
        self._total = sum(map(self._work.count, shards))
        known = self._labels.find(map(label_file, order))
        for name, saved in known.items():
            self._take(name, saved)
        if known:
            self._collapse.look(np.sum([saved.counts.predicted for saved in known.values()], axis=0), len(known))
            log.info("going on: %d of %d shards are labelled already", len(known), len(shards))
        self._known = self._done
        self._context.progress(self._done, self._total)
        self._label([shard for shard in order if label_file(shard) not in known])
        self._collapse.end()
        pace = self._pace
        self._context.progress(self._done, self._total, str(pace) if pace.images else "")
        log.info("labelled %d of %d images in %.1f s: %s", pace.images, self._total, pace.seconds, pace)
        return {name: self._saved[name] for name in map(label_file, shards)}

    def _label(self, missing: Sequence[str]) -> None:
        """Labels the missing shards; each file is saved while the next shard is labelled."""
        with ShardsAhead(self._teacher.labeller.reader) as ahead, ThreadPoolExecutor(1) as writer:
            writing: tuple[str, Future[Saved]] | None = None
            for number, shard in enumerate(missing):
                ahead.want(missing[number : number + _SHARDS_AHEAD])
                texts = self._work.texts(shard)
                labelled = self._look_at(shard, texts)
                self._measure()
                if writing is not None:
                    self._take_fresh(*writing)
                writing = label_file(shard), writer.submit(self._save, shard, texts, labelled)
            if writing is not None:
                self._take_fresh(*writing)

    def _look_at(self, shard: str, texts: pa.Table) -> Labelled:
        labelled = self._teacher.labeller.label(self._work.rows(shard, texts), self._tell)
        readable = np.ones(texts.num_rows, bool)
        readable[list(labelled.unreadable)] = False
        if not np.isfinite(labelled.logits[readable]).all():
            raise StageFailed(
                f"{shard}: the teacher's output is not finite: label in float32 (infer.precision), or train it anew"
            )
        return labelled

    def _save(self, shard: str, texts: pa.Table, labelled: Labelled) -> Saved:
        table = label_table(
            texts,
            labelled.logits,
            self._teacher.temperature,
            self._config.top_k,
            labelled.features,
            labelled.unreadable,
        )
        return self._labels.save(label_file(shard), table, Counts.of(table, len(self._teacher.class_names)))

    def _measure(self) -> None:
        """How fast the last shard went becomes points of curves; what holds the pass up is told once.

        The points go to whoever listens and not into the artifact: the same labels are the same files.
        """
        whole, now = self._pace, time.time_ns() // 1_000_000
        pace, self._last = whole.since(self._last), whole
        values = (pace.images_per_second, pace.data_wait, self._seconds_left())
        for name, value in zip(("images_per_second", "data_wait", "seconds_left"), values, strict=True):
            step = self._known + whole.images
            emit({"event": "metric", "key": f"infer/{name}", "value": value, "step": step, "timestamp_ms": now})
        if whole.decode_bound and whole.seconds > _WARN_AFTER and not self._warned:
            self._warned = True
            log.warning("%s: raise compute.loader_workers or shrink images at ingest (data.resize)", whole)

    def _take_fresh(self, name: str, file: Future[Saved]) -> None:
        saved = file.result()
        self._take(name, saved)
        self._collapse.look(saved.counts.predicted)

    def _take(self, name: str, saved: Saved) -> None:
        """Counts a file, after which the pass may have to end."""
        self._saved[name] = saved
        self._done += saved.counts.images
        if saved.counts.unreadable:
            self._check_unreadable()

    def _check_unreadable(self) -> None:
        """The share of the whole worklist, whatever part of it is this process's.

        What it counted is forgotten before it fails: the next attempt looks again, as the bytes may be back.
        """
        found = [saved for saved in self._saved.values() if saved.counts.unreadable]
        unreadable = sum(saved.counts.unreadable for saved in found)
        if unreadable <= self._config.max_bad_fraction * len(self._work):
            return
        named = [f"{key} ({reason})" for saved in found for key, reason in saved.counts.named][:NAMED]
        for saved in found:
            self._labels.forget(saved)
        raise StageFailed(
            f"{unreadable} of {len(self._work)} images cannot be read, over infer.max_bad_fraction="
            f"{self._config.max_bad_fraction:g}: {'; '.join(named)}; put their bytes back, or raise the setting"
        )

    @property
    def _pace(self) -> Pace:
        """Of this pass, the holdout left out."""
        return self._teacher.labeller.pace.since(self._began)

    def _tell(self) -> None:
        """Some batches more are labelled."""
        pace, left = self._pace, timedelta(seconds=round(self._seconds_left()))
        done = min(self._known + pace.images, self._total - 1)
        self._context.progress(done, self._total, f"{pace}, {left} left")

    def _seconds_left(self) -> float:
        pace = self._pace
        return (self._total - self._known - pace.images) / pace.images_per_second
