"""The file store on bad disks: full, read-only, without fsync or rename, cleared meanwhile, open to
others. Nothing is lost, nothing is left behind, and a call hears of it once."""

from __future__ import annotations

import errno
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tracejit.runtime import directory as folders
from tracejit.runtime import files, log
from tracejit.runtime.errors import CacheWarning
from tracejit.runtime.files import Item
from tracejit.runtime.store import Store

ITEM = Item({"name": "k", "sizes": [1, 2]}, {"kernel.py": b"x = 1\n", "binary": bytes(range(256))})


@pytest.fixture(autouse=True)
def fresh_warnings() -> Iterator[None]:
    log.forget()
    yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def no_files(store: Store) -> bool:
    return [path for path in store.directory.rglob("*") if path.is_file()] == []


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*args: Any) -> None:
        raise error

    return function


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


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_without_fsync(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", raising(OSError(number, "no fsync")))
    assert store.write("kernels", "k", ITEM) and store.read("kernels", "k") == ITEM


@pytest.mark.parametrize(
    "number", [errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EXDEV, errno.EEXIST]
)
def test_without_rename(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    store.write("kernels", "k", Item({"old": True}))
    monkeypatch.setattr(os, "replace", raising(OSError(number, "no rename")))
    assert store.write("kernels", "k", ITEM) and store.read("kernels", "k") == ITEM
    assert os.listdir(store.directory / "kernels") == ["k"]
    store.path("kernels", "k").write_bytes(b"damaged")
    with pytest.warns(CacheWarning, match="It is made again"):
        assert store.read("kernels", "k") is None
    assert no_files(store)


def test_without_rename_a_file_may_be_half_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("kernels", "k", ITEM)
    path = store.path("kernels", "k")
    good = path.read_bytes()
    path.write_bytes(good[:50])
    monkeypatch.setattr(os, "replace", raising(OSError(errno.ENOSYS, "no rename")))
    monkeypatch.setattr(time, "sleep", lambda seconds: path.write_bytes(good))  # its writer goes on
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.read("kernels", "k") is None
    assert store.read("kernels", "k") == ITEM


def test_without_rename_nobody_overwrites_what_another_writes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("kernels", "k", Item({"old": True}))
    path = store.path("kernels", "k")
    monkeypatch.setattr(os, "replace", raising(OSError(errno.ENOSYS, "no rename")))
    private, calls = files._private, []

    def quicker(name: str, flags: int) -> int:
        if Path(name) == path and not calls:
            calls.append(path.write_bytes(b"half a fi"))
        return private(name, flags)

    monkeypatch.setattr(files, "_private", quicker)
    assert store.write("kernels", "k", ITEM) and store.read("kernels", "k") == ITEM


def test_rename_only_where_nothing_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def rename(source: Any, target: Any) -> None:
        if os.path.exists(target):
            raise FileExistsError(errno.EEXIST, "it exists")
        replace(source, target)

    monkeypatch.setattr(os, "replace", rename)
    for item in (Item({"old": True}), ITEM):
        assert store.write("kernels", "k", item) and store.read("kernels", "k") == item
    assert os.listdir(store.directory / "kernels") == ["k"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE])
def test_a_file_removed_under_us_is_written_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    replace, calls = os.replace, []

    def swept(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == 1:
            os.unlink(source)
            raise OSError(number, "it is gone")
        replace(source, target)

    monkeypatch.setattr(os, "replace", swept)
    assert store.write("kernels", "k", ITEM) and store.read("kernels", "k") == ITEM
    assert len(calls) == 2


@pytest.mark.parametrize("folder", ["kernels", ""])
def test_a_folder_removed_under_us_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    store.write("kernels", "k", ITEM)
    write, calls = files._write, []

    def cleared(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == 1:
            shutil.rmtree(store.directory / folder)
        write(path, data)

    monkeypatch.setattr(files, "_write", cleared)
    assert store.write("kernels", "k2", ITEM) and store.read("kernels", "k2") == ITEM
    assert store.directory.stat().st_mode & 0o777 == 0o700 and len(calls) == 2


def test_a_directory_removed_as_soon_as_it_is_made(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, calls = folders.make, []

    def cleared(directory: Path) -> str:
        why = make(directory)
        calls.append(why)
        if len(calls) < 3:
            directory.rmdir()
        return why

    monkeypatch.setattr(folders, "make", cleared)
    assert store.write("kernels", "k", ITEM) is False and calls == ["", "", ""]
    assert store.write("kernels", "k", ITEM)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_is_tried_again_later(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(files, "_private", raising(OSError(number, os.strerror(number))))
        with pytest.warns(CacheWarning, match=f"{store.directory} cannot be .*after 60 seconds"):
            assert not store.write("kernels", "k", ITEM)
    now = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not store.write("kernels", "k", ITEM) and not store.writable()
        monkeypatch.setattr(time, "monotonic", lambda: now + 61)
        assert store.write("kernels", "k", ITEM) and store.read("kernels", "k") == ITEM


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_interrupted_at_each_step(store: Store, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(os, step, raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        store.write("kernels", "k", ITEM)
    assert no_files(store)


def test_interrupted_while_the_file_is_opened(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: str, flags: int) -> int:
        os.close(os.open(path, flags))
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_private", opened)
    with pytest.raises(KeyboardInterrupt):
        store.write("kernels", "k", ITEM)
    assert no_files(store)


def test_a_file_made_good_meanwhile_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("kernels", "k", ITEM)
    path = store.path("kernels", "k")
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    replace = os.replace

    def late(source: Any, target: Any) -> None:
        if Path(source) == path:
            path.write_bytes(good)  # another process, just before the move
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.read("kernels", "k") is None
    assert store.read("kernels", "k") == ITEM
    assert os.listdir(store.directory / "damaged") == []


def test_a_read_only_directory_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("kernels", "k", ITEM)
    store.directory.chmod(0o755)
    os.utime(store.path("kernels", "k"), (5, 5))
    read_only = raising(OSError(errno.EROFS, "Read-only file system"))
    for name in ("chmod", "mkdir", "replace", "unlink", "utime", "open"):
        monkeypatch.setattr(os, name, read_only)
    reader = Store(store.directory)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reader.read("kernels", "k") == ITEM
        reader.touch("kernels", "k")
        reader.hit("k")
    with pytest.warns(CacheWarning, match="Read-only file system") as caught:
        assert not reader.write("kernels", "k2", ITEM) and not reader.write("kernels", "k3", ITEM)
    assert len(caught) == 1


@pytest.mark.skipif(os.name != "posix", reason="owners are a POSIX notion")
@pytest.mark.parametrize(
    ("mode", "inner", "why"),
    [
        (0o755, 0o755, ""),
        (0o757, 0o755, "may be written by other users.*cannot be made private"),
        (0o775, 0o755, "may be written by other users.*cannot be made private"),
        (0o755, 0o777, "has a folder kernels that may be written by other users"),
    ],
)
def test_a_directory_that_cannot_be_made_private(
    store: Store, monkeypatch: pytest.MonkeyPatch, mode: int, inner: int, why: str
) -> None:
    store.write("kernels", "k", ITEM)
    (store.directory / "kernels").chmod(inner)
    store.directory.chmod(mode)
    monkeypatch.setattr(os, "chmod", raising(OSError(errno.EROFS, "Read-only file system")))
    reader = Store(store.directory)
    assert bool(reader.refusal()) == bool(why)
    if not why:
        assert reader.read("kernels", "k") == ITEM
        return
    with pytest.warns(CacheWarning, match=why):
        assert reader.read("kernels", "k") is None


@pytest.mark.skipif(os.name != "posix", reason="owners are a POSIX notion")
def test_a_chmod_that_does_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("kernels", "k", ITEM)
    store.directory.chmod(0o777)
    monkeypatch.setattr(os, "chmod", lambda *args: None)
    with pytest.warns(CacheWarning, match="may be written by other users"):
        assert Store(store.directory).read("kernels", "k") is None


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    (tmp_path / "cache").chmod(0o644)
    with pytest.warns(CacheWarning, match="is not a directory; nothing is cached"):
        assert Store(tmp_path / "cache").read("kernels", "k") is None
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.name != "posix", reason="owners are a POSIX notion")
@pytest.mark.parametrize("what", ["kernels", "kernels/k"])
def test_what_another_user_left_in_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    store.write("kernels", "k", ITEM)
    number, owner, stranger = (store.directory / what).stat().st_ino, os.getuid(), folders.stranger

    def another(status: os.stat_result) -> str:
        return f"belongs to user {owner + 1}" if status.st_ino == number else stranger(status)

    monkeypatch.setattr(folders, "stranger", another)
    name = "has a folder kernels that" if what == "kernels" else f"{store.directory}/{what} is not"
    with pytest.warns(CacheWarning, match=f"{name}.* belongs to user {owner + 1}"):
        assert Store(store.directory).read("kernels", "k") is None
