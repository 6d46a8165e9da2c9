"""Tensors: layouts, sharing, writes, dtypes and the numbers at their edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .cases import CHANGED, Wrap, case, t

T = "Tensors"


@case(T, "same storage passed twice")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, y: Any) -> Any:
        x.mul_(2)
        return x + y

    g = c(f)
    for _ in range(3):
        x = t(4)
        yield g(x, x), x
    yield CHANGED
    for _ in range(2):
        x, y = t(4), t(4)
        yield g(x, y), x, y
        yield g(x, x.view(4)), x
        yield g(x, x.detach()), x
