"""As whom PostgreSQL runs: it refuses to run as root, so that root needs somebody else for it.

In: the folder of its data. Out: an `Account`, or None for whoever calls.
"""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ns_core.errors import UserError

_UNPRIVILEGED = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """Another user of this machine."""

    name: str
    uid: int
    gid: int

    def popen(self) -> dict[str, Any]:
        """Arguments of `subprocess.Popen` that make the child this user, with none of the caller's groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def may_enter(self, folder: Path) -> bool:
        """Whether it gets as far as this folder: asked of the kernel, by a process that is this user."""
        return subprocess.run(["test", "-x", str(folder)], cwd="/", check=False, **self.popen()).returncode == 0


def for_data(folder: Path) -> Account | None:
    """Whom the data belong to already, else an unprivileged user; None where we are no root."""
    if os.geteuid() != 0:
        return None
    if folder.exists() and (owner := folder.stat().st_uid) != 0:
        found = pwd.getpwuid(owner)
        return Account(found.pw_name, found.pw_uid, found.pw_gid)
    for name in _UNPRIVILEGED:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, found.pw_uid, found.pw_gid)
    raise UserError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody: run this as another user"
    )
