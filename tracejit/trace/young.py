"""The youngest objects of the process, looked at without another thread running in between.

A tuple that another thread is just making from an iterator is among them, and a second reference to
it ends that thread with a SystemError. So what walks the objects is one call of C functions only,
within which Python changes no thread, and nothing keeps them.
"""

from __future__ import annotations

import gc
import operator
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, TypeVar

T = TypeVar("T")


def ids() -> set[int]:
    """The ids of all objects of the youngest generation."""
    return set(map(id, chain.from_iterable(map(gc.get_objects, (0,)))))


def newest(count: int, kind: type[T]) -> list[T]:
    """Those of exactly this type among the `count` newest objects (what looks for them included),
    the newest last."""
    part = operator.itemgetter(slice(-count, None))
    is_one: Callable[[Any], bool] = partial(type.__instancecheck__, kind)
    found = list(filter(is_one, chain.from_iterable(map(part, map(gc.get_objects, (0,))))))
    return [each for each in found if type(each) is kind]
