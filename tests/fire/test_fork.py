"""Forks with a warm cache and while the parent is compiling: right results on both sides, and
nobody hangs."""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fire.common import as_new_process, assert_sound, run
from tests.fire.disks import warned
from tests.fire.programs import block, chain, compiled, right, softmax, sources
from tests.fire.steps import fork
from tracejit.runtime import forks
from tracejit.runtime.store import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def wait_for(pid: int, seconds: float = 20) -> None:
    """Wait for a forked child; AssertionError if it failed or hangs."""
    end = time.monotonic() + seconds
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGUSR1)  # it says where
            time.sleep(0.5)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError("the forked child hangs")
        time.sleep(0.005)
    assert ended[1] == 0, f"the forked child failed: {ended[1]}"


def in_fork(work: Callable[[], Any]) -> None:
    """Do work in a forked child."""
    sys.stderr.flush()
    wait_for(fork(work))


def hits(directory: Path) -> int:
    store = Store(directory)
    return sum(store.hits(file.key) for file in store.files("records"))


def warm(directory: Path) -> None:
    """A function compiled, or found on disk, before the fork is called after it."""
    x = torch.randn(4, 16)
    for source in ("recorded", "disk"):
        f = compiled(softmax)
        f(x)

        def calls(f: Any = f, source: str = source) -> None:
            for _ in range(3):
                assert torch.allclose(f(x), softmax(x))
            assert sources(f) == [source]
            assert right(softmax, x) == ["disk"]
            assert right(chain, torch.randn(2 if source == "disk" else 3, 4)) == ["recorded"]

        in_fork(calls)
        calls_in_parent = right(softmax, x)
        assert calls_in_parent == ["disk"] and torch.allclose(f(x), softmax(x))
    assert right(chain, torch.randn(2, 4)) == ["disk"]  # what a child stored


def counted(directory: Path) -> None:
    """Each process that finds a record counts once, a forked one too."""
    x = torch.randn(4, 16)
    right(softmax, x)
    assert hits(directory) == 0
    right(softmax, x)
    right(softmax, x)
    assert hits(directory) == 1
    for count in (2, 3):
        in_fork(lambda: [right(softmax, x) for _ in range(2)])
        assert hits(directory) == count


def grandchildren(directory: Path) -> None:
    def deeper(depth: int) -> None:
        right(softmax, torch.randn(2, 3 + depth))
        if depth:
            in_fork(lambda: deeper(depth - 1))
            assert right(softmax, torch.randn(2, 2 + depth)) == ["disk"]

    deeper(3)


def pooled(directory: Path) -> None:
    """multiprocessing's own fork."""
    x = torch.randn(4, 16)
    right(softmax, x)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap_async(right, [(softmax, x), (chain, x)] * 8).get(30)
    assert found[0] == ["disk"] and {s for sources in found for s in sources} == {
        "disk",
        "recorded",
    }


def while_compiling(directory: Path) -> None:
    """Forks at many moments of the parent's work in the background."""
    from tracejit.runtime.worker import worker

    for moment in range(12):
        x = torch.randn(3, 5 + moment)
        functions = [compiled(f, wait=False) for f in (softmax, chain, block())]
        inputs = [x, x, torch.randn(moment + 1, 16)]
        for f, y in zip(functions, inputs, strict=True):
            f(y)
        time.sleep(moment * 0.002)

        def calls(functions: Any = functions, inputs: Any = inputs) -> None:
            right(softmax, inputs[0])
            right(chain, torch.randn(2, 2))
            right(block(), inputs[2])
            for f, y in zip(functions[:2], inputs, strict=False):
                for _ in range(2):
                    f(y)
            worker.drain()
            assert torch.allclose(functions[0](inputs[0]), softmax(inputs[0]))

        in_fork(calls)
        worker.drain()
        assert torch.allclose(functions[1](x), chain(x))


class SlowImport(importlib.abc.MetaPathFinder):
    """Makes the import of a module take a while."""

    def __init__(self, name: str) -> None:
        self.name, self.begun = name, threading.Event()

    def find_spec(self, name: str, *rest: Any) -> None:
        if name == self.name:
            self.begun.set()
            time.sleep(0.3)


def while_importing(directory: Path) -> None:
    """The thread that compiles holds the lock of a module that it imports for the first time."""
    from tracejit.runtime.worker import worker

    slow = SlowImport("tracejit.runtime.devices.reference")
    assert slow.name not in sys.modules
    sys.meta_path.insert(0, slow)
    compiled(chain, wait=False)(torch.randn(3, 4))
    assert slow.begun.wait(20)
    in_fork(lambda: right(softmax, torch.randn(3, 4)))
    worker.drain()
    assert right(chain, torch.randn(3, 4)) == ["disk"]


def while_compiling_for_a_gpu(directory: Path) -> None:
    """The parent's compiler is in native code, and its claims are its own."""
    from tracejit.runtime.worker import worker

    x = torch.randn(4, 16)
    for moment in range(5):
        compiled(block(), wait=False, backend="triton")(torch.randn(moment + 1, 16))
        time.sleep(moment * 0.03)
        y = torch.randn(moment + 1, 16)
        in_fork(functools.partial(right, block(), y, backend="triton"))
        in_fork(lambda: right(chain, x, backend="triton"))
        worker.drain()
    assert right(block(), torch.randn(2, 16), backend="triton") == ["disk"]


@pytest.mark.parametrize(
    ("work", "target"),
    [
        (warm, ""),
        (counted, ""),
        (grandchildren, ""),
        (pooled, ""),
        (while_compiling, ""),
        (while_importing, ""),
        (while_compiling_for_a_gpu, "cuda:90"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fork(work: Any, target: str, tmp_path: Path) -> None:
    place = tmp_path / "cache"
    _, texts = run(watched, work, place, directory=place, log=tmp_path / "log", target=target)
    assert texts == []
    assert_sound(place)


def watched(work: Callable[[Path], None], directory: Path) -> tuple[None, list[str]]:
    return warned(lambda: work(directory))


@contextlib.contextmanager
def held(lock: Any, seconds: float) -> Iterator[None]:
    """Another thread holds a lock for a while."""
    taken = threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    yield
    thread.join()


def locks() -> dict[str, Any]:
    """Every lock of a module of tracejit, and those of a compiled function."""
    from tracejit.api import dispatcher_of
    from tracejit.runtime.worker import worker

    kinds = (type(threading.Lock()), type(threading.RLock()), forks.Lock)
    found: dict[str, Any] = {
        f"{name}.{attribute}": value
        for name, module in list(sys.modules.items())
        if name.startswith("tracejit")
        for attribute, value in vars(module).items()
        if isinstance(value, kinds)
    }
    f = compiled(softmax)
    f(torch.ones(3, 5))
    dispatcher = dispatcher_of(f)
    found["worker"] = worker._lock
    found["dispatcher"] = dispatcher.lock
    found["check"] = dispatcher.entries[0].check.lock
    FUNCTIONS.append(f)
    return found


FUNCTIONS: list[Any] = []


def while_locks_are_held(directory: Path) -> list[str]:
    """Fork while another thread holds each lock in turn; their names."""
    names = list(locks())
    for name in names:
        lock = locks()[name]
        with held(lock, 0.15):

            def calls(f: Any = FUNCTIONS[-1]) -> None:
                for _ in range(4):  # the same check, with more bindings
                    x = torch.randn(3, 5)
                    assert torch.allclose(f(x), softmax(x))
                as_new_process()
                right(softmax)
                right(chain, torch.ones(2, 3), backend="interpret")
                Store(directory).set_aside("kernels", "none", "to warn")

            sys.stderr.flush()
            pid = fork(calls)
            wait_for(pid)
    return names


def test_fork_while_a_lock_is_held(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    names, _ = run(
        warned_of, while_locks_are_held, place, directory=place, log=tmp_path / "log", seconds=60
    )
    assert len(names) >= 4, names


def warned_of(work: Callable[[Path], Any], directory: Path) -> Any:
    return warned(lambda: work(directory))
