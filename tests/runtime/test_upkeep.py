"""Keeping a cache tidy: what dead processes left, the limit on its size, hits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tracejit.runtime import claims, upkeep
from tracejit.runtime.config import config
from tracejit.runtime.files import HOST, Item, temporary_name
from tracejit.runtime.store import Store

BIG = Item({}, {"binary": bytes(1000)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def filled(store: Store, count: int = 10) -> int:
    """Kernels k0 (used longest ago) to k9; the size of one."""
    for number in range(count):
        store.write("kernels", f"k{number}", BIG)
        os.utime(store.path("kernels", f"k{number}"), (number, number))
    return store.path("kernels", "k0").stat().st_size


def test_trim_removes_what_was_used_longest_ago(store: Store) -> None:
    size = filled(store)
    assert store.trim(10 * size) == 0 and len(store.keys("kernels")) == 10
    assert store.trim(8 * size) == 4 * size
    assert store.keys("kernels") == [f"k{number}" for number in range(9, 3, -1)]


def test_trim_keeps_to_the_setting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = filled(store)
    monkeypatch.setattr(config, "cache_limit", 4 * size)
    assert store.trim() == 7 * size


def test_a_time_in_the_future_is_no_recent_use(store: Store) -> None:
    size = filled(store, 4)
    future = time.time() + 1e8
    os.utime(store.path("kernels", "k3"), (future, future))
    store.trim(3 * size)
    assert sorted(store.keys("kernels")) == ["k1", "k2"]


def test_trim_counts_what_another_process_removes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = filled(store)
    remove = upkeep.remove

    def twice(path: Path) -> int | None:
        remove(path)
        return remove(path)

    monkeypatch.setattr(upkeep, "remove", twice)
    assert store.trim(8 * size) == 0
    assert len(store.keys("kernels")) == 6


def test_trim_keeps_what_is_used_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = filled(store, 4)
    unchanged, touched = upkeep._unchanged, []

    def used(file: upkeep._Used) -> bool:
        if file.key == "k0":
            touched.append(Store(store.directory).touch("kernels", "k0"))
        return unchanged(file)

    monkeypatch.setattr(upkeep, "_unchanged", used)
    store.trim(3 * size)
    assert touched and sorted(store.keys("kernels")) == ["k0", "k3"]


def test_a_long_lived_process_trims(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = filled(store, 1)
    monkeypatch.setattr(config, "cache_limit", 20 * size)
    for number in range(60):
        assert store.write("kernels", f"n{number}", BIG)
        assert store.has("kernels", f"n{number}")
    kept = sum(file.bytes for file in store.files())
    assert 14 * size <= kept <= 22 * size


def test_a_record_goes_with_its_folder_and_count(store: Store) -> None:
    store.write("records", "f/r", BIG)
    store.write("records", "f/s", BIG)
    store.hit("r")
    assert store.remove("records", "f/r") > 1000 and store.hits("r") == 0
    assert os.listdir(store.directory / "hits") == []
    assert store.remove("records", "f/r") == 0
    store.hit("s")
    assert store.trim(0) > 1000
    assert os.listdir(store.directory / "records") == os.listdir(store.directory / "hits") == []


def test_hits(store: Store) -> None:
    store.usable()
    for _ in range(3):
        store.hit("f/r")
    assert store.hits("r") == store.hits("f/r") == 3 and store.hits("s") == 0


def dead() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_sweep(store: Store) -> None:
    store.write("kernels", "k", BIG)
    store.write("records", "f/r", BIG)
    (store.directory / "locks").mkdir()
    (store.directory / "damaged").mkdir()
    old = time.time() - 2 * 86400
    ended = dead()
    files = {  # path: whether it goes
        f"kernels/.k.{HOST}.{ended}.0a": True,
        f"records/f/.r.{HOST}.{ended}.0a": True,
        f"damaged/.r.{HOST}.{ended}.0a": True,
        f"kernels/{temporary_name('k')}": False,
        f"kernels/.k.{HOST}.1.0a": False,
        f"kernels/.old.{HOST}.1.0a": True,
        "kernels/.k.elsewhere.1.0a": False,
        "kernels/.l.elsewhere.1.0a": True,
        "kernels/.nfs0001": False,
        "locks/free": True,
        "locks/held": False,
    }
    for name in files:
        (store.directory / name).write_text("x")
    for name in (".l.elsewhere.1.0a", f".old.{HOST}.1.0a"):
        os.utime(store.directory / "kernels" / name, (old, old))
    with claims.Claims(store.directory) as held:
        held.take(["held"])
        found = {str(f.path.relative_to(store.directory)): f for f in store.leftovers()}
        assert found.keys() == files.keys() - {"kernels/.nfs0001"}
        assert {name for name, f in found.items() if not f.alive} == {n for n in files if files[n]}
        assert found["kernels/.l.elsewhere.1.0a"].age > 86400 and found["locks/free"].bytes == 1
        assert store.sweep() == sum(files.values())
        left = {name for name in files if (store.directory / name).exists()}
        assert left == {name for name in files if not files[name]}
    assert store.keys("kernels") == ["k"] and store.keys("records") == ["f/r"]


def test_the_first_write_sweeps(store: Store) -> None:
    filled(store, 1)
    left = store.directory / "kernels" / f".k.{HOST}.{dead()}.0a"
    left.write_text("")
    assert Store(store.directory).write("kernels", "k", BIG) and not left.exists()
