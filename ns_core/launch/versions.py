"""That a pod runs the code of the orchestrator that started it.

The orchestrator puts `environment()` into the pod, which calls `check()` before it reads its spec, the fields of which
may be others. What is compared is a digest of the modules of `ns_core`, all that both of them run for a stage: a
checkout and an installation of the same commit are equal, and an image built before an edit is not. The package's
version is told besides, for people. Standard library only.
"""

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from ns_core.errors import UserError

VARIABLE = "NS_VERSION"
"""Environment variable of a pod: `current()` of the orchestrator, such as `0.1.0+3fa9c1d2e4b5`."""
_CODE = Path(__file__).parents[1]
_DIGITS = 12


@cache
def current() -> str:
    """Version of the package, a plus sign, and the digest of its code: 12 hex digits."""
    try:
        version = metadata.version("noisy-student")
    except metadata.PackageNotFoundError:  # a copy of the sources that is on the path and not installed
        version = "0"
    return f"{version}+{digest(_CODE)}"


def digest(package: Path) -> str:
    """The modules below `package`, their names and bytes, in 12 hex digits; 10 ms for those of `ns_core`."""
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        text = path.read_bytes()
        code.update(f"{path.relative_to(package).as_posix()} {len(text)}\n".encode())
        code.update(text)
    return code.hexdigest()[:_DIGITS]


def environment() -> dict[str, str]:
    """What a launcher gives a worker that may run other code than its own."""
    return {VARIABLE: current()}


def check(environ: Mapping[str, str] = os.environ) -> None:
    """`UserError` where the orchestrator named another code than this; nothing where it named none."""
    asked, own = environ.get(VARIABLE), current()
    if asked is not None and asked.rpartition("+")[2] != own.rpartition("+")[2]:
        raise UserError(
            f"the worker's image holds noisy-student {own}, and the orchestrator runs {asked}: build both images from "
            "one commit and set compute.kubernetes.image, or NS_WORKER_IMAGE of the orchestrator, to that worker"
        )
