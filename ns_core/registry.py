"""What MLflow knows of a store's artifacts: which of them registered models point at, and which runs are under way.

In: MLflow's address, as `ns_core.tracking` takes it. Out: places in a store. Nothing is changed. Unlike a run, which
goes on without tracking, whoever asks here has to know: MLflow that is away is `Unreachable`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ns_core.artifacts import TYPES, Paths
from ns_core.errors import Unreachable, UserError, nearest
from ns_core.fingerprint import SHORT
from ns_core.tracking import Connection

_URI = re.compile(rf"(?P<root>.*)/(?P<folder>(?:{'|'.join(TYPES)})/[0-9a-f]{{{SHORT}}})/attempt-[^/]+/[^/]+")
"""What `ns.checkpoint_uri` holds: the weights' own place."""
_FINGERPRINT = "ns.fingerprint."
_PAGE = 1000


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    model: str
    version: str
    aliases: tuple[str, ...]
    root: str
    """The store of its checkpoint."""
    folder: str
    """The checkpoint's artifact there, `{stage}/{fingerprint[:12]}`."""
    tags: Mapping[str, str]
    """Of the version."""


@dataclass(frozen=True)
class Underway:
    """A pipeline run that MLflow holds for running: also one that was killed, until it is resumed and ends."""

    run_id: str
    folders: frozenset[str]
    """The artifacts that its stages ended with so far."""


class Registry:
    """A line to MLflow that reads. `uri` and `experiment` as a `Tracker` takes them."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._connection = Connection(uri, experiment)

    def registered(self) -> list[Registered]:
        """The versions of all models, of any store, by model and version; those made by others are left out."""
        with self._asking() as client:
            aliases: dict[tuple[str, str], list[str]] = {}
            for model in _pages(client.search_registered_models):
                for alias, version in model.aliases.items():
                    aliases.setdefault((model.name, str(version)), []).append(alias)
            versions = [
                _registered(one, aliases.get((one.name, str(one.version)), ()))
                for one in _pages(client.search_model_versions)
            ]
        return sorted(filter(None, versions), key=lambda one: (one.model, int(one.version)))

    def standing(self, model: str, alias: str) -> Registered | None:
        """The version that an alias points at; None where there is no such model or alias, or others made it."""
        with self._asking() as client:
            try:
                aliases = client.get_registered_model(model).aliases
            except Exception as error:
                if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
            if alias not in aliases:
                return None
            own = [name for name, version in aliases.items() if version == aliases[alias]]
            return _registered(client.get_model_version(model, str(aliases[alias])), own)

    def model(self, words: str) -> Registered:
        """The version that `name@alias` or `name/version` stands for. Raises `UserError` with those there are."""
        versions = self.registered()
        known = {f"{one.model}/{one.version}": one for one in versions}
        known |= {f"{one.model}@{alias}": one for one in versions for alias in one.aliases}
        if words not in known:
            raise UserError(
                f"MLflow has no model '{words}'{nearest(words, known)}: {', '.join(known) or 'it has none'}"
            )
        return known[words]

    def underway(self) -> list[Underway]:
        """The pipeline runs of the experiment that run, with what their generations' runs are tagged with."""
        with self._asking() as client:
            made: dict[str, set[str]] = {}
            names: dict[str, str] = {}
            running = "attributes.status = 'RUNNING' and tags.`ns.level` = 'pipeline'"
            for run in _pages(client.search_runs, [self._connection.experiment_id], running):
                names[run.info.run_id], made[run.info.run_id] = run.data.tags.get("ns.run", ""), set()
            for parent in names:
                for child in _pages(
                    client.search_runs, [self._connection.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
                ):
                    made[parent] |= {
                        Paths(tag.removeprefix(_FINGERPRINT), value).folder
                        for tag, value in child.data.tags.items()
                        if tag.startswith(_FINGERPRINT)
                    }
        return [Underway(name or parent, frozenset(made[parent])) for parent, name in names.items()]

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """MLflow's client; whatever it raises is `Unreachable`."""
        try:
            yield self._connection.client()
        except Exception as error:  # MLflow lets SQLAlchemy's, Alembic's and urllib3's out
            reason = str(error).split("\n")[0][:200]
            raise Unreachable(
                f"MLflow {self._connection.uri} does not answer ({reason}): start it, or set NS_TRACKING_URI"
            ) from error


@contextmanager
def open_registry(uri: str, experiment: str) -> Iterator[Registry | None]:
    """The registry at an address; None where it would be a file that nobody has made, which leaves it unmade."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        yield None
        return
    yield Registry(uri, experiment)


def _registered(version: Any, aliases: Iterable[str]) -> Registered | None:
    """A version of MLflow's; None if it is none of ours."""
    place = _URI.fullmatch(version.tags.get("ns.checkpoint_uri", ""))
    if place is None:
        return None
    own, tags = tuple(sorted(aliases)), dict(version.tags)
    return Registered(version.name, str(version.version), own, place["root"], place["folder"], tags)


def _pages(search: Any, *arguments: object) -> Iterator[Any]:
    """All results of one of MLflow's searches."""
    token = None
    while True:
        page = search(*arguments, max_results=_PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return
