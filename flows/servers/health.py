"""Whether a server does its work: asked as a client asks, on this machine, without a proxy in between."""

from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

ANSWER_SECONDS = 5.0
"""MLflow takes 1 s for its first look into its database on two busy cores."""


def http(*urls: str) -> bool:
    """Whether each answers 200."""
    return all(_answers(url) for url in urls)


def postgres(port: int, user: str, password: str, databases: tuple[str, ...]) -> bool:
    """Whether it lets this user into each of the databases."""
    import asyncio

    import asyncpg

    async def enter(database: str) -> None:
        login = {"host": "127.0.0.1", "port": port, "user": user, "password": password, "database": database}
        connection = await asyncpg.connect(**login, timeout=ANSWER_SECONDS, ssl=False)
        await connection.close(timeout=ANSWER_SECONDS)

    async def enter_all() -> None:
        for database in databases:
            await enter(database)

    with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        asyncio.run(enter_all())
        return True
    return False


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS)) as connection:
        try:
            connection.request("GET", f"{parts.path}?{parts.query}")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
