"""What a person reads while scenes are looked at."""

import json
from pathlib import Path

import pytest

from ns_core.evaluation.measuring import Bar, told
from ns_core.evaluation.plan import Unit
from ns_core.evaluation.tables import Scene
from tests.factories import training_context


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (Scene("clean", "test"), "clean test"),
        (Scene("corruptions", "fog", "3"), "fog 3"),
        (Scene("perturbations", "tilt", "1"), "tilt sequences"),
        (Scene("fgsm", "fgsm", "0"), "FGSM 0"),
        (Scene("pgd", "pgd", "0.5"), "PGD 0.5"),
        (Scene("autoattack", "autoattack", "4"), "AutoAttack 4"),
        (Scene("imagenet_a", "imagenet_a"), "imagenet_a"),
        (Scene("imagenet_a", "clean"), "imagenet_a clean"),
        (Scene("imagenet_c", "fog", "3"), "imagenet_c fog 3"),
        (Scene("cifar10_p", "tilt", "1"), "cifar10_p tilt 1"),
    ],
)
def test_a_scene_is_told_in_words(scene: Scene, text: str) -> None:
    assert told(scene) == text


def test_the_bar_tells_scene_pace_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred images in ten seconds, four hundred and a sequence still to come."""
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    bar = Bar(training_context(tmp_path))
    bar.begin(50, 50 + 500 + 31)
    bar.at(Unit(Scene("corruptions", "fog", "3"), 0, range(500)), 500)
    clock[0] += 10
    bar.watch(100)
    bar.at(Unit(Scene("perturbations", "tilt", "1"), 0, range(1)), 31)
    clock[0] += 10
    bar.watch(1)
    bar.end()
    lines = [line.removeprefix("@ns ") for line in capsys.readouterr().out.splitlines() if line.startswith("@ns ")]
    events = [json.loads(line) for line in lines]
    assert [event["done"] for event in events] == [50, 150, 580, 581]
    assert {event["total"] for event in events} == {581}
    assert events[1]["text"] == "fog 3: 10 images/s, 0:00:43 left"
    assert events[2]["text"] == "tilt sequences: 0 sequences/s, 0:00:00 left"
