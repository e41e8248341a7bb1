"""Ports that can be had: found before a server is started, so that the message names the option that changes it."""

import random
import socket
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from flows.servers.place import LOOPBACK, Ports, option
from ns_core.errors import UserError

GRPC = 10_000
"""SeaweedFS listens for gRPC on each of its ports plus this."""


def listening(name: str, port: int) -> list[int]:
    """Every port that the server behind the field `name` of `Ports` opens for it."""
    return [port, port + GRPC] if name.startswith("s3") else [port]


def check(ports: Ports, names: Iterable[str], host: str) -> None:
    """`UserError` for the first port of these that cannot be opened."""
    with ExitStack() as held:
        for name in names:
            port = getattr(ports, name)
            for number in listening(name, port):
                try:
                    _take(held, host if name in ("prefect", "mlflow") else LOOPBACK, number)
                except (OSError, OverflowError) as error:
                    reason = error.strerror if isinstance(error, OSError) else "ports end at 65535"
                    twin = f" (for gRPC of {port})" if number != port else ""
                    raise UserError(
                        f"port {number}{twin} cannot be used ({reason}): "
                        f"stop what uses it, or choose another with {option(name)}"
                    ) from error


def free() -> Ports:
    """Ports that nothing uses now, below those that Linux hands out by itself."""
    found: dict[str, int] = {}
    with ExitStack() as held:
        for name in Ports.names():
            while name not in found:
                port = random.randrange(12_000, 22_000)
                with suppress(OSError):
                    for number in listening(name, port):
                        _take(held, LOOPBACK, number)
                    found[name] = port
    return Ports(**found)


def _take(held: ExitStack, host: str, port: int) -> None:
    listener = held.enter_context(socket.socket())
    # The last server's closed connections keep the port for a minute otherwise.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen()
