"""What an export is told and what it answers, as JSON between two processes. Loads no torch."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Facts(BaseModel):
    """What is known of a checkpoint beyond its own files; for the model card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """Where it comes from, in words."""
    figures: dict[str, float] = {}
    """What was measured, by name as in a run's document or an artifact's result; accuracies as shares."""
    recipe: str | None = None
    seed: int | None = None


class ExportRequest(BaseModel):
    """One checkpoint in one format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Path
    """Folder with `model.safetensors` and `model.json`."""
    format: str
    """One of `FORMATS`."""
    output: Path
    """Folder that is made; it may exist if it is empty."""
    facts: Facts


class ExportOutcome(BaseModel):
    """What the check found, or why there is nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_difference: float = 0.0
    """Largest absolute difference of a logit on the fixed batch."""
    largest_logit: float = 0.0
    """Of the checkpoint on the same batch, by absolute value."""
    size: int = 0
    """Bytes of all files."""
    mistake: str | None = None
    """A person's: one line. Nothing was written."""
    failure: str | None = None
    """Ours, or of the format: one line. Nothing was written."""
