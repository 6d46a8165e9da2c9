"""The files of a cache as files: listing them, removing what a dead process left, keeping to the
limit. Nothing here reads what a file holds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tracejit.runtime import claims
from tracejit.runtime.files import HOST, Writer, writer_of

KINDS = ("kernels", "plans", "records")
HITS, DAMAGED = "hits", "damaged"
HOSTS = "hosts"  # what was measured on a machine; small, and left when entries are removed
_DAY = 86400.0
_SKEW = 3600.0  # seconds by which the clock of a file server may differ from ours


@dataclass(frozen=True)
class File:
    """A whole file: its kind, its key (of a record: `function/record`), when it was used last."""

    kind: str
    key: str
    path: Path
    bytes: int
    used: float


@dataclass(frozen=True)
class Leftover:
    """A temporary file or a claim. `alive`: its process runs, or is one of another host that may.
    `age` in seconds."""

    path: Path
    bytes: int
    age: float
    alive: bool


def files(directory: Path, kind: str) -> Iterator[File]:
    """The whole files of a kind (also `damaged`)."""
    for path, key, status in _whole(f"{directory}/{kind}", ""):
        yield File(kind, key, Path(path), status.st_size, status.st_mtime)


def keys(directory: Path, kind: str, under: str) -> list[str]:
    """Keys of a kind, those used last first."""
    root = f"{directory}/{kind}/{under}" if under else f"{directory}/{kind}"
    found = [(status.st_mtime_ns, key) for _, key, status in _whole(root, under)]
    return [key for _, key in sorted(found, reverse=True)]


def _whole(root: str, prefix: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """Files below `root` with their keys, temporary ones left out."""
    for path, key in _walk(root, prefix):
        if not os.path.basename(path).startswith("."):
            with contextlib.suppress(OSError):  # removed by another process
                yield path, key, os.stat(path)


def _walk(root: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Files below `root` with their keys."""
    try:
        entries = list(os.scandir(root))
    except OSError:
        return
    for entry in entries:
        key = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, key)
        else:
            yield entry.path, key


def leftovers(directory: Path) -> Iterator[Leftover]:
    """Temporary files beside the files they become, and claims."""
    for folder in (*KINDS, HOSTS, DAMAGED):
        for path, _ in _walk(f"{directory}/{folder}", ""):
            writer = writer_of(os.path.basename(path))
            if writer is not None:
                yield from _leftover(path, writer)
    for path, _ in _walk(f"{directory}/{claims.FOLDER}", ""):
        yield from _leftover(path, None)


def _leftover(path: str, writer: Writer | None) -> Iterator[Leftover]:
    with contextlib.suppress(OSError):
        status = os.stat(path)
        age = time.time() - status.st_mtime
        alive = claims.is_held(Path(path), age) if writer is None else _is_alive(writer, age)
        yield Leftover(Path(path), status.st_size, max(age, 0.0), alive)


def _is_alive(writer: Writer, age: float) -> bool:
    """Whether the process runs; where that cannot be told, whether it may. No write takes a day."""
    if writer.host != HOST or os.name != "posix":
        return abs(age) < _DAY
    if age > _DAY:
        return False  # another process has this number by now
    try:
        os.kill(writer.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    except OverflowError:
        return False
    return True


def sweep(directory: Path) -> int:
    """Remove what dead processes left; how many files."""
    count = 0
    for leftover in leftovers(directory):
        if not leftover.alive:
            is_claim = leftover.path.parent.name == claims.FOLDER
            gone = claims.sweep(leftover.path) if is_claim else remove(leftover.path) is not None
            count += gone
    return count


def remove(path: str | Path) -> int | None:
    """Remove a file, and its folder if that was the last of a function's records; its bytes, None
    if it was gone or cannot be removed."""
    try:
        size = os.stat(path).st_size
        os.unlink(path)
    except OSError:
        return None
    folder = os.path.dirname(path)
    if os.path.basename(os.path.dirname(folder)) == "records":
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return size


class _Used(NamedTuple):
    """A file by when it was used last: the order in which files are removed."""

    used: float
    path: str
    kind: str
    key: str
    status: os.stat_result


class Trimmed(NamedTuple):
    """Bytes that were removed, and those that are left."""

    removed: int
    left: int


def trim(directory: Path, most: int) -> Trimmed:
    """If the files take more than `most` bytes, remove those used longest ago until a quarter of it
    is free."""
    found = list(_by_use(directory))
    total = sum(file.status.st_size for file in found)
    goal, removed, gone = total - most * 3 // 4, 0, 0
    for file in sorted(found, key=lambda file: file[:2]) if total > most else ():
        if gone >= goal:
            break
        if not _unchanged(file):
            continue
        size = remove(file.path)
        removed += size or 0
        # Bytes that another process removed meanwhile are free too: together they trim once.
        gone += file.status.st_size if not os.path.exists(file.path) else 0
        if file.kind == "records":
            remove(f"{directory}/{HITS}/{file.key.rpartition('/')[2]}")
    return Trimmed(removed, total - gone)


def _by_use(directory: Path) -> Iterator[_Used]:
    """Every file that counts. A time in the future is of a clock that jumped: nobody has used the
    file since."""
    latest = time.time() + _SKEW
    for kind in (*KINDS, DAMAGED):
        for path, key, status in _whole(f"{directory}/{kind}", ""):
            used = status.st_mtime if status.st_mtime <= latest else 0.0
            yield _Used(used, path, kind, key, status)


def _unchanged(file: _Used) -> bool:
    """Whether it was neither used nor written again since it was listed."""
    try:
        return os.stat(file.path).st_mtime_ns == file.status.st_mtime_ns
    except FileNotFoundError:
        return True
    except OSError:
        return False
