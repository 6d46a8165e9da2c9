"""kill -9 at each step of a write, at random moments, and in the middle of a first call."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fire.common import (
    Child,
    as_new_process,
    assert_sound,
    assert_whole,
    run,
    silent,
    wait_for,
)
from tests.fire.disks import warned
from tests.fire.programs import for_a_gpu, right, softmax, stuck
from tests.fire.steps import killed_at_each_step
from tracejit.runtime.store import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
ROOT = Path(__file__).resolve().parents[2]


def killer(tmp_path: Path, *words: str) -> dict[str, int]:
    """What the program that kills writers counted."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fire.killer", words[0], str(tmp_path), *words[1:]],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def test_killed_at_each_step_of_what_a_store_does(tmp_path: Path) -> None:
    counts = killer(tmp_path, "steps")
    assert all(count >= 2 for count in counts.values()), counts
    assert all(counts[f"write {kind}"] >= 5 for kind in ("kernels", "plans", "records")), counts


def test_killed_in_the_middle_of_the_bytes(tmp_path: Path) -> None:
    assert killer(tmp_path, "halves")["cuts"] == 5


def test_killed_200_times_at_random_moments(tmp_path: Path) -> None:
    counts = killer(tmp_path, "kills", "200")
    assert counts["kills"] == 200 and counts["torn"] > 5 and counts["reported"] > 20, counts
    assert counts["stored"] >= counts["reported"]


def first_calls_killed(directory: Path) -> int:
    """First calls, each killed one step later; after each a new process is right and stores."""
    right(softmax, torch.ones(3, 5))  # what a process does once is done before it is forked
    shutil.rmtree(directory)

    def first_call() -> None:
        as_new_process()
        right(softmax)

    def check(step: int) -> None:
        assert_whole(directory)
        as_new_process()
        (found,), texts = warned(lambda: right(softmax))
        assert not texts and found in ("recorded", "disk"), (step, texts)
        as_new_process()
        with silent():
            assert right(softmax) == ["disk"], step
        Store(directory).sweep()
        assert_sound(directory)
        shutil.rmtree(directory)

    return killed_at_each_step(first_call, check)


def test_killed_at_each_step_of_a_first_call(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    steps = run(first_calls_killed, place, directory=place, log=tmp_path / "log")
    assert steps > 20


def test_killed_while_another_process_waits_for_its_kernels(tmp_path: Path) -> None:
    common: Any = {"directory": tmp_path / "cache", "target": "cuda:90", "debug": 1}
    first = Child(stuck, str(tmp_path / "started"), log=tmp_path / "first.log", **common)
    wait_for((tmp_path / "started").exists)
    second = Child(for_a_gpu, log=tmp_path / "second.log", **common)
    wait_for(lambda: "waiting for" in (tmp_path / "second.log").read_text())
    assert [rest.alive for rest in Store(tmp_path / "cache").leftovers()] == [True] * 3
    start = time.monotonic()
    first.kill()
    assert second.done().value == (["recorded"], [])
    assert time.monotonic() - start < 15
    assert first.ended().code == -signal.SIGKILL
    assert_sound(tmp_path / "cache")
    third = run(for_a_gpu, log=tmp_path / "third.log", **common)
    assert third == (["disk"], [])


def test_killed_at_moments_of_a_first_call_for_a_gpu(tmp_path: Path) -> None:
    """Compilers are killed in their native code as well."""
    common: Any = {"directory": tmp_path / "cache", "target": "cuda:90"}
    children = [Child(for_a_gpu, log=tmp_path / f"{n}.log", **common) for n in range(6)]
    for child in children:
        time.sleep(0.06)
        child.kill()
    assert {child.ended().code for child in children} <= {0, -signal.SIGKILL}
    assert_whole(tmp_path / "cache")
    (found,), texts = run(for_a_gpu, log=tmp_path / "log", **common)
    assert found in ("recorded", "disk") and not texts
    assert run(for_a_gpu, log=tmp_path / "log", **common) == (["disk"], [])
    Store(tmp_path / "cache").sweep()
    assert_sound(tmp_path / "cache")
