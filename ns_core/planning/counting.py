"""Floating point operations of a network, counted while it looks at pictures without contents.

In: names of networks and resolutions. Out: operations of one image forward, and weights. Convolutions and matrix
products count, as torch counts them: two for each multiplication and addition.
"""

from collections.abc import Iterable

import torch
from torch.utils.flop_counter import FlopCounterMode

from ns_core.models.factory import create_network
from ns_core.planning.profile import network_key


def count(networks: Iterable[tuple[str, int]], classes: int) -> tuple[dict[str, float], dict[str, int]]:
    """(`model@pixels` -> operations, model -> weights). Nothing of a network's size is allocated. Raises `UserError`
    for an unknown network."""
    flops, parameters = dict[str, float](), dict[str, int]()
    for model, size in sorted(set(networks)):
        with torch.device("meta"), torch.no_grad():
            network = create_network(model, classes).eval()
            counter = FlopCounterMode(display=False)
            with counter:
                network(torch.zeros(1, 3, size, size))
        flops[network_key(model, size)] = float(counter.get_total_flops())
        parameters[model] = sum(parameter.numel() for parameter in network.parameters())
    return flops, parameters
