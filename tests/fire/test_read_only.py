"""Directories that may be read only, are somebody else's, or open to others: what is there is used
where it may be, a warning names the directory where it may not, and results are right."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fire.common import as_new_process, assert_healed, named, on_a_mount, run, silent
from tests.fire.disks import Refusing, make_read_only, mounted, obey_modes, own_mounts, tree, warned
from tests.fire.programs import chain, right, softmax
from tracejit.runtime.errors import CacheWarning
from tracejit.runtime.store import Store

root = pytest.mark.skipif(
    os.name != "posix" or os.getuid() != 0, reason="only root can give files away"
)
pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and owners are a POSIX notion")


@pytest.fixture(autouse=True)
def new_process(fresh_cache: Path) -> Iterator[None]:
    as_new_process()
    yield


@pytest.fixture
def warm(fresh_cache: Path) -> Path:
    assert right(softmax) == ["recorded"]
    as_new_process()
    return fresh_cache


def on_a_read_only_file_system(directory: Path) -> dict[str, Any]:
    own_mounts()
    with mounted(directory):
        right(softmax)
        before = tree(directory)
        make_read_only(directory)
        as_new_process()
        shown = {
            "warm": warned(lambda: right(softmax)),
            "new": warned(lambda: right(chain)),
            "again": warned(lambda: right(chain)),
        }
        assert tree(directory) == before
        return shown


def test_read_only_file_system(tmp_path: Path) -> None:
    shown = on_a_mount(on_a_read_only_file_system, tmp_path)
    assert shown["warm"] == (["disk"], [])
    found, texts = shown["new"]
    assert found == ["recorded"] and len(texts) == 1
    assert str(tmp_path / "disk") in texts[0] and os.strerror(errno.EROFS) in texts[0]
    assert shown["again"] == (["recorded"], [])


def in_a_read_only_directory(directory: Path, warm: bool) -> Any:
    """Calls in a process that permissions bind, as they do users other than root."""
    directory.mkdir(mode=0o700)
    if warm:
        right(softmax)
    before = tree(directory)
    if not obey_modes():
        return "permissions do not bind this process"
    folders = [p for p in directory.rglob("*") if p.is_dir()]
    for folder in (*folders, directory):
        folder.chmod(0o500)
    as_new_process()
    try:
        shown = {
            "first": warned(lambda: right(softmax)),
            "new": warned(lambda: right(chain)),
            "again": warned(lambda: right(chain)),
        }
        assert tree(directory) == before
        return shown
    finally:
        for folder in (directory, *folders):
            folder.chmod(0o700)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "empty"])
def test_read_only_directory(tmp_path: Path, warm: bool) -> None:
    place = tmp_path / "cache"
    shown = run(in_a_read_only_directory, place, warm, directory=place, log=tmp_path / "log")
    if isinstance(shown, str):
        pytest.skip(shown)
    found, texts = shown["first"]
    assert found == (["disk"] if warm else ["recorded"])
    assert not warm or not texts
    texts = texts + shown["new"][1]
    assert len(texts) == 1
    assert str(place) in texts[0] and os.strerror(errno.EACCES) in texts[0]
    assert shown["new"][0] == shown["again"][0] == ["recorded"] and shown["again"][1] == []


def where_nothing_can_be_made(directory: Path) -> Any:
    directory.parent.mkdir()
    if not obey_modes():
        return "permissions do not bind this process"
    directory.parent.chmod(0o500)
    try:
        return warned(lambda: right(softmax))
    finally:
        directory.parent.chmod(0o700)


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    place = tmp_path / "parent" / "cache"
    shown = run(where_nothing_can_be_made, place, directory=place, log=tmp_path / "log")
    if isinstance(shown, str):
        pytest.skip(shown)
    found, texts = shown
    assert found == ["recorded"] and len(texts) == 1 and str(place) in texts[0]


def where_nothing_can_be_read(directory: Path) -> Any:
    right(softmax)
    if not obey_modes():
        return "permissions do not bind this process"
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(0o000)
    as_new_process()
    return warned(lambda: right(softmax))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    shown = run(where_nothing_can_be_read, place, directory=place, log=tmp_path / "log")
    if isinstance(shown, str):
        pytest.skip(shown)
    found, texts = shown
    assert found == ["recorded"] and any(str(place) in text for text in texts)


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Make another user the owner, or this process another user's; the owner's number."""
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
        return 12345
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    return owner


def test_directory_of_another_user(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(warm)
    owner = give_away(warm, monkeypatch)
    with pytest.warns(CacheWarning, match=f"{named(warm)} belongs to user {owner}"):
        assert right(softmax) == ["recorded"]
    with silent():
        assert right(softmax) == ["recorded"] and right(chain) == ["recorded"]
    assert tree(warm) == before


def test_directory_that_others_may_write(fresh_cache: Path) -> None:
    fresh_cache.mkdir()
    fresh_cache.chmod(0o777)
    right(softmax)
    assert fresh_cache.stat().st_mode & 0o777 == 0o700
    assert_healed(fresh_cache)


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away"
)
def test_files_of_another_user_in_our_directory(warm: Path) -> None:
    """Written while it was open to others: closing it does not make them ours."""
    (kernel,) = [file.path for file in Store(warm).files("kernels")]
    os.chown(kernel, 12345, -1)
    warm.chmod(0o777)
    with pytest.warns(CacheWarning, match=named(kernel)):
        assert right(softmax) == ["recorded"]
    assert_healed(warm)


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away"
)
def test_folder_of_another_user_in_our_directory(warm: Path) -> None:
    os.chown(warm / "kernels", 12345, -1)
    warm.chmod(0o777)
    with pytest.warns(CacheWarning, match=named(warm)):
        assert right(softmax) == ["recorded"]


def test_directory_that_cannot_be_made_private(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system without modes: what others may have written is not run."""
    warm.chmod(0o777)
    before = tree(warm)
    with (
        Refusing(warm, errno.EPERM, ("chmod", "fchmod")),
        pytest.warns(CacheWarning, match=named(warm)),
    ):
        assert right(softmax) == ["recorded"]
    assert tree(warm) == before


def test_modes_that_do_not_stay(warm: Path) -> None:
    """As on a file system that takes modes and forgets them: FAT, some network mounts."""
    warm.chmod(0o777)
    before, original = tree(warm), os.chmod
    os.chmod = lambda *args, **kwargs: None
    try:
        with pytest.warns(CacheWarning, match=named(warm)):
            assert right(softmax) == ["recorded"]
    finally:
        os.chmod = original
    assert tree(warm) == before


def test_directory_exchanged_for_one_of_another_user(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that was ours and is not any more: a new process looks again."""
    right(softmax)
    shutil.copytree(warm, tmp_path / "copy")
    shutil.rmtree(warm)
    shutil.copytree(tmp_path / "copy", warm)
    give_away(warm, monkeypatch)
    as_new_process()
    with pytest.warns(CacheWarning, match="belongs to user"):
        assert right(softmax) == ["recorded"]
