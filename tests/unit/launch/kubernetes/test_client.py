"""The cluster's API: waited for when it is away, and needed by nobody who runs locally."""

import subprocess
import sys
from pathlib import Path

import pytest

from ns_core.errors import StageFailed, UserError
from ns_core.launch.kubernetes import client
from ns_core.launch.kubernetes.client import Cluster
from tests.kubernetes_api import KubernetesApi
from tests.unit.launch.kubernetes.conftest import stage
from tests.unit.launch.kubernetes.runs import Attempt

REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("faults", [[503, 500, 429], ["reset", 502, "reset"]], ids=["busy", "restarted"])
def test_a_burst_of_errors_is_waited_out(api: KubernetesApi, tmp_path: Path, faults: list[int | str]) -> None:
    api.faults.extend(faults)
    api.script.append(lambda: api.end(api.start()))
    api.script.append(lambda: api.faults.extend(faults))
    api.script.append(api.complete)
    Attempt(stage(tmp_path)).run()
    assert len(api.jobs) == 1


def test_a_half_open_connection_is_given_up_and_asked_anew(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_S", 0.3)
    api.faults.append("hang")
    api.script.append(lambda: (api.end(api.start()), api.faults.append("hang")))
    api.script.append(api.complete)
    Attempt(stage(tmp_path)).run()
    assert api.calls.count("POST jobs") == 2


def test_an_api_that_stays_away_is_told_and_the_pods_are_left(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE_S", 0.2)
    api.script.append(api.start)
    api.script.append(lambda: api.faults.extend([503] * 100))
    with pytest.raises(
        StageFailed, match=r"^the Kubernetes API at http://127.0.0.1:\d+ does not answer \(.*503|unable"
    ):
        Attempt(stage(tmp_path)).run()
    assert "DELETE jobs" not in api.calls
    assert len(api.faults) > 80, "with growing pauses"


def test_without_a_cluster_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"^no cluster to run pods in: .*set KUBECONFIG, or compute.launcher=local$"):
        Cluster.open("here")


def test_a_pod_field_that_no_pod_has_is_refused_in_one_line(api: KubernetesApi, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?i)containers"):
        Attempt(
            stage(tmp_path, pod_fields='{"containers": [{"name": "worker", "image": 7, "volumeMounts": []}]}')
        ).run()
    assert api.jobs == {}


def test_importing_the_launcher_loads_no_torch_no_prefect_and_no_client() -> None:
    program = (
        "import sys, ns_core.launch.kubernetes.launcher, ns_core.launch.kubernetes.pod\n"
        "assert not {'torch', 'prefect', 'kubernetes', 'mlflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_a_client_that_is_not_installed_is_named_with_its_extra() -> None:
    program = (
        "import sys\n"
        "sys.modules['kubernetes'] = None\n"
        "from ns_core.errors import UserError\n"
        "from ns_core.launch.kubernetes.client import Cluster\n"
        "try:\n"
        "    Cluster.open('here')\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, capture_output=True, text=True)
    assert output.stdout.strip().endswith("pip install 'noisy-student[kubernetes]'")
    assert "\n" not in output.stdout.strip()
