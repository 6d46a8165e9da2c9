"""What to remove from a cache, and removing it: an entry with what is of no use without it."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracejit.cli.cache.index import Entry, Id, Index
from tracejit.runtime.upkeep import DAMAGED, HOSTS, KINDS

MOST_NAMED = 4  # files named for each reason
_WITH_PLAN = "its plan goes"
_WITH_RECORDS = "no record leads to it any more"
_WITH_PLANS = "no plan uses it any more"


@dataclass(frozen=True)
class Extra:
    """A file that is no entry: set aside, or left behind."""

    path: Path
    bytes: int
    why: str


class Removal:
    """A selection of entries and other files. Nothing is removed until `carry_out`."""

    def __init__(self, index: Index, kinds: Collection[str] = KINDS) -> None:
        self.index = index
        self.kinds = kinds  # entries of others are never selected
        self.gone: dict[Id, str] = {}  # why, in the order of selection
        self.extras: list[Extra] = []
        self.left = sum(entry.bytes for entry in index)  # bytes of the entries that stay

    def take(self, entry: Entry, why: str) -> None:
        """Select an entry: a plan with its records, then the kernels that no other plan uses; a
        record with its plan, if no other record leads there. A kernel in use stays."""
        if entry.id in self.gone or not entry.ours or entry.kind not in self.kinds:
            return
        users = [user for user in self.index.above(entry) if user.id not in self.gone]
        if entry.kind == "kernels" and users:
            return
        self._drop(entry, why)
        for user in users:
            self._drop(user, _WITH_PLAN)
        reason = _WITH_PLANS if entry.kind == "plans" else _WITH_RECORDS
        for below in self.index.below(entry):
            if all(user.id in self.gone for user in self.index.above(below)):
                self.take(below, reason)

    def _drop(self, entry: Entry, why: str) -> None:
        self.gone[entry.id] = why
        self.left -= entry.bytes

    def down_to(self, most: int) -> None:
        """Select what was used longest ago until the rest takes at most so many bytes."""
        for entry in sorted(self.index, key=self._last_use):
            if self.left <= most:
                return
            self.take(entry, "used longest ago")

    def _last_use(self, entry: Entry) -> tuple[float, int]:
        """When an entry or what leads to it was used last; records before their plans."""
        times = [user.used for user in self._all_above(entry)]
        return max([entry.used, *times]), -KINDS.index(entry.kind)

    def _all_above(self, entry: Entry) -> Iterator[Entry]:
        for user in self.index.above(entry):
            yield user
            yield from self._all_above(user)

    def add(self, extras: Iterable[Extra]) -> None:
        """Select files that are no entries."""
        self.extras += extras

    @property
    def entries(self) -> list[Entry]:
        return [self.index.entries[each] for each in self.gone]

    @property
    def files(self) -> int:
        return len(self.gone) + len(self.extras)

    @property
    def bytes(self) -> int:
        return sum(e.bytes for e in self.entries) + sum(extra.bytes for extra in self.extras)

    def carry_out(self) -> int:
        """Remove what was selected, records before their plans before their kernels; bytes freed.
        Raises nothing for a file that went meanwhile or that the disk does not give up."""
        store, freed = self.index.store, 0
        for entry in sorted(self.entries, key=lambda e: -KINDS.index(e.kind)):
            with contextlib.suppress(OSError):
                freed += store.remove(entry.kind, entry.key)
        ours = {store.directory / DAMAGED, store.directory / HOSTS}
        aside = [x.path for x in self.extras if ours & set(x.path.parents)]
        for path in aside:
            with contextlib.suppress(OSError):
                path.unlink()
        if len(aside) < len(self.extras):
            store.sweep()  # knows which claim is nobody's by now
        return freed + sum(extra.bytes for extra in self.extras if not extra.path.exists())

    def stuck(self) -> list[Path]:
        """After `carry_out`: what is still there."""
        paths = [self.index.store.path(entry.kind, entry.key) for entry in self.entries]
        return [path for path in (*paths, *(x.path for x in self.extras)) if path.exists()]

    def by_reason(self) -> dict[str, str]:
        """The first few names for each reason."""
        groups: dict[str, list[str]] = defaultdict(list)
        for entry, why in zip(self.entries, self.gone.values(), strict=True):
            groups[why].append(f"{entry.kind[:-1]} {entry.short} {entry.name}".rstrip())
        for extra in self.extras:
            groups[extra.why].append(extra.path.name)
        return {
            why: ", ".join(names[:MOST_NAMED])
            + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
            for why, names in groups.items()
        }

    def to_json(self) -> list[dict[str, Any]]:
        """One row for each file."""
        entries = [
            {"kind": e.kind, "key": e.own_key, "name": e.name, "bytes": e.bytes, "why": why}
            for e, why in zip(self.entries, self.gone.values(), strict=True)
        ]
        extras = [
            {"kind": "", "key": "", "name": str(x.path), "bytes": x.bytes, "why": x.why}
            for x in self.extras
        ]
        return entries + extras
