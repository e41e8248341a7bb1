"""What an hour of a device costs, and a month of storage.

In: a person's JSON file, or nothing. Out: `Prices`. The file names what is to be changed; the rest stays assumed:

    {"currency": "EUR", "device_hours": {"h100": 2.1, "cpu": 0.1}, "gigabyte_month": 0.02}
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ns_core.errors import UserError
from ns_core.planning.devices import DEVICES

ASSUMED_HOURS = {
    "t4": 0.4,
    "v100": 2.5,
    "l4": 0.7,
    "l40s": 1.5,
    "a100": 2.5,
    "h100": 4.0,
    "h200": 5.0,
    "mi300x": 4.0,
    "tpu-v3": 2.0,
    "tpu-v4": 3.2,
    "tpu-v5e": 1.2,
    "cpu": 0.05,
}
"""Dollars for a device (a core of a CPU) and hour. Round figures of the size that large clouds ask on demand, from no
price list: what you pay may be a third of it."""
ASSUMED_GIGABYTE_MONTH = 0.023
"""Dollars for 10^9 bytes in an object store."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    currency: str = Field(default="USD", min_length=1)
    device_hours: dict[str, float] = {}
    gigabyte_month: float | None = Field(default=None, ge=0)


class Prices(BaseModel):
    """All prices, and which of them a person gave."""

    model_config = ConfigDict(frozen=True)
    currency: str = "USD"
    device_hours: dict[str, float] = ASSUMED_HOURS
    gigabyte_month: float = ASSUMED_GIGABYTE_MONTH
    given: frozenset[str] = frozenset()
    """Device types, and `storage`."""

    def source(self, what: str) -> str:
        """Of the price of a device type, or of `storage`."""
        return "price from your table" if what in self.given else "price assumed, give yours with --prices"


def read_prices(path: str | None) -> Prices:
    """Raises `UserError` for a file that is no table of prices."""
    if path is None:
        return Prices()
    try:
        table = _File.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prices {path}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"--prices {path}: {where}: {first['msg']}") from None
    for name, price in table.device_hours.items():
        if name not in DEVICES:
            raise UserError(
                f"--prices {path}: device_hours: '{name}' is no device type; there are {', '.join(DEVICES)}"
            )
        if price < 0:
            raise UserError(f"--prices {path}: device_hours.{name} is {price:g}: a price is not below 0")
    assumed = table.currency == "USD"
    if not assumed and (missing := set(DEVICES) - table.device_hours.keys()) and not table.device_hours:
        raise UserError(f"--prices {path}: in {table.currency} nothing is assumed: give device_hours of {min(missing)}")
    given = set(table.device_hours) | ({"storage"} if table.gigabyte_month is not None else set())
    hours = (ASSUMED_HOURS if assumed else {}) | table.device_hours
    month = table.gigabyte_month if table.gigabyte_month is not None else (ASSUMED_GIGABYTE_MONTH if assumed else 0.0)
    return Prices(currency=table.currency, device_hours=hours, gigabyte_month=month, given=frozenset(given))
