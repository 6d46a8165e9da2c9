"""The group `tracejit`: its commands are imported when they run, so that none waits for another's
packages."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from tracejit.runtime.version import VERSION

# Name -> where the command is, and its line in the help of the group (which imports none of them).
COMMANDS: dict[str, tuple[str, str]] = {
    "cache": ("tracejit.cli.cache.commands:cache", "Look at the disk cache, check it, make room."),
    "explain": ("tracejit.cli.explain:explain", "Show what became of a function, and why."),
    "bisect": ("tracejit.cli.bisect:bisect", "Find the stage that makes a result wrong."),
    "doctor": ("tracejit.cli.doctor.command:doctor", "Check this installation from end to end."),
    "bench": ("tracejit.cli.bench:bench", "Measure workloads beside eager and torch.compile."),
    "completion": ("tracejit.cli.completion:completion", "Print a shell's completion script."),
}

EXAMPLES = """\b
Examples:
  tracejit cache ls                                      what is stored
  tracejit explain model.py:forward --args 'torch.randn(4, 8)' --source      its kernels' text
  tracejit bisect model.py:forward --args 'torch.randn(4, 8)'    which stage makes it wrong?
  tracejit doctor                                        is everything here and well?
  tracejit COMMAND --help                                options, examples, JSON of each

\b
Exit status: 0 all well; 1 something wrong was found; 2 a mistake in the command or a missing
package; 130 interrupted.
"""


class LaterGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def __init__(self, *args: Any, later: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.later = later

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(self.later)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None if there is none of this name."""
        if cmd_name not in self.later:
            return None
        module, _, name = self.later[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in the help, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in self.later.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, from the table, and options."""
        names = [
            CompletionItem(name, help=about)
            for name, (_, about) in self.later.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LaterGroup,
    later=COMMANDS,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(VERSION, prog_name="tracejit", message="%(prog)s %(version)s")
def tracejit() -> None:
    """Look at what tracejit compiled, and why; check it; measure it."""
