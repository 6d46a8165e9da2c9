"""Changes of Python objects that a call makes and its plan replays: how a place is written.

Places are spelled as access paths are (runtime.paths): an object, a step and a key. Like the steps,
writing runs no user code: `__setattr__` ran while the call was recorded, and what it left is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracejit.runtime import settings
from tracejit.runtime.paths import STEPS, TABLES, instance_dict, static


def _table(name: str) -> Callable[[Any], dict[str, Any]]:
    def held(holder: Any) -> dict[str, Any]:
        found: dict[str, Any] = instance_dict(holder)[name]
        return found

    return held


# The dict in which an object keeps what a step leads to.
_DICTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "attr": instance_dict,
    **{step: _table(name) for step, name in TABLES.items()},
    "item": lambda holder: holder,
}


def put(holder: Any, step: str, key: Any, value: Any) -> None:
    """Let a place hold `value`."""
    if step in _DICTS:
        _DICTS[step](holder)[key] = value
    else:
        _PUT[step](holder, key, value)


def drop(holder: Any, step: str, key: Any) -> None:
    """Let a place hold nothing."""
    if step in _DICTS:
        _DICTS[step](holder).pop(key, None)
    else:
        _DROP[step](holder, key)


def _cell(function: Any, name: str) -> Any:
    return function.__closure__[function.__code__.co_freevars.index(name)]


def _put_cell(function: Any, name: str, value: Any) -> None:
    _cell(function, name).cell_contents = value


def _drop_cell(function: Any, name: str) -> None:
    del _cell(function, name).cell_contents


_PUT: dict[str, Callable[[Any, Any, Any], None]] = {
    "slot": lambda holder, key, value: static(type(holder), key).__set__(holder, value),
    "static": type.__setattr__,
    "cell": _put_cell,
    "setting": lambda holder, key, value: settings.write(key, value),
}
_DROP: dict[str, Callable[[Any, Any], None]] = {
    "slot": lambda holder, key: static(type(holder), key).__delete__(holder),
    "static": type.__delattr__,
    "cell": _drop_cell,
}
WRITABLE = frozenset({*_DICTS, *_PUT})


def fill(holder: Any, items: list[Any]) -> None:
    """Let a list or deque hold these items."""
    holder.clear()
    holder.extend(items)


def rekey(holder: dict[Any, Any], gone: list[Any], items: list[tuple[Any, Any]]) -> None:
    """Take keys out of a dict, then set others, in order."""
    for key in gone:
        del holder[key]
    for key, value in items:
        holder[key] = value


def renew(holder: set[Any], gone: list[Any], new: list[Any]) -> None:
    """Take elements out of a set, and put others in."""
    holder.difference_update(gone)
    holder.update(new)


def count(holder: Any, step: str, key: Any) -> int:
    """The number that a place holds."""
    found: int = STEPS[step](holder, key)
    return found


HELPERS: dict[str, Callable[..., Any]] = {
    found.__name__: found for found in (put, drop, count, fill, rekey, renew)
}
