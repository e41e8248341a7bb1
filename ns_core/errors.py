"""The ways in which a run can end badly, and whose turn it is to act.

`UserError`     a person's mistake: one line that names the thing and the remedy; exit status 2.
`Unreachable`   one of these: no server answers at an endpoint.
`StageFailed`   a worker failed for a reason that a retry may cure; exit status 1.
`NotFound`      a key that storage does not hold.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A person's mistake, told in one line: what is wrong, where, and what to do about it."""


class Unreachable(UserError):
    """Nobody answers at an endpoint: a wrong address, or a server that is away."""


class StageFailed(Exception):
    """A stage's worker ended without committing its artifact; the message carries its last words."""


class NotFound(KeyError):
    """No object under this key."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` with the closest known name, or an empty string when none is close."""
    match = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""
