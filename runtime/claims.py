"""Claims: which process is making a file of the cache, so that others need not make it too.

A claim is a lock (flock) on `locks/<name>`. Who holds it removes the file before letting go, so
that none is left; a process that dies lets go by itself. Where there are no locks (file system,
platform) there are no claims.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]  # asked before use

FOLDER = "locks"
_DAY = 86400.0

# Descriptors that this process has open on claims. A forked child inherits them, and would keep a
# claim alive beyond its holder; it closes them, which lets go of nothing that the parent holds.
_open: set[int] = set()
_opening = threading.RLock()


class NoClaims(Exception):
    """Claims cannot be made here: there are no locks, or the directory cannot be written."""


class Claims:
    """Claims on names, held until the context is left."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / FOLDER
        self._held: dict[str, int] = {}
        self._process = os.getpid()

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()

    def take(self, names: Iterable[str]) -> list[str]:
        """Claim those that nobody holds; their names. Raises NoClaims."""
        if fcntl is None:
            raise NoClaims
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            for name in sorted(names):
                self._take(name)
        except OSError as problem:
            raise NoClaims from problem
        return list(self._held)

    def _take(self, name: str) -> None:
        path = self.folder / name
        handle: int | None = -1
        while handle == -1:  # the file was removed by its holder between opening and locking it
            handle = _claim(path)
        if handle is not None:
            self._held[name] = handle

    def release(self) -> None:
        """Remove the files of all claims and let go of them. In a forked child, nothing."""
        while self._held and self._process == os.getpid():
            name, handle = self._held.popitem()
            with contextlib.suppress(OSError):
                os.unlink(self.folder / name)
            _close(handle)


def _claim(path: Path) -> int | None:
    """A descriptor that holds the claim; None if another holds it; -1 to try again. Raises
    OSError."""
    handle = _opened(path, os.O_RDWR | os.O_CREAT)
    held = False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = _is_at(handle, path)
        return handle if held else -1
    except BlockingIOError:
        return None
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)  # there are no locks here: it is nobody's claim
        raise
    finally:
        if not held:
            _close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _opened(path: Path, flags: int) -> int:
    with _opening:
        handle = os.open(path, flags, 0o600)
        _open.add(handle)
        return handle


def _close(handle: int) -> None:
    with _opening:
        if handle in _open:
            _open.discard(handle)
            os.close(handle)


def _forget_inherited() -> None:
    """In a forked child: close what the parent has open, without unlocking."""
    global _opening
    _opening = threading.RLock()
    while _open:
        with contextlib.suppress(OSError):
            os.close(_open.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _opening.acquire(),
        after_in_parent=lambda: _opening.release(),
        after_in_child=_forget_inherited,
    )


def is_held(path: Path, age: float = 0.0) -> bool:
    """Whether a process holds the claim; where that cannot be told, whether one may by its age.
    Raises FileNotFoundError."""
    if fcntl is None:
        return abs(age) < _DAY
    handle = _opened(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return abs(age) < _DAY
    finally:
        _close(handle)


def sweep(path: Path) -> bool:
    """Remove a claim that nobody holds; whether it was removed."""
    try:
        with Claims(path.parent.parent) as claims:
            return bool(claims.take([path.name]))
    except NoClaims:
        return False
