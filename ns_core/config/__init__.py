"""What a person can set: one frozen model a stage, and the `Recipe` that holds them all.

Defaults follow the paper where it states a value and `reference: official code` where only the code
does; recipes in `flows/recipes` derive from them. Loads neither torch nor Prefect.

    data.py          prepare-dataset
    training.py      train-teacher, train-noisy-student, finetune-at-test-resolution
    evaluation.py    infer-unlabeled, filter-and-balance, evaluate-robustness, import-checkpoint
    compute.py       where they run and how fast
    recipe.py        all of them
"""

from ns_core.config.compute import ComputeConfig, KubernetesConfig
from ns_core.config.data import DataConfig
from ns_core.config.evaluation import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    EXTRA_PERTURBATIONS,
    PERTURBATIONS,
    EvaluateConfig,
    ImportConfig,
    InferConfig,
    OfficialSets,
    SelectConfig,
)
from ns_core.config.recipe import Recipe
from ns_core.config.training import Augmentation, FinetuneConfig, StudentConfig, TeacherConfig, TrainConfig

__all__ = [
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "EXTRA_PERTURBATIONS",
    "PERTURBATIONS",
    "Augmentation",
    "ComputeConfig",
    "DataConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "ImportConfig",
    "InferConfig",
    "KubernetesConfig",
    "OfficialSets",
    "Recipe",
    "SelectConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
]
