"""`tracejit doctor`: is everything here, does it work, and what adds what is missing?"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from importlib import import_module
from itertools import groupby
from typing import TYPE_CHECKING

import click
from rich.text import Text

from tracejit.cli import terminal
from tracejit.cli.doctor.checks import FAULT, MISSING, OK, Check, isolated
from tracejit.runtime.words import plural

if TYPE_CHECKING:
    from rich.console import Console

# Group -> the probe that gives its rows.
PROBES = {
    "versions": "tracejit.cli.doctor.checks:versions",
    "devices": "tracejit.cli.doctor.checks:devices",
    "toolchain": "tracejit.cli.doctor.checks:toolchain",
    "end to end": "tracejit.cli.doctor.endtoend:end_to_end",
    "cache": "tracejit.cli.doctor.cache:cache_health",
    "settings": "tracejit.cli.doctor.checks:settings",
}
MOST_NARROW = 40  # columns that a text gets at least
STYLES = {OK: "green", MISSING: "yellow", FAULT: "bold red"}

HELP = """\b
Examples:
  tracejit doctor
  tracejit doctor --json | jq -r '.checks[] | select(.state != "ok") | .advice'

\b
Exit status: 0 if all that is needed is well (also if an extra is missing), 1 on a fault.

\b
JSON: {"schema": 1, "ok", "checks": [{"group", "name", "state", "text", "advice", "facts"}]}
  ok      whether there is no fault
  group   versions, devices, toolchain, end to end, cache, settings
  state   ok, missing (optional, or not needed here) or fault
  advice  the command that helps, or what to do; "" if all is well
  facts   the same as values: versions, sizes, seconds, paths
"""


@click.command(epilog=HELP)
@terminal.json_option
def doctor(as_json: bool) -> None:
    """Check this installation: versions, devices, tools, a compilation from end to end, the cache,
    the settings; and say what adds what is missing."""
    found = list(examined())
    well = all(check.state != FAULT for check in found)
    if as_json:
        terminal.print_json({"ok": well, "checks": [check.to_json() for check in found]})
    else:
        show(found, terminal.console())
    if not well:
        raise click.exceptions.Exit(1)


def examined() -> Iterator[Check]:
    """Every row. A probe that cannot even be imported is a row too."""
    for group, where in PROBES.items():
        module, _, name = where.partition(":")

        def probe(module: str = module, name: str = name) -> Iterator[Check]:
            yield from getattr(import_module(module), name)()

        yield from isolated(group, probe)


def _row(check: Check, width: int, most: int) -> Text:
    """Name, state and text in columns; the text goes on below itself."""
    head = f"  {check.name:<{width}}{check.state:<{len(MISSING) + 2}}"
    text = textwrap.fill(
        head + check.text,
        max(most, len(head) + MOST_NARROW),
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
    row = Text(text)
    row.stylize(STYLES[check.state], width + 2, width + 2 + len(check.state))
    return row


def show(found: list[Check], out: Console) -> None:
    """A table, then what to do."""
    width = max(len(check.name) for check in found) + 2
    for group, rows in groupby(found, lambda check: check.group):
        out.print(Text(group, "bold"))
        for check in rows:
            out.print(_row(check, width, out.width), soft_wrap=True)
    todo = [check for check in found if check.state != OK and check.advice]
    for state, title in ((FAULT, "To repair:"), (MISSING, "To add what is missing:")):
        lines = dict.fromkeys(c.advice for c in todo if c.state == state)
        if lines:
            out.print(f"\n{title}")
            for line in lines:
                out.print(f"  {line}", soft_wrap=True)
    faults = sum(check.state == FAULT for check in found)
    well = "All that is needed is well."
    out.print(f"\n{plural(faults, 'fault')}" if faults else f"\n{well}")
