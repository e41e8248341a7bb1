"""A student that starts from its teacher: what it takes over, and what is refused before anything is trained."""

from pathlib import Path

import pytest
import torch

from ns_core.config import Recipe
from ns_core.errors import StageFailed, UserError
from ns_core.models.checkpoint import WEIGHTS, ModelCard, save_checkpoint
from ns_core.models.factory import create_network, drop_paths
from ns_core.training.warm_start import start_from

XS, S = "ns_efficientnet_xs", "ns_efficientnet_s"
CLASSES = ("cat", "dog", "owl")


def card(model: str = XS, classes: tuple[str, ...] = CLASSES) -> ModelCard:
    return ModelCard(model=model, class_names=classes, train_size=32, test_size=40, crop_pct=1.0)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A checkpoint whose BatchNorm statistics and counters are not a fresh network's."""
    torch.manual_seed(1)
    network = create_network(XS, len(CLASSES))
    network(torch.randn(8, 3, 32, 32))
    save_checkpoint(tmp_path, network, card())
    return tmp_path


def test_the_student_has_the_teachers_weights_statistics_and_counters_bit_for_bit(teacher: Path) -> None:
    torch.manual_seed(1)
    source = create_network(XS, len(CLASSES))
    source(torch.randn(8, 3, 32, 32))
    torch.manual_seed(2)
    student = create_network(XS, len(CLASSES))
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), source.parameters(), strict=True))
    start_from(student, card(), teacher)
    expected = source.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in student.state_dict().items())


def test_the_students_noise_and_mode_stay_its_own(teacher: Path) -> None:
    student = create_network(XS, len(CLASSES), dropout=0.4, stochastic_depth=0.2, bn_momentum=0.01).train()
    rates = [layer.drop_prob for layer in drop_paths(student)]
    start_from(student, card(), teacher)
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert student.drop_rate == 0.4
    assert [layer.drop_prob for layer in drop_paths(student)] == rates != []
    momenta = {m.momentum for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.01}


def test_a_teacher_of_another_model_is_one_line_with_both_and_the_setting(teacher: Path) -> None:
    student = create_network(S, len(CLASSES))
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with pytest.raises(UserError) as caught:
        start_from(student, card(S), teacher)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("student.start", f"'{XS}'", f"'{S}'"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


@pytest.mark.parametrize("classes", [("cat", "dog", "owl", "fox"), ("cat", "owl", "dog")])
def test_a_teacher_of_other_classes_is_refused_also_when_there_are_as_many(
    teacher: Path, classes: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"student\.start=teacher: the teacher's 3 classes"):
        start_from(create_network(XS, len(classes)), card(classes=classes), teacher)


def test_a_teacher_whose_weights_are_not_there_is_never_a_fresh_start(teacher: Path) -> None:
    (teacher / WEIGHTS).unlink()
    with pytest.raises(StageFailed, match="no checkpoint"):
        start_from(create_network(XS, len(CLASSES)), card(), teacher)


@pytest.mark.parametrize(
    "assignments",
    [
        ["teacher.model=resnet18", "student.model=resnet34"],
        ["teacher.model=resnet18", "student.model=resnet18", 'student_models=["resnet18", "resnet34"]'],
    ],
)
def test_a_recipe_whose_models_do_not_agree_is_refused_before_a_teacher_is_trained(assignments: list[str]) -> None:
    Recipe().override(assignments)
    with pytest.raises(UserError) as caught:
        Recipe().override([*assignments, "student.start=teacher"])
    message = str(caught.value)
    assert all(part in message for part in ("student.start=teacher", "'resnet18'", "'resnet34'"))


def test_only_the_models_of_generations_that_are_run_have_to_agree() -> None:
    models = ["teacher.model=resnet18", 'student_models=["resnet18", "resnet34"]', "student.start=teacher"]
    assert Recipe().override([*models, "generations=1"]).student.start == "teacher"
    assert Recipe().override(["teacher.model=resnet18", "student.start=teacher", "generations=0"]).generations == 0
