"""Instances of classes registered with torch's pytree, made as the class's own function makes them.

Such a function (transformers' for its ModelOutput) may take longer than a plan: 10 µs of checks,
which came out well when the call was recorded. So the first instance is looked at, and if it is
nothing but a dict with attributes that hold the children, or None, later ones are filled in
directly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from tracejit.runtime.paths import instance_dict

_BASES = (OrderedDict, dict)


class Mould:
    """Called as the `unflatten` of a registered class is, always with the same context and the same
    constants among the children."""

    def __init__(self, unflatten: Callable[[list[Any], Any], Any]) -> None:
        self.unflatten = unflatten
        self.fill: Callable[[list[Any]], Any] | None = None
        self.looked = False

    def __call__(self, children: list[Any], context: Any) -> Any:
        if self.fill is not None:
            return self.fill(children)
        made = self.unflatten(children, context)
        if not self.looked:
            self.looked, self.fill = True, filler(made, children)
        return made


def filler(made: Any, children: list[Any]) -> Callable[[list[Any]], Any] | None:
    """A function of other children that makes the like of `made`; None if there may be more to it
    than can be seen."""
    kind = type(made)
    base = next((c for c in _BASES if isinstance(made, c)), None)
    if base is None or kind.__new__ is not base.__new__ or has_slots(kind):
        return None
    items = places(dict(dict.items(made)), children)
    attributes = places(instance_dict(made), children)
    if items is None or attributes is None:
        return None
    set_item: Any = base.__setitem__

    def fill(children: list[Any]) -> Any:
        children = [*children, None]
        fresh = base.__new__(kind)
        for key, index in items:
            set_item(fresh, key, children[index])
        instance_dict(fresh).update({key: children[index] for key, index in attributes})
        return fresh

    return fill


def has_slots(kind: type) -> bool:
    """Whether instances may keep something outside of their `__dict__`."""
    return any("__slots__" in base.__dict__ for base in kind.__mro__)


def places(values: dict[Any, Any], children: list[Any]) -> list[tuple[Any, int]] | None:
    """For each key, which child is its value (-1 for None); None if a value is something else."""
    numbers = {id(child): index for index, child in enumerate(children)}
    numbers[id(None)] = -1
    if not all(id(value) in numbers for value in values.values()):
        return None
    return [(key, numbers[id(value)]) for key, value in values.items()]
