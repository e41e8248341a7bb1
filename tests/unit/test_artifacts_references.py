"""What tasks pass to each other, and the words that stand in every record for good."""

import pytest

from ns_core.artifacts import TYPES, Artifact, Checkpoint, Dataset, Paths, Selection, Teacher
from tests.artifact_builders import PATHS, record


def test_the_words_that_stand_in_records_do_not_change() -> None:
    assert {stage: kind.model_fields["type"].default for stage, kind in TYPES.items()} == {
        "prepare-dataset": "dataset",
        "train-teacher": "teacher",
        "train-noisy-student": "student",
        "finetune-at-test-resolution": "finetuned",
        "import-checkpoint": "imported",
        "infer-unlabeled": "pseudo-labels",
        "filter-and-balance": "selection",
        "evaluate-robustness": "report",
    }
    assert (PATHS.folder, PATHS.record) == ("train-teacher/0123456789ab", "train-teacher/0123456789ab/.artifact.json")
    assert set(record().model_dump()) == {
        *("type", "stage", "version", "fingerprint", "attempt", "science", "inputs", "files", "result"),
        *("provenance", "seconds"),
    }


@pytest.mark.parametrize("kind", TYPES.values(), ids=lambda kind: str(kind.__name__))
def test_a_reference_goes_through_json_and_leads_to_its_artifact(kind: type[Artifact]) -> None:
    paths = Paths(kind.stage, "f" * 64)
    reference = kind.of(record(paths))
    assert kind.model_validate_json(reference.model_dump_json()) == reference
    assert (reference.paths, reference.result) == (paths, {"holdout_top1": 0.5})


def test_a_reference_is_not_taken_for_one_of_another_type() -> None:
    with pytest.raises(AssertionError, match="a record of train-teacher is no Dataset"):
        Dataset.of(record())
    with pytest.raises(ValueError, match="selection"):
        Selection.model_validate(Teacher.of(record()).model_dump())
    assert Teacher in Checkpoint.__args__
