"""The commands `tracejit cache ls` and `show`; the others are in `health` and `upkeep`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem
from rich.console import Console

from tracejit.cli.cache import describe, health, parts, show, upkeep
from tracejit.cli.cache.filters import SORTS, chosen
from tracejit.cli.cache.index import OK, SHORT, Entry, absent, opened, read
from tracejit.cli.columns import Column, print_columns
from tracejit.cli.terminal import (
    Size,
    Span,
    console,
    directory_option,
    json_option,
    print_json,
    source,
)
from tracejit.runtime.cache import Cache
from tracejit.runtime.upkeep import KINDS
from tracejit.runtime.words import seconds_words, size_words

EXAMPLES = """\b
Examples:
  tracejit cache ls                                what is there, used last first
  tracejit cache ls --kind kernels --sort size     which kernels are large
  tracejit cache show 3fa9                         one entry; its key may be shortened
  tracejit cache stats                             how much of what
  tracejit cache verify                            read every byte
  tracejit cache prune --older-than 30d --dry-run  what has not been used for a month
"""


@click.group(epilog=EXAMPLES)
def cache() -> None:
    """Look at the disk cache, check it, make room.

    It holds kernels, plans (which call kernels and the library), and records (guards that lead to
    a plan)."""


kind_option = click.option("--kind", type=click.Choice(KINDS), help="Only entries of this kind.")

LS = """\b
Examples:
  tracejit cache ls --model GPT --sort size        one model, large entries first
  tracejit cache ls --target 'cuda:*' --unused     for GPUs, found by no process
  tracejit cache ls --kernel softmax --newer-than 1h
  tracejit cache ls --json | jq -r '.entries[].key'

\b
TEXT is a part of the name, or a glob for all of it ('*.Block.*'), case apart.
SPAN is 90s, 10min, 12h, 7d or 2w. SIZE is 500, 20KB or 1.5GiB.

\b
JSON: one object with
  directory  the cache's directory
  total      {"entries", "bytes"} of all that is there
  entries    [{"kind", "key", "function", "name", "what", "target", "bytes", "hits", "state",
             "why", "models", "used", "written"}] as filtered and sorted: kind is kernels, plans
             or records; function is the folder of a record; hits counts processes that found the
             entry; state is ok, damaged or other format, and why says what is wrong; models are
             the functions that lead here; used and written are times in ISO 8601 (written null
             where the file does not say)
"""


@cache.command(epilog=LS)
@kind_option
@click.option("--model", metavar="TEXT", help="Only what calls of this function use.")
@click.option("--kernel", metavar="TEXT", help="Only kernels of this name, and what uses them.")
@click.option("--target", metavar="TEXT", help="Only entries for this target.")
@click.option("--older-than", type=Span(), metavar="SPAN", help="Not used for so long.")
@click.option("--newer-than", type=Span(), metavar="SPAN", help="Used since.")
@click.option("--larger-than", type=Size(), metavar="SIZE", help="Files of more bytes.")
@click.option("--smaller-than", type=Size(), metavar="SIZE", help="Files of fewer bytes.")
@click.option(
    "--min-hits", type=click.IntRange(0), metavar="N", help="Found so often by processes."
)
@click.option("--unused", is_flag=True, default=None, help="Found by no process.")
@click.option("--sort", type=click.Choice(list(SORTS)), default="used", help="Default: used.")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="The first N only.")
@directory_option
@json_option
def ls(
    directory: Path | None,
    as_json: bool,
    sort: str,
    reverse: bool,
    limit: int | None,
    **filters: Any,
) -> None:
    """List what is stored. Reads the first lines of each file only."""
    index = opened(directory)
    found = chosen(index, time.time(), **filters)
    found = sorted(found, key=SORTS[sort], reverse=reverse)[:limit]
    total = {"entries": len(index), "bytes": sum(entry.bytes for entry in index)}
    if as_json:
        entries = [entry.to_json() for entry in found]
        print_json({"directory": str(index.directory), "total": total, "entries": entries})
        return
    if absent(index):
        return
    out = console()
    if found:
        _print_entries(out, found)
    of = "" if len(found) == len(index) else f" of {len(index):,}"
    shown = size_words(sum(entry.bytes for entry in found))
    out.print(f"{len(found):,}{of} entries, {shown} in {index.directory}", soft_wrap=True)


_COLUMNS = (
    Column("kind"),
    Column("key"),
    Column("what", cut="end"),
    Column("model", cut="start"),
    Column("target", cut="end"),
    *(Column(title, right=True) for title in ("size", "hits", "used", "written")),
)


def _print_entries(out: Console, entries: list[Entry]) -> None:
    rows, now = [], time.time()
    for e in entries:
        what = e.what if e.state == OK else f"{e.state}: {e.why}"
        written = "" if e.written is None else seconds_words(now - e.written)
        facts = (size_words(e.bytes), f"{e.hits:,}", seconds_words(now - e.used), written)
        rows.append((e.kind[:-1], e.short, what, e.model, e.target, *facts))
    red = [number for number, entry in enumerate(entries) if entry.state != OK]
    print_columns(out, _COLUMNS, rows, red)


SHOW = """\b
Examples:
  tracejit cache show 3fa9                     everything about an entry, then its source
  tracejit cache show add_softmax --source     a kernel by its name, only its text
  tracejit cache show 3fa9 --ptx > kernel.ptx  one text, ready for a pipe
  tracejit cache show 3fa9 --sass | less       the machine code, disassembled
  tracejit cache show b0 --kind plans --graph  the graph, as recorded and after the passes

\b
JSON: one object with the fields of an entry of `ls`, and
  about       the same lines as are printed
  written_by  {"time", "pid", "host", "program", "environment"}
  fields      what is stored, but texts and guards
  kernel      of a kernel: {"name", "target", "strategy", "programs", "warps", "stages", "tiles",
              "parameters", "reads", "writes", "machine_code"}; null for others
  lines       of a kernel: the model's lines in it
  plan        the plan, or the plan used last that leads here or that the record leads to:
              {"key", "launches", "calls", "inputs", "outputs", "bytes", "captured", "kernels",
              "library", "stages"}, null if there is none; kernels is a list of {"name", "key",
              "stored", "launches", "bytes", "share", "registers", "spills", "compile_seconds",
              "lines"}
  record      the key of the record used last that leads to the plan
  guards      that record's guards as sentences
  texts       {"kernel.py": ..., "assembly": ...} or {"plan.py": ..., "graph.txt": ...}; with
              --source, --graph, --ptx, --sass also "source", "graph.txt", "assembly", "sass"
  used_by     [{"kind", "key", "what", "model"}]: plans with a kernel, records that lead to a plan
"""


def completions(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Keys that begin so, with what they are."""
    store = Cache(ctx.params.get("directory")).store
    found = []
    for file in store.files(ctx.params.get("kind") or ""):
        if file.key.rpartition("/")[2].startswith(incomplete):
            with contextlib.suppress(FileNotFoundError):
                entry = read(store, file)
                length = max(SHORT, len(incomplete))
                about = f"{entry.kind[:-1]} {entry.name}".rstrip()
                found.append(CompletionItem(entry.own_key[:length], help=about))
    return found


@cache.command("show", epilog=SHOW)
@click.argument("key", shell_complete=completions)
@kind_option
@click.option("--source", is_flag=True, help="Only the source.")
@click.option("--graph", is_flag=True, help="Only the graph of its plan.")
@click.option("--ptx", is_flag=True, help="Only a kernel's assembly (PTX, amdgcn, or the CPU's).")
@click.option("--sass", is_flag=True, help="Only a kernel's machine code, disassembled.")
@directory_option
@json_option
def show_entry(
    key: str, kind: str | None, directory: Path | None, as_json: bool, **wanted: bool
) -> None:
    """Show one entry in full.

    What it is, where its time and bytes go, the guards that lead to it, who wrote it and when, its
    source. KEY is any beginning of a key, or of a name, that no other entry has."""
    index = opened(directory)
    found = describe.subject(index, index.find(key, kind))
    texts = {name: parts.PARTS[name].text(found) for name, asked in wanted.items() if asked}
    if as_json:
        named = {parts.PARTS[name].file: text for name, text in texts.items()}
        document = describe.document(found, {**parts.stored(found), **named})
        print_json({"about": show.about(found), **document})
    elif texts:
        _print_texts(console(), texts)
    else:
        out = console()
        show.print_rows(out, found)
        out.print()
        if found.entry.kind != "records":
            source(out, parts.source(found))


def _print_texts(out: Console, texts: dict[str, str]) -> None:
    """One text as it is; several each under its name."""
    for name, text in texts.items():
        if len(texts) > 1:
            out.print(f"{'' if name == next(iter(texts)) else chr(10)}# {name}")
        source(out, text, parts.PARTS[name].language)


for command in (health.stats_command, health.verify, upkeep.prune, upkeep.clear):
    cache.add_command(command)
