"""Disks that are full, at each step of what a first call stores: right results, and a warning that
names the directory."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fire.common import as_new_process, assert_healed, assert_whole, on_a_mount
from tests.fire.disks import Refusing, mounted, own_mounts, warned
from tests.fire.programs import right, softmax
from tracejit.runtime.files import Item
from tracejit.runtime.store import Store


@pytest.fixture(autouse=True)
def new_process(fresh_cache: Path) -> Iterator[None]:
    as_new_process()
    yield


def steps_of_a_first_call(directory: Path) -> list[str]:
    """The calls that a first call makes to write what it stores."""
    with Refusing(directory, 0, at=10**6) as counted:
        right(softmax)
    shutil.rmtree(directory)
    as_new_process()
    return counted.seen


@pytest.mark.parametrize("on", [True, False], ids=["stays full", "full for a moment"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_full_disk_at_each_step(fresh_cache: Path, number: int, on: bool) -> None:
    count = len(steps_of_a_first_call(fresh_cache))
    assert count > 10
    for at in range(count):
        with Refusing(fresh_cache, number, at=at, on=on) as disk:
            found, texts = warned(lambda: right(softmax))
        assert disk.refused and found == ["recorded"]
        if disk.refused[0] in ("write", "fsync", "replace"):
            assert texts, (at, disk.refused)
        for text in texts:
            assert str(fresh_cache) in text and os.strerror(number) in text
        assert len(texts) <= 2, texts
        if fresh_cache.exists():
            assert_whole(fresh_cache)
            assert_healed(fresh_cache)
            shutil.rmtree(fresh_cache)
        as_new_process()


def limited(size: int) -> tuple[list[str], list[str]]:
    """A first call in a process whose files may not grow beyond a size."""
    torch.manual_seed(0)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        return warned(lambda: right(softmax))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_files_that_end_in_the_middle_of_a_write(fresh_cache: Path) -> None:
    for size in (0, 1, 100, 1000):
        found, texts = limited(size)
        assert found == ["recorded"]
        assert texts and all(str(fresh_cache) in text for text in texts), size
        assert_whole(fresh_cache)
        as_new_process()
    assert_healed(fresh_cache)


def in_small_file_systems(directory: Path) -> list[tuple[str, int, list[str]]]:
    """First calls on file systems with too little room; what was warned of in each."""
    own_mounts()
    shown = []
    cases = [{"size": pages * 4096} for pages in range(1, 9)]
    cases += [{"nr_inodes": count} for count in range(1, 10)]
    for options in cases:
        as_new_process()
        with mounted(directory, **options):
            found, texts = warned(lambda: right(softmax))
            assert found == ["recorded"]
            assert_whole(directory)
            ((name, value),) = options.items()
            shown.append((name, value, texts))
    return shown


def test_really_full_file_systems(tmp_path: Path) -> None:
    outcome = on_a_mount(in_small_file_systems, tmp_path)
    assert sum(1 for _, _, texts in outcome if texts) > 4
    for name, value, texts in outcome:
        assert all(str(tmp_path / "disk") in text for text in texts), (name, value, texts)
        assert len(texts) <= 2


def test_store_of_items_survives_what_calls_survive(fresh_cache: Path) -> None:
    """write() never says True for what read() does not give back, whichever step refuses once."""
    item = Item({"n": 1}, {"a": bytes(5000)})
    at = 0
    while True:
        as_new_process()
        with Refusing(fresh_cache, errno.ENOSPC, at=at, on=False) as disk:
            stored, _ = warned(lambda: Store(fresh_cache).write("records", "f/r", item))
        found = Store(fresh_cache).read("records", "f/r")
        assert found == item if stored else found in (None, item)
        shutil.rmtree(fresh_cache, ignore_errors=True)
        if not disk.refused:
            break
        at += 1
    assert at >= 4
