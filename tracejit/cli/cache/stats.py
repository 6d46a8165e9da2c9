"""What a cache holds in total."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from tracejit.cli.cache.audit import leftovers, set_aside
from tracejit.cli.cache.index import DAMAGED, Entry, Index
from tracejit.cli.cache.removal import Extra
from tracejit.cli.cache.wishes import stale
from tracejit.cli.terminal import time_text
from tracejit.runtime.config import config
from tracejit.runtime.upkeep import KINDS


def document(index: Index) -> dict[str, Any]:
    """The JSON of `stats`."""
    directory, entries = index.directory, list(index)
    extras = {"set_aside": set_aside(index.store), "leftovers": leftovers(index.store)}
    taken = sum(e.bytes for e in entries) + sum(x.bytes for xs in extras.values() for x in xs)
    written = [entry.written for entry in entries if entry.written is not None]
    used = [entry.used for entry in entries]
    return {
        "directory": str(directory),
        "entries": len(entries),
        "bytes": taken,
        "limit": config.cache_limit,
        "share": taken / config.cache_limit if config.cache_limit else None,
        "free": shutil.disk_usage(directory).free if directory.exists() else None,
        "hits": sum(entry.hits for entry in entries if entry.kind == "records"),
        "oldest": _time(min(written, default=None)),
        "newest": _time(max(written, default=None)),
        "used": _time(max(used, default=None)),
        "kinds": {kind: _total(e for e in entries if e.kind == kind) for kind in KINDS},
        "targets": _groups(entries, lambda entry: (entry.target,)),
        "models": _groups(entries, lambda entry: entry.models),
        "stale": _total(filter(stale, entries)),
        "damaged": _total(entry for entry in entries if entry.state == DAMAGED),
        **{name: _files(files) for name, files in extras.items()},
    }


def _time(timestamp: float | None) -> str | None:
    return None if timestamp is None else time_text(timestamp)


def _total(entries: Iterable[Entry]) -> dict[str, int]:
    found = list(entries)
    return {"entries": len(found), "bytes": sum(entry.bytes for entry in found)}


def _files(extras: list[Extra]) -> dict[str, int]:
    return {"files": len(extras), "bytes": sum(extra.bytes for extra in extras)}


def _groups(
    entries: list[Entry], names: Callable[[Entry], tuple[str, ...]]
) -> dict[str, dict[str, Any]]:
    """Totals by name, the largest first. An entry of two names counts for both."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        for name in names(entry):
            if name:
                groups[name].append(entry)
    totals: dict[str, dict[str, Any]] = {
        name: {
            **_total(group),
            "hits": sum(entry.hits for entry in group if entry.kind == "records"),
            "used": time_text(max(entry.used for entry in group)),
        }
        for name, group in groups.items()
    }
    return dict(sorted(totals.items(), key=lambda item: (-item[1]["bytes"], item[0])))
