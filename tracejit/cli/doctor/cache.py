"""The disk cache as doctor sees it: whose it is, what it takes, whether its entries are whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tracejit.cli.cache.index import Entry, opened
from tracejit.cli.cache.wishes import stale
from tracejit.cli.doctor.checks import FAULT, OK, Check
from tracejit.runtime.config import config
from tracejit.runtime.files import Damaged, OtherFormat
from tracejit.runtime.store import Store
from tracejit.runtime.words import plural, size_words

GROUP = "cache"
SAMPLE = 64  # entries of which every byte is read
LEAST_FREE = 64 << 20  # bytes: with less on the disk nothing much can be stored


def cache_health() -> Iterator[Check]:
    """The directory, its size, the disk, a sample of its entries, those of other versions."""
    index = opened(None)
    yield _directory(index.store)
    taken, limit = sum(entry.bytes for entry in index), config.cache_limit
    text = f"{plural(len(index), 'entry')}, {size_words(taken)} of {size_words(limit)}"
    facts = {"entries": len(index), "bytes": taken, "limit": limit}
    yield Check(GROUP, "size", OK, text, facts=facts)
    yield _disk(_existing(index.store.directory))
    if len(index):
        yield _sample(index.store)
        yield _other_versions(list(index))


def _other_versions(entries: list[Entry]) -> Check:
    """What other versions of tracejit, torch or Triton left, which this one cannot reach."""
    old = [entry for entry in entries if stale(entry)]
    size = sum(entry.bytes for entry in old)
    text = f"{plural(len(old), 'entry')}, {size_words(size)}: tracejit cache prune --stale"
    facts = {"entries": len(old), "bytes": size}
    return Check(GROUP, "other versions", OK, text if old else "none", facts=facts)


def _directory(store: Store) -> Check:
    """Whether programs use the directory, and can write there."""
    directory, why = store.directory, store.refusal()
    elsewhere = "let TRACEJIT_CACHE_DIR name a directory of your own"
    facts = {"directory": str(directory), "exists": directory.exists()}
    if why:
        own = directory.exists() and directory.stat().st_uid == os.getuid()
        advice = f"chmod -R go-w {directory}" if own and directory.is_dir() else elsewhere
        return Check(GROUP, "directory", FAULT, f"{directory} {why}", advice, facts)
    if not os.access(_existing(directory), os.W_OK | os.X_OK):
        text = f"{directory} cannot be written: what is compiled is lost at exit"
        return Check(GROUP, "directory", FAULT, text, elsewhere, facts)
    if not directory.exists():
        text = f"{directory}, which is made when something is stored"
        return Check(GROUP, "directory", OK, text, facts=facts)
    status = directory.stat()
    facts |= {"owner": status.st_uid, "mode": f"{status.st_mode & 0o777:o}"}
    text = f"{directory}, yours, mode {facts['mode']}, writable"
    return Check(GROUP, "directory", OK, text, facts=facts)


def _existing(directory: Path) -> Path:
    """The directory, or the nearest one above that exists."""
    return next(path for path in (directory, *directory.parents) if path.exists())


def _disk(directory: Path) -> Check:
    usage = shutil.disk_usage(directory)
    little = usage.free < LEAST_FREE
    advice = "make room on the disk, or let TRACEJIT_CACHE_DIR name another" if little else ""
    text = f"{size_words(usage.free)} of {size_words(usage.total)} free"
    facts = {"free": usage.free, "total": usage.total}
    return Check(GROUP, "disk", FAULT if little else OK, text, advice, facts)


def _sample(store: Store) -> Check:
    """Some entries, those used last, read whole."""
    looked, wrong = 0, []
    for file in islice(sorted(store.files(), key=lambda file: -file.used), SAMPLE):
        try:
            store.inspect(file.kind, file.key)
        except (FileNotFoundError, OtherFormat):
            continue  # removed since, or another version's
        except (Damaged, OSError) as problem:
            wrong.append(f"{file.kind} {file.key.rpartition('/')[2][:12]}: {problem}")
        looked += 1
    facts = {"looked_at": looked, "wrong": wrong}
    if wrong:
        text = f"{len(wrong)} of {looked} entries looked at are damaged; {wrong[0]}"
        return Check(GROUP, "entries", FAULT, text, "tracejit cache verify --fix", facts)
    return Check(GROUP, "entries", OK, f"{looked} looked at, whole", facts=facts)
