"""Several kernels compiled at once: `each(work, items)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def each(work: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """`work` of each item, in order and as soon as it is there; several at a time."""
    if len(items) < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(max_workers=workers()) as pool:
        try:
            results = pool.map(work, items)
        except RuntimeError:  # no more threads: the interpreter is exiting, or a limit is reached
            results = map(work, items)
        yield from results


def workers() -> int:
    """How many run at once: one for each core this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return max(len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1, 1)
