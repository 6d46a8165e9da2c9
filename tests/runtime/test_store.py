"""The file store: what is written is read back; what is damaged, foreign or forbidden is noticed
and never used."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracejit.runtime import log
from tracejit.runtime.errors import CacheWarning
from tracejit.runtime.store import FORMAT, Item, Store, digest, encode

ITEM = Item({"name": "k", "sizes": [1, 2]}, {"kernel.py": b"x = 1\n", "binary": bytes(range(256))})


@pytest.fixture(autouse=True)
def fresh_warnings() -> Iterator[None]:
    log.forget()
    yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_round_trip(store: Store) -> None:
    assert store.read("kernels", "k1") is None
    assert store.write("kernels", "k1", ITEM)
    found = store.read("kernels", "k1")
    assert found == ITEM
    assert found is not None and found.text("kernel.py") == "x = 1\n"


def test_directory_is_private(store: Store) -> None:
    store.write("records", "f/r", ITEM)
    for path in (store.directory, store.directory / "records", store.directory / "records" / "f"):
        assert path.stat().st_mode & 0o777 == 0o700


def test_open_directory_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    store = Store(tmp_path / "open")
    assert store.usable()
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o700


def damage(data: bytes, how: str) -> bytes:
    if how == "truncated":
        return data[:-10]
    if how == "empty":
        return b""
    if how == "header only":
        return data[: data.index(b"\n")]
    if how == "flipped":
        return data[:-1] + bytes([data[-1] ^ 1])
    if how == "flipped in json":
        at = data.index(b'"sizes"')
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    if how == "other version":
        return data.replace(f"tracejit {FORMAT} ".encode(), f"tracejit {FORMAT + 1} ".encode(), 1)
    if how == "other kind":
        return encode("plans", ITEM)
    return b"\x80\x04\x95 a pickle or anything else"


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "empty",
        "header only",
        "flipped",
        "flipped in json",
        "other version",
        "other kind",
        "foreign",
    ],
)
def test_damaged_file_is_reported_and_set_aside(store: Store, how: str) -> None:
    store.write("kernels", "k1", ITEM)
    path = store.path("kernels", "k1")
    path.write_bytes(damage(path.read_bytes(), how))
    with pytest.warns(CacheWarning, match=str(path)):
        assert store.read("kernels", "k1") is None
    assert not path.exists()
    assert len(list((store.directory / "damaged").iterdir())) == 1
    assert store.write("kernels", "k1", ITEM)
    assert store.read("kernels", "k1") == ITEM


@pytest.mark.skipif(os.name != "posix", reason="owners are a POSIX notion")
def test_directory_of_another_user_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("kernels", "k1", ITEM)
    other = Store(store.directory)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.warns(CacheWarning, match="belongs to user"):
        assert other.read("kernels", "k1") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not other.write("kernels", "k2", ITEM)
    assert not store.path("kernels", "k2").exists()


def test_full_disk_warns_once_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(CacheWarning, match="No space left"):
        assert not store.write("kernels", "k1", ITEM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not store.write("kernels", "k2", ITEM)
    assert list((store.directory / "kernels").iterdir()) == []


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "cache")
    with pytest.warns(CacheWarning, match="nothing is cached"):
        assert not store.write("kernels", "k1", ITEM)
    assert store.read("kernels", "k1") is None
    assert store.keys("kernels") == []


def test_keys_newest_first(store: Store) -> None:
    for number, key in enumerate(("f/a", "f/b", "g/c")):
        store.write("records", key, ITEM)
        os.utime(store.path("records", key), (number, number))
    assert store.keys("records") == ["g/c", "f/b", "f/a"]
    assert store.keys("records", "f") == ["f/b", "f/a"]


WRITER = """
import sys
from pathlib import Path
from tracejit.runtime.store import Item, Store
store = Store(Path(sys.argv[1]))
for number in range(60):
    assert store.write("kernels", f"k{number % 3}", Item({"n": number}, {"binary": bytes(20000)}))
    item = store.read("kernels", f"k{number % 3}")
    assert item is not None and len(item.parts["binary"]) == 20000
"""


def test_processes_at_once(store: Store) -> None:
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, str(store.directory)])
        for _ in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert sorted(store.keys("kernels")) == ["k0", "k1", "k2"]
    assert not (store.directory / "damaged").exists()


def test_digest_keeps_pieces_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(b"x") != digest(b"y")


def test_trim_removes_what_was_used_longest_ago(store: Store) -> None:
    for number in range(10):
        store.write("kernels", f"k{number}", Item({}, {"binary": bytes(1000)}))
        os.utime(store.path("kernels", f"k{number}"), (number, number))
    size = store.path("kernels", "k0").stat().st_size
    assert store.trim(10 * size) == 0 and len(store.keys("kernels")) == 10
    assert store.trim(8 * size) == 4 * size
    assert sorted(store.keys("kernels")) == [f"k{number}" for number in range(4, 10)]


def test_reading_renews_the_time(store: Store) -> None:
    store.write("kernels", "k", ITEM)
    os.utime(store.path("kernels", "k"), (5, 5))
    store.touch("kernels", "k")
    assert store.path("kernels", "k").stat().st_mtime > 1e9
    store.touch("kernels", "absent")
