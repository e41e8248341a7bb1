"""What is recorded about a result's origin, and that recording it never gets in the way."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import pytest

from ns_core.provenance import collect, git_state

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, laid out like ours."""
    tree = tmp_path / "checkout"
    (tree / "ns_core").mkdir(parents=True)
    (tree / "ns_core" / "module.py").write_text("x = 1\n", encoding="utf-8")
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "first")
    return tree


def git(tree: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=tree, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert git_state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize("name", ["module.py", "untracked.py"])
def test_changed_or_new_code_makes_the_checkout_dirty(checkout: Path, name: str) -> None:
    (checkout / "ns_core" / name).write_text("x = 2\n", encoding="utf-8")
    assert git_state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": True}


def test_data_beside_the_code_does_not_make_it_dirty(checkout: Path) -> None:
    (checkout / "results.json").write_text("{}", encoding="utf-8")
    assert git_state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


def test_a_checkout_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) == {"commit": None, "dirty": False}


def test_a_folder_inside_somebody_elses_checkout_is_none(checkout: Path) -> None:
    assert git_state(checkout / "ns_core") is None


def test_a_git_hook_of_another_repository_does_not_mislead(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    state = git_state(checkout)
    monkeypatch.delenv("GIT_DIR")
    assert state == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


def test_a_git_that_fails_or_is_missing_costs_nothing_but_the_answer(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken" / ".git").mkdir(parents=True)
    assert git_state(tmp_path / "broken") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(checkout) is None


def test_a_git_that_hangs_is_given_up(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "never")
    hanging = tmp_path / "git"
    hanging.write_text(f"#!/bin/sh\nread line < {tmp_path}/never\n", encoding="utf-8")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("ns_core.provenance._GIT_TIMEOUT_S", 0.2)
    assert git_state(checkout) is None


def test_the_document_says_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NS_IMAGE_DIGEST", "sha256:0123")
    monkeypatch.setattr(sys, "argv", ["noisy-student", "run", "smoke"])
    document = json.loads(json.dumps(collect()))
    assert document["argv"] == ["noisy-student", "run", "smoke"]
    assert document["image"] == "sha256:0123"
    assert document["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert document["platform"].startswith("Linux" if sys.platform == "linux" else "")
    started = datetime.fromisoformat(document["started_at"])
    assert abs(datetime.now(UTC) - started) < timedelta(minutes=1)
    assert started.utcoffset() == timedelta(0)


def test_outside_a_container_there_is_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NS_IMAGE_DIGEST", raising=False)
    assert collect()["image"] is None


def test_versions_are_those_of_the_installed_distributions() -> None:
    packages = collect()["packages"]
    assert isinstance(packages, dict)
    assert packages["torch"] == metadata.version("torch")
    assert packages["opencv"] == metadata.version("opencv-python-headless")
    assert list(packages) == [
        *("torch", "torchvision", "timm", "prefect", "mlflow", "pyarrow"),
        *("webdataset", "boto3", "numpy", "pillow", "opencv"),
    ]


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in the orchestrator's image, which holds no torch.
    monkeypatch.setattr(sys, "path", [str(REPOSITORY)])
    packages = collect()["packages"]
    assert isinstance(packages, dict)
    assert set(packages.values()) == {None}


def test_collecting_loads_none_of_the_packages() -> None:
    code = (
        "import sys; from ns_core.provenance import collect; collect();"
        "sys.exit(bool({'torch', 'mlflow', 'prefect', 'boto3', 'cv2', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
