"""How the text of a compiled guard check reads each value, and what it calls it.

Names: `v3` a value walked in this call, `c3` a bound object, `w3` a weak reference to one, `d3` the
`__dict__` of the object of node 3, `t3` a tensor, and letters for parts of objects (`cell`,
`class`).
"""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Callable
from types import FunctionType
from typing import Any

from tracejit.runtime import settings
from tracejit.runtime.constants import MISSING, decode, differ
from tracejit.runtime.ending import MISS
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.paths import STEPS, TABLES, instance_dict
from tracejit.runtime.placement import dict_may_change, looks_at_dict, placement

GROUP = 10  # conditions in one statement: further, a jump to its end takes two instructions


class Reads:
    """Lines and conditions of one check, for the objects in `values` (one per node), and what the
    names in them stand for."""

    def __init__(self, guards: GuardSet, values: list[Any], walked: set[int]) -> None:
        self.guards = guards
        self.values = values
        self.names: dict[str, Any] = {
            "MISS": MISS, "MISSING": MISSING, "differ": differ, "is_": operator.is_,
        }  # fmt: skip
        self.place = placement(guards, values, walked)
        self.lines: list[str] = []
        self.conditions: list[str] = []
        self.tensors = [i for i, node in enumerate(guards.nodes) if node.check == "tensor"]
        self.all_args = self.are_args(self.tensors)
        self.dicts: set[int] = set()
        self.read = Counter((node.parent, node.step) for node in guards.nodes)

    def bind(self, name: str, value: Any) -> str:
        """A name of the generated function for `value`."""
        self.names[name] = value
        return name

    def flush(self) -> None:
        """Write the conditions collected so far, a few to a statement."""
        for start in range(0, len(self.conditions), GROUP):
            group = " or ".join(self.conditions[start : start + GROUP])
            self.lines.append(f"if {group}: return MISS")
        self.conditions = []

    def write(self, line: str) -> None:
        self.flush()
        self.lines.append(line)

    def are_args(self, indices: list[int]) -> bool:
        """Whether these tensors are the positional arguments, all of them in order."""
        nodes = self.guards.nodes
        root = next((i for i, node in enumerate(nodes) if node.step == "args"), -1)
        wanted = [
            (root, "item", i, "tensor") for i in range(nodes[root].expected if root >= 0 else 0)
        ]
        return bool(wanted) and wanted == [nodes[i][:4] for i in indices]

    def type_of(self, index: int) -> str:
        return self.bind(f"type{index}", type(self.values[index]))

    def dict_of(self, index: int) -> str:
        """The `__dict__` of a node's object."""
        name = f"d{index}"
        if index not in self.dicts:
            self.dicts.add(index)
            if self.place[index] == "walk":
                self.bind("instance_dict", instance_dict)
                self.write(f"{name} = instance_dict(v{index})")
            else:
                self.bind(name, instance_dict(self.values[index]))
                own = self.guards.nodes[index].step == "fn" and dict_may_change(self.values[index])
                if self.place[index] == "bound" and (own or looks_at_dict(self.values[index])):
                    self.conditions.append(f"c{index}.__dict__ is not {name}")
        return name

    def reach(self, index: int) -> str:
        """The expression that reads a node's value in this call from its parent's."""
        step = self.guards.nodes[index].step
        if (lookup := self.lookup(index)) is not None:
            return "{}[{}]".format(*lookup)
        return _READS[step](self, index) if step in _READS else self.stepped(index)

    def lookup(self, index: int) -> tuple[str, str] | None:
        """The container and the key by which a step finds a value, if that is how."""
        parent, step, key, *_ = self.guards.nodes[index]
        if step in ("attr", "hooks"):
            return self.dict_of(parent), repr(key)
        if step in TABLES:
            return self.table(parent, step), repr(key)
        if step == "item":
            return self.value(parent), self.key(index, decode(key))
        return None

    def stepped(self, index: int) -> str:
        """The step itself, as every reader of guards takes it: MISSING where it finds nothing."""
        parent, step, key, *_ = self.guards.nodes[index]
        self.bind(f"step_{step}", STEPS[step])
        return f"step_{step}({self.value(parent) if parent >= 0 else None}, {key!r})"

    def environment(self, index: int) -> str:
        """By the mapping behind os.environ, which takes encoded keys: 1 µs faster."""
        self.bind("environment", os.environ._data)  # type: ignore[attr-defined]  # CPython's
        key = os.environ.encodekey(self.guards.nodes[index].key)
        return f"environment.get({self.bind(f'variable{index}', key)}, MISSING)"

    def wrapped(self, index: int) -> str:
        parent = self.guards.nodes[index].parent
        plain = isinstance(self.values[parent], FunctionType)
        return f"{self.value(parent)}.__wrapped__" if plain else self.stepped(index)

    def setting(self, index: int) -> str:
        reader = settings.reader(self.guards.nodes[index].key)
        return f"{self.bind(f'setting{index}', reader)}()"

    def table(self, index: int, step: str) -> str:
        """A module's `_modules`, `_parameters` or `_buffers`; bound if much is read in it."""
        path = f"{self.dict_of(index)}[{TABLES[step]!r}]"
        if self.place[index] == "walk" or self.read[index, step] < 3:
            return path
        name = f"{step}s{index}"
        if name not in self.names:
            self.bind(name, instance_dict(self.values[index])[TABLES[step]])
            self.conditions.append(f"{path} is not {name}")
        return name

    def key(self, index: int, key: Any) -> str:
        return repr(key) if type(key) in (int, str) else self.bind(f"key{index}", key)

    def value(self, index: int) -> str:
        """The name of an object that was emitted before."""
        node = self.guards.nodes[index]
        if node.step in ("args", "kwargs"):
            return node.step
        if node.check == "same":
            return self.value(node.expected)
        if node.check == "tensor":
            return f"args[{node.key}]" if self.all_args else f"t{index}"
        if node.check == "memory":
            return f"m{index}"
        place = self.place[index]
        if place == "walk" or place == "weak":
            return f"v{index}"
        if node.step == "dict":
            return self.dict_of(node.parent)
        return self.bind(f"c{index}", self.values[index])

    def cell(self, index: int) -> str:
        node = self.guards.nodes[index]
        function = self.values[node.parent]
        found = function.__closure__[function.__code__.co_freevars.index(node.key)]
        return f"{self.bind(f'cell{index}', found)}.cell_contents"

    def static(self, index: int) -> str:
        """A name of a class; classes before the one that defines it must go on not defining it."""
        node = self.guards.nodes[index]
        for position, base in enumerate(self.values[node.parent].__mro__):
            name = self.bind(f"class{node.parent}_{position}", base.__dict__)
            if node.key in base.__dict__:
                return f"{name}[{node.key!r}]"
            self.conditions.append(f"{node.key!r} in {name}")
        return "MISSING"


# How a value is read, for steps that are no look-up and that text takes sooner than a call.
_READS: dict[str, Callable[[Reads, int], str]] = {
    "dict": lambda reads, index: reads.dict_of(reads.guards.nodes[index].parent),
    "static": Reads.static,
    "cell": Reads.cell,
    "env": Reads.environment,
    "wrapped": Reads.wrapped,
    "setting": Reads.setting,
    "context": lambda reads, index: f"{reads.value(reads.guards.nodes[index].parent)}.get(MISSING)",
}
