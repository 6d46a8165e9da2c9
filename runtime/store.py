"""A content-checked store of small files under one private directory.

Any number of processes may use one directory at once, on any disk: readers need no lock, a file is
there whole or not at all (runtime.files), and whatever goes wrong with a disk or a file costs a
warning, never a call. A file whose header or digest does not fit is reported, moved aside to
`damaged/`, and treated as absent; one of another version of the format is absent and left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tracejit.runtime import directory as folders
from tracejit.runtime import log, upkeep
from tracejit.runtime.config import config
from tracejit.runtime.errors import CacheWarning
from tracejit.runtime.files import (
    HOST,
    Damaged,
    Item,
    OtherFormat,
    decode,
    encode,
    of_this_format,
    peek,
    renamed,
    write_atomically,
)
from tracejit.runtime.upkeep import DAMAGED, HITS, KINDS, File, Leftover

_KEY = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)?")  # what a file says is no path to elsewhere
# Another process removed a folder or a temporary file: no fault of the disk.
_GONE = (errno.ENOENT, errno.ESTALE)
PAUSE = 60.0  # seconds after which a disk that took nothing is tried again
_TOUCH_AFTER = 60.0  # seconds: a read renews the file's time at most this often
_SETTLES = 0.1  # seconds in which a file is written
_TRIM_PARTS = 16  # the size is looked at again when this part of the limit was written


class Store:
    """The files of one directory. Every method is safe to call from any thread and after a fork;
    those that programs use (`read` to `touch`) never raise for a bad disk or file.

    Looking (`files`, `leftovers`, `keys`, `peek`, `inspect`, `hits`, `refusal`) changes nothing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ready: bool | None = None  # None: not looked at yet, or absent; False: refused
        self._paused_until = 0.0  # by the monotonic clock
        self._left: int | None = None  # bytes of all files after the last trim; None: never
        self._written = 0  # bytes written since then

    # what programs use

    def usable(self, create: bool = True) -> bool:
        """Whether the directory is there, ours and private; makes it so where it can. A refusal
        warns once."""
        if self._ready is None:
            self._ready = self._prepared(create)
        return bool(self._ready)

    def writable(self) -> bool:
        """Whether `write` would try to write now."""
        return time.monotonic() >= self._paused_until and self.usable()

    def _prepared(self, create: bool) -> bool | None:
        why = self._refusal(create)
        if why:
            text = f"the cache directory {self.directory} {why}; nothing is cached"
            log.warn_once(text, CacheWarning)
        return None if why is None else not why

    def _refusal(self, create: bool) -> str | None:
        """Why the directory may not be used, or ""; None if it is absent."""
        for _ in range(3):  # another process may remove it as soon as it is made
            try:
                return folders.make_private(self.directory)
            except FileNotFoundError:
                why = folders.make(self.directory) if create else None
                if why != "":
                    return why
        return None

    def path(self, kind: str, key: str) -> Path:
        """Where the item of this kind and key lies. A record's key is `function/record`. Raises
        FileNotFoundError for what is no key, such as a path that leads elsewhere."""
        if not _KEY.fullmatch(str(key)):
            raise FileNotFoundError(errno.ENOENT, "this is no key", str(key))
        return self.directory / kind / key

    def has(self, kind: str, key: str) -> bool:
        """Whether a file is there that begins as one of this kind and format."""
        try:
            return of_this_format(kind, self.path(kind, key))
        except FileNotFoundError:
            return False

    def read(self, kind: str, key: str) -> Item | None:
        """The item, or None if there is none, it is of another format, or its file is damaged
        (which is reported, and the file set aside)."""
        if not self.usable(create=False):
            return None
        path = f"{self.directory}/{kind}/{key}"
        if not _KEY.fullmatch(str(key)):
            return None
        try:
            with open(path, "rb") as file:
                stranger = folders.stranger(os.fstat(file.fileno()))
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            log.warn_once(f"cache file {path} cannot be read: {problem}", CacheWarning)
            return None
        if stranger:  # it was there before the directory was closed to others
            self.set_aside(kind, key, f"it {stranger}")
            return None
        try:
            return decode(kind, data, key)
        except OtherFormat as other:
            log.say(log.CACHE, f"cache file {path} is not used: {other}")
        except Damaged as problem:
            self.set_aside(kind, key, str(problem), damaged=True)
        return None

    def write(
        self, kind: str, key: str, item: Item, environment: Mapping[str, str] | None = None
    ) -> bool:
        """Store the item, whole or not at all, with who wrote it, when, and in what environment.
        False, with one warning, if the disk does not take it."""
        if not _KEY.fullmatch(key) or not self.writable():
            return False
        path = self.path(kind, key)
        data = encode(kind, replace(item, written=stamp(environment or {})), key)
        self._make_room(len(data))
        try:
            self._put(path, data)
        except OSError as problem:
            self._pause(problem)
            return False
        self._written += len(data)
        return True

    def _put(self, path: Path, data: bytes) -> None:
        """Write the file; once more if another process removed its folder or it, unfinished."""
        try:
            self._put_once(path, data)
        except OSError as problem:
            self._ready = None
            if problem.errno not in _GONE or not self.usable():
                raise
            self._put_once(path, data)

    def _put_once(self, path: Path, data: bytes) -> None:
        for folder in reversed(path.relative_to(self.directory).parents[:-1]):
            (self.directory / folder).mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, data)

    def _pause(self, problem: OSError) -> None:
        """Write nothing for a while, so that a bad disk costs a program no time."""
        self._paused_until = time.monotonic() + PAUSE
        text = f"the cache at {self.directory} cannot be written ({problem.strerror or problem})"
        again = f"nothing is stored; it is tried again after {PAUSE:.0f} seconds"
        log.warn_once(f"{text}; {again}", CacheWarning)

    def set_aside(self, kind: str, key: str, why: str, damaged: bool = False) -> None:
        """Report a file that cannot be used by name and move it to `damaged/`, so that it is made
        again.

        `damaged`: its bytes are not as written, so if what was moved is whole, another process has
        just replaced it, and it is put back.
        """
        aside, end = self.directory / DAMAGED, "is made again"
        try:
            path = self.path(kind, key)
            aside.mkdir(mode=0o700, exist_ok=True)
            aside /= f"{kind}-{key.replace('/', '-')}"
            if not renamed(path, aside):
                time.sleep(_SETTLES)  # without rename, another process may just be writing it
                if damaged and _is_whole(kind, path, key):
                    return
                os.unlink(path)
            elif damaged and _is_whole(kind, aside, key):
                os.replace(aside, path)
                return
            else:
                end = "is set aside and made again"
        except OSError:
            pass  # another process did it, or the disk is read-only: it stays unused either way
        name = f"cache file {self.directory}/{kind}/{key}"
        log.warn_once(f"{name} is not used: {why}. It {end}", CacheWarning)

    def touch(self, kind: str, key: str) -> None:
        """Note that the item was used, for least-recently-used order."""
        path = f"{self.directory}/{kind}/{key}"
        with contextlib.suppress(OSError):  # the order is a hint
            if not 0 <= time.time() - os.stat(path).st_mtime <= _TOUCH_AFTER:
                os.utime(path)

    def hit(self, record_key: str) -> None:
        """Count a process that found the record."""
        path = f"{self.directory}/{HITS}/{record_key.rpartition('/')[2]}"
        with contextlib.suppress(OSError):
            try:
                _append(path)
            except FileNotFoundError:
                os.mkdir(os.path.dirname(path), 0o700)
                _append(path)

    # looking

    def refusal(self) -> str:
        """Why programs would not use the directory as it is, in words that follow its name; "" if
        they would, also if it is absent."""
        try:
            return folders.refusal(self.directory)
        except FileNotFoundError:
            return ""

    def files(self, kind: str = "") -> Iterator[File]:
        """The whole files of a kind (one of KINDS, or `damaged`), or of all KINDS."""
        for each in (kind,) if kind else KINDS:
            yield from upkeep.files(self.directory, each)

    def leftovers(self) -> Iterator[Leftover]:
        """Temporary files and claims, also those in use."""
        return upkeep.leftovers(self.directory)

    def keys(self, kind: str, under: str = "") -> list[str]:
        """Keys of this kind, those used last first. For records, `under` is the function's key."""
        return upkeep.keys(self.directory, kind, under)

    def peek(self, kind: str, key: str) -> Item:
        """Fields of the item and who wrote it, without parts and not checked by its digest. Raises
        FileNotFoundError, OSError, Damaged, OtherFormat."""
        return peek(kind, self.path(kind, key), key)

    def inspect(self, kind: str, key: str) -> Item:
        """The item, every byte checked. Raises FileNotFoundError, OSError, Damaged, OtherFormat."""
        return decode(kind, self.path(kind, key).read_bytes(), key)

    def hits(self, record_key: str) -> int:
        """How many processes found the record."""
        try:
            return os.stat(self.directory / HITS / record_key.rpartition("/")[2]).st_size
        except OSError:
            return 0

    # keeping

    def remove(self, kind: str, key: str) -> int:
        """Remove an item, of a record also its count of hits; bytes freed, 0 if it was gone."""
        try:
            freed = upkeep.remove(self.path(kind, key))
        except FileNotFoundError:
            return 0
        if kind == "records":
            upkeep.remove(self.directory / HITS / key.rpartition("/")[2])
        return freed or 0

    def sweep(self) -> int:
        """Remove temporary files and claims of processes that are gone; how many."""
        return upkeep.sweep(self.directory)

    def trim(self, most: int | None = None) -> int:
        """Remove what was used longest ago if the files take more than `most` bytes (by default
        config.cache_limit), and leftovers; bytes of files removed.

        A process that still needs a removed file makes it again.
        """
        self.sweep()
        done = upkeep.trim(self.directory, config.cache_limit if most is None else most)
        self._left, self._written = done.left, 0
        return done.removed

    def _make_room(self, size: int) -> None:
        """Trim before a write, so that what is written is not what is removed: the first time, when
        the limit is reached, and at times because other processes write too."""
        most = config.cache_limit
        if self._left is None or self._written * _TRIM_PARTS > most:
            self.trim()
        elif self._left + self._written + size > most:
            self.trim(max(most - size, 0))


def stamp(environment: Mapping[str, str]) -> dict[str, Any]:
    """Who writes, and when."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pid": os.getpid(),
        "host": HOST,
        "program": os.path.basename(sys.argv[0]) if sys.argv else "",
        "environment": dict(environment),
    }


def _append(path: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, b".")
    finally:
        os.close(handle)


def _is_whole(kind: str, path: Path, key: str) -> bool:
    try:
        decode(kind, path.read_bytes(), key)
    except (OSError, Damaged):
        return False
    return True
