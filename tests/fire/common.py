"""What the tests of a cache under fire share: processes that cannot hang, stores as a new process
sees them, and disks that fail."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fire.disks import CannotMount
from tests.fire.programs import right, softmax
from tracejit.runtime import cache, log
from tracejit.runtime.config import config
from tracejit.runtime.errors import CacheWarning
from tracejit.runtime.store import Store
from tracejit.runtime.upkeep import KINDS

PRELOAD = ["pytest", "torch", "tracejit.firstcall", "tracejit.codegen.triton.offline", "triton"]
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([*PRELOAD, "tests.fire.programs"])


@dataclass
class Outcome:
    """How a child ended: what its work returned, the warnings it showed, its standard error."""

    value: Any
    code: int | None
    stderr: str
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def texts(self, category: str = "CacheWarning") -> list[str]:
        """The warnings of a category."""
        return [text for name, text in self.warnings if name == category]


class Child:
    """Work in a process forked from one that has imported torch, tracejit and triton. It is killed
    when its time is over."""

    def __init__(
        self, work: Callable[..., Any], *args: Any, directory: Path, log: Path, seconds: float = 40,
        **settings: Any,
    ) -> None:  # fmt: skip
        self.log, self.seconds = log, seconds
        log.touch()
        self.receive, send = context.Pipe(duplex=False)
        settings = {"cache_dir": str(directory), **settings}
        self.process = context.Process(
            target=_work, args=(work, args, settings, str(log), send, seconds), daemon=False
        )
        self.process.start()
        send.close()

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self) -> Outcome:
        """Wait for the end, whatever it is; AssertionError, with the stacks, if it hangs."""
        self.process.join(self.seconds + 5)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"it hangs:\n{self.log.read_text()}")
        outcome = Outcome(None, self.process.exitcode, self.log.read_text(errors="replace"))
        with contextlib.suppress(EOFError):
            outcome.value, outcome.warnings = self.receive.recv()
        return outcome

    def done(self) -> Outcome:
        """Wait for the work to return; AssertionError with its standard error if it did not."""
        outcome = self.ended()
        assert outcome.code == 0, outcome.stderr
        return outcome


def _work(
    work: Callable[..., Any], args: Any, settings: dict[str, Any], file: str, send: Any,
    seconds: float,
) -> None:  # fmt: skip
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(handle, number)
    faulthandler.register(signal.SIGUSR1, file=handle)
    faulthandler.dump_traceback_later(seconds, exit=True, file=handle)
    for name, value in settings.items():
        setattr(config, name, value)
    log.forget()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        try:
            value = work(*args)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    send.send((value, [(w.category.__name__, str(w.message)) for w in shown]))


def run(work: Callable[..., Any], *args: Any, directory: Path, log: Path, **options: Any) -> Any:
    """What `work` returns in a child."""
    return Child(work, *args, directory=directory, log=log, **options).done().value


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds; AssertionError after a while."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def as_new_process() -> None:
    """Forget what this process knows of its caches and has warned of."""
    cache._caches.clear()
    log.forget()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Any warning of the cache is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        yield


def entries(directory: Path) -> list[tuple[str, str]]:
    """Kind and key of every entry."""
    return [(file.kind, file.key) for kind in KINDS for file in Store(directory).files(kind)]


def assert_whole(directory: Path) -> None:
    """Every entry in place is whole."""
    for kind, key in entries(directory):
        Store(directory).inspect(kind, key)


def assert_sound(directory: Path) -> None:
    """Every entry in place is whole, and no temporary file or lock is left."""
    assert_whole(directory)
    store = Store(directory)
    assert [str(rest.path) for rest in store.leftovers()] == []


def assert_healed(directory: Path) -> None:
    """All works again: another process stores what is missing, and the next one finds it."""
    as_new_process()
    with silent():
        right(softmax)
    as_new_process()
    with silent():
        assert right(softmax) == ["disk"]
    Store(directory).sweep()
    assert_sound(directory)


def on_a_mount(work: Callable[[Path], Any], tmp_path: Path) -> Any:
    """What the work returns in a child, given a directory to mount on; skips where there is no
    mounting."""
    place = tmp_path / "disk"
    place.mkdir()
    value = run(mounting, work, place, directory=place, log=tmp_path / "log")
    if isinstance(value, str):
        pytest.skip(f"cannot mount here: {value}")
    return value


def mounting(work: Callable[[Path], Any], directory: Path) -> Any:
    try:
        return work(directory)
    except CannotMount as problem:
        return str(problem)


def verified(directory: Path) -> None:
    """`tracejit cache verify` finds nothing to say."""
    command = [sys.executable, "-m", "tracejit", "cache", "verify", "--json", "--dir"]
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and json.loads(done.stdout)["findings"] == [], done


def named(path: Path) -> str:
    """A pattern for a warning that names this file or directory."""
    return re.escape(str(path))
