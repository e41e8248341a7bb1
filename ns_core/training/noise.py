"""Noise on, asserted.

Reproductions fail silently here: a student whose noise went off after the first evaluation, `eval()`
without `train()`. (The other silent failure, a teacher that labels with its noise on: `models.predict`.)
"""

from torch import nn

from ns_core.config import TrainConfig
from ns_core.models.factory import drop_paths


def assert_noise_on(network: nn.Module, config: TrainConfig) -> None:
    """The network is in training mode and drops what the configuration says. Asked at every epoch.

    Frozen parts (finetuning) may be in eval mode; the network as a whole may not.
    """
    assert network.training, "the network is in eval mode: dropout and stochastic depth are off"
    rate = _classifier_dropout(network)
    assert rate is None or rate == config.dropout, f"dropout is {rate}, the recipe says {config.dropout}"
    dropping = [layer for layer in drop_paths(network) if layer.training]
    assert dropping or config.stochastic_depth == 0, "no block drops its branch although stochastic_depth > 0"


def _classifier_dropout(network: nn.Module) -> float | None:
    """The rate on the classifier's input: of timm's layer in the head (ConvNeXt, ViT), or the `drop_rate` that
    its EfficientNets and ResNets read at every call. None where it is neither."""
    layers = [m for name, m in network.named_modules() if name.startswith("head") and isinstance(m, nn.Dropout)]
    return layers[-1].p if layers else getattr(network, "drop_rate", None)
