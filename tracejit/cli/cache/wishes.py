"""What `cache prune` and `cache clear` select."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tracejit.cli.cache.audit import dangling, leftovers, measured, set_aside
from tracejit.cli.cache.filters import chosen
from tracejit.cli.cache.index import DAMAGED, OK, Entry, Index
from tracejit.cli.cache.removal import Removal
from tracejit.runtime.cache import environment
from tracejit.runtime.config import config
from tracejit.runtime.words import seconds_words


@dataclass(frozen=True)
class Wish:
    """The options of `prune`."""

    max_size: int | None = None
    older_than: float | None = None
    unused: bool = False
    stale: bool = False
    damaged: bool = False
    dangling: bool = False

    @property
    def default(self) -> bool:
        """Whether no option was given."""
        return self == Wish()


def select(index: Index, wish: Wish, now: float | None = None) -> Removal:
    """What a prune with these options removes."""
    removal, now = Removal(index), time.time() if now is None else now
    if wish.unused or wish.stale or wish.older_than is not None:
        for entry in _old(index, wish, now):
            removal.take(entry, _why(wish))
    if wish.dangling or wish.default:
        for entry in index:
            if why := dangling(index, entry):
                removal.take(entry, why)
    if wish.damaged or wish.default:
        for entry in [entry for entry in index if entry.state == DAMAGED]:
            removal.take(entry, entry.why)
        removal.add(set_aside(index.store))
    if wish.default:
        removal.add(leftovers(index.store))
    if wish.max_size is not None or wish.default:
        removal.down_to(config.cache_limit if wish.max_size is None else wish.max_size)
    return removal


def _old(index: Index, wish: Wish, now: float) -> list[Entry]:
    """The entries for which all that was asked holds."""
    unused = True if wish.unused else None
    found = chosen(index, now, unused=unused, older_than=wish.older_than)
    return [entry for entry in found if stale(entry)] if wish.stale else found


def _why(wish: Wish) -> str:
    words = ["no process found it"] if wish.unused else []
    words += ["of other versions"] if wish.stale else []
    if wish.older_than is not None:
        words.append(f"not used for {seconds_words(wish.older_than)}")
    return ", ".join(words)


def stale(entry: Entry) -> bool:
    """Whether this version cannot find the entry: written by other versions or on another kind of
    machine, or by one that did not say."""
    was = entry.environment or {}
    if entry.state != OK or not was:
        return entry.state != DAMAGED
    return was != _here(was.get("target", ""), was.get("numerics", ""))


@functools.cache
def _here(target: str, numerics: str) -> dict[str, str]:
    return environment(target, numerics)


def everything(index: Index, model: str | None) -> Removal:
    """What `clear` removes: all, or what only calls of one model use."""
    removal = Removal(index)
    options = {} if model is None else {"model": model}
    _take(removal, chosen(index, 0.0, **options), "all of it" if model is None else "of the model")
    if model is None:
        removal.add([*leftovers(index.store), *set_aside(index.store), *measured(index.store)])
    return removal


def _take(removal: Removal, entries: Iterable[Entry], why: str) -> None:
    """Records first; a plan or kernel only once nothing that stays leads to it."""
    order = {"records": 0, "plans": 1, "kernels": 2}
    for entry in sorted(entries, key=lambda e: order[e.kind]):
        if not [u for u in removal.index.above(entry) if u.id not in removal.gone]:
            removal.take(entry, why)
