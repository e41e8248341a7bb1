"""timm's own training script, driven as its users drive it, and what its log says of its speed.

The wheel has no `train.py`: it is taken from the tag of the installed timm on GitHub, once, and kept in
$NS_BENCH_CACHE or ~/.cache/noisy-student-benchmarks as `train-<version>.py`; without a network, put it there.

A run is a process of its own with all of timm's defaults but for what the call names. `--log-interval 1` makes it
print the time of each update and the time it waited for its batch, to the millisecond. The first updates, in which
the loader's processes start and fill their queues, do not count. Once the last update that counts is logged the run
is killed, which spares the end of the epoch: there its loader has nothing left to make, and updates are faster.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

SOURCE = "https://raw.githubusercontent.com/huggingface/pytorch-image-models/v{version}/{name}.py"
UPDATE = re.compile(r"Train: 0 \[ *(\d+)/(\d+) .*?Time: ([\d.]+)s,.*Data: ([\d.]+) \(")
"""Number of the update, how many there are, its seconds, and those of them that it waited for data."""
SPARE_UPDATES = 8
"""What four loader processes make ahead, two batches each: so many updates before an epoch's end are faster."""
_SAID = 20


class Window(NamedTuple):
    """The updates of a run that count."""

    first: int
    stop: int


class Pace(NamedTuple):
    """What a window took."""

    seconds: float
    waited: float
    """Share of it that was spent waiting for data, 0..1."""


def script(name: str = "train") -> Path:
    """Local copy of the script `name` of the installed timm's release; fetched when it is not there yet."""
    release = version("timm")
    folder = Path(os.environ.get("NS_BENCH_CACHE", Path.home() / ".cache" / "noisy-student-benchmarks"))
    path = folder / f"{name}-{release}.py"
    if not path.exists():
        url = SOURCE.format(version=release, name=name)
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                text = answer.read()
        except (URLError, TimeoutError) as error:
            sys.exit(f"{url} cannot be fetched ({error}): put that file at {path} by hand")
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(text)
        part.replace(path)
    return path


def digest(path: Path) -> str:
    """sha256 of the script, for the record: the release's is on GitHub."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(arguments: Sequence[str], window: Window, seconds: float = 600) -> Pace:
    """Trains until the window's last update is logged.

    `arguments`: of the script, the data folder among them. `seconds`: the run is killed after so long. Raises
    `RuntimeError` with the script's last lines when it ends or is killed before, and when the epoch is so short that
    its end would be in the window.
    """
    command = [sys.executable, "-W", "ignore", str(script()), *arguments, "--epochs", "1", "--log-interval", "1"]
    with tempfile.TemporaryDirectory(prefix="timm-") as folder:
        process = subprocess.Popen(
            command,
            env={name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"},
            cwd=folder,  # it writes its checkpoints below the current folder
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            return _followed(process, window, seconds)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its loader processes, too
            process.wait()


def _followed(process: "subprocess.Popen[str]", window: Window, seconds: float) -> Pace:
    assert process.stdout is not None
    times, waits, said = list[float](), list[float](), list[str]()
    limit = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    try:
        for line in process.stdout:
            said.append(line)
            found = UPDATE.search(line)
            if found is None:
                continue
            update, of = int(found[1]), int(found[2])
            if of < window.stop + SPARE_UPDATES:
                raise RuntimeError(f"an epoch of {of} updates is too short to measure up to update {window.stop}")
            if update >= window.first:
                times.append(float(found[3]))
                waits.append(float(found[4]))
            if update + 1 == window.stop:
                return Pace(sum(times), sum(waits) / sum(times))
    finally:
        limit.cancel()
    raise RuntimeError("timm's train.py ended early:\n" + "".join(said[-_SAID:]))
