"""The text of a compiled guard check, and the objects that its names stand for.

Guards in order, then the tensors' metadata and ambient state, then the ending
(runtime.ending): what the call does when all hold. Anything that differs returns MISS: only a full
evaluation can tell whether the guards hold for other objects than those bound.
"""

from __future__ import annotations

import enum
import os
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from tracejit.runtime import private, sharing, state
from tracejit.runtime.checkreads import Reads
from tracejit.runtime.ending import Ending
from tracejit.runtime.guards import OBJECTS, GuardSet
from tracejit.runtime.paths import STEPS
from tracejit.runtime.placement import dict_may_change
from tracejit.runtime.predicates import PREDICATES

# Steps whose result cannot change while the parent is the same object.
_DETERMINED = frozenset(("class", "base", "self", "func", "fget", "namespace"))
_SINGLETONS = (type(None), bool, type(...), type(NotImplemented), torch.dtype, torch.layout)


class Text(Reads):
    """Builds one check for the objects in `values` (one per node)."""

    def __init__(
        self, guards: GuardSet, values: list[Any], walked: set[int], ending: Ending
    ) -> None:
        super().__init__(guards, values, walked)
        self.ending = ending
        self.weak: list[Any] = []  # objects held weakly

    def generate(self) -> str:
        """The whole text. `names` then holds its globals."""
        self.bind("dispatch_modes", private.dispatch_modes)
        self.conditions.append("dispatch_modes()")  # another tracer, perhaps our own
        for index in range(len(self.guards.nodes)):
            self.node(index)
        self.distinct()
        self.metadata()
        self.flush()
        self.inputs()
        self.names.update(self.ending.names)
        guards = "\n".join(f"        {line}" for line in self.lines)
        ending = "\n".join(f"    {line}" for line in self.ending.lines)
        errors = "(AttributeError, IndexError, KeyError, TypeError, ValueError)"
        return (
            f"def check(args, kwargs):\n    try:\n{guards}\n"
            f"    except {errors}:\n        return MISS\n{ending}\n"
        )

    def metadata(self) -> None:
        """What all tensors are, in one call, and the ambient state."""
        if self.tensors:
            self.bind("metadata", private.tensor_guards([self.values[i] for i in self.tensors]))
            passed = "*args" if self.all_args else ", ".join(map(self.value, self.tensors))
            self.conditions.append(f"not metadata({passed})")
        conditions, names = state.quick_check(bool(self.tensors))
        self.conditions += conditions
        self.names.update(names)

    def distinct(self) -> None:
        """Objects that the call changes are no others, and generators are different ones; of bound
        ones the binding has made sure."""
        nodes = self.guards.nodes
        for index in self.guards.changed:
            for other, node in enumerate(nodes):
                walked = "walk" in (self.place[index], self.place[other])
                alike = type(self.values[other]) is type(self.values[index])
                if other != index and walked and alike and node.check in OBJECTS:
                    self.conditions.append(f"{self.value(index)} is {self.value(other)}")
        generators = [index for index, node in enumerate(nodes) if node.check == "rng"]
        for place, index in enumerate(generators):
            for other in generators[:place]:
                if "walk" in (self.place[index], self.place[other]):
                    self.conditions.append(f"{self.value(index)} is {self.value(other)}")

    def inputs(self) -> None:
        """The program's inputs, which of them share memory, and the objects held for it."""
        inputs = self.guards.input_nodes
        for index, node in enumerate(self.guards.nodes):
            if node.check == "memory":
                self.bind("around", STEPS["around"])
                self.write(f"m{index} = around({self.value(node.parent)}, {tuple(node.key)})")
                self.write(f"if m{index} is MISSING: return MISS")
        plain = f"({''.join(f'{self.value(i)}, ' for i in inputs)})"
        self.write(f"inputs = {'args' if self.are_args(inputs) else plain}")
        if self.guards.held_nodes:
            held = "".join(f"{self.value(index)}, " for index in self.guards.held_nodes)
            self.write(f"held = ({held})")
        if self.guards.groups == []:
            self.bind("shared", sharing.shared)
            self.write("if shared(inputs): return MISS")
        elif self.guards.groups is not None:
            self.bind("groups", sharing.groups)
            self.bind("expected_groups", self.guards.groups)
            self.write("if groups(inputs) != expected_groups: return MISS")
        if self.guards.generators:
            more = "".join(f", {self.value(index)}" for index in self.guards.generators)
            self.write(f"inputs = (*inputs{more})")

    def node(self, index: int) -> None:
        """Emit one guard."""
        check = self.guards.nodes[index].check
        if check in _CONDITIONS:
            self.conditions.append(_CONDITIONS[check](self, index))
        elif check in _GUARDS:
            _GUARDS[check](self, index)
        elif self.place[index] == "walk":
            self.walk(index)
        else:
            self.object(index)

    def absent(self, index: int) -> None:
        node = self.guards.nodes[index]
        if node.step == "static":
            self.static(index)  # no class may define it
        elif node.step == "item" and not isinstance(self.values[node.parent], dict):
            self.conditions.append(f"{self.stepped(index)} is not MISSING")
        elif (lookup := self.lookup(index)) is not None:
            self.conditions.append("{1} in {0}".format(*lookup))
        else:
            found = self.reach(index) if node.step in ("env", "context") else self.stepped(index)
            self.conditions.append(f"{found} is not MISSING")

    def tensor(self, index: int) -> None:
        if not self.all_args:
            self.write(f"t{index} = {self.reach(index)}")

    def constant(self, index: int) -> None:
        if self.guards.nodes[index].step == "env":
            found = os.environ.encodevalue(self.values[index])
            self.conditions.append(f"{self.reach(index)} != {self.bind(f'c{index}', found)}")
            return
        if self.determined(index):
            return
        value, raw = self.values[index], self.reach(index)
        if value is None or value is True or value is False:
            self.conditions.append(f"{raw} is not {value}")
            return
        name = self.bind(f"c{index}", value)
        if isinstance(value, (*_SINGLETONS, enum.Enum)):
            self.conditions.append(f"{raw} is not {name}")
        else:
            self.conditions.append(f"{raw} is not {name} and differ({raw}, {name})")

    def walk(self, index: int) -> None:
        """An object that a caller builds anew: look at its type and shape."""
        node = self.guards.nodes[index]
        if node.check == "kwargs":
            ordered, names = node.expected
            which = f"[*kwargs] != {names!r}" if ordered else f"len(kwargs) != {len(names)}"
            self.conditions.append(which if names else "kwargs")
            return
        if node.check == "length" and node.step == "args":
            self.conditions.append(f"len(args) != {node.expected}")
            return
        self.write(f"v{index} = {self.reach(index)}")
        self.conditions.append(f"type(v{index}) is not {self.type_of(index)}")
        if node.check == "container":
            self.conditions.append(self.shape(index, f"v{index}"))
        elif node.check == "rng":
            name = self.bind("is_rng", PREDICATES["rng"])
            self.conditions.append(f"not {name}(v{index}, {node.expected!r}, ())")

    def shape(self, index: int, name: str) -> str:
        """The condition that a container's length, keys or elements differ."""
        value, content = self.values[index], self.guards.nodes[index].expected[1]
        if isinstance(value, dict):
            if not value:
                return name
            keys = self.bind(f"keys{index}", list(dict.keys(value)))
            if isinstance(content, list) and all(type(key) in (str, int) for key in value):
                return f"[*{name}] != {keys}"
            return f"len({name}) != {len(value)} or not all(map(is_, {name}, {keys}))"
        if isinstance(value, (set, frozenset)) and isinstance(content, list):
            return f"differ(frozenset({name}), {self.bind(f'set{index}', frozenset(value))})"
        return f"len({name}) != {len(value)}"

    def object(self, index: int) -> None:
        """An object that lives on: the same one as when the check was bound."""
        node, value = self.guards.nodes[index], self.values[index]
        if node.step == "dict":  # each key has a node of its own: as many keys are the same keys
            self.conditions.append(f"len({self.dict_of(node.parent)}) != {len(value)}")
            return
        if node.step == "globals" or node.step == "class":
            self.bind(f"c{index}", value)
            if node.step == "class":
                self.conditions.append(f"type({self.value(node.parent)}) is not c{index}")
            return
        if self.place[index] == "weak":
            self.weakly(index)
        else:
            self.bind(f"c{index}", value)
            if node.step != "fn" and not self.determined(index):
                self.conditions.append(f"{self.reach(index)} is not c{index}")
        self.inside(index)

    def weakly(self, index: int) -> None:
        value = self.values[index]
        self.weak.append(value)
        self.bind(f"w{index}", weakref.ref(value))
        if self.guards.nodes[index].step == "ref":
            self.write(f"v{index} = w{index}()")
            self.conditions.append(f"v{index} is None")
            return
        self.write(f"v{index} = {self.reach(index)}")
        self.conditions.append(f"v{index} is not w{index}()")
        name = self.dict_of(index)
        if dict_may_change(value):
            self.conditions.append(f"v{index}.__dict__ is not {name}")

    def inside(self, index: int) -> None:
        """What can change in an object while it stays the same object."""
        node, value, name = self.guards.nodes[index], self.values[index], self.value(index)
        if node.check in ("type", "is") and not self.read[index, "class"]:
            self.conditions.append(f"type({name}) is not {self.type_of(index)}")
        elif node.check == "length":
            self.conditions.append(f"len({name}) != {node.expected}")
        elif node.check == "container" and not isinstance(value, tuple):
            self.conditions.append(self.shape(index, name))
        elif node.check == "function":
            for field in ("__code__", "__defaults__", "__kwdefaults__"):
                part = self.bind(f"{field.strip('_')}{index}", getattr(value, field))
                self.conditions.append(f"{name}.{field} is not {part}")

    def determined(self, index: int) -> bool:
        """Whether a bound parent already fixes this value: elements of tuples, parts of methods,
        defaults."""
        node = self.guards.nodes[index]
        if node.parent < 0 or self.place[node.parent] not in ("bound", "weak"):
            return False
        if node.step == "item":
            return type(self.values[node.parent]) is tuple
        if node.step == "default":
            return isinstance(self.values[node.parent], FunctionType)
        return node.step in _DETERMINED


# Checks that are emitted alike wherever the value lives: as one condition that it differs …
_CONDITIONS: dict[str, Callable[[Text, int], str]] = {
    "empty": Text.reach,
    "exists": lambda text, index: f"{text.reach(index)} is MISSING",
    "kind": lambda text, index: f"type({text.reach(index)}) is not {text.type_of(index)}",
    "same": lambda text, index: f"{text.reach(index)} is not {text.value(index)}",
}
# … and others.
_GUARDS: dict[str, Callable[[Text, int], None]] = {
    "absent": Text.absent,
    "const": Text.constant,
    "tensor": Text.tensor,
    "memory": lambda text, index: None,  # once it is known to be in a tensor: see `inputs`
}
