"""A mistake in the command line as one sentence that ends in what to do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import click

from tracejit.runtime.errors import AmbiguousKey, NoSuchKey, TracejitError


class _Never(click.ClickException):
    """Never raised."""


# A group without a command, whose message is its help (click before 8.2 prints it by itself).
NoWords: type[click.ClickException] = getattr(click.exceptions, "NoArgsIsHelpError", _Never)

NAME = "tracejit"
CLICKS = ("No ", "Missing ", "Invalid ", "Got ", "Option ", "Could ", "Error ")
# What to do about errors whose message does not say it.
ADVICE: dict[type[TracejitError], str] = {
    NoSuchKey: "tracejit cache ls lists the keys",
    AmbiguousKey: "give more of it",
}


def sentence(error: click.ClickException, root: click.Command, words: Sequence[str]) -> str:
    """`no such option '--jsno' (did you mean --json?); see tracejit cache ls --help`, for an error
    that running `root` with these words raised."""
    text = getattr(error, "message", "") or error.format_message()
    if isinstance(error, click.BadParameter):  # its message lacks the parameter's name
        text = error.format_message()
    text = text.strip().rstrip(".")
    context = getattr(error, "ctx", None) or _context(root, words)
    return f"{lowered(text)}{_meant(error, context, words)}; see {context.command_path} --help"


def _context(root: click.Command, words: Sequence[str]) -> click.Context:
    """That of the command which the words name."""
    context = click.Context(root, info_name=NAME)
    for word in words:
        command = context.command
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is not None:
            context = click.Context(found, parent=context, info_name=word)
    return context


def advised(error: TracejitError) -> str:
    """The error's message, ending in what to do."""
    advice = ADVICE.get(type(error))
    return f"{error}; {advice}" if advice else str(error)


def lowered(text: str) -> str:
    """A message of click's as the rest of a sentence; a name that begins a message stays."""
    return text[:1].lower() + text[1:] if text.startswith(CLICKS) else text


def _meant(error: click.ClickException, context: click.Context, words: Sequence[str]) -> str:
    """` (did you mean --json?)` for a misspelt option or command."""
    command = context.command
    if isinstance(error, click.NoSuchOption):
        known = [o for p in command.get_params(context) for o in (*p.opts, *p.secondary_opts)]
        near = difflib.get_close_matches(error.option_name, known, 1)
    elif isinstance(command, click.Group):
        said = [w for w in words if not w.startswith("-") and w not in context.command_path.split()]
        near = difflib.get_close_matches(said[0], command.list_commands(context), 1) if said else []
    else:
        near = []
    return f" (did you mean {near[0]}?)" if near else ""
