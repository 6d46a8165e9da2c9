"""Blocks of calls, and the order of the peers in a round, which rotates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Call = Callable[[], object]
T = TypeVar("T")
WARM = 0.25  # of a block's calls are made before it, untimed


def order(names: Sequence[T], turn: int) -> list[T]:
    """The order of round `turn`: rotated by one each round and, once all have been first, reversed,
    so that neither the place nor the neighbour is always the same."""
    count = max(1, len(names))
    once = list(names) if turn // count % 2 == 0 else list(reversed(names))
    shift = turn % count
    return once[shift:] + once[:shift]


def nothing() -> None:
    """What there is to wait for on a device that has no queue."""


def block(call: Call, calls: int, wait: Call = nothing) -> float:
    """Seconds of one call, from so many in a row; `wait` until the device is done."""
    for _ in range(max(1, int(calls * WARM))):
        call()
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait()
    return (time.perf_counter() - start) / calls


def calls_for(call: Call, seconds: float, wait: Call = nothing) -> int:
    """How many calls take about `seconds`; at least one."""
    once = block(call, 1, wait)
    again = block(call, max(1, min(100, int(0.2 * seconds / max(once, 1e-7)))), wait)
    return max(1, round(seconds / max(again, 1e-7)))
