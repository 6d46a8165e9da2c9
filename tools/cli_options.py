"""Writes the table of every command's arguments and options into docs/cli.md.

python tools/cli_options.py [--check]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import marked

from tracejit.cli.root import tracejit

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
BEGIN, END = "<!-- options -->\n", "<!-- end of options -->\n"


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command under a group, by the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def rows(path: str, command: click.Command) -> Iterator[str]:
    """A row for each argument and option."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            spelled = ", ".join((*parameter.opts, *parameter.secondary_opts))
            about = " ".join((parameter.help or "").split()).replace("|", r"\|")
        else:
            spelled, about = (parameter.metavar or parameter.name or "").replace("|", r"\|"), ""
        yield f"| `{path}` | `{spelled}` | {about} |\n"


def table() -> str:
    """All of it, as Markdown."""
    found = (row for path, command in commands(tracejit, "tracejit") for row in rows(path, command))
    return "| command | takes | what it does |\n|---|---|---|\n" + "".join(found)


if __name__ == "__main__":
    raise SystemExit(marked.main(PAGE, BEGIN, END, table()))
