"""What a fork must find whole, or leaves behind in the child: locks, and work that is never cut.

A forked child has the thread that forked and no other. A lock that another thread held is free in
the child, and native code (LLVM, ptxas under way) is not interrupted: the fork waits for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """A lock of `threading`, made anew in a forked child.

    What it protects must be sound at any moment, since a fork may find it half done.
    """

    def __init__(self, make: Callable[[], Any] = threading.RLock) -> None:
        self._make = make
        self._lock = make()
        _locks.add(self)

    def acquire(self, blocking: bool = True) -> bool:
        return bool(self._lock.acquire(blocking))

    def release(self) -> None:
        with contextlib.suppress(RuntimeError):  # made anew by a fork while this thread held it
            self._lock.release()

    def renew(self) -> None:
        self._lock = self._make()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class Gate:
    """A fork waits until no other thread is inside, and none enters meanwhile. A thread may enter
    again while it is inside."""

    def __init__(self) -> None:
        self._own = threading.local()
        self.renew()

    def renew(self) -> None:
        """In a forked child: nobody else is inside."""
        self._changed = threading.Condition(threading.Lock())
        self._inside = int(self._depth() > 0)  # threads
        self._forking = 0

    def _depth(self) -> int:
        return getattr(self._own, "depth", 0)

    def __enter__(self) -> None:
        if not self._depth():
            with self._changed:
                self._changed.wait_for(lambda: not self._forking)
                self._inside += 1
        self._own.depth = self._depth() + 1

    def __exit__(self, *exception: object) -> None:
        self._own.depth -= 1
        if not self._own.depth:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Before a fork."""
        with self._changed:
            self._forking += 1
            self._changed.wait_for(lambda: self._inside <= int(self._depth() > 0))

    def open(self) -> None:
        """After it, in the parent."""
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()


gate = Gate()  # around lowering, compiling and interpreting: a fork waits some tenths of a second


def _renew_all() -> None:
    gate.renew()
    for lock in list(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=gate.close, after_in_parent=gate.open, after_in_child=_renew_all)
