"""The text of a compiled guard check, and the objects that its names stand for.

Names: `v3` a value walked in this call, `c3` a bound object, `w3` a weak reference to one, `d3` the
`__dict__` of the object of node 3, `t3` a tensor, and letters for parts of objects (`cell`,
`class`). Guards in order, then the tensors' metadata and ambient state, then the ending
(runtime.ending): what the call does when all hold. Anything that differs returns MISS: only a full
evaluation can tell whether the guards hold for other objects than those bound.
"""

from __future__ import annotations

import enum
import operator
import os
import weakref
from collections import Counter
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from tracejit.runtime import private, settings, sharing, state
from tracejit.runtime.constants import MISSING, decode, differ
from tracejit.runtime.ending import Ending
from tracejit.runtime.guards import OBJECTS, GuardSet
from tracejit.runtime.paths import STEPS, TABLES, instance_dict
from tracejit.runtime.placement import dict_may_change, looks_at_dict, placement
from tracejit.runtime.predicates import PREDICATES

MISS: Any = object()  # something differs from what was bound
_DETERMINED = frozenset(  # steps whose result cannot change while the parent is the same object
    (
        "class",
        "base",
        "self",
        "func",
        "fget",
        "namespace",
    )
)
GROUP = 10  # conditions in one statement: further, a jump to its end takes two instructions
_SINGLETONS = (type(None), bool, type(...), type(NotImplemented), torch.dtype, torch.layout)


class Text:
    """Builds one check for the objects in `values` (one per node)."""

    def __init__(
        self, guards: GuardSet, values: list[Any], walked: set[int], ending: Ending
    ) -> None:
        self.guards = guards
        self.values = values
        self.ending = ending
        self.names: dict[str, Any] = {
            "MISS": MISS, "MISSING": MISSING, "differ": differ, "is_": operator.is_,
        }  # fmt: skip
        self.weak: list[Any] = []  # objects held weakly
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

    def are_args(self, indices: list[int]) -> bool:
        """Whether these tensors are the positional arguments, all of them in order."""
        nodes = self.guards.nodes
        root = next((i for i, node in enumerate(nodes) if node.step == "args"), -1)
        wanted = [
            (root, "item", i, "tensor") for i in range(nodes[root].expected if root >= 0 else 0)
        ]
        return bool(wanted) and wanted == [nodes[i][:4] for i in indices]

    def node(self, index: int) -> None:
        """Emit one guard."""
        node = self.guards.nodes[index]
        check, place = node.check, self.place[index]
        if check == "absent":
            self.absent(index)
        elif check == "empty":
            self.conditions.append(self.reach(index))
        elif check == "const":
            self.constant(index)
        elif check == "exists":
            self.conditions.append(f"{self.reach(index)} is MISSING")
        elif check == "kind":
            kind = self.bind(f"type{index}", type(self.values[index]))
            self.conditions.append(f"type({self.reach(index)}) is not {kind}")
        elif check == "tensor":
            if not self.all_args:
                self.write(f"t{index} = {self.reach(index)}")
        elif check == "same":
            self.same(index)
        elif check == "memory":
            pass  # made of a tensor once it is known to be one: see `inputs`
        elif place == "walk":
            self.walk(index)
        else:
            self.object(index, place)

    # Expressions

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
        node = self.guards.nodes[index]
        parent, key = node.parent, node.key
        step = node.step
        if step in ("attr", "hooks"):
            return f"{self.dict_of(parent)}[{key!r}]"
        if step in TABLES:
            return f"{self.table(parent, step)}[{key!r}]"
        if step == "dict":
            return self.dict_of(parent)
        if step == "item":
            return f"{self.value(parent)}[{self.key(index, decode(key))}]"
        if step == "static":
            return f"{self.defining_class(index)}[{key!r}]"
        if step == "cell":
            return f"{self.bind(f'cell{index}', self.cell(parent, key))}.cell_contents"
        if step == "env":
            # The mapping behind os.environ, which takes encoded keys: 1 µs faster.
            self.bind("environment", os.environ._data)  # type: ignore[attr-defined]
            name = self.bind(f"variable{index}", os.environ.encodekey(key))
            return f"environment.get({name}, MISSING)"
        if step == "wrapped" and isinstance(self.values[parent], FunctionType):
            return f"{self.value(parent)}.__wrapped__"
        if step == "setting":
            return f"{self.bind(f'setting{index}', settings.reader(key))}()"
        if step == "context":
            return f"{self.value(parent)}.get(MISSING)"
        self.bind(f"step_{step}", STEPS[step])
        return f"step_{step}({self.value(parent) if parent >= 0 else None}, {key!r})"

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

    def cell(self, parent: int, name: str) -> Any:
        function = self.values[parent]
        return function.__closure__[function.__code__.co_freevars.index(name)]

    def defining_class(self, index: int) -> str:
        """The dict of the class that defines a static name; classes before it must go on not
        defining it.
        """
        node = self.guards.nodes[index]
        for position, base in enumerate(self.values[node.parent].__mro__):
            name = f"class{node.parent}_{position}"
            if node.key in base.__dict__:
                return self.bind(name, base.__dict__)
            self.bind(name, base.__dict__)
            self.conditions.append(f"{node.key!r} in {name}")
        raise KeyError(node.key)

    # Guards

    def absent(self, index: int) -> None:
        node = self.guards.nodes[index]
        if node.step in ("attr", "hooks"):
            self.conditions.append(f"{node.key!r} in {self.dict_of(node.parent)}")
        elif node.step in TABLES:
            self.conditions.append(f"{node.key!r} in {self.table(node.parent, node.step)}")
        elif node.step == "item" and isinstance(self.values[node.parent], dict):
            self.conditions.append(
                f"{self.key(index, decode(node.key))} in {self.value(node.parent)}"
            )
        elif node.step in ("env", "context"):
            self.conditions.append(f"{self.reach(index)} is not MISSING")
        elif node.step == "static":
            for position, base in enumerate(self.values[node.parent].__mro__):
                name = self.bind(f"class{node.parent}_{position}", base.__dict__)
                self.conditions.append(f"{node.key!r} in {name}")
        else:
            self.bind(f"step_{node.step}", STEPS[node.step])
            parent = self.value(node.parent) if node.parent >= 0 else "None"
            self.conditions.append(f"step_{node.step}({parent}, {node.key!r}) is not MISSING")

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

    def same(self, index: int) -> None:
        expected = self.value(self.guards.nodes[index].expected)
        self.conditions.append(f"{self.reach(index)} is not {expected}")

    def walk(self, index: int) -> None:
        """An object that a caller builds anew: look at its type and shape."""
        node, value = self.guards.nodes[index], self.values[index]
        if node.check == "kwargs":
            ordered, names = node.expected
            which = f"[*kwargs] != {names!r}" if ordered else f"len(kwargs) != {len(names)}"
            self.conditions.append(which if names else "kwargs")
            return
        if node.check == "length" and node.step == "args":
            self.conditions.append(f"len(args) != {node.expected}")
            return
        self.write(f"v{index} = {self.reach(index)}")
        self.conditions.append(f"type(v{index}) is not {self.type_name(value)}")
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

    def type_name(self, value: Any) -> str:
        kind = type(value)
        return (
            self.bind(f"{kind.__name__}_{id(kind)}", kind) if kind.__name__.isidentifier() else ""
        )

    def object(self, index: int, place: str) -> None:
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
        if place == "weak":
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
            self.conditions.append(f"type({name}) is not {self.bind(f'type{index}', type(value))}")
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
        defaults.
        """
        node = self.guards.nodes[index]
        if node.parent < 0 or self.place[node.parent] not in ("bound", "weak"):
            return False
        if node.step == "item":
            return type(self.values[node.parent]) is tuple
        if node.step == "default":
            return isinstance(self.values[node.parent], FunctionType)
        return node.step in _DETERMINED


Function = Callable[[tuple[Any, ...], dict[str, Any]], Any]
