"""How long a stage takes, here or on devices of a cluster.

In: a stage's work, a profile, what it is to run on. Out: seconds, with where they are from.
"""

from dataclasses import dataclass

from ns_core.planning.devices import DEVICES, SCALING, SOURCE, UPDATE_SECONDS, Device, Kind
from ns_core.planning.profile import Profile, Rate, flops_of
from ns_core.planning.work import Counts, Work

TRAINING = ("train-teacher", "train-noisy-student", "finetune-at-test-resolution")
ON_CPU = ("prepare-dataset", "filter-and-balance")
"""Stages that no GPU helps: they run on one machine."""
ORCHESTRATION_SECONDS = 0.22
"""Of a stage: Prefect's states, the look into the store, the record (`docs/results/orchestration.json`)."""
START_SECONDS = {"prepare-dataset": 1.0, "filter-and-balance": 1.0}
START_WITH_TORCH_SECONDS = 4.0
"""Of a worker on this machine, where its start was not measured."""
CLUSTER_START_SECONDS = 120.0
"""Of a stage's pods on a cluster that has the image; assumed."""
PREPARE_SECONDS = 443.4 / 1e6
"""An image, on 2 cores (`docs/results/prepare_pool.json`)."""
SELECT_SECONDS = 104.53 / 300e6
"""A row, on 2 cores, equal bytes looked for (`docs/results/select_300m.json`)."""
COPY_BYTES_A_SECOND = 200e6
"""Of selected images that are copied within an object store, by one machine; assumed."""
MACHINE_CORES = 2
"""Of the machine that prepares and selects, as these figures were measured."""


@dataclass(frozen=True)
class Target:
    """What the stages run on."""

    device: Device | None
    """None: this machine."""
    count: int = 1
    """Devices; of this machine its cores."""


@dataclass(frozen=True)
class Took:
    """A stage's time."""

    seconds: float
    measured: bool
    source: str
    billed: str
    """Type of device that is paid for."""
    devices: int
    """How many."""


def took(one: Work, profile: Profile, target: Target, counts: Counts, copied: float) -> Took:
    """`copied`: bytes of images that filter-and-balance writes out."""
    if target.device is None and (rate := profile.rate(one.stage, one.model, one.image_size)):
        return _measured(one, rate, profile, target, counts, copied)
    if one.stage in ON_CPU:
        return _on_one_machine(one, target, copied)
    return _on_devices(one, profile, target)


def _measured(one: Work, rate: Rate, profile: Profile, target: Target, counts: Counts, copied: float) -> Took:
    """On the machine of the profile."""
    machine = profile.machine
    assert machine is not None, "rates come from a machine"
    looks = one.looks * rate.per_look
    if rate.look_images:
        looks *= max(1.0, counts.holdout / rate.look_images)
    gpu = machine.device == "cuda"
    sharing = one.processes * (SCALING if one.stage in TRAINING and one.processes > 1 else 1.0) if gpu else 1.0
    seconds = profile.starts.get(one.stage, 0.0) + ORCHESTRATION_SECONDS + rate.fixed
    seconds += (rate.per_unit * one.amount + looks) / sharing + _copying(one, copied)
    source = f"{rate.sampled:,} {rate.unit} timed on {machine.name}, {machine.cores} cores, {machine.date}"
    if one.processes > 1:
        source += f"; {one.processes} processes taken to share it" if gpu else "; processes share the cores"
    return Took(seconds, True, source, "cpu" if not gpu else "", target.count if not gpu else one.processes)


def _start(one: Work, target: Target) -> float:
    """Before a stage does anything; assumed."""
    if target.device is not None:
        return CLUSTER_START_SECONDS
    return ORCHESTRATION_SECONDS + START_SECONDS.get(one.stage, START_WITH_TORCH_SECONDS)


def _copying(one: Work, copied: float) -> float:
    return copied / COPY_BYTES_A_SECOND if one.stage == "filter-and-balance" else 0.0


def _on_one_machine(one: Work, target: Target, copied: float) -> Took:
    """prepare-dataset and filter-and-balance, by figures of this repository."""
    start = _start(one, target)
    if one.stage == "prepare-dataset":
        source = "docs/results/prepare_pool.json, one machine of 2 cores"
        return Took(start + one.amount * PREPARE_SECONDS, False, source, "cpu", MACHINE_CORES)
    source = "docs/results/select_300m.json, one machine of 2 cores"
    if copied:
        source += f"; images copied at {COPY_BYTES_A_SECOND / 1e6:.0f} MB/s"
    return Took(start + one.amount * SELECT_SECONDS + _copying(one, copied), False, source, "cpu", MACHINE_CORES)


def _on_devices(one: Work, profile: Profile, target: Target) -> Took:
    """By the operations of the work and what a device makes of them."""
    device, count = target.device or DEVICES["cpu"], target.count
    kind: Kind = "training" if one.stage in TRAINING else "prediction"
    forward = flops_of(profile.flops, one.model, one.image_size)
    speed = device.operations(forward, kind)
    if device.name == "cpu":
        source = "operations a second of a core (ns_core.planning.devices)"
    else:
        source = f"{SOURCE}: {100 * device.share(forward, kind):.1f} % of {device.peak / 1e12:g} TFLOP/s"
    if kind == "training" and count > 1:
        speed *= SCALING
        source += f", {SCALING:g} of it on each of {count:,}"
    least = one.updates * UPDATE_SECONDS if device.name != "cpu" else 0.0
    start = _start(one, target)
    return Took(start + max(least, one.flops / (count * speed)), False, source, device.name, count)
