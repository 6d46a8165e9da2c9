"""Which entries a command is about, and in which order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from tracejit.cli.cache.index import Entry

# By the option's name; each is given the option's value and the time now.
FILTERS: dict[str, Callable[[Entry, Any, float], bool]] = {
    "kind": lambda entry, value, now: entry.kind == value,
    "model": lambda entry, value, now: any(like(value, model) for model in entry.models),
    "kernel": lambda entry, value, now: any(like(value, name) for name in entry.kernels),
    "target": lambda entry, value, now: like(value, entry.target),
    "older_than": lambda entry, value, now: now - entry.used > value,
    "newer_than": lambda entry, value, now: now - entry.used <= value,
    "larger_than": lambda entry, value, now: entry.bytes > value,
    "smaller_than": lambda entry, value, now: entry.bytes < value,
    "min_hits": lambda entry, value, now: entry.hits >= value,
    "unused": lambda entry, value, now: not value or entry.hits == 0,
}

SORTS: dict[str, Callable[[Entry], Any]] = {
    "used": lambda entry: -entry.used,
    "written": lambda entry: -(entry.written or 0.0),
    "size": lambda entry: -entry.bytes,
    "hits": lambda entry: -entry.hits,
    "name": lambda entry: entry.name,
    "model": lambda entry: entry.model,
    "target": lambda entry: entry.target,
}


def like(pattern: str, text: str) -> bool:
    """Whether a text matches a glob as a whole, or contains a pattern that is none; case apart."""
    pattern, text = pattern.lower(), text.lower()
    return fnmatchcase(text, pattern) if re.search(r"[*?[]", pattern) else pattern in text


def chosen(entries: Iterable[Entry], now: float, **options: Any) -> list[Entry]:
    """The entries that every given option (not None) lets through."""
    given = [(FILTERS[name], value) for name, value in options.items() if value is not None]
    return [entry for entry in entries if all(holds(entry, v, now) for holds, v in given)]
