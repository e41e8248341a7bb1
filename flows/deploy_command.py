"""The verbs that put the flows on a Prefect server: `noisy-student deploy` and `noisy-student serve`.

In: words of the command line. Importing this module is cheap: the rest is imported by the run.
"""

import argparse

from flows.store_commands import add_store, home_and_store

_DEPLOY = """what it makes, or brings up to date: the work pools, the deployments of deployments/prefect.yaml, and the
automations by which a run goes on after a crash. The server is that of PREFECT_API_URL, or of `noisy-student ui`."""

_SERVE = """the pages of `noisy-student ui`, and one process that takes the runs which are started there: Run, Retry and
Cancel in Prefect's page work without a worker. One run at a time. With PREFECT_API_URL it serves on that server. Ctrl-C
stops the run, which goes on when `serve` is started again, and then the pages."""


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds both."""
    raw = argparse.RawDescriptionHelpFormatter
    deploy = verbs.add_parser(
        "deploy",
        help="put pools, deployments and automations on a Prefect server, for its workers",
        formatter_class=raw,
        epilog=_DEPLOY,
    )
    deploy.add_argument(
        "--pool",
        nargs="+",
        action="extend",
        choices=("process", "kubernetes"),
        help="where runs run (default: process)",
    )
    deploy.set_defaults(verb=_deploy)
    serve = verbs.add_parser(
        "serve",
        help="the pages, and runs started from them: no worker, one machine; Ctrl-C stops all",
        formatter_class=raw,
        epilog=_SERVE,
    )
    serve.add_argument("--prefect-port", type=int, default=4200, metavar="PORT")
    serve.add_argument("--mlflow-port", type=int, default=5000, metavar="PORT")
    add_store(serve)
    serve.set_defaults(verb=_serve)


def _deploy(options: argparse.Namespace) -> int:
    from flows import environment
    from flows.deploy import deploy

    return deploy(environment.home(), options.pool or ["process"])


def _serve(options: argparse.Namespace) -> int:
    from flows.serving import serve

    home, store = home_and_store(options)
    return serve(home, store, options.prefect_port, options.mlflow_port)
