"""Further fields of a person's, put into a pod's spec as the cluster's own strategic merge does it.

Objects are merged field by field and null takes a field away. A list is replaced, but for lists whose entries the
API tells apart by a key: there an entry of the same key is merged, another is added, and `"$patch": "delete"` takes
one away (API conventions, `patchMergeKey`).
"""

from typing import Any

KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
"""Field of a pod's spec, or of its containers -> what tells the entries of its list apart."""
PATCH = "$patch"


def merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """A new object; neither is changed."""
    if patch.get(PATCH) == "replace":
        return {name: value for name, value in patch.items() if name != PATCH}
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            there = result.get(name)
            result[name] = merged(there if isinstance(there, dict) else {}, value)
        elif isinstance(value, list) and name in KEYS:
            result[name] = _merged_list(result.get(name, []), value, KEYS[name])
        else:
            result[name] = value
    return result


def _merged_list(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    result = list(base)
    for entry in patch:
        place = next((at for at, there in enumerate(result) if there.get(key) == entry.get(key)), None)
        if entry.get(PATCH) == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(merged({}, entry))
        else:
            result[place] = merged(result[place], entry)
    return result
