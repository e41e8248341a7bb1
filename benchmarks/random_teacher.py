"""A network that labels as a trained one does, in seconds and without training: for measuring whether a faster way of
computing it changes its labels.

In: pictures and labels. Out: EfficientNet-B0 with random convolutions whose outputs tell these pictures apart. Its
BatchNorms have random scales and shifts and the statistics of the pictures, as training would leave them. Those at the
end of a block with a skip are scaled down: deep random networks are chaotic, which trained ones are not, and a rounding
would change their labels. The classifier is the logistic regression of the features onto the labels.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from ns_core.models.checkpoint import ModelCard, Normalize
from ns_core.models.factory import create_network

_BATCH = 64
_REGULARISATION = 1e-3
"""Of the classifier, scikit-learn's C: confidences spread, as those of soft labels do."""
_SKIPPED = 0.1
"""Scale of the norms at the end of a block with a skip."""


def random_teacher(card: ModelCard, images: NDArray[np.uint8], labels: NDArray[np.int32]) -> nn.Module:
    """In eval mode. `images`: uint8[N,S,S,3]; `labels`: int32[N]."""
    torch.manual_seed(0)
    network = create_network(card.model, len(card.class_names), bn_eps=card.bn_eps)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.3)
            norm.momentum = None  # the average of all batches
        for block in network.modules():
            if isinstance(block, InvertedResidual) and block.has_skip:
                block.bn3.weight.mul_(_SKIPPED)
        normalize = Normalize(card)
        edges = range(0, len(images) + 1, min(_BATCH, len(images)))
        batches = [normalize(torch.from_numpy(images[start:stop])) for start, stop in pairwise(edges)]
        network.train()
        for batch in batches:
            network(batch)
        network.eval()
        features = torch.cat(
            [network.forward_head(network.forward_features(batch), pre_logits=True) for batch in batches]  # type: ignore[operator]
        ).numpy()
        _fit(network, features, labels[: len(features)])
    return network


def _fit(network: nn.Module, features: NDArray[np.float32], labels: NDArray[np.int32]) -> None:
    head = network.get_submodule("classifier")
    assert isinstance(head, nn.Linear)
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-3
    fitted = LogisticRegression(C=_REGULARISATION).fit((features - mean) / std, labels)
    weight, bias = fitted.coef_ / std, fitted.intercept_
    if len(weight) == 1:  # scikit-learn's form for two classes
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head.weight.copy_(torch.from_numpy(weight))
    head.bias.copy_(torch.from_numpy(bias - weight @ mean))
