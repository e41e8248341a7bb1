"""The passwords of a home's servers: random, made once, in a file that its owner alone may read."""

import json
import secrets
from dataclasses import asdict, dataclass

from flows.servers.place import Place, write_private
from ns_core.errors import UserError

REGION = "us-east-1"
"""The S3 server has none; its clients want one named."""


@dataclass(frozen=True, repr=False)
class Passwords:
    """Never printed, never in a command."""

    postgres: str
    s3_key: str
    """A name rather than a secret: SeaweedFS writes it into its log."""
    s3_secret: str

    def aws(self) -> dict[str, str]:
        """The variables by which S3's server and clients know them."""
        return {"AWS_ACCESS_KEY_ID": self.s3_key, "AWS_SECRET_ACCESS_KEY": self.s3_secret, "AWS_DEFAULT_REGION": REGION}


def load(place: Place) -> Passwords | None:
    """Those of an earlier `up`."""
    try:
        return Passwords(**json.loads(place.passwords.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def load_or_make(place: Place, cluster_exists: bool) -> Passwords:
    """`UserError` when the cluster has outlived the file: nothing else opens it."""
    found = load(place)
    if found is None:
        if cluster_exists:
            raise UserError(
                f"{place.passwords} is gone, and PostgreSQL's data were made with it: "
                "put it back, or move the data away to begin with empty servers"
            )
        found = Passwords(secrets.token_urlsafe(24), secrets.token_hex(10).upper(), secrets.token_urlsafe(30))
        write_private(place.passwords, json.dumps(asdict(found)) + "\n")
    return found
