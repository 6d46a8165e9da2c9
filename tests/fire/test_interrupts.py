"""Ctrl-C at each step of a first call: it reaches the user, and cache and function go on."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch

from tests.fire.common import Child, as_new_process, assert_sound, run, silent, wait_for
from tests.fire.programs import compiled, for_a_gpu, right, softmax, stuck
from tests.fire.steps import Steps
from tracejit.api import dispatcher_of
from tracejit.runtime.store import Store


def interrupted_calls(directory: Path, backend: str, every: int) -> int:
    """First calls interrupted one step later each; how many were."""
    x = torch.ones(4, 16)
    right(softmax, torch.ones(3, 5), backend=backend)
    shutil.rmtree(directory)
    count = 0
    while True:
        as_new_process()
        f, raised = compiled(softmax, backend=backend), False
        with Steps(count * every, signal.SIGINT) as steps:
            try:
                f(x)
            except KeyboardInterrupt:
                raised = True
        if not raised:
            assert len(steps.names) <= count * every, f"Ctrl-C before {count * every} was lost"
            return count
        with silent():
            for _ in range(3):
                assert torch.allclose(f(x), softmax(x))
        (entry,) = dispatcher_of(f).entries
        assert entry.bound is not None, f"never compiled after step {count * every}"
        assert_sound(directory)
        as_new_process()
        assert right(softmax, x, backend=backend) == ["disk"]
        shutil.rmtree(directory)
        count += 1


def test_interrupted_at_each_step(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    assert run(interrupted_calls, place, "reference", 1, directory=place, log=tmp_path / "log") > 20


def test_interrupted_while_compiling_for_a_gpu(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    count = run(interrupted_calls, place, "triton", 5, directory=place, log=tmp_path / "log",
                target="cuda:90")  # fmt: skip
    assert count > 5


def test_interrupted_while_waiting_for_another_process(tmp_path: Path) -> None:
    common: Any = {"directory": tmp_path / "cache", "target": "cuda:90", "debug": 1}
    first = Child(stuck, str(tmp_path / "started"), log=tmp_path / "first.log", **common)
    wait_for((tmp_path / "started").exists)
    second = Child(for_a_gpu, log=tmp_path / "second.log", **common)
    wait_for(lambda: "waiting for" in (tmp_path / "second.log").read_text())
    start = time.monotonic()
    second.kill(signal.SIGINT)
    outcome = second.ended()
    assert outcome.code == 1 and "KeyboardInterrupt" in outcome.stderr
    assert time.monotonic() - start < 10
    assert [rest.alive for rest in Store(tmp_path / "cache").leftovers()] == [True] * 3
    first.kill(signal.SIGINT)
    assert "KeyboardInterrupt" in first.ended().stderr
    assert_sound(tmp_path / "cache")
    assert run(for_a_gpu, log=tmp_path / "log", **common) == (["recorded"], [])
