"""Functions run by several processes that are the ranks of one group, as torchrun would have started them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def in_group(processes: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` returned in each of `processes` new processes, in rank order.

    `work` is a function of a module. A rank that raised gives its exception, one that died its exit status.
    """
    context = multiprocessing.get_context("spawn")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ranks = []
    for rank in range(processes):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(rank, processes, port, send, work, arguments), daemon=True)
        process.start()
        send.close()
        ranks.append((process, receive))
    results = []
    for process, receive in ranks:
        try:
            results.append(receive.recv())
        except EOFError:
            process.join()
            results.append(process.exitcode)
    for process, _ in ranks:
        process.join()
    return results


def _rank(
    rank: int, world: int, port: int, send: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"})
    try:
        result = work(*arguments)
    except Exception as error:  # any: it is the answer
        result = error
    send.send(result)
