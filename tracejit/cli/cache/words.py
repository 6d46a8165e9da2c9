"""An entry of the cache in words: labelled lines that say what a kernel, a plan or a record is, and
where its time and bytes go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tracejit.cli.cache.describe import (
    Subject,
    kernel_facts,
    model_lines,
    plan_facts,
    plan_kernels,
)
from tracejit.cli.cache.index import SHORT, Entry
from tracejit.runtime.words import few, plural, size_words, times

MOST_USERS = 4
MOST_OPS = 8
Row = tuple[str, str]  # label and line; consecutive rows of a label show it once


def _kernel(found: Subject) -> Iterator[Row]:
    facts, entry = kernel_facts(found.item), found.entry
    yield "what", f"{facts['name']} for {facts['target']}" + _and(facts["strategy"])
    if entry.models:
        yield "of", entry.model
    for line in model_lines(found):
        yield "lines", line
    if not facts["target"].startswith("native:"):  # which has threads, as many as there are
        yield "launch", _launch(facts)
    for line in _parameters(facts["parameters"]):
        yield "parameters", line
    yield "bytes", f"reads {_size(facts['reads'])}, writes {_size(facts['writes'])} in a launch"
    yield "code", _machine_code(facts["machine_code"])
    yield from _uses(found)


def _launch(facts: dict[str, Any]) -> str:
    tiles = ", ".join(f"{name} = {value}" for name, value in facts["tiles"].items())
    return (
        f"{plural(facts['programs'], 'program')} of {plural(facts['warps'], 'warp')}, "
        f"{plural(facts['stages'], 'stage')}{'; ' + tiles if tiles else ''}"
    )


def _and(words: str) -> str:
    return f": {words}" if words else ""


def _size(count: int | None) -> str:
    """`16.0 MiB (16,777,216 bytes)`; small ones in bytes only."""
    if count is None:
        return "unknown"
    exact = f"{count:,} bytes"
    return exact if count < 1024 else f"{size_words(count)} ({exact})"


def _parameters(parameters: list[dict[str, Any]]) -> list[str]:
    """One line each, in columns."""
    cells = [
        (
            p["name"],
            p["type"],
            "" if p["elements"] is None else plural(p["elements"], "element"),
            "" if p["bytes"] is None else size_words(p["bytes"]),
            "written" if p["written"] else "read",
        )
        for p in parameters
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = (True, True, False, False, True)
    return [
        "  ".join(
            cell.ljust(width) if lean else cell.rjust(width)
            for cell, width, lean in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]


def _machine_code(code: dict[str, Any] | None) -> str:
    if code is None:
        return "none: it runs from its source"
    lighter = ", with lighter tiles because the first ones spilled" if code["lighter_tiles"] else ""
    facts = [f"{size_words(code['bytes'])} of {code['kind']}"]
    if code["registers"] is not None:
        facts += [plural(code["registers"], "register"), f"{code['spills']} spilled"]
        facts.append(f"{size_words(code['shared'])} of shared memory")
    return f"{', '.join(facts)}, compiled in {code['seconds'] * 1e3:.0f} ms{lighter}"


def _uses(found: Subject) -> Iterator[Row]:
    """A kernel's place in the plans that use it: launches, bytes and share in the one used last."""
    plans = found.index.above(found.entry)
    if not plans:
        yield "plans", "none uses it"
    if found.plan is not None:
        row = next(
            (r for r in plan_kernels(found.index, found.plan) if r["key"] == found.entry.key), None
        )
        entry, launches = found.plan.entry, found.plan.item.fields["manifest"]["launches"]
        words = _in_plan(row, launches) if row is not None else ""
        yield "plans", f"{entry.short} {entry.model}{words}"
        plans = [plan for plan in plans if plan is not found.plan.entry]
    yield from _some("plans", plans)


def _in_plan(row: dict[str, Any], launches: int) -> str:
    """What part of a plan a kernel is, if the plan's report says so."""
    if row["launches"] is None:
        return ""
    words = f": {row['launches']:,} of its {plural(launches, 'launch')}, "
    share = "" if row["share"] is None else f", {row['share']:.0%} of its kernels' bytes"
    return f"{words}{size_words(row['bytes'] or 0)}{share}"


def _named(entry: Entry) -> str:
    what = plural(entry.hits, "hit") if entry.kind == "records" else entry.what
    return f"{entry.short} {entry.model or entry.name}".rstrip() + f" ({what})"


def _some(label: str, entries: list[Entry]) -> Iterator[Row]:
    for entry in entries[:MOST_USERS]:
        yield label, _named(entry)
    if len(entries) > MOST_USERS:
        yield label, f"and {len(entries) - MOST_USERS} more"


def _plan(found: Subject) -> Iterator[Row]:
    facts, entry = plan_facts(found), found.entry
    yield "what", f"{entry.name or 'a plan'} for {entry.target or 'an unknown target'}"
    if entry.models and entry.models != (entry.name,):
        yield "of", entry.model
    yield from _plan_rows(found, facts)
    records = found.index.above(entry)
    if not records:
        yield "records", "none leads to it"
    yield from _some("records", records)


def _plan_rows(found: Subject, facts: dict[str, Any]) -> Iterator[Row]:
    """What a plan does, for a plan and for the records that lead to it."""
    moved = facts["bytes"]
    kernels = plural(len(facts["kernels"]), "kernel")
    yield (
        "does",
        f"{plural(facts['launches'], 'launch')} of {kernels}, "
        f"{plural(facts['calls'], 'library call')}",
    )
    if moved:
        yield (
            "bytes",
            f"kernels read {_size(moved['read'])}, write {_size(moved['written'])}; buffers take "
            f"{size_words(moved['peak'])} at most",
        )
    if facts["captured"]:
        yield "captured", _counted(facts["captured"])
    for op, lines in _grouped(facts["library"]).items():
        yield "library", f"{op}{times(len(lines))}: {'; '.join(few(lines, MOST_USERS))}"
    if facts["stages"]:
        total = sum(stage["seconds"] for stage in facts["stages"])
        slow = sorted(facts["stages"], key=lambda s: -s["seconds"])[:5]
        each = ", ".join(f"{s['name']} {s['seconds'] * 1e3:.1f} ms" for s in slow)
        yield "compiler", f"{total * 1e3:.1f} ms in {len(facts['stages'])} stages: {each}"


def _counted(counts: dict[str, int]) -> str:
    often = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = ", ".join(f"{op}{times(n)}" for op, n in often[:MOST_OPS])
    more = len(often) - MOST_OPS
    total = plural(sum(counts.values()), "operation")
    return f"{total}: {words}" + (f", and {more} more kinds" if more > 0 else "")


def _grouped(library: list[dict[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for call in library:
        groups.setdefault(call["op"], []).append(call["line"])
    return groups


def _record(found: Subject) -> Iterator[Row]:
    yield "what", f"guards of {found.entry.name} that lead to plan {found.entry.leads[0][:SHORT]}"
    if found.plan is None:
        yield "plan", "not in the cache: a call that fulfils the guards is traced and compiled anew"
        return
    yield "plan", _named(found.plan.entry) + _and(f"for {found.plan.entry.target}")
    yield from _plan_rows(found, plan_facts(found))


HEADS: dict[str, Callable[[Subject], Iterator[Row]]] = {
    "kernels": _kernel,
    "plans": _plan,
    "records": _record,
}
