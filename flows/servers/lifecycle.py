"""`up`, `down` and `status` of a home's servers. Each command looks at what runs and does what is missing.

In: a home folder. Out: running servers, recorded in `state.json`; what a person reads on standard output, progress on
standard error. A server that runs and answers is left alone; one that runs and does not answer gets the rest of its
time (an `up` that was killed may have just started it) and is then started anew.
"""

import shlex
import sys
import time
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from flows.servers import passwords, ports, postgres, processes
from flows.servers.place import LOOPBACK, Place, Ports, State, option, write_private
from flows.servers.services import NAMES, TITLES, WAVES, Service, addresses, services
from ns_core.errors import StageFailed, UserError

START_SECONDS = 180.0
"""Prefect took 93 s to come up on a new database under a load of 15."""
SILENT_SECONDS = 15.0
"""For a server that has had its time to start: longer than one of its clients takes to reconnect to PostgreSQL."""
POLL_SECONDS = 0.2
TAIL_LINES = 15


@dataclass(frozen=True)
class Wanted:
    """What a person asked of `up`. What was not asked for stays as it was, or as `Ports` has it."""

    ports: dict[str, int]
    """Field of `Ports` -> port."""
    free_ports: bool = False
    """Any free ones, for a home that has none yet."""
    host: str | None = None


@dataclass
class Pending:
    """A server that runs and does not answer yet."""

    service: Service
    deadline: float
    """Of `time.monotonic`."""
    ours: bool
    """Whether this command started it."""


class Servers:
    """The servers of one home."""

    def __init__(self, place: Place, state: State, known: passwords.Passwords) -> None:
        self._place, self._state = place, state
        self._services = services(place, state, known)
        self.started: list[str] = []
        """Titles of what this command started."""

    def up(self) -> None:
        """Starts what does not run and waits until all answer.

        `UserError` for a port that is taken, before anything is started; `StageFailed` for a server that does not
        come up: the others keep running, and the next `up` goes on from there.
        """
        dead = [name for name in NAMES if not self._lives(name)]
        # A dead server may have left children that hold its ports.
        processes.stop([self._state.processes[name] for name in dead if name in self._state.processes])
        names = [port for name in dead for port in self._services[name].ports]
        ports.check(self._state.ports, names, self._state.host)
        for wave in WAVES:
            waiting = [self._pending(self._services[name]) for name in wave]
            while waiting := [one for one in waiting if not one.service.healthy()]:
                for one in waiting:
                    self._look_after(one)
                time.sleep(POLL_SECONDS)

    def table(self) -> tuple[str, bool]:
        """A line for each server, and whether all are healthy."""
        rows, well = [("server", "address", "pid", "health", "memory")], True
        for name, service in self._services.items():
            record = self._state.processes.get(name)
            lives = record is not None and processes.alive(record)
            health = "healthy" if lives and service.healthy() else "no answer" if lives else "down"
            well = well and health == "healthy"
            size = f"{processes.memory(record) / (1 << 20):.0f} MB" if record and lives else "-"
            rows.append((service.title, service.address, str(record.pid) if record and lives else "-", health, size))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
        ]
        return "\n".join(lines) + "\n", well

    def _lives(self, name: str) -> bool:
        record = self._state.processes.get(name)
        return record is not None and processes.alive(record)

    def _pending(self, service: Service) -> Pending:
        if not self._lives(service.name):
            return self._start(service)
        age = processes.age_seconds(self._state.processes[service.name])
        return Pending(service, time.monotonic() + max(START_SECONDS - age, SILENT_SECONDS), ours=False)

    def _start(self, service: Service) -> Pending:
        say(f"starting {service.title} ...")
        if not service.job.folder.exists():
            service.job.folder.mkdir(mode=0o700)
        processes.start(service.job, lambda made: self._record(service.name, made))
        self.started.append(service.title)
        return Pending(service, time.monotonic() + START_SECONDS, ours=True)

    def _record(self, name: str, made: processes.Record) -> None:
        self._state.processes[name] = made
        self._state.save(self._place)

    def _look_after(self, one: Pending) -> None:
        """Fails for one of ours that ended or took too long; starts anew what another command had started."""
        record, service = self._state.processes[one.service.name], one.service
        lives = processes.alive(record)
        if lives and time.monotonic() < one.deadline:
            return
        processes.stop([record])
        if one.ours:
            what = f"does not answer after {START_SECONDS:.0f} s" if lives else "ended by itself"
            raise StageFailed(f"{service.title} {what}; the end of {service.job.log}:\n{_tail(service.job.log)}")
        say(f"{service.title} {'does not answer' if lives else 'has ended'}")
        anew = self._start(service)
        one.deadline, one.ours = anew.deadline, True


def up(home: Path, wanted: Wanted) -> int:
    """Exit status 0 once all four answer."""
    place = Place.of(home)
    with place.held():
        state = _settled(place, wanted)
        cluster = Path(state.cluster)
        postgres.binaries(cluster)
        known = passwords.load_or_make(place, (cluster / "data").exists())
        servers = Servers(place, state, known)
        state.save(place)
        if not (cluster / "data").exists():
            say(f"making PostgreSQL's data in {cluster} ...")
        postgres.make(cluster, known.postgres)
        variables = {"NS_HOME": str(place.home), **addresses(state.host, state.ports)}
        _write_env(place, variables | known.aws())
        servers.up()
        table, _ = servers.table()
    say(f"started: {', '.join(servers.started)}" if servers.started else "all four run already")
    sys.stdout.write(table + _what_to_export(place, variables))
    if state.host != LOOPBACK:
        say(f"warning: Prefect and MLflow have no login, and whoever reaches {state.host} may use them")
    return 0


def down(home: Path) -> int:
    """Exit status 0 once nothing of the set runs, also when nothing did."""
    place = Place.of(home)
    if State.load(place) is None:
        say(f"no servers in {place.home}")
        return 0
    with place.held():
        state = State.load(place)
        assert state is not None, "nobody removes it"
        stopped = [title for wave in reversed(WAVES) for title in _stop(wave, state)]
        state.processes.clear()
        state.save(place)
        _remove_sockets(state.ports)
    say(f"stopped: {', '.join(stopped)}" if stopped else "nothing runs")
    return 0


def status(home: Path) -> int:
    """Exit status 0 when all four are healthy, else 1."""
    place = Place.of(home)
    state, known = State.load(place), passwords.load(place)
    if state is None or known is None:
        say(f"no servers in {place.home}: `python -m flows.servers up` starts them")
        return 1
    table, well = Servers(place, state, known).table()
    sys.stdout.write(table)
    return 0 if well else 1


def say(line: str) -> None:
    """Progress and warnings, on standard error."""
    sys.stderr.write(line.rstrip("\n") + "\n")
    sys.stderr.flush()


def _settled(place: Place, wanted: Wanted) -> State:
    """What was recorded, with what is asked for now; `UserError` where that would change servers that run."""
    state = State.load(place)
    if state is None:
        state = State(str(postgres.place_for(place)), ports=ports.free() if wanted.free_ports else Ports())
    asked, host = replace(state.ports, **wanted.ports), wanted.host or state.host
    try:
        if IPv4Address(host).is_unspecified:
            raise UserError(f"--host {host}: name one address; Prefect's page tells browsers to ask its server there")
    except AddressValueError as error:
        raise UserError(f"--host {host!r} is no IPv4 address such as {LOOPBACK}") from error
    changed = [option(name) for name in Ports.names() if getattr(asked, name) != getattr(state.ports, name)]
    changed += ["--host"] if host != state.host else []
    if changed and any(processes.alive(record) for record in state.processes.values()):
        raise UserError(
            f"{', '.join(changed)}: the servers of {place.home} run with another; stop them with `down` first"
        )
    state.ports, state.host = asked, host
    return state


def _stop(wave: tuple[str, ...], state: State) -> list[str]:
    """The titles of those of the wave of which anything ran."""
    records = {name: state.processes[name] for name in wave if name in state.processes}
    running = {name: record for name, record in records.items() if processes.members(record)}
    processes.stop(list(running.values()))
    return [TITLES[name] for name in running]


def _write_env(place: Place, variables: dict[str, str]) -> None:
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    write_private(
        place.env, f"# Leads to the servers of {place.home}: source it, keep it to yourself.\n" + "".join(lines)
    )


def _what_to_export(place: Place, variables: dict[str, str]) -> str:
    exports = "".join(f"  export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return (
        f"\nin a shell that uses them:\n  . {shlex.quote(str(place.env))}\n"
        f"which is, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY:\n{exports}"
    )


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in [line for line in lines if line.strip()][-TAIL_LINES:])


def _remove_sockets(used: Ports) -> None:
    """SeaweedFS leaves them, in /tmp whatever TMPDIR says."""
    numbers = [
        port for name in Ports.names() if name.startswith("s3") for port in ports.listening(name, getattr(used, name))
    ]
    for number in numbers:
        for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
            left.unlink(missing_ok=True)
