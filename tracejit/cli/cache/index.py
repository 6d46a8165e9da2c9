"""What a cache holds, entry by entry, read from the first lines of its files, and how entries lead
to one another: a record to its plan, a plan to its kernels."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from tracejit.cli.terminal import time_text
from tracejit.runtime.cache import Cache
from tracejit.runtime.errors import AmbiguousKey, NoSuchKey, TracejitError
from tracejit.runtime.files import Damaged, Item, OtherFormat
from tracejit.runtime.store import Store
from tracejit.runtime.upkeep import KINDS, File
from tracejit.runtime.words import plural

SHORT = 12  # digits of a key that are shown
_KEY = re.compile(r"[0-9a-f]{64}")  # what our files are called; nothing else is ever removed
OK, DAMAGED, OTHER = "ok", "damaged", "other format"
Id = tuple[str, str]  # kind and key


@dataclass(eq=False)
class Entry:
    """One file of the cache. A record's `key` is `function/record`, as the store spells it."""

    kind: str
    key: str
    bytes: int
    used: float
    name: str = ""  # a kernel's name; the function of a plan or record
    what: str = ""  # a few words
    target: str = ""
    leads: tuple[str, ...] = ()  # keys: a record's plan, a plan's kernels
    kernels: tuple[str, ...] = ()  # names of the kernels in it
    models: tuple[str, ...] = ()  # functions whose calls come here
    hits: int = 0  # processes that found it, or what leads to it
    written: float | None = None
    environment: dict[str, str] | None = None
    state: str = OK
    why: str = ""  # why it cannot be used

    @property
    def id(self) -> Id:
        return (self.kind, self.key)

    @property
    def own_key(self) -> str:
        """The key without a record's function."""
        return self.key.rpartition("/")[2]

    @property
    def short(self) -> str:
        return self.own_key[:SHORT]

    @property
    def model(self) -> str:
        """The functions whose calls come here, the first two by name."""
        more = len(self.models) - 2
        return ", ".join(self.models[:2]) + (f" and {more} more" if more > 0 else "")

    @property
    def ours(self) -> bool:
        """Whether its file is called as ours are: only such files are removed or set aside."""
        return _KEY.fullmatch(self.own_key) is not None

    def to_json(self) -> dict[str, Any]:
        """A row of `ls`."""
        names = ("kind", "name", "what", "target", "bytes", "hits", "state", "why")
        return {
            "key": self.own_key,
            "function": self.key.rpartition("/")[0],
            **{name: getattr(self, name) for name in names},
            "models": list(self.models),
            "used": time_text(self.used),
            "written": None if self.written is None else time_text(self.written),
        }


class Index:
    """The entries of a store, with what leads to each."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entries: dict[Id, Entry] = {}
        self.users: dict[Id, list[Entry]] = defaultdict(list)  # what leads to an entry
        for file in store.files():
            with contextlib.suppress(FileNotFoundError):  # removed by another process
                entry = read(store, file)
                self.entries[entry.id] = entry
        for entry in self.entries.values():
            for below in self.below_ids(entry):
                self.users[below].append(entry)
        self._inherit()

    @property
    def directory(self) -> Path:
        return self.store.directory

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def __len__(self) -> int:
        return len(self.entries)

    def below_ids(self, entry: Entry) -> list[Id]:
        """What an entry leads to, there or not."""
        kind = _BELOW.get(entry.kind, "")
        return [(kind, key) for key in dict.fromkeys(entry.leads)]

    def below(self, entry: Entry) -> list[Entry]:
        """What an entry leads to, as far as it is there."""
        found = (self.entries.get(below) for below in self.below_ids(entry))
        return [below for below in found if below is not None]

    def above(self, entry: Entry) -> list[Entry]:
        """The entries that lead to one, those used last first."""
        return sorted(self.users.get(entry.id, ()), key=lambda e: -e.used)

    def missing(self, entry: Entry) -> list[Id]:
        """What an entry leads to and is not there, nor was written since."""
        return [
            below
            for below in self.below_ids(entry)
            if below not in self.entries and not self.store.path(*below).exists()
        ]

    def _inherit(self) -> None:
        """Models and hits go down from records; a record's target and kernels up from its plan."""
        by_kind: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
        for entry in self:
            by_kind[entry.kind].append(entry)
        for plan in by_kind["plans"]:
            plan.target = plan.target or next((k.target for k in self.below(plan)), "")
        for record in by_kind["records"]:
            record.hits = self.store.hits(record.key)
            for plan in self.below(record):
                record.target, record.kernels = plan.target, plan.kernels
        for entry in (*by_kind["plans"], *by_kind["kernels"]):
            users = self.users.get(entry.id, [])
            entry.hits = sum(user.hits for user in users)
            names = dict.fromkeys(model for user in users for model in user.models)
            entry.models = tuple(sorted(names)) or entry.models

    def find(self, beginning: str, kind: str | None = None) -> Entry:
        """The one entry whose key begins so, else whose name does. Raises NoSuchKey or
        AmbiguousKey."""
        of_kind = [e for e in self if kind in (None, e.kind)]
        found = [e for e in of_kind if begins(e, beginning)]
        found = found or [e for e in of_kind if e.name.startswith(beginning)]
        if not found:
            raise NoSuchKey(key=beginning, directory=self.store.directory)
        if len(found) > 1:
            some = ", ".join(f"{e.short} ({e.kind[:-1]} {e.name})" for e in found[:4])
            raise AmbiguousKey(key=beginning, count=len(found), some=some)
        return found[0]


def opened(directory: Path | None) -> Index:
    """The index of the cache in a directory (None: the configured one), which need not exist.
    Raises TracejitError, with the reason, if it cannot be looked into."""
    store = Cache(directory).store
    try:
        os.scandir(store.directory).close()
    except FileNotFoundError:
        pass
    except OSError as problem:
        text = f"the cache directory {store.directory} cannot be read: {problem.strerror}"
        raise TracejitError(text=text) from None
    return Index(store)


def absent(index: Index) -> bool:
    """Whether there is no cache yet, which is said."""
    if index.directory.exists():
        return False
    click.echo(f"no cache yet: {index.directory} does not exist")
    return True


_BELOW = {"records": "plans", "plans": "kernels"}


def begins(entry: Entry, beginning: str) -> bool:
    """Whether a person means this entry; with a slash the whole `function/record` is meant."""
    return (entry.key if "/" in beginning else entry.own_key).startswith(beginning)


def read(store: Store, file: File) -> Entry:
    """An entry from the first lines of its file. Raises FileNotFoundError if it is gone."""
    entry = Entry(file.kind, file.key, file.bytes, file.used)
    try:
        item = store.peek(file.kind, file.key)
        _FILL[file.kind](entry, item)
        entry.written = timestamp(item.written.get("time"))
        entry.environment = item.written.get("environment")
        entry.target = entry.target or (entry.environment or {}).get("target", "")
    except FileNotFoundError:
        raise
    except OtherFormat as problem:
        entry.state, entry.why = OTHER, str(problem)
    except OSError as problem:
        entry.state, entry.why = DAMAGED, f"it cannot be read ({problem.strerror})"
    except Damaged as problem:
        entry.state, entry.why = DAMAGED, str(problem)
    except (KeyError, TypeError, ValueError, AttributeError):
        entry.state, entry.why = DAMAGED, f"its fields are not those of {file.kind}"
    return entry


def timestamp(text: Any) -> float | None:
    """Seconds of an ISO 8601 time; None for anything else."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def _kernel(entry: Entry, item: Item) -> None:
    source = item.fields["source"]
    entry.name, entry.target = str(source["name"]), str(source["target"])
    entry.what, entry.kernels = entry.name, (entry.name,)


def _plan(entry: Entry, item: Item) -> None:
    manifest = item.fields["manifest"]
    title = str(manifest.get("title", "")).partition("\n")[0]
    name, _, target = title.rpartition(" for ")
    entry.name, entry.target = (name, target) if name else (title, "")
    entry.models = (entry.name,) if entry.name else ()
    entry.leads = tuple(item.fields["kernels"].values())
    entry.kernels = tuple(item.fields["kernels"])
    entry.what = f"{plural(manifest['launches'], 'launch')}, {plural(manifest['calls'], 'call')}"


def _record(entry: Entry, item: Item) -> None:
    fields = item.fields
    entry.name, entry.leads = str(fields["summary"]), (str(fields["plan"]),)
    entry.models = (entry.name,) if entry.name else ()
    entry.what = f"plan {fields['plan'][:SHORT]}"


_FILL: dict[str, Callable[[Entry, Item], None]] = {
    "kernels": _kernel,
    "plans": _plan,
    "records": _record,
}
