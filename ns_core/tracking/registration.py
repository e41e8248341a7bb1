"""A checkpoint as a version of one of MLflow's registered models, with its aliases.

In: MLflow's client and the checkpoint's place. No bytes move: the version points into the store.
"""

from typing import Any

from ns_core.tracking.entries import Entry

_GIVEN = "ns.alias."
"""Tag of a registered model: when an alias was given last, so that news that comes late does not take it back."""


def register(client: Any, experiment: str, run: str, entry: Entry, *, late: bool, server: bool) -> None:
    """Find the checkpoint's version by its `ns.sha256`, or add it; set its extra tags, point the aliases at it.

    `late`: it waited in a journal, and an alias that was given since stays where it is. `server`: MLflow is no file.
    """
    body, model = entry.body, entry.body["model"]
    known = f"name = '{model}' and tags.`ns.sha256` = '{body['sha256']}'"
    found = client.search_model_versions(known, max_results=1)
    version = str(found[0].version) if found else _add(client, experiment, run, entry, server)
    for name, value in body["tags"].items():
        client.set_model_version_tag(model, version, name, value)
    given = client.get_registered_model(model).tags if body["aliases"] else {}
    for alias in body["aliases"]:
        if not (late and int(given.get(_GIVEN + alias, 0)) > entry.at):
            client.set_registered_model_alias(model, alias, version)
            client.set_registered_model_tag(model, _GIVEN + alias, str(entry.at))


def _add(client: Any, experiment: str, run: str, entry: Entry, server: bool) -> str:
    body, model = entry.body, entry.body["model"]
    tags = {"ns.checkpoint_uri": body["uri"], "ns.sha256": body["sha256"]}
    if not client.search_registered_models(f"name = '{model}'"):
        try:
            client.create_registered_model(model)
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":  # another process, just now
                raise
    # Neither mlflow.create_external_model nor, on sqlite, a `models:/` source: they use the
    # tracking URI of the process, not of this client. A server refuses local paths as source.
    same = f"name = '{model}' AND tags.`ns.sha256` = '{body['sha256']}' AND source_run_id = '{run}'"
    if made := client.search_logged_models([experiment], same, max_results=1):  # and then it was killed
        logged = made[0]
    else:
        marked = {**tags, "mlflow.model.isExternal": "true"}
        logged = client.create_logged_model(experiment, model, run, marked, dict(body["params"]))
    client.finalize_logged_model(logged.model_id, "READY")
    source = f"models:/{logged.model_id}" if server else body["uri"]
    return str(client.create_model_version(model, source, run, tags, model_id=logged.model_id).version)
