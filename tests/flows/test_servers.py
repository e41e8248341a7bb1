"""What the servers' commands rest on: records of processes, ports, the account of PostgreSQL, the state on disk."""

import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from flows.servers import account, passwords, ports, postgres, processes
from flows.servers.__main__ import main
from flows.servers.place import Place, Ports, State
from flows.servers.processes import Job, Record
from ns_core.errors import UserError

ROOT = Path(__file__).parents[2]
PARENT = (
    "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read(); sys.exit()"
)
SLEEPS_AFTER_ITS_CHILD = "sleep 600 & echo $!; exec sleep 601"


def job(folder: Path, *command: str, grace_seconds: float = 5.0) -> Job:
    return Job(list(command), dict(os.environ), folder, folder / "log", None, grace_seconds=grace_seconds)


@contextmanager
def started(a_job: Job) -> Iterator[Record]:
    records: list[Record] = []
    processes.start(a_job, records.append)
    try:
        yield records[0]
    finally:
        processes.stop(records)


def wait_for_log(folder: Path) -> str:
    """The first line of the job's output."""
    deadline = time.monotonic() + 20
    while not (line := (folder / "log").read_text(encoding="utf-8")).endswith("\n"):
        assert time.monotonic() < deadline
    return line.strip()


def test_a_started_process_is_alive_until_it_is_stopped(tmp_path: Path) -> None:
    with started(job(tmp_path, "sleep", "600")) as record:
        assert processes.alive(record)
        assert processes.members(record) == {record.pid: record.started}
        assert 0 <= processes.age_seconds(record) < 60
        assert processes.memory(record) > 0
        processes.stop([record])
        assert not processes.alive(record)
        assert processes.members(record) == {}


def test_nothing_runs_whose_record_could_not_be_written(tmp_path: Path) -> None:
    shells: list[psutil.Process] = []

    def fails(record: Record) -> None:
        shells.append(psutil.Process(record.pid))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        processes.start(job(tmp_path, "touch", str(tmp_path / "ran")), fails)
    shells[0].wait(timeout=10)
    assert not (tmp_path / "ran").exists()


def test_the_record_is_of_the_server_itself_which_reads_nothing(tmp_path: Path) -> None:
    program = "import sys, time; print(repr(sys.stdin.read()), flush=True); time.sleep(600)"
    with started(job(tmp_path, sys.executable, "-c", program)) as record:
        assert wait_for_log(tmp_path) == "''"
        assert psutil.Process(record.pid).cmdline()[-1] == program
        assert processes.alive(record)


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "another"}], ids=["recycled id", "reboot"])
def test_a_process_that_only_has_the_recorded_id_is_never_signalled(tmp_path: Path, change: dict[str, object]) -> None:
    with started(job(tmp_path, "sleep", "600")) as stranger:
        stale = replace(stranger, folder="/nonexistent", **change)  # type: ignore[arg-type]
        assert not processes.alive(stale)
        assert processes.members(stale) == {}
        processes.stop([stale])
        assert processes.alive(stranger)


def test_what_a_killed_server_left_behind_is_found_and_stopped(tmp_path: Path) -> None:
    with started(job(tmp_path, "/bin/sh", "-c", SLEEPS_AFTER_ITS_CHILD)) as record:
        child = int(wait_for_log(tmp_path))
        os.kill(record.pid, signal.SIGKILL)
        psutil.Process(record.pid).wait(timeout=10)
        assert not processes.alive(record)
        assert list(processes.members(record)) == [child]
        processes.stop([record])
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_ignores_the_polite_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    with started(job(tmp_path, sys.executable, "-c", deaf, grace_seconds=0.3)) as record:
        assert wait_for_log(tmp_path) == "deaf"
        processes.stop([record])
        assert processes.members(record) == {}


def test_a_log_is_kept_for_one_more_start(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with started(job(tmp_path, "echo", word)):
            assert wait_for_log(tmp_path) == word
    assert (tmp_path / "log.1").read_text(encoding="utf-8") == "first\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_taken_port_is_told_with_the_option_that_changes_it() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} .*--s3-filer-port"):
            ports.check(Ports(s3_filer=port), ["s3_filer"], "127.0.0.1")
        ports.check(Ports(prefect=port, mlflow=ports.free().mlflow), ["mlflow"], "127.0.0.1")


def test_two_servers_on_one_port_are_told_before_they_start() -> None:
    one = ports.free().prefect
    with pytest.raises(UserError, match="--mlflow-port"):
        ports.check(Ports(prefect=one, mlflow=one), ["prefect", "mlflow"], "127.0.0.1")


def test_the_grpc_twin_of_a_port_of_s3_is_looked_at_too() -> None:
    free = ports.free()
    told = rf"port {free.s3 + ports.GRPC} \(for gRPC of {free.s3}\).*--s3-port"
    with closing(socket.create_server(("127.0.0.1", free.s3 + ports.GRPC))), pytest.raises(UserError, match=told):
        ports.check(free, ["s3"], "127.0.0.1")
    with pytest.raises(UserError, match="65535"):
        ports.check(replace(free, s3=60_000), ["s3"], "127.0.0.1")


def test_free_ports_are_free_and_differ() -> None:
    found = ports.free()
    numbers = [getattr(found, name) for name in Ports.names()]
    assert len(set(numbers)) == len(numbers)
    ports.check(found, Ports.names(), "127.0.0.1")


def test_state_survives_and_passwords_are_made_once(tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    place.make()
    state = State("/cluster", "127.0.0.1", ports.free(), {"s3": Record(1, 2, "boot", "/folder", 15, 20.0)})
    state.save(place)
    assert State.load(place) == state
    first = passwords.load_or_make(place, cluster_exists=False)
    assert passwords.load_or_make(place, cluster_exists=True) == first
    assert first.postgres not in repr(first)
    place.passwords.unlink()
    with pytest.raises(UserError, match=r"passwords\.json is gone"):
        passwords.load_or_make(place, cluster_exists=True)


def test_one_command_at_a_time_works_on_a_home(tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    with place.held(), pytest.raises(UserError, match="another `up` or `down`"), place.held():
        pass
    with place.held():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_root_keeps_the_data_where_the_account_of_postgresql_can_enter() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place.of(Path(folder) / "home")
        place.make()
        os.chmod(folder, 0o711)
        assert postgres.place_for(place) == place.root / "postgres"
        os.chmod(folder, 0o700)
        assert postgres.place_for(place).parent == postgres.SYSTEM


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_data_that_are_there_are_served_as_their_owner(tmp_path: Path) -> None:
    stranger = pwd.getpwnam("nobody")
    os.chown(tmp_path, stranger.pw_uid, stranger.pw_gid)
    assert account.for_data(tmp_path) == account.Account("nobody", stranger.pw_uid, stranger.pw_gid)
    fresh = account.for_data(tmp_path / "none")
    assert fresh is not None
    assert fresh.uid != 0


def test_data_of_a_version_that_is_not_installed_are_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("7\n", encoding="ascii")
    with pytest.raises(UserError, match=r"PostgreSQL 7|not installed"):
        postgres.binaries(tmp_path)


def test_without_postgresql_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "DEBIAN", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install postgresql"):
        postgres.binaries(tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "example.org", "::1"])
def test_a_host_that_is_no_single_address_is_refused(
    host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--home", str(tmp_path), "--host", host]) == 2
    assert "--host" in capsys.readouterr().err


def test_help_comes_in_half_a_second() -> None:
    before = os.times()
    subprocess.run([sys.executable, "-m", "flows.servers", "up", "--help"], cwd=ROOT, check=True, capture_output=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5
