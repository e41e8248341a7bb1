"""A network is attacked, and its answers become a table.

In: `Samples`, which of their numbers, and an attack at an eps. Out: `Predictions`: of the attacked picture where the
network is right without the attack; else of the clean one, which counts as wrong at every eps and is not attacked.

The pixels that are attacked are the network's input, after resizing and cropping.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ns_core.evaluation.answers import Logits, check_finite, masked, predictions
from ns_core.evaluation.attacks.gradients import Kind, adversarial
from ns_core.evaluation.looking import Seen, Views, Watch
from ns_core.evaluation.samples import Samples
from ns_core.evaluation.tables import Predictions, Scene
from ns_core.models.predict import Predictor

SUITES = ("fgsm", "pgd", "autoattack")
"""Scenes of these are attacks, their level is eps in 0..255 units."""


class Attack(NamedTuple):
    """How the pictures of a scene are attacked."""

    kind: Kind
    eps255: float
    steps: int
    """PGD's."""

    @classmethod
    def of(cls, scene: Scene, steps: int) -> "Attack":
        """That of a scene of `SUITES`."""
        return cls(cast(Kind, scene.suite), float(scene.level), steps)


class Attacker:
    """Attacks one network. Nothing of it is folded or halved: gradients go through the network as it was trained."""

    def __init__(self, predictor: Predictor, views: Views, classes: int) -> None:
        """`views.batch`: pictures that are attacked together. AutoAttack's draws hang on what is in a batch, so that
        the number should be the same wherever a checkpoint is evaluated. `classes`: of the predictor."""
        self._predictor, self._views, self._classes = predictor, views, classes

    def predictions(self, samples: Samples, numbers: range, attack: Attack, watch: Watch) -> Predictions:
        """Of at least one image. A picture that cannot be read is neither attacked nor asked about."""
        keys, labels = samples.keys[numbers.start : numbers.stop], samples.labels[numbers.start : numbers.stop]
        seen, reasons, logits = self._views.of_pictures(samples, numbers), list[str](), list[Logits]()
        while batch := list(islice(seen, self._views.batch)):
            truth = labels[len(reasons) : len(reasons) + len(batch)]
            reasons += [one.reason for one in batch]
            logits += self._answers(batch, truth, attack, samples)
            watch(len(batch))
        return predictions(keys, labels, np.stack(logits), reasons)

    def _answers(
        self, batch: list[Seen], labels: NDArray[np.int32], attack: Attack, samples: Samples
    ) -> Iterator[Logits]:
        """float32[C] of each picture; zeros of one that could not be read."""
        read = np.array([not one.reason for one in batch])
        if not read.any():  # many networks cannot look at no picture
            yield from np.zeros((len(batch), self._classes), np.float32)
            return
        pixels = torch.from_numpy(np.concatenate([one.stack for one in batch])).to(self._predictor.device)
        pixels = pixels.permute(0, 3, 1, 2).float().div(255).contiguous()  # AutoAttack looks at strides
        truth = torch.from_numpy(labels[read]).long().to(self._predictor.device)
        answers = self._look(pixels, samples)
        right = torch.from_numpy(answers.argmax(axis=1) == labels[read]).to(self._predictor.device)
        if right.any():
            moved = adversarial(attack.kind, self._predictor, pixels[right], truth[right], attack.eps255, attack.steps)
            answers[right.cpu().numpy()] = self._look(moved, samples)
        whole = np.zeros((len(batch), answers.shape[1]), np.float32)
        whole[read] = answers
        yield from whole

    def _look(self, pixels: Tensor, samples: Samples) -> Logits:
        """Logits without a gradient, float32[B,C]."""
        with torch.no_grad():
            logits: Logits = self._predictor(pixels).cpu().numpy()
        return masked(check_finite(logits), samples.classes)
