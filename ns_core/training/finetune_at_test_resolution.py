"""finetune-at-test-resolution: a few updates on larger, unaugmented labelled images (paper, section 3.1).

Shallow layers stay as they are, their BatchNorm statistics included (official code: `fix_layer_num`,
`remove_aug`). The network learns the scale at which objects appear when it is tested.
"""

from functools import partial

from pydantic import JsonValue
from torch import nn

from ns_core.config import FinetuneConfig
from ns_core.data.dataset import Images
from ns_core.errors import UserError
from ns_core.models.checkpoint import load_checkpoint
from ns_core.models.factory import block_groups, drop_paths, require_branches
from ns_core.stage import StageContext
from ns_core.training.distributed import join
from ns_core.training.job import (
    Job,
    finish,
    holdout_check,
    joint_loader,
    labelled_rows,
    seed_worker,
)
from ns_core.training.trainer import Trainer


def run(config: FinetuneConfig, context: StageContext) -> dict[str, JsonValue]:
    """Inputs: `dataset`, `student`. Files as `train-teacher`; the card carries the new test resolution."""
    images = Images.open(context)
    seed_worker(config.seed, context.compute.threads, context.compute.device)
    network, card = load_checkpoint(
        context.inputs["student"],
        dropout=config.dropout,
        stochastic_depth=config.stochastic_depth,
        bn_momentum=config.bn_momentum,
    )
    require_branches(network, card.model, config.stochastic_depth)
    card = card.model_copy(update={"test_size": config.image_size, "crop_pct": config.crop_pct})
    frozen = partial(_frozen, model=card.model, config=config)
    frozen(network)  # what cannot be frozen is told before anything is trained
    with join(context.compute.device) as ranks:
        loader = joint_loader(images, config, ranks, labelled_rows(images, config.label_smoothing))
        holdout = holdout_check(images, card, ranks)
        job = Job(config, card, network, loader, holdout, frozen=frozen, curve="finetune")
        return finish(job, *Trainer(job, context, ranks).fit(), context)


def _frozen(network: nn.Module, model: str, config: FinetuneConfig) -> list[nn.Module]:
    """The stem and the first `frozen_blocks` groups. Raises `UserError` when that cannot be."""
    stem, *groups = block_groups(network)
    if config.frozen_blocks > len(groups):
        raise UserError(
            f"finetune.frozen_blocks={config.frozen_blocks}: '{model}' has {len(groups)} groups of blocks; freeze fewer"
        )
    frozen = [stem, *groups[: config.frozen_blocks]]
    if config.stochastic_depth > 0 and drop_paths(nn.ModuleList(frozen)) == drop_paths(network):
        raise UserError(
            f"finetune.frozen_blocks={config.frozen_blocks} freezes every branch of '{model}' that stochastic depth "
            "could drop: freeze fewer, or set finetune.stochastic_depth=0"
        )
    return frozen
