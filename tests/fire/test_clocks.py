"""Clocks that jump: times in the future and the far past harm nothing that is alive, and the limit
is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fire.common import as_new_process, assert_sound, silent
from tests.fire.programs import chain, right, softmax
from tracejit.runtime.files import HOST, Item, temporary_name
from tracejit.runtime.store import Store

DAY = 86400.0
YEARS = 10 * 365 * DAY
JUMPS = [-YEARS, -DAY, -60.0, 60.0, DAY, YEARS]


@pytest.fixture(autouse=True)
def new_process(fresh_cache: Path) -> Iterator[None]:
    as_new_process()
    with silent():
        yield


@pytest.fixture
def store(fresh_cache: Path) -> Store:
    return Store(fresh_cache)


def jump(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on the clock differs by so many seconds."""
    original = time.time
    patch.setattr(time, "time", lambda: original() + seconds)


def stamp(path: Path, seconds: float) -> None:
    """Give a file a time so many seconds from now."""
    os.utime(path, (time.time() + seconds,) * 2)


@pytest.mark.parametrize("seconds", JUMPS)
def test_calls_go_on_and_find_the_cache(
    fresh_cache: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert right(softmax) == ["recorded"]
    for _ in range(2):
        as_new_process()
        jump(monkeypatch, seconds)
        assert right(softmax) == ["disk"]
        right(chain)
        Store(fresh_cache).trim()
        Store(fresh_cache).sweep()
    monkeypatch.undo()
    as_new_process()
    assert right(softmax) == ["disk"]
    assert_sound(fresh_cache)


@pytest.mark.parametrize("seconds", JUMPS)
def test_stamps_of_another_clock(fresh_cache: Path, seconds: float) -> None:
    right(softmax)
    for file in Store(fresh_cache).files():
        stamp(file.path, seconds)
    as_new_process()
    assert right(softmax) == ["disk"]
    for file in Store(fresh_cache).files():
        assert abs(file.used - time.time()) <= 3600, file  # using renews the time


def unfinished(store: Store, pid: int, host: str = HOST) -> Path:
    """A temporary file that a process is, or was, writing."""
    store.write("kernels", "k", Item({}))
    name = temporary_name("k").replace(f".{os.getpid()}.", f".{pid}.").replace(HOST, host)
    path = store.directory / "kernels" / name
    path.write_bytes(b"half")
    return path


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("seconds", [-3600.0, -60.0, 0.0, 60.0, 3600.0])
def test_unfinished_file_of_a_living_process_stays(store: Store, seconds: float) -> None:
    path = unfinished(store, os.getpid())
    stamp(path, seconds)
    store.sweep()
    store.trim(0)
    assert path.exists()


@pytest.mark.parametrize("seconds", [0.0, *JUMPS])
def test_unfinished_file_of_a_dead_process_goes(store: Store, seconds: float) -> None:
    path = unfinished(store, dead_pid())
    stamp(path, seconds)
    assert store.sweep() == 1
    assert not path.exists() and store.read("kernels", "k") == Item({})


def test_unfinished_file_of_a_reused_pid(store: Store) -> None:
    """No write takes days: the process of this number is another one by now."""
    path = unfinished(store, os.getpid())
    stamp(path, -2 * DAY)
    assert store.sweep() == 1 and not path.exists()


@pytest.mark.parametrize(
    ("seconds", "stays"), [(0.0, True), (-3600.0, True), (3600.0, True), (-2 * DAY, False)]
)
def test_unfinished_file_of_another_host(store: Store, seconds: float, stays: bool) -> None:
    path = unfinished(store, 1, "elsewhere")
    stamp(path, seconds)
    store.sweep()
    assert path.exists() is stays


def fill(store: Store, count: int) -> int:
    """Entries of one size, used a minute apart, the first longest ago; the bytes of one."""
    for number in range(count):
        key = f"{number:064x}"
        assert store.write("kernels", key, Item({}, {"binary": bytes(1000)}))
        stamp(store.path("kernels", key), -60.0 * (count - number))
    return store.path("kernels", f"{0:064x}").stat().st_size


@pytest.mark.parametrize("seconds", [0.0, *JUMPS])
def test_trimming_keeps_the_limit(
    store: Store, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = fill(store, 20)
    jump(monkeypatch, seconds)
    store.trim(10 * size)
    left = sorted(file.key for file in store.files())
    assert 0 < len(left) <= 10
    if seconds >= -3600:  # a clock that went back knows no order among what seems to be to come
        assert left == [f"{number:064x}" for number in range(20 - len(left), 20)]


@pytest.mark.parametrize("seconds", [2 * 3600.0, DAY, YEARS])
def test_a_stamp_in_the_future_does_not_stay_for_ever(store: Store, seconds: float) -> None:
    size = fill(store, 10)
    stamp(store.path("kernels", f"{0:064x}"), seconds)
    store.trim(8 * size)
    assert f"{0:064x}" not in store.keys("kernels") and len(store.keys("kernels")) >= 5


def test_touch_brings_the_future_back(store: Store) -> None:
    fill(store, 3)
    path = store.path("kernels", f"{0:064x}")
    for seconds in (-YEARS, YEARS):
        stamp(path, seconds)
        store.touch("kernels", f"{0:064x}")
        assert abs(path.stat().st_mtime - time.time()) < 60
    assert store.keys("kernels")[0] == f"{0:064x}"
