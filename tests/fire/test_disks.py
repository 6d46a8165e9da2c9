"""Disks without locks, without syncing, without renames that can be trusted, that cannot be read,
or that are gone, and something else where a directory should be: right results, and a warning that
names the directory where something is lost."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fire.common import as_new_process, assert_healed, assert_sound, named, run, silent
from tests.fire.disks import Refusing, warned
from tests.fire.programs import chain, right, softmax
from tracejit.runtime.config import config
from tracejit.runtime.errors import CacheWarning
from tracejit.runtime.store import Store

posix = pytest.mark.skipif(os.name != "posix", reason="links and locks as POSIX has them")


@pytest.fixture(autouse=True)
def new_process(fresh_cache: Path) -> Iterator[None]:
    as_new_process()
    yield


@pytest.fixture
def warm(fresh_cache: Path) -> Path:
    assert right(softmax) == ["recorded"]
    as_new_process()
    return fresh_cache


# something else where the directory should be


def test_file_in_place_of_the_directory(fresh_cache: Path) -> None:
    fresh_cache.write_text("something else")
    with pytest.warns(CacheWarning, match=named(fresh_cache)):
        assert right(softmax) == ["recorded"]
    assert fresh_cache.read_text() == "something else"


@pytest.mark.parametrize("folder", ["kernels", "plans", "records", "hits", "locks", "damaged"])
def test_file_in_place_of_a_folder(fresh_cache: Path, folder: str) -> None:
    fresh_cache.mkdir(mode=0o700)
    (fresh_cache / folder).write_text("something else")
    found, texts = warned(lambda: right(softmax))
    assert found == ["recorded"]
    assert folder not in ("kernels", "plans", "records") or texts
    assert all(str(fresh_cache) in text for text in texts)
    as_new_process()
    warned(lambda: [right(softmax), right(chain)])
    assert (fresh_cache / folder).read_text() == "something else"


@posix
def test_link_to_a_directory(fresh_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    fresh_cache.symlink_to(tmp_path / "elsewhere")
    with silent():
        assert right(softmax) == ["recorded"]
    assert_healed(fresh_cache)


@posix
@pytest.mark.parametrize("target", ["nowhere", "cache"])
def test_link_to_nothing_or_to_itself(fresh_cache: Path, target: str) -> None:
    fresh_cache.symlink_to(fresh_cache.with_name(target))
    with pytest.warns(CacheWarning, match=named(fresh_cache)):
        assert right(softmax) == ["recorded"]
    with silent():
        assert right(chain) == ["recorded"]


@posix
def test_folder_that_is_a_link_to_a_larger_disk(warm: Path, tmp_path: Path) -> None:
    shutil.move(warm / "kernels", tmp_path / "kernels")
    (warm / "kernels").symlink_to(tmp_path / "kernels")
    with silent():
        assert right(softmax) == ["disk"] and right(chain) == ["recorded"]
    assert_healed(warm)


# renames


class HalfRename:
    """os.replace as on a file system that copies: the name is there before its content is."""

    def __init__(self, meanwhile: Callable[[Path], None], remove: bool = True) -> None:
        self.meanwhile, self.remove = meanwhile, remove

    def __call__(self, source: Any, target: Any, **kwargs: Any) -> None:
        data = Path(source).read_bytes()
        with open(target, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            self.meanwhile(Path(target))
            file.write(data[len(data) // 2 :])
        if self.remove:
            os.unlink(source)


def test_reader_while_a_rename_copies(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[Any] = []

    def read(target: Path) -> None:
        if fresh_cache in target.parents and target.parent.name != "damaged":
            kind, _, key = str(target.relative_to(fresh_cache)).partition("/")
            met.append(warned(lambda: Store(fresh_cache).read(kind, key)))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", HalfRename(read))
        found, _ = warned(lambda: right(softmax))
    assert found == ["recorded"] and len(met) >= 3
    assert all(item is None for item, _ in met)
    assert all(str(fresh_cache) in text for _, texts in met for text in texts)
    assert_healed(fresh_cache)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EBUSY])
def test_disk_that_refuses_to_rename(fresh_cache: Path, number: int) -> None:
    with Refusing(fresh_cache, number, ("replace", "rename", "link")):
        found, texts = warned(lambda: right(softmax))
        assert found == ["recorded"]
        assert all(str(fresh_cache) in text for text in texts) and len(texts) <= 1
        as_new_process()
        found, _ = warned(lambda: right(softmax))
    assert_healed(fresh_cache)


def where_renames_leave_both_names() -> Any:
    os.replace = HalfRename(lambda target: None, remove=False)  # type: ignore[assignment]
    return warned(lambda: right(softmax))


def test_rename_that_leaves_both_names(fresh_cache: Path, tmp_path: Path) -> None:
    shown = run(where_renames_leave_both_names, directory=fresh_cache, log=tmp_path / "log")
    assert shown == (["recorded"], [])
    assert len(list(Store(fresh_cache).leftovers())) >= 3
    assert_healed(fresh_cache)


# locks and syncing


@posix
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EIO])
def test_disk_without_locks(
    fresh_cache: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(config, "target", "cuda:90")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        patch.setattr(fcntl, "lockf", refuse)
        found, texts = warned(lambda: right(softmax, backend="triton"))
    assert found == ["recorded"] and all(str(fresh_cache) in text for text in texts)
    as_new_process()
    with silent():
        assert right(softmax, backend="triton") == ["disk"]
    assert_sound(fresh_cache)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_disk_without_syncing(fresh_cache: Path, number: int) -> None:
    with Refusing(fresh_cache, number, ("fsync", "fdatasync")) as disk:
        found, texts = warned(lambda: right(softmax))
    assert disk.refused and found == ["recorded"]
    assert all(str(fresh_cache) in text for text in texts)
    assert_healed(fresh_cache)


# gone


def test_directory_removed_between_two_calls(warm: Path) -> None:
    right(softmax)
    shutil.rmtree(warm)
    with silent():
        assert right(chain) == ["recorded"]
        assert right(softmax) == ["recorded"]
    assert warm.stat().st_mode & 0o777 == 0o700
    assert_healed(warm)


@pytest.mark.parametrize("folder", ["kernels", "plans", "records"])
def test_folder_removed_between_two_calls(warm: Path, folder: str) -> None:
    right(softmax)
    shutil.rmtree(warm / folder)
    with silent():
        assert right(chain) == ["recorded"]
        right(softmax)
    assert_healed(warm)


def test_directory_removed_while_a_file_is_written(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process clears the cache between the temporary file and its rename."""
    original = os.replace
    removed: list[Path] = []

    def late(source: Any, target: Any) -> None:
        if not removed:
            removed.append(fresh_cache)
            shutil.rmtree(fresh_cache)
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", late)
        found, texts = warned(lambda: right(softmax))
    assert removed and found == ["recorded"]
    assert all(str(fresh_cache) in text for text in texts)
    assert_healed(fresh_cache)


# reading


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_disk_that_cannot_be_read(warm: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network file system whose server is gone."""
    original = builtins.open

    def refusing(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file).startswith(str(warm)):
            raise OSError(number, os.strerror(number), str(file))
        return original(file, *args, **kwargs)

    names = ("open", "scandir", "stat", "mkdir", "listdir", "replace")
    with monkeypatch.context() as patch, Refusing(warm, number, names):
        patch.setattr(builtins, "open", refusing)
        found, texts = warned(lambda: right(softmax))
    assert found == ["recorded"]
    assert texts and all(str(warm) in text for text in texts)
    assert_healed(warm)


def with_no_descriptors_left() -> Any:
    """Calls of a process that may open no more files."""
    right(softmax, torch.ones(2, 3))
    free = os.dup(0)
    os.close(free)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        as_new_process()
        return warned(lambda: right(softmax, torch.ones(2, 3)) + right(chain))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@posix
def test_no_descriptors_left(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    found, texts = run(with_no_descriptors_left, directory=place, log=tmp_path / "log")
    assert found == ["recorded"] * 2
    assert texts and all(str(place) in text for text in texts)
    assert_healed(place)
