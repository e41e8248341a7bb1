"""Prints the dependencies in pyproject.toml, one a line:

    python dependencies.py [--extra GROUP ...] [--without NAME ...]

An image installs them in a layer of their own, before the code is copied, and pyproject.toml stays the only place
that lists them. Standard library only; reads pyproject.toml in the working directory.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Ends with a message when a name is left out or added that is not there: the list and its readers would drift
    apart."""
    parser = argparse.ArgumentParser(description="Prints the dependencies in pyproject.toml.")
    parser.add_argument("--extra", nargs="*", default=[], metavar="GROUP", help="optional groups that come too")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="dependencies that do not")
    options = parser.parse_args()
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups: dict[str, list[str]] = project["optional-dependencies"]
    if unknown := set(options.extra) - groups.keys():
        sys.exit(f"no optional group in pyproject.toml: {', '.join(sorted(unknown))}")
    listed: list[str] = project["dependencies"] + [line for name in options.extra for line in groups[name]]
    by_name = {re.split(r"[^\w.-]", line, maxsplit=1)[0]: line for line in listed}
    if unknown := set(options.without) - by_name.keys():
        sys.exit(f"not a dependency in pyproject.toml: {', '.join(sorted(unknown))}")
    sys.stdout.writelines(f"{line}\n" for name, line in by_name.items() if name not in options.without)


if __name__ == "__main__":
    main()
