"""What a recipe amounts to, stage by stage, before anybody asks how fast a machine is.

In: a recipe, how many images there are, how many are selected. Out: `Work` of each stage, in the order of a run in
which every student is promoted: images, updates, looks at the holdout, floating point operations.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ns_core.config import EvaluateConfig, FinetuneConfig, Recipe, StudentConfig, TeacherConfig
from ns_core.planning.profile import flops_of

BACKWARD = 2
"""A gradient takes as many operations as two predictions: one for the activations', one for the weights'. Of frozen
layers it takes fewer, which is not looked at."""
FRAMES = 31
"""Of most perturbation sequences (`ns_core.evaluation.plan`)."""
AUTOATTACK_GRADIENTS = 1000
"""Of an image, as `ns_core.evaluation.plan` counts them."""


@dataclass(frozen=True)
class Counts:
    """Images by split."""

    classes: int
    labeled: int
    holdout: int
    test: int
    pool: int
    image_bytes: float
    """Mean, as they are stored."""

    @property
    def images(self) -> int:
        return self.labeled + self.holdout + self.test + self.pool


@dataclass(frozen=True)
class Work:
    """One stage of a run."""

    stage: str
    generation: int
    unit: str
    """What `amount` counts: `images`, `rows` or `predictions`."""
    amount: int
    model: str = ""
    image_size: int = 0
    updates: int = 0
    update: int = 0
    """Images of an update, labelled and not."""
    looks: int = 0
    """At the holdout, each with a checkpoint."""
    look_images: int = 0
    """Of all looks together."""
    flops: float = 0.0
    """Floating point operations, training and looks together."""
    processes: int = 1
    """That share the work on a machine."""

    @property
    def name(self) -> str:
        return f"{self.stage} {self.generation}" if self.generation else self.stage


Flops = Mapping[str, float]


def stages(recipe: Recipe, counts: Counts, kept: Mapping[int, int], flops: Flops) -> list[Work]:
    """Of the whole run. `kept`: generation (0: the selector's) -> unique images that are selected."""
    first = recipe.for_generation(0)
    found = [Work("prepare-dataset", 0, "images", counts.images)]
    found.append(_training(first.teacher, first.teacher.model, 0, counts, flops))
    teacher, size = first.teacher.model, first.teacher.image_size
    found.append(_evaluation(first.evaluate, (teacher, size), 0, counts, flops))
    if recipe.selector and recipe.generations:
        if recipe.selector != teacher:
            found.append(_training(first.teacher, recipe.selector, 0, counts, flops))
        found += _chosen(recipe, (recipe.selector, size), 0, counts, flops)
    for generation in range(1, recipe.generations + 1):
        own = recipe.for_generation(generation)
        found += _labelling(recipe, (teacher, size), generation, counts, kept, flops)
        student = own.student.model
        found.append(_training(own.student, student, generation, counts, flops))
        found.append(_training(own.finetune, student, generation, counts, flops))
        teacher, size = student, own.finetune.image_size
        found.append(_evaluation(own.evaluate, (teacher, size), generation, counts, flops))
    shared = recipe.compute.processes
    return [replace(one, processes=shared) if one.model else one for one in found]


def networks(recipe: Recipe) -> list[tuple[str, int]]:
    """Every network with each resolution that it sees, sorted."""
    nothing = Counts(2, 1, 1, 1, 1, 0.0)
    whole = stages(recipe, nothing, dict.fromkeys(range(recipe.generations + 1), 1), _Anything())
    return sorted({(one.model, one.image_size) for one in whole if one.model})


def predictions(config: EvaluateConfig, holdout: int, test: int) -> int:
    """What an evaluation takes as long as, in predictions of single images, official sets left out."""
    pictures, clips, attacked = (
        min(test, most) for most in (config.max_images, config.max_sequences, config.max_attacked)
    )
    made = len(config.corruptions) * len(config.severities) * pictures
    frames = len(config.perturbations) * clips * FRAMES
    gradients = sum(eps > 0 for eps in config.fgsm_eps)
    gradients += config.pgd_steps * sum(eps > 0 for eps in config.pgd_eps)
    gradients += AUTOATTACK_GRADIENTS * sum(eps > 0 for eps in config.autoattack_eps)
    scenes = len(config.fgsm_eps) + len(config.pgd_eps) + len(config.autoattack_eps)
    return holdout + test + made + frames + attacked * (2 * scenes + (1 + BACKWARD) * gradients)


class _Anything(dict[str, float]):
    """Takes any network for one without operations."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> float:
        return 0.0


def _training(
    config: TeacherConfig | StudentConfig | FinetuneConfig, model: str, generation: int, counts: Counts, flops: Flops
) -> Work:
    update = config.batch_size * (1 + config.ratio if isinstance(config, StudentConfig) else 1)
    looks = -(-config.steps // config.epoch_steps)
    again = 1 if config.recompute_groups else 0  # at most: where all of the network is computed again
    forward = flops_of(flops, model, config.image_size)
    amount = update * config.steps
    return Work(
        type(config).STAGE,
        generation,
        "images",
        amount,
        model=model,
        image_size=config.image_size,
        updates=config.steps,
        update=update,
        looks=looks,
        look_images=looks * counts.holdout,
        flops=forward * (amount * (1 + BACKWARD + again) + looks * counts.holdout),
    )


def _labelling(
    recipe: Recipe, teacher: tuple[str, int], generation: int, counts: Counts, kept: Mapping[int, int], flops: Flops
) -> Iterator[Work]:
    """The passes of a generation: the pool and a selection of it, or what was selected before, labelled anew."""
    if recipe.selection == "each" or (generation == 1 and not recipe.selector):
        yield from _chosen(recipe, teacher, generation, counts, flops)
    elif generation > 1 or teacher[0] != recipe.selector:  # the first teacher, as selector, has labelled the pool
        selected = kept[0 if recipe.selector else 1]
        yield _pass(teacher, generation, selected + counts.holdout, flops)


def _chosen(recipe: Recipe, teacher: tuple[str, int], generation: int, counts: Counts, flops: Flops) -> Iterator[Work]:
    # What a selector selects belongs to no generation, and is told as of the first's in a run's ledger.
    yield _pass(teacher, generation, counts.pool + counts.holdout, flops)
    yield Work("filter-and-balance", generation, "rows", counts.pool)


def _pass(teacher: tuple[str, int], generation: int, images: int, flops: Flops) -> Work:
    model, size = teacher
    operations = flops_of(flops, model, size) * images
    return Work("infer-unlabeled", generation, "images", images, model=model, image_size=size, flops=operations)


def _evaluation(
    config: EvaluateConfig, network: tuple[str, int], generation: int, counts: Counts, flops: Flops
) -> Work:
    model, size = network
    amount = predictions(config, counts.holdout, counts.test)
    operations = flops_of(flops, model, size) * amount
    return Work(
        "evaluate-robustness", generation, "predictions", amount, model=model, image_size=size, flops=operations
    )
