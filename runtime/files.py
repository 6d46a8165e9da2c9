"""One file of the cache: its format, and how it gets to its name.

A file is a header line, a JSON line and raw parts (texts and binaries) one after another:

    tracejit 2 <kind> <sha256 of everything after this line>
    {"key": "3fa9…", "parts": {"plan.py": 812}, "written": {…}, …}
    <812 bytes>

A file is written under a temporary name beside its own and renamed, so that readers need no lock
and see all of it or nothing. Where the file system refuses that, the digest tells whether a file is
whole. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tracejit.runtime.version import FORMATS

FORMAT = FORMATS["file"]
HOST = re.sub(r"[^\w-]", "-", platform.node())[:40] or "localhost"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.[0-9a-f]+")
# What a file system answers that has no fsync, and one that cannot put a file in place of another.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_RENAME = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV, errno.EEXIST)


class Damaged(ValueError):
    """The bytes are not a whole file of this format; the message says why."""


class OtherFormat(Damaged):
    """A file that another version of tracejit wrote: it is left alone."""


@dataclass(frozen=True)
class Item:
    """The content of one file: JSON fields, named raw parts, and by whom and when it was written
    (time, pid, host, program, environment), which is no part of what it is."""

    fields: dict[str, Any]
    parts: dict[str, bytes] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict, compare=False)

    def text(self, name: str) -> str:
        """A part as UTF-8 text."""
        return self.parts[name].decode()


def encode(kind: str, item: Item, key: str = "") -> bytes:
    """The bytes of a file, for the item of this key."""
    head = {"key": key, "parts": {name: len(data) for name, data in item.parts.items()}}
    written = {"written": item.written} if item.written else {}
    line = json.dumps({**item.fields, **head, **written}, separators=(",", ":")).encode()
    body = b"".join((line, b"\n", *item.parts.values()))
    checksum = hashlib.sha256(body).hexdigest()
    return f"tracejit {FORMAT} {kind} {checksum}\n".encode() + body


def decode(kind: str, data: bytes, key: str = "") -> Item:
    """The content of a file's bytes. Raises Damaged, with the reason, unless every byte is as
    written, and for this key; OtherFormat for a file of another version."""
    header, _, body = data.partition(b"\n")
    checksum = _checksum(header, kind)
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise Damaged("its content does not have its digest: it was truncated or changed")
    line, _, rest = body.partition(b"\n")
    head = _head(line, key)
    parts, start = {}, 0
    for name, size in head.sizes.items():
        parts[name] = rest[start : start + size]
        start += size
    if start != len(rest):
        raise Damaged(f"its parts have {len(rest)} bytes, not {start}")
    return Item(head.fields, parts, head.written)


def peek(kind: str, path: Path, key: str) -> Item:
    """The fields of a file, read without its parts and without a look at its digest. Raises
    FileNotFoundError, OSError, Damaged."""
    with open(path, "rb") as file:
        _checksum(file.readline().removesuffix(b"\n"), kind)
        head = _head(file.readline(), key)
    return Item(head.fields, written=head.written)


def of_this_format(kind: str, path: Path) -> bool:
    """Whether there is a file that begins as one of this kind and format."""
    try:
        with open(path, "rb") as file:
            _checksum(file.readline().removesuffix(b"\n"), kind)
    except (OSError, Damaged):
        return False
    return True


def _checksum(header: bytes, kind: str) -> bytes:
    """The digest that a header line promises, if it is one of this kind and format."""
    words = header.split(b" ")
    if words[0] != b"tracejit" or len(words) < 4:
        raise Damaged("it is not a file that tracejit wrote, or its beginning is lost")
    if words[1] != str(FORMAT).encode():
        known = words[1].isdigit()
        other = OtherFormat if known else Damaged
        raise other(
            f"it has format {words[1].decode(errors='replace')}, this version reads {FORMAT}"
        )
    if words[2] != kind.encode():
        raise Damaged(f"it holds {words[2].decode(errors='replace')}, not {kind}")
    return words[3]


class _Head(NamedTuple):
    """What the JSON line holds."""

    fields: dict[str, Any]
    sizes: dict[str, int]  # of the parts
    written: dict[str, Any]


def _head(line: bytes, key: str) -> _Head:
    """The JSON line of a file that must be of this key."""
    try:
        fields = json.loads(line)
        found, sizes, written = fields.pop("key"), fields.pop("parts"), fields.pop("written", {})
        if not all(type(size) is int and size >= 0 for size in sizes.values()):
            raise ValueError(f"parts of sizes {list(sizes.values())}")
        head = _Head(fields, dict(sizes), dict(written))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise Damaged(f"it is not as tracejit writes it ({problem!r})") from None
    if found != key:
        raise Damaged(f"it is the file of another key, {str(found)[:80]!r}")
    return head


class Writer(NamedTuple):
    """Who made a temporary file."""

    host: str
    pid: int


def temporary_name(name: str) -> str:
    """A name beside `name` that no other thread or process uses, and that tells who does."""
    return f".{name}.{HOST}.{os.getpid()}.{os.urandom(4).hex()}"


def writer_of(name: str) -> Writer | None:
    """Who made the file of this name, if it is a temporary one."""
    found = _TEMPORARY.fullmatch(name)
    return Writer(found["host"], int(found["pid"])) if found else None


def write_atomically(path: Path, data: bytes) -> None:
    """Put the bytes under the name, whole or not at all: nothing else is left, whatever is raised.
    Raises OSError."""
    temporary = path.parent / temporary_name(path.name)
    try:
        _write(temporary, data)
        _put(temporary, path, data)
    except BaseException:  # Ctrl-C too leaves nothing behind
        _unlink(temporary)
        raise


def _write(path: Path, data: bytes) -> None:
    """A new file, only for this user, on the disk when this returns."""
    with open(path, "xb", opener=_private) as file:
        file.write(data)
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError as problem:
            if problem.errno not in _NO_SYNC:
                raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _put(temporary: Path, path: Path, data: bytes) -> None:
    """Rename; where the file system refuses that, remove what is in the way and rename; where it
    refuses even that, write under the name itself."""
    if renamed(temporary, path):
        return
    _unlink(path)
    if renamed(temporary, path):
        return
    _unlink(temporary)
    for last in (False, False, True):
        try:
            _write_in_place(path, data)
            return
        except FileExistsError:  # another process was quicker: it writes on, into no file
            if last:
                raise


def _write_in_place(path: Path, data: bytes) -> None:
    """A new file for what was there, so that whoever reads that reads on."""
    _unlink(path)
    try:
        _write(path, data)
    except FileExistsError:
        raise
    except BaseException:  # as above
        _unlink(path)
        raise


def renamed(source: Path, path: Path) -> bool:
    """Put `source` in place of `path`; False where the file system has no such thing. Raises
    OSError."""
    try:
        os.replace(source, path)
    except OSError as problem:
        if problem.errno not in _NO_RENAME:
            raise
        return False
    return True


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


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
