"""`python -m flows.servers up | down | status`. Exit status: 0 done, 1 a server is not well, 2 a person's mistake."""

import argparse
import os
import sys
from pathlib import Path

from flows import environment
from flows.servers.place import LOOPBACK, Ports, option

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb."""
    options = _parser().parse_args(arguments)
    from ns_core.errors import StageFailed, UserError

    try:
        return _run(options)
    except UserError as error:
        sys.stderr.write(f"servers: {error}\n")
        return EXIT_USER
    except StageFailed as error:
        sys.stderr.write(f"servers: {error}\n")
        return EXIT_FAILED
    except OSError as error:
        if os.environ.get("NS_DEBUG"):
            raise
        sys.stderr.write(f"servers: {error} (NS_DEBUG=1 shows where)\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("servers: interrupted; `up` goes on from here, `down` stops what was started\n")
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.servers",
        description="PostgreSQL, S3, the Prefect server and the MLflow server of a home, on loopback.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    up = verbs.add_parser("up", help="start what does not run, wait until all answer, say how to use them")
    down = verbs.add_parser("down", help="stop them; the data stay")
    status = verbs.add_parser("status", help="a line for each; exit status 1 unless all are healthy")
    for verb in (up, down, status):
        verb.add_argument("--home", type=Path, help="folder of the state (default: NS_HOME, or .noisy-student here)")
    for name in Ports.names():
        up.add_argument(
            option(name), type=int, metavar="PORT", help=f"default: {getattr(Ports, name)}, or the last one"
        )
    up.add_argument("--free-ports", action="store_true", help="any free ones, for a home that has none yet")
    up.add_argument(
        "--host",
        metavar="ADDRESS",
        help=f"where Prefect and MLflow listen, which have no login (default: {LOOPBACK}, or the last one); "
        "PostgreSQL and S3 stay on loopback",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from flows.servers import lifecycle

    home = options.home.absolute() if options.home else environment.home()
    if options.verb == "down":
        return lifecycle.down(home)
    if options.verb == "status":
        return lifecycle.status(home)
    environment.prepare(home)
    chosen = {name: getattr(options, f"{name}_port") for name in Ports.names()}
    given = {name: port for name, port in chosen.items() if port is not None}
    return lifecycle.up(home, lifecycle.Wanted(given, options.free_ports, options.host))


if __name__ == "__main__":
    sys.exit(main())
