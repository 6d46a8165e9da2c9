"""A limit on the size, with eviction while other processes read and compile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fire.common import Child, as_new_process, assert_sound, assert_whole, silent
from tests.fire.programs import chain, right, softmax
from tracejit.runtime.config import config
from tracejit.runtime.files import Item
from tracejit.runtime.store import Store

LIMIT = 150_000


@pytest.fixture(autouse=True)
def new_process(fresh_cache: Path) -> Iterator[None]:
    as_new_process()
    yield


def total(directory: Path) -> int:
    """Bytes of all files but claims."""
    found = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                found += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue  # evicted meanwhile
    return found


def largest(directory: Path) -> int:
    return max(file.bytes for file in Store(directory).files())


def test_one_process_that_goes_on_and_on(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "cache_limit", LIMIT)
    one, sizes = 0, list[int]()
    with silent():
        for count in range(1, 60):
            right(softmax, torch.randn(count, 8))
            sizes.append(total(fresh_cache))
            one = max(one, largest(fresh_cache))
    most = max(sizes)
    assert most <= LIMIT + one, (most, LIMIT, one)
    assert sizes[-1] > LIMIT // 3  # it is used, too
    assert any(b < a for a, b in zip(sizes, sizes[1:]))
    assert_sound(fresh_cache)


def busy(number: int, seconds: float) -> dict[str, Any]:
    """Programs compiled, and found again, over and over; how often each."""
    end, found, count = time.monotonic() + seconds, {"recorded": 0, "disk": 0}, 0
    while time.monotonic() < end:
        count += 1
        function = (softmax, chain)[count % 2]
        for source in right(function, torch.randn(1 + (count * number) % 23, 8)):
            found[source] += 1
    return found


def test_eviction_while_others_read_and_compile(fresh_cache: Path, tmp_path: Path) -> None:
    children = [
        Child(busy, number, 3.0, directory=fresh_cache, log=tmp_path / f"{number}.log",
              cache_limit=LIMIT)
        for number in (1, 5, 7)
    ]  # fmt: skip
    sizes, one = [], 0
    while any(child.process.is_alive() for child in children):
        sizes.append(total(fresh_cache))
        one = max([one, *(file.bytes for file in Store(fresh_cache).files())])
        time.sleep(0.002)
    outcomes = [child.done() for child in children]
    for outcome in outcomes:
        assert outcome.texts() == [], outcome.stderr
        assert outcome.value["recorded"] > 5 and outcome.value["disk"] > 0
    # What the others write is seen when a sixteenth of the limit was written.
    assert max(sizes) <= LIMIT * (1 + len(children) / 16) + one, (max(sizes), LIMIT, one)
    assert any(b < a for a, b in zip(sizes, sizes[1:]))
    assert_whole(fresh_cache)
    assert_sound(fresh_cache)


def test_reader_of_a_plan_whose_kernels_go(fresh_cache: Path) -> None:
    """Everything but the record is evicted between two calls: it is made again."""
    right(softmax)
    for kind in ("kernels", "plans"):
        for file in list(Store(fresh_cache).files(kind)):
            Store(fresh_cache).remove(kind, file.key)
    as_new_process()
    with silent():
        assert right(softmax) == ["recorded"]
    as_new_process()
    assert right(softmax) == ["disk"]


def test_limit_smaller_than_one_entry(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "cache_limit", 100)
    with silent():
        for _ in range(3):
            as_new_process()
            right(softmax)
            right(chain)
    assert_sound(fresh_cache)


def test_two_that_trim_at_once_remove_no_more_than_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    for number in range(40):
        store.write("kernels", f"{number:064x}", Item({}, {"binary": bytes(1000)}))
    size = largest(tmp_path / "cache")
    children = [
        Child(trimmed, 20 * size, directory=tmp_path / "cache", log=tmp_path / f"{n}.log")
        for n in range(4)
    ]
    freed = [child.done().value for child in children]
    left = len(store.keys("kernels"))
    assert sum(freed) == (40 - left) * size
    assert 10 <= left <= 20


def trimmed(most: int) -> int:
    return Store(Path(config.cache_dir)).trim(most)
