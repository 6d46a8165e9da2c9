"""A content-checked store of small files under one private directory.

A file is a header line, a JSON line and raw parts (texts and binaries) one after another:

    tracejit 1 <kind> <sha256 of everything after this line>
    {"parts": {"plan.py": 812}, …}
    <812 bytes>

Writes go to a temporary file that is renamed over the name, so readers need no lock and see all of
a file or nothing. A file whose header or digest does not fit is reported, moved aside to
`damaged/`, and treated as absent. Nothing is ever unpickled. Any number of processes may use one
directory at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracejit.runtime import log
from tracejit.runtime.config import config
from tracejit.runtime.errors import CacheWarning

FORMAT = 1
KINDS = ("kernels", "plans", "records")
MOST_BYTES = 4 << 30  # what the files of one cache may take
_TOUCH_AFTER = 3600.0  # seconds: a read renews the file's time at most this often


@dataclass(frozen=True)
class Item:
    """The content of one file: JSON fields and named raw parts."""

    fields: dict[str, Any]
    parts: dict[str, bytes] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A part as UTF-8 text."""
        return self.parts[name].decode()


def default_directory() -> Path:
    """TRACEJIT_CACHE_DIR, else the platform's directory for caches with `tracejit` in it."""
    if config.cache_dir:
        return Path(config.cache_dir).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "tracejit"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tracejit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracejit"


def encode(kind: str, item: Item) -> bytes:
    """The bytes of a file."""
    sizes = {name: len(data) for name, data in item.parts.items()}
    line = json.dumps({**item.fields, "parts": sizes}, separators=(",", ":")).encode()
    body = b"".join((line, b"\n", *item.parts.values()))
    digest = hashlib.sha256(body).hexdigest()
    return f"tracejit {FORMAT} {kind} {digest}\n".encode() + body


def decode(kind: str, data: bytes) -> Item:
    """The content of a file's bytes. Raises ValueError, with the reason, unless every byte is as
    written."""
    header, _, body = data.partition(b"\n")
    words = header.split(b" ")
    if len(words) != 4 or words[0] != b"tracejit":
        raise ValueError("it is not a file that tracejit wrote, or its beginning is lost")
    if words[1] != str(FORMAT).encode():
        raise ValueError(
            f"it has format {words[1].decode(errors='replace')}, this version reads {FORMAT}"
        )
    if words[2] != kind.encode():
        raise ValueError(f"it holds {words[2].decode(errors='replace')}, not {kind}")
    if hashlib.sha256(body).hexdigest().encode() != words[3]:
        raise ValueError("its content does not have its digest: it was truncated or changed")
    line, _, rest = body.partition(b"\n")
    fields = json.loads(line)
    parts, start = {}, 0
    for name, size in fields.pop("parts").items():
        parts[name] = rest[start : start + size]
        start += size
    return Item(fields, parts)


class Store:
    """The files of one directory. Every method is safe to call from any thread; none raises for a
    bad disk or file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ready: bool | None = (
            None  # None: not looked at yet; False: refused, nothing is read or written
        )
        self._writable = True
        self._lock = threading.Lock()

    def usable(self) -> bool:
        """Whether the directory is ours and private; makes it if it is absent. A refusal warns
        once."""
        if self._ready is None:
            with self._lock:
                self._ready = self._prepare()
        return self._ready

    def _prepare(self) -> bool:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            return self._refuse(f"cannot be made ({problem.strerror})")
        try:
            status = self.directory.stat()
        except OSError as problem:
            return self._refuse(f"cannot be looked at ({problem.strerror})")
        if hasattr(os, "getuid"):
            if status.st_uid != os.getuid():
                return self._refuse(
                    f"belongs to user {status.st_uid}, and a cache holds code that is run"
                )
            if status.st_mode & 0o077:
                return self._make_private()
        return True

    def _make_private(self) -> bool:
        try:
            self.directory.chmod(0o700)
        except OSError as problem:
            return self._refuse(
                f"is open to other users and cannot be made private ({problem.strerror})"
            )
        return True

    def _refuse(self, why: str) -> bool:
        text = f"the cache directory {self.directory} {why}; nothing is cached"
        log.warn_once(text, CacheWarning)
        return False

    def path(self, kind: str, key: str) -> Path:
        """Where the item of this kind and key lies. A record's key is `function/record`."""
        return self.directory / kind / key

    def read(self, kind: str, key: str) -> Item | None:
        """The item, or None if there is none or its file is damaged (which is reported, and the
        file set aside)."""
        if not self.usable():
            return None
        path = f"{self.directory}/{kind}/{key}"
        try:
            with open(path, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            log.warn_once(f"cache file {path} cannot be read: {problem}", CacheWarning)
            return None
        try:
            return decode(kind, data)
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            self.set_aside(kind, key, str(problem))
            return None

    def write(self, kind: str, key: str, item: Item) -> bool:
        """Store the item, whole or not at all. False, with one warning, if the disk does not take
        it."""
        if not self.usable() or not self._writable:
            return False
        path = self.path(kind, key)
        try:
            for folder in reversed(path.relative_to(self.directory).parents[:-1]):
                (self.directory / folder).mkdir(mode=0o700, exist_ok=True)
            write_atomically(path, encode(kind, item))
        except OSError as problem:
            self._writable = False
            text = f"the cache at {self.directory} cannot be written ({problem.strerror})"
            log.warn_once(f"{text}; nothing more is stored", CacheWarning)
            return False
        return True

    def set_aside(self, kind: str, key: str, why: str) -> None:
        """Report a damaged file by name and move it to `damaged/`, so that it is made again."""
        path = self.path(kind, key)
        log.warn_once(
            f"cache file {path} is not used: {why}. It is set aside and made again", CacheWarning
        )
        aside = self.directory / "damaged" / f"{kind}-{key.replace('/', '-')}"
        try:
            aside.parent.mkdir(mode=0o700, exist_ok=True)
            path.replace(aside)
        except OSError:
            pass  # another process did it, or the disk is read-only: it stays unused either way

    def touch(self, kind: str, key: str) -> None:
        """Note that the item was used, for least-recently-used order."""
        path = self.path(kind, key)
        try:
            status = path.stat()
            now = time.time()
            if now - status.st_mtime > _TOUCH_AFTER:
                os.utime(path, (now, now))
        except OSError:
            pass  # the order is a hint

    def trim(self, most: int = MOST_BYTES) -> int:
        """Remove what was used longest ago if the files take more than `most` bytes; bytes removed.

        A process that still needs a removed file makes it again.
        """
        if not self.usable():
            return 0
        files = []
        for path, _ in _files(self.directory, ""):
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        goal, removed = (total - most * 3 // 4 if total > most else 0), 0
        for _, size, path in sorted(files):
            if removed >= goal:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                removed += size
        return removed

    def keys(self, kind: str, under: str = "") -> list[str]:
        """Keys of this kind, those used last first. For records, `under` is the function's key."""
        if not self.usable():
            return []
        found = []
        for path, key in _files(self.directory / kind / under, under):
            try:
                found.append((path.stat().st_mtime_ns, key))
            except OSError:
                continue  # removed by another process
        return [key for _, key in sorted(found, reverse=True)]


def _files(root: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    """Files below `root` with their keys, temporary ones left out."""
    try:
        entries = list(os.scandir(root))
    except OSError:
        return
    for entry in entries:
        key = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), key)
        else:
            yield Path(entry.path), key


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary file in the same directory, synced, then renamed over the name."""
    handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def digest(*pieces: Mapping[str, Any] | str | bytes) -> str:
    """sha256 over the pieces, JSON objects in sorted order, each with its length so that none runs
    into the next."""
    total = hashlib.sha256()
    for piece in pieces:
        if isinstance(piece, str):
            data = piece.encode()
        elif isinstance(piece, bytes):
            data = piece
        else:
            data = json.dumps(piece, sort_keys=True, separators=(",", ":")).encode()
        total.update(f"{len(data)}:".encode())
        total.update(data)
    return total.hexdigest()
