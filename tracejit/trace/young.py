"""The youngest objects of the process, looked at without another thread running in between.

A tuple that another thread is just making from an iterator is among them, and a second reference to
it ends that thread with a SystemError. So what walks the objects is one call of C functions only,
within which Python changes no thread, and nothing keeps them.
"""

from __future__ import annotations

import gc
import operator
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, compress, tee
from typing import Any, TypeVar

T = TypeVar("T")


def ids() -> set[int]:
    """The ids of all objects of the youngest generation."""
    return set(map(id, chain.from_iterable(map(gc.get_objects, (0,)))))


def newest(count: int, kind: type[T]) -> list[T]:
    """Those of exactly this type among the `count` newest objects, the newest last."""
    part = operator.itemgetter(slice(-count, None))
    return list(_of(kind, *tee(chain.from_iterable(map(part, map(gc.get_objects, (0,)))))))


def _of(kind: type, items: Iterable[Any], same: Iterable[Any]) -> Iterator[Any]:
    return compress(items, map(partial(operator.is_, kind), map(type, same)))
