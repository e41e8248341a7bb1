"""Attacking: what is attacked, what counts, and that batches do not."""

import numpy as np
import pytest
import torch

from ns_core.evaluation.attacks.attacking import Attack, Attacker
from ns_core.evaluation.attacks.gradients import adversarial
from ns_core.evaluation.looking import Views
from ns_core.evaluation.tables import Scene
from ns_core.models.predict import Predictor
from tests.evaluation_lists import Pictures, noise, tiny_network

FOUND = noise(40, 32, 32, 3)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(*tiny_network(FOUND), torch.device("cpu"))


@pytest.fixture(scope="module")
def pictures(predictor: Predictor) -> Pictures:
    """Of which the network is right on two in three."""
    said = predictor.logits(np.stack(FOUND)).argmax(axis=1)
    labels = np.where(np.arange(40) % 3 == 0, (said + 1) % 10, said)
    return Pictures(FOUND, labels.astype(np.int32), broken=frozenset({2}))


def _silent(_: int) -> None:
    """Nobody watches."""


def _attacker(predictor: Predictor, batch: int, threads: int = 1) -> Attacker:
    return Attacker(predictor, Views(32, 1.0, batch, threads), 10)


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
def test_a_picture_is_attacked_where_the_network_is_right_and_keeps_its_answer_where_not(
    predictor: Predictor, pictures: Pictures, kind: str
) -> None:
    attack = Attack(kind, 0.3, 3)  # type: ignore[arg-type]
    table = _attacker(predictor, 16).predictions(pictures, range(40), attack, _silent)
    said = predictor.logits(np.stack(FOUND)).argmax(axis=1)
    for row in range(40):
        if row == 2:
            assert (table.top1[row], table.reason[row]) == (-1, "is broken")
            continue
        if said[row] != pictures.labels[row]:
            assert table.top1[row] == said[row]
            continue
        pixels = torch.from_numpy(FOUND[row]).permute(2, 0, 1)[None].float() / 255
        truth = torch.tensor([int(pictures.labels[row])])
        moved = adversarial(attack.kind, predictor, pixels, truth, 0.3, 3)
        assert table.top1[row] == predictor(moved).argmax().item()
    right = said == pictures.labels
    assert 0 < table.right.sum() < right.sum(), "some are still right, and some no more"
    assert not table.right[~right].any()


def test_an_attack_of_no_strength_is_the_clean_answer(predictor: Predictor, pictures: Pictures) -> None:
    table = _attacker(predictor, 16).predictions(pictures, range(40), Attack("pgd", 0.0, 10), _silent)
    said = predictor.logits(np.stack(FOUND)).argmax(axis=1)
    assert np.delete(table.top1, 2).tolist() == np.delete(said, 2).tolist()


def test_attacked_answers_do_not_depend_on_the_batch(predictor: Predictor, pictures: Pictures) -> None:
    tables = [
        _attacker(predictor, batch, threads).predictions(pictures, range(3, 40), Attack("pgd", 0.3, 5), _silent)
        for batch, threads in ((1, 0), (5, 3), (64, 1))
    ]
    for table in tables[1:]:
        assert table.top1.tolist() == tables[0].top1.tolist()
        assert np.allclose(table.confidence, tables[0].confidence, atol=1e-3)


def test_a_batch_of_which_nothing_can_be_read_is_passed_over(predictor: Predictor, pictures: Pictures) -> None:
    broken = Pictures(FOUND, pictures.labels, broken=frozenset(range(4)))
    table = _attacker(predictor, 4).predictions(broken, range(8), Attack("fgsm", 8.0, 1), _silent)
    assert table.reason.tolist() == ["is broken"] * 4 + [""] * 4


def test_the_network_is_left_as_it_was(predictor: Predictor, pictures: Pictures) -> None:
    before = {name: value.clone() for name, value in predictor.state_dict().items()}
    _attacker(predictor, 8).predictions(pictures, range(8), Attack("pgd", 8.0, 2), _silent)
    assert all(torch.equal(before[name], value) for name, value in predictor.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in predictor.parameters())


def test_a_scene_names_its_attack() -> None:
    assert Attack.of(Scene("pgd", "pgd", "0.5"), 7) == Attack("pgd", 0.5, 7)


def test_autoattack_is_at_least_as_strong_as_pgd(predictor: Predictor, pictures: Pictures) -> None:
    pytest.importorskip("pyautoattack")
    right = [
        _attacker(predictor, 8).predictions(pictures, range(6), Attack(kind, 1.0, 10), _silent).right.sum()
        for kind in ("pgd", "autoattack")
    ]
    assert right[1] <= right[0]
