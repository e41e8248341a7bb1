"""The official sets of an evaluation as inputs of its stage. Imports no torch.

In: `EvaluateConfig.official`. Out: what lies in each folder, as a digest: its place is not identity, its content is.
"""

from ns_core.config import EvaluateConfig
from ns_core.evaluation import sets


def check_official(config: EvaluateConfig) -> None:
    """Raises `UserError` for a folder that is not there or does not look like its set; takes no time."""
    for name, folder in config.official.given().items():
        sets.check(name, folder)


def official_inputs(config: EvaluateConfig) -> dict[str, str]:
    """`official.<name>` -> digest, of the folders that are given; all are checked before anything is hashed.

    ImageNet-C's 4.75 million names take most of a minute.
    """
    check_official(config)
    return {f"official.{name}": sets.digest(name, folder) for name, folder in config.official.given().items()}
