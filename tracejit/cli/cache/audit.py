"""Whether a cache is sound: every byte of every entry, what leads where, whose directory it is, and
what processes left behind."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracejit.cli.cache.index import Entry, Index
from tracejit.cli.cache.removal import Extra, Removal
from tracejit.runtime.files import Damaged, Item, OtherFormat, digest
from tracejit.runtime.store import Store
from tracejit.runtime.upkeep import DAMAGED, HOSTS

# What a finding is called -> whether it is a fault.
FAULTS: dict[str, bool] = {
    "unsafe": True,  # the directory is another user's, or others may write there
    "unreadable": True,
    "damaged": True,
    "misplaced": True,  # whole, but under a key that its content does not have
    "open": False,  # others may read there
    "foreign": False,  # not called as our files are
    "other format": False,
    "dangling": False,  # leads to what is not there; made again when it is needed
    "leftover": False,  # of a process that ended
    "set aside": False,
}


@dataclass(frozen=True)
class Finding:
    """Something about a file (or the directory) that is not as it is when all is well."""

    what: str
    path: Path
    why: str
    entry: Entry | None = None

    @property
    def fault(self) -> bool:
        return FAULTS[self.what]

    def to_json(self) -> dict[str, Any]:
        entry = self.entry
        return {
            "what": self.what,
            "fault": self.fault,
            "path": str(self.path),
            "kind": entry.kind if entry else "",
            "key": entry.own_key if entry else "",
            "why": self.why,
        }


def findings(index: Index, step: Callable[[Entry], None]) -> list[Finding]:
    """All that is not well; `step` is called after each entry."""
    found = [*unsafe(index.store)]
    for entry in index:
        found += _of_entry(index, entry)
        step(entry)
    extras = [("leftover", e) for e in leftovers(index.store)]
    extras += [("set aside", e) for e in set_aside(index.store)]
    return found + [Finding(what, extra.path, extra.why) for what, extra in extras]


def unsafe(store: Store) -> Iterator[Finding]:
    """Whose the directory is and who can get into it: it holds code that is run."""
    if why := store.refusal():
        yield Finding("unsafe", store.directory, f"it {why}")
    elif hasattr(os, "getuid") and (mode := store.directory.stat().st_mode & 0o777) & 0o077:
        yield Finding("open", store.directory, f"other users may look into it (mode {mode:o})")


def _of_entry(index: Index, entry: Entry) -> Iterator[Finding]:
    path = index.store.path(entry.kind, entry.key)
    if not entry.ours:
        yield Finding("foreign", path, "tracejit gives no file such a name", entry)
        return
    try:
        item = index.store.inspect(entry.kind, entry.key)
        wanted = own_key(entry.kind, item)
    except FileNotFoundError:
        return  # removed by another process
    except OtherFormat as problem:
        yield Finding("other format", path, str(problem), entry)
    except OSError as problem:
        yield Finding("unreadable", path, f"it cannot be read ({problem.strerror})", entry)
    except Damaged as problem:
        yield Finding("damaged", path, str(problem), entry)
    except (KeyError, TypeError, ValueError, AttributeError):
        yield Finding("damaged", path, f"its content is not that of {entry.kind}", entry)
    else:
        if wanted not in ("", entry.own_key):
            yield Finding("misplaced", path, f"its content has the key {wanted[:12]}", entry)
        elif why := dangling(index, entry):
            yield Finding("dangling", path, why, entry)


def own_key(kind: str, item: Item) -> str:
    """The key that the content has; "" if the file does not say what it depends on. Raises
    KeyError and the like for content of another kind."""
    fields, environment = item.fields, item.written.get("environment")
    if kind == "records":
        return digest(fields["guards"], {"outputs": fields["outputs"]}, fields["plan"])
    pieces: list[Any]
    if kind == "kernels":
        pieces = [{**fields["source"], "text": item.text("kernel.py")}]
    else:
        pieces = [item.text("plan.py"), fields["manifest"], fields["kernels"]]
    return digest(environment, *pieces) if environment else ""


def dangling(index: Index, entry: Entry) -> str:
    """What an entry leads to and is not there, in words; "" if all is there."""
    missing = [key[:12] for _, key in index.missing(entry)]
    if not missing:
        return ""
    some = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    return f"it leads to {'plan' if entry.kind == 'records' else 'kernels'} {some}: not there"


def leftovers(store: Store) -> list[Extra]:
    """Temporary files and claims whose process is known to have ended."""
    why = "its process ended before it was done"
    return [Extra(left.path, left.bytes, why) for left in store.leftovers() if not left.alive]


def set_aside(store: Store) -> list[Extra]:
    """Files that were found damaged and moved away."""
    return [Extra(file.path, file.bytes, "found damaged before") for file in store.files(DAMAGED)]


def measured(store: Store) -> list[Extra]:
    """Times measured on the machines that use the cache."""
    return [Extra(file.path, file.bytes, "times of a machine") for file in store.files(HOSTS)]


def fix(index: Index, found: list[Finding]) -> list[tuple[Finding, str]]:
    """Set damaged files aside, remove leftovers and what leads to nothing (also what does so only
    now), make the directory private. What was done, by finding."""
    done: list[tuple[Finding, str]] = []
    for finding in found:
        if finding.what in ("damaged", "misplaced") and finding.entry is not None:
            with warnings.catch_warnings():  # the command reports it
                warnings.simplefilter("ignore")
                index.store.set_aside(
                    finding.entry.kind,
                    finding.entry.key,
                    finding.why,
                    damaged=finding.what == "damaged",
                )
            if not finding.path.exists():
                done.append((finding, "set aside"))
                del index.entries[finding.entry.id]
        elif finding.what in ("unsafe", "open") and _owned(finding.path):
            with contextlib.suppress(OSError):  # then it is still reported
                finding.path.chmod(0o700)
                done.append((finding, "made private"))
    return done + _fix_dangling(index, found)


def _owned(path: Path) -> bool:
    return path.stat().st_uid == os.getuid()


def _fix_dangling(index: Index, found: list[Finding]) -> list[tuple[Finding, str]]:
    """A plan goes with its records; its kernels stay, for it will be made again."""
    store, removal = index.store, Removal(index, ("plans", "records"))
    for entry in index:
        if why := dangling(index, entry):
            removal.take(entry, why)
    gone = [finding for finding in found if finding.what == "leftover"]
    old = {f.entry.id: f for f in found if f.what == "dangling" and f.entry is not None}
    for entry, why in zip(removal.entries, removal.gone.values(), strict=True):
        path = store.path(entry.kind, entry.key)
        gone.append(old.get(entry.id, Finding("dangling", path, why, entry)))
    removal.carry_out()
    store.sweep()
    return [(finding, "removed") for finding in gone if not finding.path.exists()]
