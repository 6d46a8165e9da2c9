"""Twenty processes start at once on an empty cache with the same model."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.fire.common import Child, assert_sound, context, entries, run, verified, wait_for
from tests.fire.programs import block, leaving, right, softmax, stuck
from tracejit.runtime.store import Store

COUNT = 20


def start(barrier: Any) -> list[str]:
    """Make everything ready, wait for the others, then compile for a GPU."""
    model, x = block(), torch.randn(4, 16)
    barrier.wait(30)
    return right(model, x, backend="triton")


def test_each_kernel_is_compiled_once_or_twice(tmp_path: Path) -> None:
    barrier = context.Barrier(COUNT)
    children = [
        Child(start, barrier, directory=tmp_path / "cache", log=tmp_path / f"{number}.log",
              debug=1, target="cuda:90")
        for number in range(COUNT)
    ]  # fmt: skip
    outcomes = [child.done() for child in children]
    compiled = Counter(
        key for o in outcomes for key in re.findall(r"kernel \S+ (\w+) compiled in", o.stderr)
    )
    stored = [key for kind, key in entries(tmp_path / "cache") if kind == "kernels"]
    assert len(stored) >= 2 and sorted(key[:12] for key in stored) == sorted(
        key[:12] for key in compiled
    )
    assert max(compiled.values()) <= 2, compiled
    assert [text for o in outcomes for text in o.texts()] == []
    assert {source for o in outcomes for source in o.value} <= {"recorded", "disk"}
    store = Store(tmp_path / "cache")
    counted = sum(store.hits(file.key) for file in store.files("records"))
    assert counted == sum(o.value == ["disk"] for o in outcomes)
    assert_sound(tmp_path / "cache")
    verified(tmp_path / "cache")


def test_leaving_does_not_wait(tmp_path: Path) -> None:
    """A program that ends does not wait for what another process compiles."""
    common: Any = {"directory": tmp_path / "cache", "target": "cuda:90", "debug": 1, "seconds": 30}
    first = Child(stuck, str(tmp_path / "started"), log=tmp_path / "first.log", **common)
    wait_for((tmp_path / "started").exists)
    second = Child(leaving, str(tmp_path / "end"), log=tmp_path / "second.log", **common)
    wait_for(lambda: "waiting for" in (tmp_path / "second.log").read_text())
    (tmp_path / "end").touch()
    start = time.monotonic()
    assert second.done().warnings == []
    assert time.monotonic() - start < 10
    first.kill()
    first.ended()


def busy(seconds: float, number: int) -> int:
    """Programs compiled and found over and over; how many."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        count += 1
        right(softmax, torch.randn(1 + (count * number) % 11, 8))
    return count


def test_directory_removed_again_and_again(tmp_path: Path) -> None:
    """As by `tracejit cache clear` in another terminal, but ruder."""
    place = tmp_path / "cache"
    children = [
        Child(busy, 1.5, number, directory=place, log=tmp_path / f"{number}.log")
        for number in (3, 5)
    ]
    removed = 0
    while any(child.process.is_alive() for child in children):
        removed += place.exists()
        shutil.rmtree(place, ignore_errors=True)
        time.sleep(0.03)
    for outcome in [child.done() for child in children]:
        assert outcome.value > 2 and all(str(place) in text for text in outcome.texts())
    assert removed > 2
    assert run(right, softmax, directory=place, log=tmp_path / "log") == ["recorded"]
    assert_sound(place)
