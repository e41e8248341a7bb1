"""Settings of Prefect and MLflow that must stand before either is imported. Imports neither.

No telemetry, no promotional content, and all local state below one folder.
"""

import os
from pathlib import Path

from ns_core.errors import UserError

EXPERIMENT = "noisy-student"
"""Name of the MLflow experiment that holds all runs, so that recipes and seeds compare in one table."""


def home() -> Path:
    """Where local state lies: `NS_HOME`, or `.noisy-student` in the working directory."""
    return Path(os.environ.get("NS_HOME", ".noisy-student")).absolute()


def prepare(folder: Path) -> None:
    """Sets what the environment does not say already."""
    settings = {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # 20 s, the default, is too short for a cold start on two busy cores.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "noisy_student",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        # What Prefect's server answers while its database is restarted.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
        # Leases in memory die with the server: a run that holds one is stopped, and its deployment's place is lost.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_PROFILES_PATH": str(folder / "prefect" / "profiles.toml"),
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    folder.mkdir(parents=True, exist_ok=True)


def default_store(folder: Path) -> str:
    """`NS_STORE`, or a folder beside the other state."""
    return os.environ.get("NS_STORE", str(folder / "store"))


def of_worker() -> tuple[Path, str]:
    """Home and store of a run that a Prefect worker started.

    It runs in a temporary folder that is removed after it. Raises `UserError` where results would go there.
    """
    if not os.path.isabs(os.environ.get("NS_HOME", "")):
        raise UserError("NS_HOME is no absolute folder where the worker runs: set it there and start the worker again")
    store = default_store(home())
    if "://" not in store and not os.path.isabs(os.path.expanduser(store)):
        raise UserError(
            f"NS_STORE {store!r} is relative where the worker runs: give it absolute, or as s3://bucket/prefix"
        )
    return home(), store


def default_tracking(folder: Path) -> str:
    """`NS_TRACKING_URI`, or a SQLite file beside the other state."""
    return os.environ.get("NS_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
