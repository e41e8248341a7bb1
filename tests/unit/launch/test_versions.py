"""A worker of other code than the orchestrator's says so before it does anything.

Digests are compared between copies: other tests may put a file into the package for a moment.
"""

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import ns_core
from ns_core.errors import UserError
from ns_core.launch import versions

PACKAGE = Path(ns_core.__file__).parent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The code of the orchestrator."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "checkout" / "ns_core"))


@pytest.fixture
def copied(source: Path, tmp_path: Path) -> Path:
    """The same as an image has it: elsewhere."""
    return Path(shutil.copytree(source, tmp_path / "site-packages" / "ns_core"))


def test_a_version_names_the_release_and_the_code() -> None:
    assert re.fullmatch(rf"{re.escape(metadata.version('noisy-student'))}\+[0-9a-f]{{12}}", versions.current())
    assert versions.environment() == {"NS_VERSION": versions.current()}


def test_the_same_code_elsewhere_is_the_same(source: Path, copied: Path) -> None:
    shutil.rmtree(copied / "__pycache__", ignore_errors=True)
    (copied / "__pycache__").mkdir()
    (copied / "__pycache__" / "worker.cpython-311.pyc").write_bytes(b"compiled by another")
    (copied / "notes.txt").write_text("not code\n", encoding="utf-8")

    assert versions.digest(copied) == versions.digest(source)


@pytest.mark.parametrize("change", ["edited", "added", "renamed", "gone"])
def test_other_code_is_another_version(source: Path, copied: Path, change: str) -> None:
    module = copied / "errors.py"
    if change == "edited":
        module.write_text(module.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    elif change == "added":
        (copied / "extra.py").write_text("", encoding="utf-8")
    elif change == "renamed":
        module.rename(copied / "mistakes.py")
    else:
        module.unlink()

    assert versions.digest(copied) != versions.digest(source)


def test_a_line_cannot_move_from_one_module_to_the_next_unseen(tmp_path: Path) -> None:
    for name, texts in (("before", ("a = 1\nb = 2\n", "c = 3\n")), ("after", ("a = 1\n", "b = 2\nc = 3\n"))):
        (tmp_path / name).mkdir()
        for module, text in zip(("one.py", "two.py"), texts, strict=True):
            (tmp_path / name / module).write_text(text, encoding="utf-8")

    assert versions.digest(tmp_path / "before") != versions.digest(tmp_path / "after")


@pytest.mark.parametrize("environ", [{}, versions.environment()], ids=["no pod", "same code"])
def test_a_worker_of_the_same_code_or_none_that_was_asked_for_goes_on(environ: dict[str, str]) -> None:
    versions.check(environ)


def test_another_release_of_the_same_code_goes_on() -> None:
    versions.check({"NS_VERSION": f"9.9.9+{versions.current().partition('+')[2]}"})


@pytest.mark.parametrize("asked", ["0.2.0+000000000000", "0.2.0", ""])
def test_a_worker_of_other_code_says_both_versions_and_the_remedy_in_one_line(asked: str) -> None:
    with pytest.raises(UserError) as caught:
        versions.check({"NS_VERSION": asked})

    message = str(caught.value)
    assert "\n" not in message
    assert f"holds noisy-student {versions.current()}" in message
    assert f"orchestrator runs {asked}:" in message
    assert "compute.kubernetes.image" in message


def test_asking_loads_neither_torch_nor_prefect_nor_the_settings() -> None:
    program = (
        "import sys; from ns_core.launch import versions; versions.check(versions.environment())\n"
        "assert not {'torch', 'prefect', 'pydantic', 'kubernetes'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PACKAGE.parent)
