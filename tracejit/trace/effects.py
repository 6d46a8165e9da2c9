"""Places that a call's code stores to: attributes, cells and globals, and what they held before it.

Containers and attributes that were also read are compared through their guard nodes; this module
watches the rest. trace.changes compares both with what is there in the end.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import CodeType, MemberDescriptorType
from typing import Any

import torch

from tracejit.runtime.constants import MISSING, is_constant, same
from tracejit.runtime.paths import STEPS, TABLES, instance_dict, static


@dataclass(slots=True)
class Watched:
    """One place that the call may write: how to read it, and what it held before."""

    node: int  # of the object that holds it
    step: str  # from the object to the place: attr (or what step_of says), item, cell, dict, grad
    name: str
    read: Callable[[], Any]
    before: Any
    code: CodeType
    counted: bool  # all that code does with it is to add a constant
    steps: dict[str, str]  # where it held each attribute before


class Effects:
    """Watched places of one call."""

    def __init__(self) -> None:
        self.watches: list[Watched] = []
        self.seen: dict[tuple[Any, str], Watched] = {}

    def add(
        self,
        node: int,
        step: str,
        name: str,
        read: Callable[[], Any],
        code: CodeType,
        key: Any,
        counted: bool = False,
    ) -> Watched:
        """Watched a place once; `read` gives what it holds, without running user code."""
        watch = self.seen.get((key, name))
        if watch is None:
            watch = Watched(node, step, name, read, read(), code, counted, {})
            self.seen[key, name] = watch
            self.watches.append(watch)
        watch.counted = watch.counted and counted
        return watch

    def has_set(self, value: Any, name: str, now: Any) -> bool:
        """Whether the call itself gave an attribute the constant it has now, so that no guard need
        ask for it."""
        watch = self.seen.get((id(value), name))
        if watch is None or not (is_constant(watch.before) and is_constant(now)):
            return False
        return differs(watch.before, now)

    def watch_name(
        self, value: Any, node: int, name: str, code: CodeType, counted: bool = False
    ) -> None:
        """One attribute of a reached object."""
        read = partial(held_by, value, name)
        watch = self.add(node, "attr", name, read, code, id(value), counted)
        if watch.before is not MISSING:
            watch.steps.setdefault(name, step_of(value, name))

    def watch_whole(self, value: Any, node: int, code: CodeType) -> None:
        """All attributes of a reached object, whose names `code` computes."""
        watch = self.add(node, "dict", "*", lambda: _snapshot(value), code, id(value))
        for name in watch.before:
            watch.steps.setdefault(name.rpartition(".")[2], step_of(value, name.rpartition(".")[2]))

    def watch_tensor(
        self, value: torch.Tensor, node: int, stores: tuple[str, ...], code: CodeType
    ) -> None:
        """`x.grad = …`, `x.data = …` and attributes of a reached tensor."""
        if "grad" in stores:
            self.add(node, "grad", "grad", lambda: value.grad, code, id(value))
        attributes = instance_dict(value)
        for name in stores:
            if name not in ("grad", "data"):
                read = partial(attributes.get, name, MISSING)
                self.add(node, "attr", name, read, code, id(value))


def step_of(holder: Any, name: str) -> str:
    """Where an object holds an attribute now, or would hold a new one."""
    if isinstance(holder, type):
        return "static"
    attributes = instance_dict(holder)
    if name in attributes:
        return "attr"
    for step, table in TABLES.items() if isinstance(holder, torch.nn.Module) else ():
        if name in (attributes.get(table) or ()):
            return step
    return "slot" if isinstance(static(type(holder), name), MemberDescriptorType) else "attr"


def held_by(holder: Any, name: str) -> Any:
    """What an object itself holds under a name: in its dict, its slots, or an nn.Module's three
    dicts.
    """
    return STEPS[step_of(holder, name)](holder, name)


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
    for table in TABLES.values():
        held = found.get(table)
        if isinstance(held, dict):
            found.update({f"{table}.{name}": item for name, item in held.items()})
    return found


def place_of(watch: Watched) -> str:
    """file:line of the store."""
    return f"{watch.code.co_filename}:{line_of_store(watch.code, watch.name)}"


def line_of_store(code: CodeType, name: str) -> int:
    """The line where the code stores attribute or variable `name`; its first line if it does not
    say.
    """
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        line = _line(instruction) or line
        stores = instruction.opname.startswith(("STORE_", "DELETE_"))
        if stores and instruction.argval == name:
            return line
    return code.co_firstlineno


def _line(instruction: Any) -> int | None:
    newer = sys.version_info >= (3, 13)
    line: int | None = instruction.line_number if newer else instruction.starts_line
    return line
