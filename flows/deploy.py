"""`noisy-student deploy`: everything that a person needs on a Prefect server to start runs from its page.

In: `deployments/prefect.yaml`, which lies beside this package in the repository and in an installation, the pools that
are wanted, and for Kubernetes the images that `NS_ORCHESTRATOR_IMAGE` and `NS_WORKER_IMAGE` name. Out: on the server
the pools, the deployments and the automations; a table of them on standard output.
Doing it again brings the server up to date and changes nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from flows import environment
from flows.ui import running_api
from ns_core.errors import UserError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

FOLDER = Path(__file__).parents[1] / "deployments"
FILE = FOLDER / "prefect.yaml"
TEMPLATE = FOLDER / "kubernetes" / "base-job-template.json"
Document = dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """A work pool of ours."""

    name: str
    kind: str
    """Prefect's type of it."""
    worker: str
    """What has to run for its runs to start."""


POOLS = {
    "process": Pool("ns-process", "process", "prefect worker start --pool ns-process --type process"),
    "kubernetes": Pool("ns-kubernetes", "kubernetes", "prefect worker start --pool ns-kubernetes --type kubernetes"),
}


def deploy(home: Path, pools: Sequence[str]) -> int:
    """Registers the deployments for the pools called `pools`, keys of `POOLS`. `UserError` without a server."""
    environment.prepare(home)
    address = server(home)
    os.environ["PREFECT_API_URL"] = address
    from prefect.client.orchestration import get_client

    from flows.automations import automations, ensure

    chosen = [POOLS[name] for name in dict.fromkeys(pools)]
    with get_client(sync_client=True) as client:
        reached(client, address)
        made = {pool.name for pool in chosen if _made(client, pool)}
        wanted = [entry for pool in chosen for entry in entries(pool.name)]
        _registered(wanted)
        changes = ensure(client, automations())
        page = page_of(address)
        sys.stdout.write(f"Prefect {address}, {page}\n\n")
        _table(
            (name, f"pool {pool}", f"{page}/deployments/deployment/{key}") for name, pool, key in _found(client, wanted)
        )
    _table((name, str(change), f"{page}/automations") for name, change in changes.items())
    for pool in chosen:
        known = "made" if pool.name in made else "as it was"
        sys.stdout.write(f"pool {pool.name} {known}; its runs start while a worker runs: {pool.worker}\n")
    return 0


def server(home: Path) -> str:
    """The API to talk to: PREFECT_API_URL, or that of the pages which are up for this home."""
    address = os.environ.get("PREFECT_API_URL") or running_api(home)
    if not address:
        raise UserError(
            "no Prefect server: start `noisy-student ui` or `noisy-student serve` in another terminal, or set "
            "PREFECT_API_URL (`make up` starts a team's servers and says how)"
        )
    return address.rstrip("/")


def reached(client: "SyncPrefectClient", address: str) -> None:
    """`UserError` where the server does not answer."""
    from httpx import HTTPStatusError

    wrong = client.api_healthcheck()
    if isinstance(wrong, HTTPStatusError):
        raise UserError(
            f"{address} answers {wrong.response.status_code}: is it the API of a Prefect server, with /api?"
        )
    if wrong is not None:
        raise UserError(
            f"no Prefect server answers at {address}: start it (`make up`, `noisy-student ui` or `noisy-student "
            "serve`) or set PREFECT_API_URL"
        )


def page_of(address: str) -> str:
    """Where the server's page is that has its API at `address`."""
    return (os.environ.get("PREFECT_UI_URL") or address.removesuffix("/api")).rstrip("/")


def entries(pool: str) -> list[Document]:
    """The deployments of the file for this pool, anchors resolved."""
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    found = [entry for entry in document["deployments"] if entry["work_pool"]["name"] == pool]
    return [_with_images(entry) for entry in found] if pool == POOLS["kubernetes"].name else found


def _with_images(entry: Document) -> Document:
    """The pods of a run and of its stages are of the images that this environment names; else the pool's template says
    of which the run's is. Not in the template, which is left alone when the code is a later one."""
    variables = dict(entry["work_pool"]["job_variables"])
    if image := os.environ.get("NS_ORCHESTRATOR_IMAGE"):
        variables["image"] = image
    if image := os.environ.get("NS_WORKER_IMAGE"):
        variables["env"] = {**variables["env"], "NS_WORKER_IMAGE": image}
    return {**entry, "work_pool": {**entry["work_pool"], "job_variables": variables}}


def held(client: "SyncPrefectClient", wanted: Iterable[Document]) -> list["DeploymentResponse"]:
    """Those that the server has, in the order of `wanted`; other people's of the same names are not among them."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    order = [(entry["name"], entry["entrypoint"]) for entry in wanted]
    among = DeploymentFilter(name=DeploymentFilterName(any_=[name for name, _ in order]))
    found = client.read_deployments(deployment_filter=among)
    ours = [one for one in found if (one.name, one.entrypoint) in order]
    return sorted(ours, key=lambda one: order.index((one.name, one.entrypoint or "")))


def _found(client: "SyncPrefectClient", wanted: Iterable[Document]) -> list[tuple[str, str, str]]:
    """(flow/deployment, pool or "", id) of each that the server has."""
    flows = {}
    found = []
    for one in held(client, wanted):
        if one.flow_id not in flows:
            flows[one.flow_id] = client.read_flow(one.flow_id).name
        found.append((f"{flows[one.flow_id]}/{one.name}", one.work_pool_name or "", str(one.id)))
    return found


def _made(client: "SyncPrefectClient", pool: Pool) -> bool:
    """Makes the pool unless it is there; a template that somebody changed is left alone."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with suppress(ObjectNotFound):
        client.read_work_pool(pool.name)
        return False
    if pool.kind == "kubernetes":
        template = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    else:
        template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool.name, type=pool.kind, base_job_template=template))
    return True


def _registered(wanted: list[Document]) -> None:
    """`prefect deploy` of a file that has only these; in a folder from which it can import nothing by chance."""
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="noisy-student-") as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump({**document, "deployments": wanted}), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "deploy", "--all", "--prefect-file", str(file), "--no-prompt"]
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        raise UserError(f"`prefect deploy` of {FILE} failed: {' '.join(lines[-3:])}")


def _table(rows: Iterable[tuple[str, ...]]) -> None:
    """Columns as wide as they have to be, and an empty line."""
    told = list(rows)
    widths = [max(map(len, column)) for column in zip(*told, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in told)
    sys.stdout.write("".join(f"{line}\n" for line in lines) + "\n")
