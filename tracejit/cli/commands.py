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
    "  tracejit cache ls --json\n\n"
    '\b\nJSON: a list of {"kind", "key", "what", "bytes", "used"}.'
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


SHOW = """\b
Examples:
  tracejit cache show 3fa9              a key may be shortened
  tracejit cache show 3fa9 --assembly   a kernel's machine code as text
  tracejit cache show 3fa9 --json

\b
JSON: one object with
  kind      kernels, plans or records
  key       the whole key
  about     lines in words: sizes, registers, spills
  fields    what is stored, but texts and guards
  guards    a record's guards as sentences
  texts     {"kernel.py": ..., "assembly": ...} or {"plan.py": ...}
  used_by   [{"kind", "key", "what"}]: plans with a kernel, records that lead to a plan
"""


@cache.command(epilog=SHOW)
@click.argument("key")
@_directory
@_json
@click.option("--assembly", is_flag=True, help="Show a kernel's assembly too.")
def show(key: str, directory: Path | None, as_json: bool, assembly: bool) -> None:
    """Show one entry: a plan's or kernel's source, a record's guards. KEY may be any unique
    beginning of its key."""
    found = listing.entry(Cache(directory), key)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    if not assembly and "assembly" in found["texts"]:
        lines = found["texts"].pop("assembly").count("\n")
        found["about"].append(f"assembly: {lines} lines (--assembly shows them)")
    _print(found, Console())


def _print(found: dict[str, Any], console: Console) -> None:
    """For people; source is coloured where the output is a terminal."""
    lines = [f"{found['kind'].removesuffix('s')} {found['key']}"]
    lines += [f"  {line}" for line in found["about"]]
    lines += [f"  used by {u['kind'][:-1]} {u['key'][:12]} {u['what']}" for u in found["used_by"]]
    if found["kind"] == "records":
        lines += [f"  {line}" for line in found["guards"]]
        lines.append(f"  outputs: {json.dumps(found['fields']['outputs'])}")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    for name, text in found["texts"].items():
        console.print(f"\n{name}", highlight=False)
        if not console.is_terminal:
            click.echo(text)
            continue
        language = "python" if name.endswith(".py") else "text"
        console.print(Syntax(text, language, background_color="default", word_wrap=True))
