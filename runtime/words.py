"""Counts, sizes and times in words, for everything that people read."""

from __future__ import annotations

from collections.abc import Iterable


def plural(count: int, noun: str) -> str:
    """`1 kernel`, `3 launches`, `2 entries`, `20,480 elements`."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("ry"):
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}{'es' if noun.endswith(('ch', 's')) else 's'}"


def size_words(count: float) -> str:
    """`812 B`, `4.1 KiB`, `3.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def seconds_words(seconds: float) -> str:
    """`3 s`, `12 min`, `5 h`, `8 d`; a time in the future (a clock that jumped) is `0 s`."""
    seconds = max(seconds, 0.0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def times(count: int) -> str:
    """` x3`; nothing for once."""
    return f" x{count}" if count > 1 else ""


def few(words: Iterable[str], most: int) -> list[str]:
    """The first few different ones, and how many more there are."""
    different = [word for word in dict.fromkeys(words) if word]
    more = len(different) - most
    return different[:most] + ([f"and {more} more"] if more > 0 else [])
