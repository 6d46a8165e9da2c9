"""The file store: what is written is read back; what is damaged, foreign or forbidden is noticed
and never used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracejit.runtime import files, log
from tracejit.runtime import store as stores
from tracejit.runtime.errors import CacheWarning
from tracejit.runtime.files import FORMAT, Damaged, Item, OtherFormat, digest, encode
from tracejit.runtime.store import Store

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
    if how == "no version":
        return data.replace(f"tracejit {FORMAT} ".encode(), b"tracejit x ", 1)
    if how == "other kind":
        return encode("plans", ITEM, "k1")
    if how == "other key":
        return encode("kernels", ITEM, "k2")
    return b"\x80\x04\x95 a pickle or anything else"


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "empty",
        "header only",
        "flipped",
        "flipped in json",
        "no version",
        "other kind",
        "other key",
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


def test_keys_newest_first(store: Store) -> None:
    for number, key in enumerate(("f/a", "f/b", "g/c")):
        store.write("records", key, ITEM)
        os.utime(store.path("records", key), (number, number))
    assert store.keys("records") == ["g/c", "f/b", "f/a"]
    assert store.keys("records", "f") == ["f/b", "f/a"]


WRITER = """
import sys
from pathlib import Path
from tracejit.runtime.files import Item
from tracejit.runtime.store import Store
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


def test_reading_renews_the_time(store: Store) -> None:
    store.write("kernels", "k", ITEM)
    path = store.path("kernels", "k")
    for wrong in (5, time.time() + 1e7):  # long ago; in the future, of a clock that jumped
        os.utime(path, (wrong, wrong))
        store.touch("kernels", "k")
        assert abs(path.stat().st_mtime - time.time()) < 5
    recent = path.stat().st_mtime - 20
    os.utime(path, (recent, recent))
    store.touch("kernels", "k")
    assert path.stat().st_mtime == recent
    store.touch("kernels", "absent")


def test_who_wrote_it(store: Store) -> None:
    store.write("kernels", "k", ITEM, {"target": "cuda:90"})
    found = store.inspect("kernels", "k")
    assert found == ITEM and found.written.pop("time").endswith("+00:00")
    assert found.written == {
        "pid": os.getpid(),
        "host": files.HOST,
        "program": os.path.basename(sys.argv[0]),
        "environment": {"target": "cuda:90"},
    }
    assert "written" not in found.fields


def test_peek_reads_no_parts(store: Store) -> None:
    store.write("kernels", "k", ITEM)
    path = store.path("kernels", "k")
    path.write_bytes(path.read_bytes()[:-10])
    found = store.peek("kernels", "k")
    assert found.fields == ITEM.fields and not found.parts and found.written["pid"] == os.getpid()


def test_looking_changes_nothing(store: Store) -> None:
    for look in (store.peek, store.inspect):
        with pytest.raises(FileNotFoundError):
            look("kernels", "k")
    assert list(store.files()) == list(store.leftovers()) == store.keys("plans") == []
    assert store.hits("k") == 0 and store.refusal() == "" and store.read("kernels", "k") is None
    assert not store.directory.exists()
    store.write("kernels", "k", ITEM)
    store.directory.chmod(0o755)
    path = store.path("kernels", "k")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Damaged, match="does not have its digest"):
            Store(store.directory).inspect("kernels", "k")
        assert [(f.kind, f.key, f.path) for f in store.files()] == [("kernels", "k", path)]
    assert path.exists() and store.directory.stat().st_mode & 0o777 == 0o755


def test_another_version_is_left_alone(store: Store) -> None:
    store.write("kernels", "k", ITEM)
    path = store.path("kernels", "k")
    other = path.read_bytes().replace(b"tracejit 2 ", b"tracejit 3 more ", 1)
    path.write_bytes(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.read("kernels", "k") is None and not store.has("kernels", "k")
    with pytest.raises(OtherFormat, match="it has format 3, this version reads 2"):
        store.inspect("kernels", "k")
    assert path.read_bytes() == other


def test_parts_that_do_not_add_up(store: Store) -> None:
    body = b'{"key":"","parts":{"a":3}}\nfour'
    data = b"tracejit 2 kernels " + files.hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    with pytest.raises(Damaged, match="its parts have 4 bytes, not 3"):
        stores.decode("kernels", data)


@pytest.mark.parametrize(
    "line",
    ["[", "{}", '{"key":"","parts":{"a":"4"}}', '{"key":"","parts":{"a":-1}}', "[" * 100_000],
)
def test_json_that_is_not_as_written(line: str) -> None:
    body = line.encode() + b"\nfour"
    data = b"tracejit 2 kernels " + files.hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    with pytest.raises(Damaged, match="it is not as tracejit writes it"):
        stores.decode("kernels", data)


@pytest.mark.parametrize("key", ["../up", "a/../b", ".hidden", "/etc/passwd", "a/b/c", ""])
def test_what_is_no_key(store: Store, key: str) -> None:
    assert store.read("kernels", key) is None and not store.write("kernels", key, ITEM)
    assert not store.has("kernels", key) and store.remove("kernels", key) == 0
    for look in (store.peek, store.inspect):
        with pytest.raises(FileNotFoundError, match="this is no key"):
            look("kernels", key)
