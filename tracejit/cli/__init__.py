"""The command `tracejit`. It needs the packages of the extra `cli`; without them it says so and
stops."""

from __future__ import annotations

import importlib.util
import sys

from tracejit.runtime.errors import MissingExtra, TracejitError


def main() -> None:
    """Entry point of the command. Errors of ours are one line on stderr and exit status 1."""
    try:
        run()
    except TracejitError as error:
        print(f"tracejit: {error}", file=sys.stderr)
        sys.exit(1)


def run() -> None:
    """Hand over to click. Raises MissingExtra if it or rich is not installed."""
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(what="the command line", packages=" and ".join(missing), extra="cli")
    from tracejit.cli.commands import tracejit

    tracejit()
