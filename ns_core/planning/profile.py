"""What was measured on one machine, and the file that keeps it.

In: what `planning.measure` answers, or a file of `plan --write-profile`. Out: a `Profile`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ns_core.errors import UserError


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(_Frozen):
    """Of one stage with one network at one resolution."""

    stage: str
    model: str = ""
    image_size: int = 0
    unit: str
    """What is counted: `images`, `rows`, or `predictions` of single images."""
    fixed: float = Field(ge=0)
    """Seconds whatever the amount, after the worker has started."""
    per_unit: float = Field(ge=0)
    """Seconds."""
    per_look: float = Field(default=0.0, ge=0)
    """Seconds of a look at the holdout and a checkpoint, of stages that train."""
    look_images: int = Field(default=0, ge=0)
    """Of the holdout at such a look."""
    sampled: int = Field(ge=0)
    """Units that were measured."""


class Seen(_Frozen):
    """The images that a recipe points at."""

    classes: int = Field(ge=1)
    labeled: int = Field(ge=0)
    holdout: int = Field(ge=0)
    test: int = Field(ge=0)
    pool: int = Field(ge=0)
    image_bytes: float = Field(ge=0)
    """Mean of the images as they are stored."""
    sampled: int = Field(ge=0)
    """Images that were prepared."""
    whole: bool
    """Whether these are all, so that the splits are the run's own."""


class Eligible(_Frozen):
    """Labels of a teacher: images of a class that are confident enough and no duplicates of others."""

    per_class: tuple[int, ...]
    labelled: int = Field(ge=1)
    """Of so many images of the pool."""
    teacher: str
    """Who labelled them."""


class Machine(_Frozen):
    """Where it was measured."""

    device: Literal["cpu", "cuda"]
    name: str
    cores: int
    load: float
    """Of the machine, one minute's mean, when measuring began: above 1 something else ran too."""
    seconds: float
    """The measurement took."""
    date: str


class Profile(_Frozen):
    """One measurement."""

    version: Literal[1] = 1
    recipe: str
    machine: Machine | None = None
    """None: nothing was timed."""
    starts: dict[str, float] = {}
    """Stage -> seconds from the start of its worker to its first line."""
    rates: tuple[Rate, ...] = ()
    flops: dict[str, float] = {}
    """`model@pixels` -> floating point operations of one image forward; an addition and a multiplication are two."""
    parameters: dict[str, int] = {}
    """Model -> its weights."""
    seen: Seen | None = None
    eligible: Eligible | None = None
    unmeasured: tuple[str, ...] = ()
    """What was left out, and why."""

    def rate(self, stage: str, model: str = "", image_size: int = 0) -> Rate | None:
        """What was measured of this very work."""
        wanted = (stage, model, image_size)
        return next((one for one in self.rates if (one.stage, one.model, one.image_size) == wanted), None)

    @classmethod
    def read(cls, path: str) -> Self:
        """Raises `UserError` for a file that is none of `--write-profile`'s."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--profile {path}: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise UserError(
                f"--profile {path}: {where}: {first['msg']}; give a file that --write-profile wrote"
            ) from None

    def write(self, path: str) -> None:
        """Raises `UserError` where that cannot be."""
        try:
            Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--write-profile {path}: {error}") from None


def network_key(model: str, image_size: int) -> str:
    """Of `Profile.flops`."""
    return f"{model}@{image_size}"


def flops_of(flops: Mapping[str, float], model: str, image_size: int) -> float:
    """Of one image forward. Convolutions take them in proportion to the area, so another resolution's serves."""
    if (key := network_key(model, image_size)) in flops:
        return flops[key]
    for known, value in flops.items():
        name, _, size = known.rpartition("@")
        if name == model:
            return value * (image_size / int(size)) ** 2
    raise KeyError(f"nothing was counted of {model}")
