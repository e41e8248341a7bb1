"""A dataset artifact to measure on, made as a user makes one: `noisy-student prepare`."""

import json
import os
import subprocess
import sys
from pathlib import Path


def prepare(root: Path, home: Path, *overrides: str, store: str = "") -> str:
    """The URI of the dataset made of `root/labeled` and `root/unlabeled`, with `section.field=value` overrides."""
    settings = [f"data.labeled={root / 'labeled'}", f"data.unlabeled={root / 'unlabeled'}", *overrides]
    command = [sys.executable, "-m", "flows.cli", "prepare", "folder", "--json"]
    command += [part for setting in settings for part in ("--set", setting)]
    command += ["--store", store] if store else []
    environment = {**os.environ, "NS_HOME": str(home), "NS_CACHE": str(home / "cache")}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    uri: str = json.loads(answer.stdout)["uri"]
    return uri


def files_of(uri: str) -> Path:
    """The folder with the files of a local artifact."""
    return next(Path(uri).glob("attempt-*"))
