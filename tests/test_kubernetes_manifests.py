"""What is applied to a cluster: valid against Kubernetes' own schemas, and no more rights than the calls that are made.

Overlays are rendered by kubectl, which needs no cluster for it, where it is installed; the rest reads the files.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows import deploy
from flows.recipes import recipe
from ns_core.config import Recipe
from ns_core.launch.kubernetes import manifests, names
from ns_core.launch.kubernetes.pod_sets import pod_sets
from ns_core.launch.spec import WorkerSpec
from tests.test_docker import help_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deployments" / "kubernetes"
GUIDE = ROOT / "docs" / "KUBERNETES.md"
LAYERS = sorted(path.parent for path in FOLDER.rglob("kustomization.yaml"))
OVERLAYS = sorted(path for path in (FOLDER / "overlays").iterdir())
PATCHES = {"ordinary-nodes.yaml"}
"""Parts of documents."""
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name not in {"kustomization.yaml"} | PATCHES)
VERSIONS = ("1.33.0", "1.36.0", kubernetes_validate.latest_version())
STAGES = ("train-teacher", "infer-unlabeled", "filter-and-balance")
"""One that trains, one that is divided, one that moves files."""
Document = dict[str, Any]
VERBS = {"create": "create", "delete": "delete", "read": "get", "list": "list"}
"""Of the client's methods and of the cluster's rights."""

THEIRS = {"nodes are available", "exceeded quota", "violates PodSecurity", "forbidden"}
"""Words of the cluster's own that the guide quotes."""

with_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the overlays")


def documents(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


@cache
def rendered(layer: Path) -> tuple[Document, ...]:
    """As `kubectl apply -k` would send it."""
    done = subprocess.run(["kubectl", "kustomize", str(layer)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def written(kind: str) -> list[Document]:
    """Of all files together."""
    return [document for path in FILES for document in documents(path) if document["kind"] == kind]


def named(kind: str, name: str) -> Document:
    (found,) = (document for document in written(kind) if document["metadata"]["name"] == name)
    return found


def settings(overlay: Path) -> list[str]:
    lines = (overlay / "compute.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def template() -> Document:
    found: Document = json.loads(deploy.TEMPLATE.read_text(encoding="utf-8"))
    return found


def specs(overlay: Path) -> Iterator[WorkerSpec]:
    """What stages of a run with the overlay's settings are told."""
    made: Recipe = recipe("digits").override(["compute.device=auto", *settings(overlay)])
    for stage in STAGES:
        compute = made.compute.for_stage(stage)
        yield WorkerSpec(
            stage=stage, fingerprint="0" * 64, config={}, inputs={}, store="s3://bucket/store", compute=compute
        )


def jobs(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> list[Document]:
    """Of these stages, as the launcher makes them."""
    monkeypatch.setenv(names.IMAGE_VARIABLE, "noisy-student-worker:0.1.0")
    return [manifests.job(spec, pods) for spec in specs(overlay) for pods in pod_sets(spec)]


def pods_written() -> list[Document]:
    """The pod of everything that runs: files, and the template of a flow's."""
    flow = template()["job_configuration"]["job_manifest"]
    return [workload["spec"]["template"] for workload in (*written("Deployment"), *written("StatefulSet"), flow)]


def component(pod: Document) -> str:
    return str(pod["metadata"]["labels"]["app.kubernetes.io/component"])


def not_restricted(pod: Document) -> list[str]:
    """What of Kubernetes' "restricted" pod security standard a pod breaks, in words."""
    broken = [word for word in ("hostNetwork", "hostPID", "hostIPC") if pod.get(word)]
    own = pod.get("securityContext", {})
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    broken += [volume["name"] for volume in pod.get("volumes", []) if not set(volume) - {"name"} <= allowed]
    for container in pod["containers"] + pod.get("initContainers", []):
        context = container.get("securityContext", {})
        profile = context.get("seccompProfile", own.get("seccompProfile", {})).get("type")
        kept = {
            "runs as root": context.get("runAsNonRoot", own.get("runAsNonRoot")) is True,
            "seccomp": profile in ("RuntimeDefault", "Localhost"),
            "escalation": context.get("allowPrivilegeEscalation") is False,
            "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
        }
        broken += [f"{container['name']}: {word}" for word, good in kept.items() if not good]
    return broken


def rights(role: str) -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of each right of a role."""
    return {
        (group, resource, verb)
        for rule in named("Role", role)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def calls() -> set[tuple[str, str, str]]:
    """The same of each call that the launcher's client makes: `self._batch.create_namespaced_job` and its like."""
    found = set()
    for path in (ROOT / "ns_core" / "launch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (match := re.fullmatch(r"(\w+?)_namespaced_(\w+)", node.attr)):
                assert isinstance(node.value, ast.Attribute)
                group = {"_batch": "batch", "_core": ""}[node.value.attr]
                resource = "pods/log" if match[2] == "pod_log" else f"{match[2]}s"
                found.add((group, resource, VERBS[match[1]]))
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_document_is_valid(path: Path, version: str) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


@with_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_what_an_overlay_applies_is_valid_and_in_one_namespace(overlay: Path) -> None:
    for document in rendered(overlay):
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
        whole_cluster = document["kind"] in ("Namespace", "PriorityClass")
        assert document["metadata"].get("namespace") == (None if whole_cluster else "noisy-student")


def test_a_mistake_in_a_document_would_be_found() -> None:
    document = named("Deployment", "prefect-worker")
    document["spec"]["template"]["spec"]["serviceAcountName"] = "typo"

    with pytest.raises(kubernetes_validate.ValidationError, match="serviceAcountName"):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda path: path.name)
def test_a_layer_names_all_its_files_and_files_that_are_there(layer: Path) -> None:
    (kustomization,) = documents(layer / "kustomization.yaml")
    named = kustomization.get("resources", []) + kustomization.get("components", [])
    named += [patch["path"] for patch in kustomization.get("patches", [])]

    assert all((layer / name).exists() for name in named)
    files = {path.name for path in layer.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == {name for name in named if name.endswith(".yaml")}


def test_a_flow_may_do_what_the_launcher_asks_of_the_cluster_and_nothing_else() -> None:
    assert ("batch", "jobs", "create") in calls()
    assert rights("noisy-student-orchestrator") == calls()


def test_pods_that_compute_have_no_right_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = {subject["name"] for binding in written("RoleBinding") for subject in binding["subjects"]}
    account = named("ServiceAccount", "noisy-student-worker")

    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["name"] not in bound
    for job in jobs(OVERLAYS[0], monkeypatch):
        assert job["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_no_role_reaches_beyond_the_namespace_or_reads_secrets_or_runs_programs_in_pods() -> None:
    assert not written("ClusterRole") + written("ClusterRoleBinding")
    for role in written("Role"):
        for _, resource, verb in rights(role["metadata"]["name"]):
            assert "*" not in (resource, verb)
            assert resource not in ("secrets", "pods/exec", "serviceaccounts", "serviceaccounts/token", "roles")


def test_each_role_is_bound_to_an_account_that_some_pod_has() -> None:
    flow = template()["variables"]["properties"]["service_account_name"]["default"]
    used = {pod["spec"].get("serviceAccountName") for pod in pods_written()} | {flow}
    for binding in written("RoleBinding"):
        (subject,) = binding["subjects"]
        assert named("Role", binding["roleRef"]["name"])
        assert named("ServiceAccount", subject["name"])
        assert subject["name"] in used


def test_every_pod_keeps_to_the_standard_that_the_namespace_enforces(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = named("Namespace", "noisy-student")["metadata"]["labels"]
    started = [job["spec"]["template"] for overlay in OVERLAYS for job in jobs(overlay, monkeypatch)]

    assert marks["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods_written() + started:
        assert not_restricted(pod["spec"]) == []
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["spec"]["enableServiceLinks"] is False, "a Service called prefect becomes settings of Prefect's"


def test_what_the_standard_forbids_is_noticed() -> None:
    bare: Document = {
        "hostNetwork": True,
        "containers": [{"name": "worker"}],
        "volumes": [{"name": "x", "hostPath": {}}],
    }

    assert len(not_restricted(bare)) == 6


def test_each_kind_of_pod_is_let_through_by_the_network_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    started = [job["spec"]["template"] for job in jobs(OVERLAYS[0], monkeypatch)]
    outgoing: dict[str, set[int]] = {}
    for pod in pods_written() + started:
        outgoing[component(pod)] = {
            port["port"]
            for policy in written("NetworkPolicy")
            if _selects(policy["spec"]["podSelector"], pod["metadata"]["labels"])
            for rule in policy["spec"].get("egress", [])
            for port in rule.get("ports", [])
        }

    assert outgoing == {
        "worker": {53, 443},
        "orchestrator": {53, 443, 6443, 4200, 5000},
        "prefect-worker": {53, 443, 6443, 4200, 5000},
        "prefect-server": {53, 5432},
        "mlflow": {53, 5432},
        "postgres": {53},
    }
    (everything,) = (one["spec"] for one in written("NetworkPolicy") if one["metadata"]["name"] == "nothing-by-default")
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def _selects(selector: Document, labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_an_overlays_settings_make_jobs_that_are_valid_and_fit_its_quota(
    overlay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = jobs(overlay, monkeypatch)
    for job in made:
        for version in VERSIONS:
            kubernetes_validate.validate(job, version, strict=True)
    (quota,) = (one for path in overlay.glob("*.yaml") for one in documents(path) if one["kind"] == "ResourceQuota")
    most = int(quota["spec"]["hard"]["requests.nvidia.com/gpu"])
    wanted = [job["spec"]["parallelism"] * _gpus(job) for job in made]

    assert 0 < max(wanted) <= most
    # As a shell splits them: docs/KUBERNETES.md puts them behind --set.
    assert all(len(line.split()) == 1 and line.startswith("compute.") for line in settings(overlay))


def _gpus(job: Document) -> int:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return int(container["resources"]["limits"].get("nvidia.com/gpu", 0))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_what_an_overlays_settings_name_is_in_it(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example, *_) = jobs(overlay, monkeypatch)
    pod = example["spec"]["template"]["spec"]
    classes = {
        one["metadata"]["name"]
        for path in overlay.glob("*.yaml")
        for one in documents(path)
        if one["kind"] == "PriorityClass"
    }

    assert classes == ({pod["priorityClassName"]} if "priorityClassName" in pod else set())
    assert example["metadata"]["namespace"] == named("Namespace", "noisy-student")["metadata"]["name"]
    secrets = [source["secretRef"]["name"] for source in pod["containers"][0]["envFrom"]]
    assert secrets == ["noisy-student-store"], "pods that compute get the store's keys and no more"


@with_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_the_images_are_written_once_and_reach_every_pod(overlay: Path) -> None:
    (images,) = (one for one in rendered(overlay) if one["metadata"]["name"].startswith("noisy-student-images"))
    ours = images["data"]["NS_ORCHESTRATOR_IMAGE"]
    for document in rendered(overlay):
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            assert {one["image"] for one in pod["containers"] + pod.get("initContainers", [])} == {ours}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    assert ours == f"noisy-student-orchestrator:{version}"
    assert images["data"]["NS_WORKER_IMAGE"] == f"noisy-student-worker:{version}"
    (worker,) = (one for one in rendered(overlay) if one["metadata"]["name"] == "prefect-worker")
    pod = worker["spec"]["template"]["spec"]
    for container in pod["containers"] + pod["initContainers"]:
        assert {"configMapRef": {"name": images["metadata"]["name"]}} in container["envFrom"], "a change starts it anew"


def test_the_images_of_the_environment_are_those_of_the_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NS_ORCHESTRATOR_IMAGE", "registry/orchestrator@sha256:1")
    monkeypatch.setenv("NS_WORKER_IMAGE", "registry/worker@sha256:2")
    entries = deploy.entries("ns-kubernetes")
    variables = template()["variables"]["properties"]

    assert entries
    for entry in entries:
        asked = entry["work_pool"]["job_variables"]
        assert asked.keys() <= variables.keys()
        assert asked["image"] == "registry/orchestrator@sha256:1"
        assert asked["env"][names.IMAGE_VARIABLE] == "registry/worker@sha256:2"
    assert "NS_WORKER_IMAGE" not in json.dumps(deploy.entries("ns-process"))
    monkeypatch.delenv("NS_ORCHESTRATOR_IMAGE")
    assert "image" not in deploy.entries("ns-kubernetes")[0]["work_pool"]["job_variables"]


def test_what_the_flows_pod_names_is_what_is_applied() -> None:
    variables = template()["variables"]["properties"]
    examples = {path.name.partition(".")[0] for path in FOLDER.glob("*.env.example")}

    assert variables["namespace"]["default"] == named("Namespace", "noisy-student")["metadata"]["name"]
    assert named("ServiceAccount", variables["service_account_name"]["default"])
    # The guide makes each of these Secrets of a file with an example here.
    guide = GUIDE.read_text(encoding="utf-8")
    asked = {
        source["secretRef"]["name"]
        for pod in pods_written()
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
        for source in container.get("envFrom", [])
        if "secretRef" in source and "{{" not in source["secretRef"]["name"]
    }
    for name in asked | {variables["secret_name"]["default"], "noisy-student-store", "noisy-student-servers"}:
        assert f"create secret generic {name} " in guide
    assert {file.partition(".")[0] for file in re.findall(r"--from-env-file=\S*?(\w+\.env)", guide)} == examples


def test_the_guide_tells_failures_in_the_launchers_own_words() -> None:
    section = GUIDE.read_text(encoding="utf-8").partition("## When it fails")[2].partition("Before there is a stage")[0]
    rows = re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)
    told = "\n".join(said())

    assert len(rows) > 10
    for row in rows:
        pieces = [piece.strip() for piece in re.split(r"\.\.\.|[(:]|\d\S*", row)]
        words = [piece for piece in pieces if " " in piece and piece not in THEIRS]
        assert words or row.startswith("waiting"), row
        for piece in words:
            assert piece in told, f"nobody says '{piece}'"


def said() -> Iterator[str]:
    """Each text of the launcher, with a gap for what is filled in."""
    for path in (ROOT / "ns_core" / "launch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_guides_command_makes_a_recipe_of_an_overlays_settings() -> None:
    (function,) = re.findall(r"^recipe\(\) \{.*?^.*?\}$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    program = f"{function}\nrecipe digits $(grep ^compute {FOLDER}/overlays/spot/compute.txt) compute.kubernetes.gpus=0"
    program = program.replace(".venv/bin/python", sys.executable)
    done = subprocess.run(["bash", "-euc", program], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    made = Recipe.model_validate_json(done.stdout)
    assert made.compute.launcher == "kubernetes"
    assert made.compute.kubernetes.gpus == 0
    assert made.compute.kubernetes.tolerations[0] == "cloud.google.com/gke-spot=true:NoSchedule"


def test_secrets_are_nowhere_in_the_manifests() -> None:
    assert not written("Secret")
    assert (FOLDER / ".gitignore").read_text(encoding="utf-8").split() == ["*.env"]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert any(fnmatchcase("deployments/kubernetes/store.env", line) for line in ignored)
    for path in FOLDER.glob("*.env.example"):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            assert not (re.search("PASSWORD|SECRET|KEY", name) and value), f"{path.name}: {name}"


@pytest.mark.parametrize(
    "pod", pods_written(), ids=lambda pod: pod["metadata"]["labels"]["app.kubernetes.io/component"]
)
def test_a_pods_command_and_its_options_are_known(pod: Document) -> None:
    for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
        words: list[str] = container.get("command", [])
        verbs = [word for word in words[1:] if word.isalpha()]
        depth = 2 if words[:1] == ["prefect"] else 1
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        known = help_of(words[0], *verbs[:depth], "--help") if words else ""
        for option in options:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w.-])", known), f"{words[0]} does not know {option}"


def test_pods_take_their_state_from_where_the_images_write(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docker" / "orchestrator.Dockerfile").read_text(encoding="utf-8")
    ours = [pod["spec"] for pod in pods_written() if component(pod) != "postgres"]

    assert {"HOME=/state", "NS_HOME=/state", "PREFECT_HOME=/state/prefect"} <= set(text.split())
    for pod in ours:
        for container in pod["containers"] + pod.get("initContainers", []):
            assert {"/state", "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
    for job in jobs(OVERLAYS[0], monkeypatch):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        own = {variable["name"]: variable["value"] for variable in container["env"]}
        for name in ("HOME", "TMPDIR", "NS_CACHE"):
            assert any(own[name] == place or own[name].startswith(f"{place}/") for place in mounted)
