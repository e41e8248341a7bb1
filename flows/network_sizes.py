"""The networks that come in sizes, so that an arm of a study can take the next larger or smaller one.

In: the name of a network, as `teacher.model` has it. Out: the name of its neighbour, or nothing where there is none.
"""

OWN = tuple(f"ns_efficientnet_{size}" for size in ("xs", "s", "m", "l"))
EFFICIENTNET = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2")
"""Sizes of the paper. A prefix (`tf_`, `small_`) stays."""


def neighbour(model: str, steps: int) -> str | None:
    """`steps` sizes larger, or smaller where negative; None beyond the last, and for networks of other families.

    Weights that a name asks for after a dot (`.ns_jft_in1k`) are those of one size: such a name has no neighbour.
    """
    if model in OWN:
        return _at(OWN, OWN.index(model) + steps)
    family, found, size = model.rpartition("efficientnet_")
    if not found or size not in EFFICIENTNET:
        return None
    other = _at(EFFICIENTNET, EFFICIENTNET.index(size) + steps)
    return None if other is None else f"{family}{found}{other}"


def _at(sizes: tuple[str, ...], place: int) -> str | None:
    return sizes[place] if 0 <= place < len(sizes) else None
