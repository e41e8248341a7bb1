"""Where a result came from: code, packages, machine type and command.

In: nothing but the process itself. Out: a JSON document for an artifact's record. It is for people
to read and decides nothing: what changes a result belongs in the fingerprint. It names no host.
"""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

_SOURCE_TREE = Path(__file__).resolve().parents[1]
_CODE = ("flows", "tasks", "ns_core")
_GIT_TIMEOUT_S = 2.0

_DISTRIBUTIONS = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "prefect": ("prefect",),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "pyarrow": ("pyarrow",),
    "webdataset": ("webdataset",),
    "boto3": ("boto3",),
    "numpy": ("numpy",),
    "pillow": ("pillow",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless"),
}
"""Package -> the distributions that bring it, the usual one first."""


def collect() -> dict[str, JsonValue]:
    """What a person needs to know to get this result again, as far as it can be known.

    Keys: `git` (see `git_state`), `packages` (name -> version, None when not installed), `python`,
    `platform`, `image` (digest of the container image, from NS_IMAGE_DIGEST, or None), `argv` and
    `started_at` (now, UTC, ISO 8601). It imports none of the packages: 16 ms, and 15 ms for git.
    """
    packages: dict[str, JsonValue] = {name: _version(name) for name in _DISTRIBUTIONS}
    return {
        "git": git_state(_SOURCE_TREE),
        "packages": packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "image": os.environ.get("NS_IMAGE_DIGEST") or None,
        "argv": list(sys.argv),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_state(tree: Path) -> dict[str, JsonValue] | None:
    """`{"commit": hex or None before the first commit, "dirty": bool}` of the checkout at `tree`.

    Dirty is any change, new files too, in the folders that hold our code; data and notes beside
    them do not count, and are not searched. None when `tree` is not the top of a checkout (as when
    the package is installed), or git is missing, refuses or takes longer than 2 s.
    """
    if not (tree / ".git").exists():
        return None
    # A git hook sets GIT_DIR and its kin, which would point at another repository than `tree`.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--", *_CODE]
    try:
        status = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = status.stdout.splitlines()
    commits = [line.split()[2] for line in lines if line.startswith("# branch.oid ")]
    commit = next((name for name in commits if name != "(initial)"), None)
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def _version(package: str) -> str | None:
    for distribution in _DISTRIBUTIONS[package]:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None
