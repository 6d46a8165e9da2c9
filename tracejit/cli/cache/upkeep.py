"""The commands `tracejit cache prune` and `clear`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from tracejit.cli.cache.index import Index, absent, opened
from tracejit.cli.cache.removal import Removal
from tracejit.cli.cache.wishes import Wish, everything, select
from tracejit.cli.terminal import Size, Span, console, directory_option, json_option, print_json
from tracejit.runtime.errors import TracejitError
from tracejit.runtime.words import plural, size_words

PRUNE = """\b
Examples:
  tracejit cache prune                        down to the limit; what is of no use
  tracejit cache prune --max-size 500MB       what was used longest ago, until it fits
  tracejit cache prune --older-than 30d --dry-run
  tracejit cache prune --unused --older-than 1d
  tracejit cache prune --stale                after an upgrade of tracejit, torch or triton

\b
--older-than, --unused and --stale narrow each other, as the filters of ls do; the other options
add to what they select. Without options: down to TRACEJIT_CACHE_LIMIT, what leads to nothing,
leftovers of processes that ended, files set aside. A plan goes with its records, and with the
kernels that no other plan uses. A running process makes what it misses again.

\b
JSON: one object with
  directory       the cache's directory
  dry_run         true if nothing was removed
  entries, files  how many entries and other files
  bytes           what they took
  left            bytes of the entries that stay
  stuck           paths of files that could not be removed; if there are some, the exit status is 1
  removed         [{"kind", "key", "name", "bytes", "why"}]; kind is "" for other files
"""


@click.command(epilog=PRUNE)
@click.option("--max-size", type=Size(), metavar="SIZE", help="Used longest ago, until it fits.")
@click.option("--older-than", type=Span(), metavar="SPAN", help="Not used for so long.")
@click.option("--unused", is_flag=True, help="Found by no process.")
@click.option("--stale", is_flag=True, help="Written by other versions.")
@click.option("--damaged", is_flag=True, help="Damaged, or set aside as that.")
@click.option("--dangling", is_flag=True, help="What leads to what is not there.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@directory_option
@json_option
def prune(directory: Path | None, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Make room: remove what is old, unused or of no use."""
    index = opened(directory)
    removal = select(index, Wish(**options)) if index.directory.exists() else Removal(index)
    _carry_out(index, removal, as_json, dry_run)


CLEAR = """\b
Examples:
  tracejit cache clear                 asks first
  tracejit cache clear --yes
  tracejit cache clear --model GPT --yes

\b
TEXT is a part of the name, or a glob for all of it. Files that tracejit did not name stay.

\b
JSON: as of prune.
"""


@click.command(epilog=CLEAR)
@click.option("--model", metavar="TEXT", help="Only what no other function's calls use.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@directory_option
@json_option
def clear(directory: Path | None, as_json: bool, model: str | None, yes: bool) -> None:
    """Remove everything, or everything of one model."""
    index = opened(directory)
    removal = everything(index, model) if index.directory.exists() else Removal(index)
    if not yes and removal.files and not _agreed(index, removal):
        click.echo("nothing was removed", err=True)
        return
    _carry_out(index, removal, as_json, dry_run=False)


def _agreed(index: Index, removal: Removal) -> bool:
    """Ask. Raises TracejitError if there is nobody to ask."""
    if not attended():
        raise TracejitError(text="nobody is there to ask whether to clear the cache: add --yes")
    return click.confirm(f"Remove {_what(removal)} from {index.directory}?", err=True)


def attended() -> bool:
    """Whether somebody may answer a question."""
    return sys.stdin.isatty()


def _what(removal: Removal) -> str:
    """`3 kernels, 1 plan and 2 other files (1.2 MiB)`."""
    counts = Counter(entry.kind for entry in removal.entries)
    parts = [plural(count, kind[:-1]) for kind, count in sorted(counts.items())]
    if removal.extras:
        parts.append(plural(len(removal.extras), "other file"))
    words = ", ".join(parts[:-1]) + (" and " if parts[:-1] else "") + parts[-1]
    return f"{words} ({size_words(removal.bytes)})"


def _carry_out(index: Index, removal: Removal, as_json: bool, dry_run: bool) -> None:
    """Remove, and say what. Raises TracejitError for a directory that is another user's."""
    document: dict[str, Any] = {
        "directory": str(index.directory),
        "dry_run": dry_run,
        "entries": len(removal.entries),
        "files": len(removal.extras),
        "bytes": removal.bytes,
        "left": removal.left,
        "stuck": [],
        "removed": removal.to_json(),
    }
    if not dry_run and removal.files:
        _own(index.directory)
        document["bytes"] = removal.carry_out()
        document["stuck"] = [str(path) for path in removal.stuck()]
    if as_json:
        print_json(document)
    elif not absent(index):
        _print(index, removal, dry_run)
    if document["stuck"]:
        first, count = document["stuck"][0], plural(len(document["stuck"]), "file")
        click.echo(f"{count} cannot be removed, {first} for one", err=True)
        click.get_current_context().exit(1)


def _own(directory: Path) -> None:
    user = directory.stat().st_uid
    if hasattr(os, "getuid") and user != os.getuid():
        text = f"{directory} belongs to user {user}: nothing is removed from it"
        raise TracejitError(text=text)


def _print(index: Index, removal: Removal, dry_run: bool) -> None:
    """What goes and why, by reason; the totals."""
    out = console()
    if not removal.files:
        out.print(f"nothing to remove in {index.directory}", soft_wrap=True)
        return
    for why, names in removal.by_reason().items():
        out.print(f"{why}: {names}", soft_wrap=True)
    verb = "would remove" if dry_run else "removed"
    left = f"{size_words(removal.left)} left in {index.directory}"
    out.print(f"{verb} {_what(removal)}; {left}", soft_wrap=True)
