"""Whether AutoAttack's library is installed. Loads neither it nor torch, so that the command line can ask first."""

from importlib.metadata import PackageNotFoundError, version

from ns_core.errors import UserError

PACKAGE = "pyautoattack"


def require() -> str:
    """The version of the library. Raises `UserError` with the command that installs it."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        raise UserError(
            f"autoattack needs the package {PACKAGE}: pip install 'noisy-student[autoattack]', or leave "
            "evaluate.autoattack_eps empty"
        ) from None
