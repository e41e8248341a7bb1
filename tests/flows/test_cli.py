"""The command line's manners: mistakes cost one line, help is quick, nothing is imported before its time."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.flows.command import Command, Outcome


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def expect_one_line(outcome: Outcome, *parts: str) -> None:
    """A person's mistake: status 2, one line that has all `parts`, no traceback, nothing on standard output."""
    assert outcome.status == 2, outcome
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("noisy-student: ")
    for part in parts:
        assert part in lines[0]
    assert outcome.stdout == ""


def picture(path: Path, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(shade).integers(0, 255, (40, 40, 3), np.uint8)
    cv2.imwrite(str(path), noise)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A labelled folder with two classes and a pool."""
    labelled, pool = tmp_path / "labelled", tmp_path / "pool"
    for number in range(12):
        picture(labelled / "cat" / f"{number}.png", number)
        picture(labelled / "dog" / f"{number}.png", 100 + number)
        picture(pool / f"{number}.png", 200 + number)
    return labelled, pool


def data(labelled: Path, pool: Path) -> list[str]:
    return ["--set", f"data.labeled={labelled}", "--set", f"data.unlabeled={pool}"]


def test_help_takes_less_than_half_a_second_of_cpu(command: Command) -> None:
    before = os.times()
    outcome = command("--help")
    after = os.times()
    assert outcome.status == 0
    assert "run" in outcome.stdout
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 0.5, "seconds of CPU, which other work on the machine does not lengthen"


def test_profile_is_a_setting_of_the_run_that_is_no_part_of_its_identity() -> None:
    from flows import cli

    plain, profiled = (
        cli._chosen(cli._parser().parse_args(["run", "digits", *flags])) for flags in ([], ["--profile"])
    )
    assert (plain.compute.profile, profiled.compute.profile) == (False, True)
    assert plain.science() == profiled.science()


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "try:\n    from flows.cli import main; main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'prefect', 'mlflow', 'pydantic', 'numpy', 'boto3', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_the_recipes_are_listed(command: Command) -> None:
    outcome = command("recipes")
    assert outcome.status == 0
    assert {line.split()[0] for line in outcome.stdout.splitlines()} >= {
        "digits",
        "digits_supervised",
        "folder",
    }


def test_an_unknown_recipe_names_the_nearest(command: Command) -> None:
    expect_one_line(command("run", "digit"), "no recipe 'digit'", "did you mean 'digits'?")


def test_an_unknown_field_names_the_nearest(command: Command) -> None:
    expect_one_line(command("run", "digits", "--set", "student.ratoi=3"), "'ratoi'", "did you mean 'ratio'?")


def test_an_unknown_section_names_the_nearest(command: Command) -> None:
    expect_one_line(command("run", "digits", "--set", "studnet.ratio=3"), "'studnet'", "did you mean 'student'?")


def test_a_value_out_of_range_names_field_and_limit(command: Command) -> None:
    expect_one_line(
        command("run", "digits", "--set", "select.threshold=1.5"),
        "select.threshold",
        "less than or equal to 1",
    )


def test_a_setting_without_a_value_shows_how(command: Command) -> None:
    expect_one_line(command("run", "digits", "--set", "student.ratio"), "section.field=value")


def test_a_missing_folder_is_named(command: Command, tmp_path: Path) -> None:
    arguments = data(tmp_path / "nowhere", tmp_path)
    expect_one_line(command("run", "folder", *arguments), "data.labeled", str(tmp_path / "nowhere"), "does not exist")


def test_a_folder_that_was_not_given_is_asked_for(command: Command) -> None:
    expect_one_line(command("run", "folder"), "data.labeled", "--set data.labeled=FOLDER")


def test_a_folder_without_images_is_named(command: Command, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "cat").mkdir(parents=True)
    (empty / "dog").mkdir()
    expect_one_line(command("run", "folder", *data(empty, tmp_path)), "data.labeled", "'cat'", "no image")


def test_a_class_without_labelled_images_is_named(command: Command, folders: tuple[Path, Path]) -> None:
    labelled, pool = folders
    (labelled / "emu").mkdir()
    expect_one_line(command("run", "folder", *data(labelled, pool)), "'emu'", "no image")


def test_an_empty_pool_is_named(command: Command, folders: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    expect_one_line(command("run", "folder", *data(folders[0], empty)), "data.unlabeled", str(empty), "no image")


def test_class_names_that_differ_between_splits_are_named(
    command: Command, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    labelled, pool = folders
    picture(tmp_path / "test" / "cat" / "1.png", 1)
    picture(tmp_path / "test" / "dgo" / "1.png", 2)
    outcome = command("run", "folder", *data(labelled, pool), "--set", f"data.test={tmp_path / 'test'}")
    expect_one_line(outcome, "data.test", "'dgo'", "did you mean 'dog'?")


def test_a_store_that_cannot_be_written_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    expect_one_line(command("run", "digits", "--store", str(tmp_path / "file" / "store")), str(tmp_path / "file"))


def test_the_report_of_an_unknown_run_says_so(command: Command) -> None:
    outcome = command("report", "latest", "--store", str(command.folder / "store"))
    expect_one_line(outcome, "run")
