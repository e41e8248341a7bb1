"""A Prefect server on loopback that tests share: to start one on a new database takes 15 s of a core."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

from flows import environment, ui
from flows.servers import ports


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """The URL of its API; its database lies in `home`."""
    with patch.dict(os.environ), ui.stopped_at_the_end() as servers:
        environment.prepare(home)
        port = ports.free().prefect
        api = f"http://{ui.HOST}:{port}/api"
        command = ["prefect", "server", "start", "--host", ui.HOST, "--port", str(port)]
        servers.append(ui.start("Prefect", partial(ui.answers, f"{api}/health"), command, home / "log.txt", {}))
        assert ui.all_up(servers, []), servers[0].last_words()
        yield api


@contextmanager
def flows_on(api: str, home: Path) -> Iterator[None]:
    """Flows of this process run on that server, their state below `home`; processes that it starts find it too."""
    with patch.dict(os.environ):
        environment.prepare(home)
        os.environ["PREFECT_API_URL"] = api
        from prefect.logging.configuration import setup_logging
        from prefect.settings import PREFECT_API_URL, temporary_settings

        # Otherwise a process's first flow does it, which takes the handlers away that its test listens with.
        setup_logging()
        with temporary_settings({PREFECT_API_URL: api}):
            yield
