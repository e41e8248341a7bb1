"""How much memory a process has had at the most, for programs that tests start."""

from pathlib import Path


def peak_bytes() -> int:
    """Of this process since it was started; not getrusage's ru_maxrss, in which whoever forked it lives on."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
