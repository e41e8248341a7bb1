"""A PostgreSQL cluster of a home's own, from the distribution's package: one user, a database for each server.

In: a home's `Place`. Out: a folder that `postgres` runs on; it listens on loopback alone, has no socket in the file
system, and lets nobody in without the password.
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from flows.servers import account
from flows.servers.account import Account
from flows.servers.place import LOOPBACK, Place
from ns_core.errors import UserError
from ns_core.launch.local import die_with_parent

USER = "noisy"
DATABASES = ("prefect", "mlflow")
DEBIAN = "/usr/lib/postgresql"
SYSTEM = Path("/var/lib/noisy-student")
"""Where root keeps the data of a home that PostgreSQL's account cannot enter, such as one below /root."""


def installed() -> list[Path]:
    """The folders that hold both `initdb` and `postgres`: that of PATH first, then Debian's, newest first."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    versions = [folder for folder in Path(DEBIAN).glob("*/bin") if folder.parent.name.isdigit()]
    folders += sorted(versions, key=lambda folder: int(folder.parent.name), reverse=True)
    return [
        folder for folder in dict.fromkeys(folders) if (folder / "initdb").exists() and (folder / "postgres").exists()
    ]


def binaries(cluster: Path) -> Path:
    """The folder of the programs that read this cluster, if there is one yet. `UserError` when there are none."""
    folders = installed()
    if not folders:
        raise UserError(
            "PostgreSQL is not installed: `apt-get install postgresql` (Debian, Ubuntu), or put initdb in PATH"
        )
    version = cluster / "data" / "PG_VERSION"
    try:
        if not version.exists():
            return folders[0]
        wanted = version.read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise UserError(f"{cluster} belongs to another user: be that user, or choose another --home") from error
    for folder in folders:
        if _major(folder) == wanted:
            return folder
    raise UserError(
        f"{cluster} was made by PostgreSQL {wanted}, which is not installed: `apt-get install postgresql-{wanted}`"
    )


def place_for(place: Place) -> Path:
    """The cluster's folder: `{home}/servers/postgres`, or below `SYSTEM` where its account cannot enter the home."""
    cluster = place.data("postgres")
    runner = account.for_data(cluster)
    if runner is None or runner.may_enter(place.root):
        return cluster
    return SYSTEM / hashlib.sha256(os.fsencode(place.root)).hexdigest()[:12]


def make(cluster: Path, password: str) -> None:
    """The cluster with its databases; appears whole or not at all, and one that is there stays."""
    if (cluster / "data").exists():
        return
    programs, runner = binaries(cluster), account.for_data(cluster)
    cluster.mkdir(parents=True, exist_ok=True)
    cluster.chmod(0o700)
    if cluster.parent == SYSTEM:
        SYSTEM.chmod(0o711)
    draft, secret = cluster / "data.new", cluster / "password.new"
    shutil.rmtree(draft, ignore_errors=True)
    secret.unlink(missing_ok=True)
    with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(password + "\n")
    if runner:
        for path in (cluster, secret):
            os.chown(path, runner.uid, runner.gid)
    try:
        options = [f"--pgdata={draft}", f"--username={USER}", f"--pwfile={secret}", "--auth=scram-sha-256"]
        _run([str(programs / "initdb"), *options, "--encoding=UTF8", "--locale=C"], "", cluster, runner)
    finally:
        secret.unlink(missing_ok=True)
    alone = [str(programs / "postgres"), "--single", "-D", str(draft), "-c", "exit_on_error=true", "postgres"]
    _run(alone, "".join(f"create database {name};\n" for name in DATABASES), cluster, runner)
    draft.rename(cluster / "data")


def command(cluster: Path, port: int) -> list[str]:
    """The server in the foreground."""
    settings = {"listen_addresses": LOOPBACK, "port": str(port), "unix_socket_directories": ""}
    return [
        *(str(binaries(cluster) / "postgres"), "-D", str(cluster / "data")),
        *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
    ]


def _major(folder: Path) -> str:
    told = subprocess.run([str(folder / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)", told)
    assert found, told
    return found.group(1)


def _run(command: list[str], text: str, cluster: Path, runner: Account | None) -> None:
    """To its end, which comes with ours if we are killed: the next `up` begins anew."""
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        cwd=cluster,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        check=False,
        preexec_fn=die_with_parent(os.getpid()),
        **(runner.popen() if runner else {}),
    )
    if done.returncode != 0:
        last = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise UserError(f"{Path(command[0]).name} made no cluster in {cluster}: {last}")
