"""The commands: `tracejit cache ls` and `tracejit cache show KEY`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from tracejit.cli import listing
from tracejit.runtime.cache import VERSION, Cache
from tracejit.runtime.store import KINDS

EXAMPLES = """\b
Examples:
  tracejit cache ls
  tracejit cache ls --kind plans --json
  tracejit cache show 3fa9
"""


@click.group(epilog=EXAMPLES)
@click.version_option(VERSION, prog_name="tracejit")
def tracejit() -> None:
    """Look at what tracejit compiled."""


@tracejit.group(epilog=EXAMPLES)
def cache() -> None:
    """The disk cache: kernels, plans, and records (guards that lead to a plan)."""


_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="The cache's directory (default: TRACEJIT_CACHE_DIR, else the platform's).",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cache.command(
    epilog="\b\nExamples:\n  tracejit cache ls\n  tracejit cache ls --kind kernels\n"
    "  tracejit cache ls --json"
)
@_directory
@_json
@click.option("--kind", type=click.Choice(KINDS), help="Only entries of this kind.")
def ls(directory: Path | None, as_json: bool, kind: str | None) -> None:
    """List what is stored, used last first."""
    found = Cache(directory)
    rows = listing.rows(found, kind)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    console = Console()
    table = Table("kind", "key", "what", "bytes", "last used", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["kind"], row["key"][:12], row["what"], str(row["bytes"]), row["used"])
    console.print(table)
    total = sum(row["bytes"] for row in rows)
    console.print(f"{len(rows)} entries, {total} bytes in {found.store.directory}", soft_wrap=True)


@cache.command(
    epilog="\b\nExamples:\n  tracejit cache show 3fa9      a key may be shortened\n"
    "  tracejit cache show 3fa9 --json"
)
@click.argument("key")
@_directory
@_json
def show(key: str, directory: Path | None, as_json: bool) -> None:
    """Show one entry: a plan's or kernel's source, a record's guards. KEY may be any unique
    beginning of its key."""
    found = listing.entry(Cache(directory), key)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{found['kind']} {found['key']}", soft_wrap=True)
    for name, value in found["fields"].items():
        text = value if isinstance(value, str) else json.dumps(value)
        console.print(f"{name}: {text}", soft_wrap=True, markup=False, highlight=False)
    for line in found["guards"]:
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
    for name, text in found["texts"].items():
        console.print()
        console.print(name)
        language = "python" if name.endswith(".py") else "text"
        console.print(Syntax(text, language, background_color="default"))
