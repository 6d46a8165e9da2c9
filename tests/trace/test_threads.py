"""Other threads of the program while a call is recorded."""

from __future__ import annotations

import sys
import threading

import torch

from tracejit.trace import young
from tracejit.trace.observe import Observer


def test_tuples_that_other_threads_make() -> None:
    """A tuple that is being made from an iterator may have one reference only."""
    errors: list[Exception] = []
    done = threading.Event()

    def busy() -> None:
        while not done.is_set() and not errors:
            try:
                tuple(number for number in range(400))
            except SystemError as error:
                errors.append(error)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=busy)
    thread.start()
    try:
        sys.setswitchinterval(1e-4)
        for _ in range(8):
            with Observer(busy, (), {}):
                kept: list[list[int]] = [[] for _ in range(100_000)]
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
    assert len(kept) == 100_000 and not errors


def test_the_newest_of_a_type() -> None:
    first, second = torch.ones(1), torch.ones(2)
    found = young.newest(10_000, torch.Tensor)
    assert [each is second for each in found][-1] and any(each is first for each in found)
    assert all(type(each) is torch.Tensor for each in found)
    assert id(second) in young.ids()
