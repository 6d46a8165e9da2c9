"""What a call changed in the Python objects it reached: attributes, cells and globals that its code
stores to.

Containers and attributes that were also read are compared through their guard nodes; this module
watches the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import CodeType, MemberDescriptorType
from typing import Any

import torch

from tracejit.runtime.constants import MISSING, is_constant, same
from tracejit.runtime.paths import instance_dict, static
from tracejit.runtime.predicates import words
from tracejit.trace.reads import Reads, line_of_store


@dataclass(slots=True)
class Watch:
    """One place that the call may write: how to read it, and what it held before."""

    node: int  # of the object that holds it; -1 for globals and cells
    name: str
    read: Callable[[], Any]
    before: Any
    code: CodeType


class Effects:
    """Watched places of one call."""

    def __init__(self) -> None:
        self.watches: list[Watch] = []
        self.seen: set[tuple[int, str]] = set()

    def add(self, node: int, name: str, read: Callable[[], Any], code: CodeType, key: Any) -> None:
        """Watch a place once; `read` gives what it holds, without running user code."""
        if (key, name) not in self.seen:
            self.seen.add((key, name))
            self.watches.append(Watch(node, name, read, read(), code))

    def watch(self, value: Any, node: int, reads: Reads, code: CodeType) -> None:
        """Attributes of a reached object that `code` stores to."""
        for name in reads.stores:
            self.watch_name(value, node, name, code)
        if reads.computed_store:
            self.watch_whole(value, node, code)

    def watch_name(self, value: Any, node: int, name: str, code: CodeType) -> None:
        """One attribute of a reached object."""
        self.add(node, name, partial(_held, value, name), code, id(value))

    def watch_whole(self, value: Any, node: int, code: CodeType) -> None:
        """All attributes of a reached object, whose names `code` computes."""
        self.add(node, "*", lambda: _snapshot(value), code, id(value))

    def watch_tensor(
        self, value: torch.Tensor, node: int, stores: tuple[str, ...], code: CodeType
    ) -> None:
        """`x.grad = …`, `x.data = …` and attributes of a reached tensor."""
        if "grad" in stores:
            self.add(node, "grad", lambda: value.grad, code, id(value))
        attributes = instance_dict(value)
        for name in stores:
            if name not in ("grad", "data"):
                self.add(node, name, partial(attributes.get, name, MISSING), code, id(value))

    def changed(self, dropped: set[int]) -> tuple[Watch, str] | None:
        """The first watched place that holds something else now, and words for it."""
        for watch in self.watches:
            if watch.node in dropped:
                continue
            now = watch.read()
            if differs(watch.before, now):
                return watch, f"was {words(watch.before)}, is {words(now)}"
        return None


def differs(before: Any, now: Any) -> bool:
    """Whether a place holds another object, or another constant."""
    if before is now:
        return False
    if isinstance(before, _Snapshot) and isinstance(now, _Snapshot):
        return before.keys() != now.keys() or any(differs(before[k], now[k]) for k in before)
    return not (is_constant(before) and is_constant(now) and same(before, now))


class _Snapshot(dict[str, Any]):
    """A copy of an object's attributes."""


def _snapshot(value: Any) -> _Snapshot:
    found = _Snapshot(instance_dict(value))
    for table in ("_modules", "_parameters", "_buffers"):
        held = found.get(table)
        if isinstance(held, dict):
            found.update({f"{table}.{name}": item for name, item in held.items()})
    return found


def _held(value: Any, name: str) -> Any:
    """What an object itself holds under a name: in its dict, its slots, or an nn.Module's three
    dicts.
    """
    attributes = instance_dict(value)
    if name in attributes:
        return attributes[name]
    if isinstance(value, torch.nn.Module):
        for table in ("_parameters", "_buffers", "_modules"):
            if name in (attributes.get(table) or ()):
                return attributes[table][name]
    if isinstance(value, type):
        return static(value, name)
    descriptor = static(type(value), name)
    if isinstance(descriptor, MemberDescriptorType):
        try:
            return descriptor.__get__(value)
        except AttributeError:
            return MISSING
    return MISSING


def place_of(watch: Watch) -> str:
    """file:line of the store."""
    return f"{watch.code.co_filename}:{line_of_store(watch.code, watch.name)}"
