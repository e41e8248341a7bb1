"""Rules of the layout that no linter checks by itself."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("flows", "tasks", "ns_core") for path in (ROOT / folder).rglob("*.py"))
STAGES = {
    "train-teacher",
    "infer-unlabeled",
    "filter-and-balance",
    "train-noisy-student",
    "finetune-at-test-resolution",
    "evaluate-robustness",
}


def test_a_stray_module_in_ns_core_breaks_the_import_contracts(tmp_path: Path) -> None:
    """In a copy: the code of the repository is hashed by what other tests start."""
    for package in ("flows", "tasks", "ns_core"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    lint = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    whole = subprocess.run(lint, cwd=tmp_path, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stdout
    (tmp_path / "ns_core" / "utils.py").write_text('"""Stray."""\n', encoding="utf-8")
    outcome = subprocess.run(lint, cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode != 0
    assert "utils" in outcome.stdout


def test_each_stage_word_is_one_task_file_one_stage_and_one_artifact() -> None:
    from ns_core.artifacts import TYPES
    from ns_core.worker import STAGES as WORKER

    words = STAGES | {"prepare-dataset", "import-checkpoint"}
    assert WORKER.keys() == words
    assert TYPES.keys() == words
    for word in words:
        assert (ROOT / "tasks" / f"{word.replace('-', '_')}.py").exists()
        assert word == WORKER[word][0].STAGE


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    tree = ast.parse(text)
    if text.strip():
        assert ast.get_docstring(tree), "a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 50, f"{node.name} is too long"


def test_importing_flows_and_tasks_loads_no_torch() -> None:
    program = (
        "import sys, flows.cli, flows.start, flows.recipes, flows.noisy_student, tasks.work\n"
        "assert not {'torch', 'timm', 'mlflow', 'webdataset'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_tree_in_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- tree -->\n```\n(.*?)```", text, re.DOTALL)
    folder, named = "", set()
    for line in block.splitlines():
        name = line.split()[0] if line.strip() else ""
        if not name:
            continue
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
            named.add(name.rstrip("/"))
        else:
            named.add((folder + name).rstrip("/"))
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing
    files = [path for folder in ("flows", "tasks", "ns_core") for path in (ROOT / folder).glob("*.py")]
    real = {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}
    assert not real - named, "files that the README does not name"


def test_relative_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} -> {target}"
