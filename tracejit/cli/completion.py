"""`tracejit completion SHELL`: the script with which a shell completes our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

NAME = "tracejit"
# How every new shell gets the script.
INSTALL = {
    "bash": 'eval "$(tracejit completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(tracejit completion zsh)" in ~/.zshrc, after compinit',
    "fish": "tracejit completion fish > ~/.config/fish/completions/tracejit.fish, once",
}

EXAMPLES = """\b
Examples:
  eval "$(tracejit completion bash)"    in ~/.bashrc
  eval "$(tracejit completion zsh)"     in ~/.zshrc, after compinit
  tracejit completion fish > ~/.config/fish/completions/tracejit.fish
"""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(list(INSTALL)), metavar="bash|zsh|fish")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and their values in a shell."""
    maker = get_completion_class(shell)
    assert maker is not None
    root = ctx.find_root().command
    lines = maker(root, {}, NAME, f"_{NAME}_COMPLETE".upper()).source().strip().splitlines()
    first = int(lines[0].startswith("#compdef"))  # zsh wants it to be the first line
    lines.insert(first, f"# To complete in every new shell: {INSTALL[shell]}")
    click.echo("\n".join(lines))
