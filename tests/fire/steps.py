"""A process that is killed, or is refused by the disk, at a chosen call into the operating system.

Calls are counted by Python's profiling hook, so that every step is met, however the store makes it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

# Calls that change something on disk, as functions of posix and fcntl and as methods of files.
CHANGES = frozenset(
    (
        "open",
        "write",
        "writev",
        "pwrite",
        "flush",
        "close",
        "fsync",
        "fdatasync",
        "replace",
        "rename",
    )
    + ("link", "symlink", "unlink", "remove", "mkdir", "rmdir", "utime", "chmod", "fchmod")
    + ("truncate", "ftruncate", "flock", "lockf", "sendfile", "copy_file_range")
)
MODULES = ("posix", "fcntl", "_io", "io")


def changes(called: Any) -> bool:
    """Whether a C function is a step of a write."""
    owner = getattr(called, "__self__", None)
    module = getattr(called, "__module__", None) or type(owner).__module__
    return module in MODULES and called.__name__ in CHANGES


class Steps:
    """While it is entered, counts steps of this thread; before number `at` it sends the process a
    signal."""

    def __init__(self, at: int, signal: int = signal.SIGKILL) -> None:
        self.at, self.signal = at, signal
        self.names: list[str] = []

    def __enter__(self) -> Steps:
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *error: Any) -> None:
        sys.setprofile(None)

    def _seen(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and changes(called):
            if len(self.names) == self.at:
                os.kill(os.getpid(), self.signal)
            self.names.append(called.__name__)


def fork(work: Callable[[], Any]) -> int:
    """The pid of a child that does the work and exits: 0, or 1 if it raised."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def died(pid: int) -> bool:
    """Wait for a child: True if it was killed, False if it came to its end. AssertionError if it
    raised."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL, -signal.SIGXFSZ), f"the child failed with {code}"
    return code != 0


def killed_at_each_step(work: Callable[[], Any], check: Callable[[int], Any]) -> int:
    """Do the work in child after child, the first killed before its first step, the next before its
    second …, until one is not killed; `check(step)` after each. The number of steps."""
    step = 0
    while True:

        def until_step(at: int = step) -> None:
            with Steps(at):
                work()

        killed = died(fork(until_step))
        check(step)
        if not killed:
            return step
        step += 1
