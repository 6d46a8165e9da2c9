"""`cache show` for people: an entry as labelled lines, and a table of a plan's kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from tracejit.cli.cache.describe import Subject, guard_lines, plan_kernels
from tracejit.cli.cache.index import SHORT, timestamp
from tracejit.cli.cache.words import HEADS, Row
from tracejit.cli.columns import Column, print_columns
from tracejit.runtime.words import seconds_words, size_words

MOST_GUARDS = 12  # tensor guards in full where a record is not what was asked for

# Guards that are counted beside the quiet ones (tracejit.sentences), by the check's name.
_COUNTED = {
    "const": "constants",
    "container": "containers",
    "function": "functions' code",
    "is": "objects",
    "same": "objects met twice",
}


def rows(found: Subject) -> list[Row]:
    """Everything about an entry but its texts and tables."""
    return [*HEADS[found.entry.kind](found), *_guards(found), *_life(found)]


def about(found: Subject) -> list[str]:
    """The same as plain lines."""
    return [f"{label}: {line}" for label, line in rows(found)]


def _guards(found: Subject) -> Iterator[Row]:
    """Tensors first and in words. Of a record all; else others are counted."""
    if found.record is None:
        return
    entry, fields = found.record.entry, found.record.item.fields
    lines, checks = guard_lines(fields["guards"])
    if not lines:
        yield "guards", f"of record {entry.short}: this version cannot read them"
        return
    tensors = [line for line, check in zip(lines, checks) if check == "tensor"]
    others = [line for line, check in zip(lines, checks) if check != "tensor"]
    whole = found.entry.kind == "records"
    if not whole:
        yield "guards", f"of record {entry.short}, by which {entry.name} comes here:"
    for line in tensors if whole else tensors[:MOST_GUARDS]:
        yield "guards", line
    if whole:
        yield from (("guards", line) for line in others)
        return
    from tracejit.sentences import QUIET  # imports torch, as the guards' words did

    counted = sorted({**_COUNTED, **QUIET}.items())
    counts = {words: checks.count(check) for check, words in counted if check in checks}
    more = [f"{len(tensors) - MOST_GUARDS} more tensors"] if len(tensors) > MOST_GUARDS else []
    more += [f"{words} ({count})" for words, count in counts.items()]
    if more:
        yield "guards", f"and {', '.join(more)}"


def _life(found: Subject) -> Iterator[Row]:
    """Who wrote it and when, how often and when it was used."""
    entry, written, now = found.entry, found.item.written, time.time()
    by = f"{written.get('program') or 'a program'}, process {written.get('pid')} on "
    when = timestamp(written.get("time"))
    if when is not None:
        yield (
            "written",
            f"{seconds_words(now - when)} ago ({written['time']}) by {by}{written.get('host')}",
        )
    environment = written.get("environment", {})
    names = ("tracejit", "torch", "triton", "python", "machine", "numerics")
    versions = [
        f"{name} {environment[name].partition(' ')[0] if name == 'torch' else environment[name]}"
        for name in names
        if environment.get(name)
    ]
    if versions:
        yield "with", ", ".join(versions)
    often = "once" if entry.hits == 1 else f"{entry.hits:,} times"
    hits = f"found by processes {often}" if entry.hits else "no process found it yet"
    yield "used", f"{hits}; last used {seconds_words(now - entry.used)} ago"
    folder = found.index.store.path(entry.kind, entry.key).parent
    yield "file", f"{size_words(entry.bytes)} in {folder}"


def print_rows(out: Console, found: Subject) -> None:
    """The entry's key, its lines under their labels, and a plan's table of kernels."""
    entry, before = found.entry, ""
    out.print(Text(f"{entry.kind[:-1]} {entry.own_key}", "bold"), soft_wrap=True)
    for label, line in rows(found):
        head = "" if label == before else label
        out.print(Text.assemble((f"  {head:<12}", "cyan"), line), soft_wrap=True)
        before = label
    if entry.kind != "kernels" and found.plan is not None:
        print_kernels(out, plan_kernels(found.index, found.plan))


_COLUMNS = (
    Column("kernel"),
    Column("name", cut="end"),
    *(
        Column(title, right=True)
        for title in ("launches", "bytes", "share", "registers", "spills", "compile")
    ),
)


def print_kernels(out: Console, kernels: list[dict[str, Any]]) -> None:
    """A plan's kernels, those that move most bytes first."""
    if kernels:
        out.print()
        rows = [(row["key"][:SHORT], row["name"], *_cells(row)) for row in kernels]
        print_columns(out, _COLUMNS, rows)


def _cells(row: dict[str, Any]) -> list[str]:
    def cell(name: str, words: Callable[[Any], str]) -> str:
        return "" if row[name] is None else words(row[name])

    compiled = cell("compile_seconds", lambda seconds: f"{seconds * 1e3:.0f} ms")
    return [
        cell("launches", str),
        cell("bytes", size_words),
        cell("share", lambda share: f"{share:.0%}"),
        cell("registers", str),
        cell("spills", str),
        compiled if row["stored"] else "missing",
    ]
