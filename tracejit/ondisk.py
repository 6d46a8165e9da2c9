"""What the disk cache holds for a function that is not called: the same report as explain's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracejit.report import EntryReport, Explanation, guard_fields, plan_fields
from tracejit.runtime import cache
from tracejit.runtime.files import Damaged, Item
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.identity import describe, first_code, named_key
from tracejit.runtime.upkeep import File
from tracejit.runtime.words import plural

NUMERICS = ("eager", "fast")


def on_disk(function: Callable[..., Any], target: str = "") -> Explanation:
    """The stored records of a function, for one target or all, used last first; those that calls
    can reach now before those of other code or versions.

    A record written by a program that was run as a script is found too: there the function's module
    is called `__main__`.
    """
    store = cache.shared().store
    name = describe(function)
    names = {name, f"__main__.{name.rpartition('.')[2]}"}
    reachable: list[EntryReport | None] = []
    others: list[EntryReport | None] = []
    for file in sorted(store.files("records"), key=lambda file: -file.used):
        item = _peek(file)
        if item is None or item.fields.get("summary") not in names:
            continue
        environment = item.written.get("environment", {})
        if target in ("", environment.get("target", "")):
            now = _reachable(file, item, function, environment.get("target", ""))
            (reachable if now else others).append(_report(file, now))
    found = [entry for entry in (*reachable, *others) if entry is not None]
    return Explanation(name, "", found, [])


def _peek(file: File) -> Item | None:
    """The record's fields; None if it is gone or damaged."""
    try:
        return cache.shared().store.peek(file.kind, file.key)
    except (OSError, Damaged):
        return None


def _reachable(file: File, item: Item, function: Callable[..., Any], target: str) -> bool:
    """Whether a call of the function looks at this record: its folder is the function's key."""
    folder, code = file.key.partition("/")[0], first_code(function)
    name = item.fields["summary"]
    return any(folder == named_key(name, code, target, numerics) for numerics in NUMERICS)


def _report(file: File, now: bool) -> EntryReport | None:
    """The record and its plan; None if part of them is gone or damaged. Nothing is set aside."""
    store, key = cache.shared().store, file.key.partition("/")[2]
    try:
        record = cache.record_from(key, store.inspect("records", file.key))
        item = store.inspect("plans", record.plan)
        kernels = {
            name: cache.kernel_from(kernel, store.inspect("kernels", kernel))
            for name, kernel in item.fields["kernels"].items()
        }
        stored = cache.plan_from(record.plan, item, kernels)
        guards = GuardSet.from_json(record.guards)
        program = cache.report_from(item)
    except (OSError, KeyError, TypeError, ValueError):
        return None
    target = stored.manifest.get("title", "").rpartition(" for ")[2]
    fields = {**plan_fields(stored, key), **guard_fields(guards)}
    notes = f"{plural(fields['hits'], 'process')} started with it"
    notes += "" if now else "; of other code or another version, so that no call reaches it now"
    state = f"plan {record.plan[:12]} for {target} ({notes})"
    return EntryReport("stored", state, target, program=program, **fields)
