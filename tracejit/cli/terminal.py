"""What the commands share: options, the console, JSON, and options that are sizes and times."""

from __future__ import annotations

import json
import re
import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.syntax import Syntax

from tracejit.runtime.config import size_of
from tracejit.runtime.version import FORMATS

_WIDE = 10_000  # no line is broken where the output is not a terminal

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="The cache's directory (default: TRACEJIT_CACHE_DIR, else the platform's).",
)


def console() -> Console:
    """Standard output: colours and the terminal's width in a terminal, else plain whole lines.
    NO_COLOR is respected (https://no-color.org)."""
    size = shutil.get_terminal_size()  # rich would take a dumb terminal for one of 80 columns
    out = Console(highlight=False, markup=False, emoji=False, width=size.columns, height=size.lines)
    return (
        out
        if out.is_terminal
        else Console(highlight=False, markup=False, emoji=False, width=_WIDE, no_color=True)
    )


def print_json(document: dict[str, Any]) -> None:
    """One JSON object on standard output, with the schema's number first."""
    click.echo(json.dumps({"schema": FORMATS["json"], **document}, indent=1))


def source(out: Console, text: str, language: str = "python") -> None:
    """Source text: coloured in a terminal, as it is elsewhere."""
    if out.is_terminal:
        out.print(Syntax(text.rstrip("\n"), language, background_color="default", word_wrap=True))
    else:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def time_text(timestamp: float) -> str:
    """ISO 8601 in UTC, to the second: what JSON documents hold."""
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")


class Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on only
    """Bytes: `500`, `20KB`, `1.5GiB` (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return value if isinstance(value, int) else size_of(value)
        except ValueError:
            self.fail(f"{value!r} is not a size: use 500, 20KB or 1.5GiB", param, ctx)


_SPANS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


class Span(click.ParamType):  # type: ignore[type-arg]  # as above
    """Seconds: `90s`, `10min`, `12h`, `7d`, `2w`."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|w)\s*", str(value), re.I)
        if found is None:
            self.fail(f"{value!r} is not a time: use 90s, 10min, 12h, 7d or 2w", param, ctx)
        return float(found[1]) * _SPANS[found[2].lower()]
