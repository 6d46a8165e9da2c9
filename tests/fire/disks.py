"""Disks that fail: calls into the operating system that refuse, small file systems that are really
mounted, processes that permissions bind. Imports no test tools: children import it."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STEPS = ("open", "mkdir", "write", "fsync", "replace", "rename", "link")
_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_PRIVATE, _RECURSIVE, _REMOUNT, _READ_ONLY = 1 << 18, 1 << 14, 1 << 5, 1
_BEYOND_MODES = 0b1111  # the capabilities chown, dac_override, dac_read_search and fowner


class Refusing:
    """While it is entered, functions of `os` refuse for files under a directory.

    Their calls are counted: number `at` refuses, with `on` all later ones too. Opening a file to
    read it is not among them.
    """

    def __init__(
        self, directory: Path, number: int, names: tuple[str, ...] = STEPS, at: int = 0,
        on: bool = True,
    ) -> None:  # fmt: skip
        self.directory, self.number, self.names = str(directory), number, names
        self.at, self.on = at, on
        self.seen: list[str] = []
        self.refused: list[str] = []

    def __enter__(self) -> Refusing:
        self.before = {name: getattr(os, name) for name in self.names if hasattr(os, name)}
        for name, original in self.before.items():
            setattr(os, name, functools.partial(self._call, name, original))
        return self

    def __exit__(self, *error: Any) -> None:
        for name, original in self.before.items():
            setattr(os, name, original)

    def _call(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        reads = name == "open" and not args[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
        if reads or not place(args[0]).startswith(self.directory):
            return original(*args, **kwargs)
        number = len(self.seen)
        self.seen.append(name)
        if number == self.at or (self.on and number > self.at):
            self.refused.append(name)
            where = None if isinstance(args[0], int) else args[0]
            raise OSError(self.number, os.strerror(self.number), where)
        return original(*args, **kwargs)


def place(file: Any) -> str:
    """Where a path or an open file lies."""
    if isinstance(file, int):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{file}")
        return ""
    return os.path.abspath(os.fsdecode(file))


def warned(work: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What the work returns and the cache's warnings meanwhile."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        value = work()
    return value, [str(w.message) for w in shown if w.category.__name__ == "CacheWarning"]


class CannotMount(Exception):
    """This process may not mount file systems, or has no Linux to do it with."""


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(code: int) -> None:
    if code:
        raise CannotMount(os.strerror(ctypes.get_errno()))


def own_mounts() -> None:
    """Give this process (a child, of one thread) mounts of its own, which end with it."""
    if sys.platform != "linux":
        raise CannotMount("needs Linux")
    faulthandler.cancel_dump_traceback_later()  # which is a thread: the parent still kills in time
    user, group = os.getuid(), os.getgid()
    _checked(_libc().unshare(_NEWNS if user == 0 else _NEWNS | _NEWUSER))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _checked(_libc().mount(None, b"/", None, _PRIVATE | _RECURSIVE, None))


@contextlib.contextmanager
def mounted(directory: Path, **options: int) -> Iterator[None]:
    """A file system in memory at the directory, with options such as size and nr_inodes."""
    directory.mkdir(mode=0o700, exist_ok=True)
    words = ",".join(f"{name}={value}" for name, value in {"mode": 700, **options}.items())
    _checked(_libc().mount(b"tmpfs", bytes(directory), b"tmpfs", 0, words.encode()))
    try:
        yield
    finally:
        _checked(_libc().umount2(bytes(directory), 2))


def make_read_only(directory: Path) -> None:
    """From now on the file system mounted there takes no writes."""
    flags = _REMOUNT | _READ_ONLY
    _checked(_libc().mount(None, bytes(directory), None, flags, None))


def obey_modes() -> bool:
    """Let permissions bind this process although it is root's; whether they do."""
    if os.getuid() == 0 and sys.platform == "linux":
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        _libc().capget(header, sets)
        for index in range(3):  # effective, permitted, inheritable: the first 32 of each
            sets[index] &= ~_BEYOND_MODES & 0xFFFFFFFF
        _libc().capset(header, sets)
    path = tempfile.mkdtemp()
    os.chmod(path, 0o500)
    bound = not os.access(path, os.W_OK, effective_ids=True)
    os.rmdir(path)
    return bound


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, with its content."""
    return {str(p): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
