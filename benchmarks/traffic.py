"""Bytes: what a call must move at least, and what this machine's memory moves in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from tracejit.benchmarks.registry import Work

ELEMENTS = 16 << 20  # of an array of floats: more than caches hold
TIMES = 12
STREAMS = ("triad", "fresh")


def traffic(work: Work, result: Any) -> int:
    """Each argument, parameter and result once, as many bytes as their elements have; what shares
    memory is one, and rows of a table that no index names are not read."""
    import torch
    from torch.utils import _pytree as pytree

    owned: Iterable[torch.Tensor] = ()
    if isinstance(work.function, torch.nn.Module):
        owned = work.function.state_dict().values()
    leaves = [*owned, *pytree.tree_leaves((work.args, result))]
    sizes: dict[int, int] = {}
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            at, size = leaf.untyped_storage().data_ptr(), leaf.numel() * leaf.element_size()
            sizes[at] = max(size, sizes.get(at, 0))
    return sum(sizes.values()) - work.skipped


def stream() -> dict[str, list[float]]:
    """Bytes per second, several times each: the triad a = b + 3·c into a warm buffer (three arrays
    move), and a copy into fresh memory (two). As McCalpin's STREAM counts them: the line that a
    store fetches before it writes is not counted."""
    import torch

    a, b, c = (torch.ones(ELEMENTS) for _ in range(3))
    found: dict[str, list[float]] = {name: [] for name in STREAMS}
    for _ in range(TIMES):
        found["triad"].append(3 * _rate(a, lambda: torch.add(b, c, alpha=3.0, out=a)))
        found["fresh"].append(2 * _rate(a, b.clone))
    return found


def _rate(array: Any, call: Callable[[], object]) -> float:
    """Bytes of the array, by the seconds of the call."""
    begin = time.perf_counter()
    call()
    seconds = time.perf_counter() - begin
    moved: int = array.numel() * array.element_size()
    return moved / seconds
