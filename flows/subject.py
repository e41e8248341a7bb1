"""What is evaluated: a checkpoint of the store or one from elsewhere, and the images to look at. Imports no torch.

In: a person's words, as `noisy-student evaluate --help` lists them. Out: a `Subject`, checked as far as can be seen
without a network.
"""

from dataclasses import dataclass, field
from pathlib import Path

from flows.checkpoints import CARD, WEIGHTS, find_checkpoint, record_of
from ns_core.artifacts import TYPES, Checkpoint, Dataset, Finetuned, Imported, Record, Student, Teacher
from ns_core.config import EvaluateConfig, ImportConfig, OfficialSets
from ns_core.data.sources.digests import file_digests
from ns_core.errors import UserError
from ns_core.storage import Storage

TIMM = "timm:"
"""Opens the words of a network by its timm name."""
MADE_ELSEWHERE = "it was made elsewhere"

FIELDS = {
    "corruptions": "corruptions",
    "perturbations": "perturbations",
    "fgsm": "fgsm_eps",
    "pgd": "pgd_eps",
    "autoattack": "autoattack_eps",
}
"""Suite -> the field of `EvaluateConfig` that is empty where it is not measured."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint to be evaluated: `held` by the store, or `foreign`, to be imported first."""

    name: str
    held: Checkpoint | None = None
    foreign: ImportConfig | None = None
    digests: dict[str, str] = field(default_factory=dict)
    """Of the files that are imported, as extra inputs of the import."""
    dataset: Dataset | None = None
    """It was trained on this one."""
    without: str = MADE_ELSEWHERE
    """Why there is none, in words."""


def find_subject(
    text: str, storage: Storage, weights: str = "", pretrained: bool = False, classes: str = ""
) -> Subject:
    """What `text` stands for: `timm:NAME` with a file of `weights` or `pretrained`, else as `find_checkpoint`.

    `classes`: a text file, one class name a line in the network's order; empty: ImageNet's.
    Raises `UserError` for what is not there or does not go together.
    """
    if text.startswith(TIMM):
        return _of_timm(text.removeprefix(TIMM), weights, pretrained, classes)
    if weights or pretrained or classes:
        raise UserError(
            f"'{text}' has its own weights and classes: --weights, --pretrained, --classes go with timm:NAME"
        )
    found = find_checkpoint(text, storage)
    if found.record is None or found.store is None or found.store.uri != storage.uri:
        digests = _digests(weights=found.folder / WEIGHTS, card=found.folder / CARD)
        return Subject(found.name, foreign=ImportConfig(folder=str(found.folder)), digests=digests)
    held = TYPES[found.record.stage].of(found.record)
    assert isinstance(held, Teacher | Student | Finetuned | Imported)
    dataset, without = _dataset(found.record, storage)
    return Subject(found.name, held=held, dataset=dataset, without=without)


def find_baseline(text: str, storage: Storage) -> Subject:
    """What `text` stands for, as `find_checkpoint`: the options of weights belong to the other checkpoint."""
    if text.startswith(TIMM):
        raise UserError(
            f"--against {text}: evaluate it alone first, then name it as its table does, import-checkpoint/FINGERPRINT"
        )
    return find_subject(text, storage)


def measurable(config: EvaluateConfig, subject: Subject) -> EvaluateConfig:
    """The settings without what there are no images for. `UserError` when nothing is left to measure."""
    official = config.official
    if subject.dataset is not None or official.images:
        return config
    if not official.given():
        raise UserError(
            f"there is nothing to measure '{subject.name}' on ({subject.without}): give --images FOLDER of class "
            "folders, or --official SET=FOLDER"
        )
    nothing = dict.fromkeys(("corruptions", "perturbations", "fgsm_eps", "pgd_eps", "autoattack_eps"), ())
    return config.model_copy(update=nothing)


def only(config: EvaluateConfig, suites: frozenset[str]) -> EvaluateConfig:
    """The settings with the suites of `FIELDS` and `official` that are chosen, and no others.

    One that the settings have switched off is given its defaults; AutoAttack the eps of RobustBench's ImageNet table.
    """
    standard = EvaluateConfig(autoattack_eps=(4.0,))
    update: dict[str, object] = {}
    for suite, name in FIELDS.items():
        update[name] = (getattr(config, name) or getattr(standard, name)) if suite in suites else ()
    if "official" not in suites:
        update["official"] = OfficialSets(images=config.official.images)
    return config.model_copy(update=update)


def _of_timm(name: str, weights: str, pretrained: bool, classes: str) -> Subject:
    if bool(weights) == pretrained:
        both = "one of them, not both" if pretrained else "--weights FILE, or --pretrained for the download"
        raise UserError(f"{TIMM}{name}: where are its weights? Give {both}")
    names = _class_names(Path(classes).expanduser()) if classes else ()
    file = Path(weights).expanduser().absolute() if weights else None
    document = {"model": name, "weights": str(file or ""), "pretrained": pretrained, "class_names": names}
    foreign = ImportConfig.parse(document)
    return Subject(name, foreign=foreign, digests=_digests(weights=file) if file else {})


def _class_names(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes: cannot read {file}: {getattr(error, 'strerror', None) or 'no text'}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(f"--classes: {file} holds no names: write one a line, in the network's order")
    return names


def _digests(**files: Path) -> dict[str, str]:
    """Name -> sha256 of the file, which is hashed once in its life."""
    for file in files.values():
        if not file.is_file():
            raise UserError(f"--weights: there is no file {file}")
    found = file_digests(map(str, files.values()))
    return {name: digest.hex() for name, digest in zip(files, found, strict=True)}


def _dataset(record: Record, storage: Storage) -> tuple[Dataset | None, str]:
    """The dataset that a checkpoint was trained on; or None, and why."""
    fingerprint = record.inputs.get("dataset")
    if fingerprint is None:
        return None, MADE_ELSEWHERE
    try:
        return Dataset.of(record_of(storage, Dataset.stage, fingerprint)), ""
    except UserError as error:
        return None, f"its dataset: {error}"
