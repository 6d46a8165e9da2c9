"""The command `tracejit`, and its manners: a mistake is one sentence, a stop is quiet.

Exit status: 0 all well, 1 something wrong was found (or a fault of ours, with its traceback), 2 a
mistake of the user, 130 Ctrl-C, 141 nobody reads the output any more. It needs the packages of the
extra `cli`; without them it says so.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tracejit.runtime.errors import MissingExtra, TracejitError, TracejitWarning

WRONG, MISTAKE, STOPPED, NO_READER = 1, 2, 130, 141
NAME = "tracejit"


def main() -> None:
    """Entry point of the command. Leaves with its exit status."""
    settings()
    sys.exit(status(sys.argv[1:]))


def settings() -> None:
    """Read the settings: a warning about them, and any later one of ours, is a line, an error a
    sentence and the end."""
    warnings.showwarning = one_line(warnings.showwarning)
    try:
        importlib.import_module("tracejit.runtime.config")
    except TracejitError as error:
        sys.exit(say(str(error), MISTAKE))


def status(words: Sequence[str]) -> int:
    """Run the command of these words and write out all it printed; the exit status. An error that
    is nobody's mistake is raised."""
    try:
        code = run(words)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except MissingExtra as error:
        return say(str(error), MISTAKE)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # after the ^C that the terminal shows
        return say("stopped", STOPPED)
    except BrokenPipeError:
        return silenced(NO_READER)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich leaves so
            return silenced(NO_READER)
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        return silenced(say("the output could not be written: no space is left there", WRONG))


def run(words: Sequence[str]) -> int:
    """Hand over to click; the exit status. Raises MissingExtra if it or rich is not installed."""
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(what="the command line", packages=" and ".join(missing), extra="cli")
    import click

    from tracejit.cli import mistakes
    from tracejit.cli.root import tracejit

    if f"_{NAME}_COMPLETE".upper() in os.environ:
        tracejit.main(list(words), prog_name=NAME)
    try:
        # Not by its main(), which has manners of its own for Ctrl-C and broken pipes.
        with tracejit.make_context(NAME, list(words)) as context:
            tracejit.invoke(context)
    except click.exceptions.Exit as end:
        return int(end.exit_code)
    except click.Abort:
        return say("stopped", STOPPED)
    except mistakes.NoWords as error:  # its message is the help
        click.echo(error.format_message(), err=True)
        return MISTAKE
    except click.ClickException as error:
        return say(mistakes.sentence(error, tracejit, words), MISTAKE)
    except TracejitError as error:
        return say(mistakes.advised(error), MISTAKE)
    return 0


def say(text: str, code: int) -> int:
    """One line on standard error; gives `code` back."""
    print(f"{NAME}: {' '.join(text.split())}", file=sys.stderr)
    return code


def silenced(code: int) -> int:
    """Let the interpreter write what is left to nowhere at its end; gives `code` back."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def one_line(others: Callable[..., Any]) -> Callable[..., Any]:
    """What shows a warning: ours as one line, those of others as before."""

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, TracejitWarning):
            say(f"warning: {message}", 0)
        else:
            others(message, category, *where, **more)

    return show
