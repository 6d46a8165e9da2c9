"""The text of a compiled guard check, and the objects that its names stand for.

Names: `v3` a value walked in this call, `c3` a bound object, `w3` a weak reference to one, `d3` the
`__dict__` of the object of node 3, `t3` a tensor, and letters for parts of objects (`cell`,
`class`). Three sections: identities and shapes of containers, constants, tensors and ambient state.
A miss of an identity returns MISS (look closer); all else that differs returns None (the guards do
not hold).
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

from tracejit.runtime import private, sharing, state
from tracejit.runtime.constants import MISSING, decode, differ
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.paths import STEPS, instance_dict
from tracejit.runtime.placement import dict_may_change, looks_at_dict, placement

MISS: Any = object()  # an object is another than the one bound: only a full evaluation can tell
_DETERMINED = frozenset(  # steps whose result cannot change while the parent is the same object
    (
        "class",
        "base",
        "self",
        "func",
        "fget",
        "partialfunc",
        "partialargs",
        "partialkeywords",
        "namespace",
    )
)
GROUP = 10  # conditions in one statement: further, a jump to its end takes two instructions
_TABLES = {"param": "_parameters", "buffer": "_buffers", "module": "_modules"}
_SINGLETONS = (type(None), bool, type(...), type(NotImplemented), torch.dtype, torch.layout)


class Text:
    """Builds one check for the objects in `values` (one per node)."""

    def __init__(self, guards: GuardSet, values: list[Any], walked: set[int]) -> None:
        self.guards = guards
        self.values = values
        self.names: dict[str, Any] = {
            "MISS": MISS, "MISSING": MISSING, "differ": differ, "is_": operator.is_,
        }  # fmt: skip
        self.weak: list[Any] = []  # objects held weakly
        self.place = placement(guards, values, walked)
        self.lines: list[str] = []
        self.conditions: list[str] = []
        self.constants: list[str] = []
        self.tensors: list[str] = []
        self.dicts: set[int] = set()
        self.read = Counter((node.parent, node.step) for node in guards.nodes)

    def bind(self, name: str, value: Any) -> str:
        """A name of the generated function for `value`."""
        self.names[name] = value
        return name

    def flush(self) -> None:
        """Write the identity conditions collected so far as one statement."""
        for start in range(0, len(self.conditions), GROUP):
            group = " or ".join(self.conditions[start : start + GROUP])
            self.lines.append(f"if {group}: return MISS")
        self.conditions = []

    def write(self, line: str) -> None:
        self.flush()
        self.lines.append(line)

    def generate(self) -> str:
        """The whole text. `names` then holds its globals."""
        for index in range(len(self.guards.nodes)):
            self.node(index)
        self.flush()
        for start in range(0, len(self.constants), GROUP):
            self.write(f"if {' or '.join(self.constants[start : start + GROUP])}: return None")
        self.ending()
        body = "\n".join(f"        {line}" for line in self.lines)
        errors = "(AttributeError, IndexError, KeyError, TypeError, ValueError)"
        return (
            f"def check(args, kwargs):\n    try:\n{body}\n"
            f"    except {errors}:\n        return MISS\n"
        )

    def ending(self) -> None:
        """Tensor metadata, ambient state, sharing of memory, and the result."""
        nodes, values = self.guards.nodes, self.values
        tensors = [i for i, node in enumerate(nodes) if node.check == "tensor"]
        self.names.update(state.quick_names())
        if tensors:
            self.bind("metadata", private.tensor_guards([values[i] for i in tensors]))
            passed = ", ".join(f"t{i}" for i in tensors)
            self.write(f"if not metadata({passed}): return None")
        for line in self.tensors:
            self.write(line)
        self.write(f"if {state.QUICK_CHECK}: return MISS")
        result = f"({''.join(f't{self.tensor_of(i)}, ' for i in self.guards.input_nodes)})"
        if self.guards.groups is not None:
            self.bind("groups", sharing.groups)
            self.bind("expected_groups", self.guards.groups)
            self.write(f"if groups({result}) != expected_groups: return None")
        self.write(f"return {'args' if self.inputs_are_args() else result}")

    def tensor_of(self, index: int) -> int:
        """The node that holds the tensor of an input (an input may be reached twice)."""
        node = self.guards.nodes[index]
        return self.tensor_of(node.expected) if node.check == "same" else index

    def inputs_are_args(self) -> bool:
        nodes = self.guards.nodes
        wanted = [(n.parent, n.step, n.key) for n in (nodes[i] for i in self.guards.input_nodes)]
        roots = [i for i, n in enumerate(nodes) if n.step == "args"]
        count = nodes[roots[0]].expected if roots else -1
        plain = all(nodes[i].check == "tensor" for i in self.guards.input_nodes)
        return plain and wanted == [(roots[0], "item", i) for i in range(count)] if roots else False

    def node(self, index: int) -> None:
        """Emit one guard."""
        node = self.guards.nodes[index]
        check, place = node.check, self.place[index]
        if check == "absent":
            self.absent(index)
        elif check == "empty":
            self.constants.append(self.reach(index))
        elif check == "const":
            self.constant(index)
        elif check == "tensor":
            self.write(f"t{index} = {self.reach(index)}")
        elif check == "same":
            self.same(index)
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
        if step in _TABLES:
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
        if step == "context":
            return f"{self.value(parent)}.get(MISSING)"
        self.bind(f"step_{step}", STEPS[step])
        return f"step_{step}({self.value(parent) if parent >= 0 else None}, {key!r})"

    def table(self, index: int, step: str) -> str:
        """A module's `_modules`, `_parameters` or `_buffers`; bound if much is read in it."""
        path = f"{self.dict_of(index)}[{_TABLES[step]!r}]"
        if self.place[index] == "walk" or self.read[index, step] < 3:
            return path
        name = f"{step}s{index}"
        if name not in self.names:
            self.bind(name, instance_dict(self.values[index])[_TABLES[step]])
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
            return f"t{index}"
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
            self.constants.append(f"{node.key!r} in {self.dict_of(node.parent)}")
        elif node.step in _TABLES:
            self.constants.append(f"{node.key!r} in {self.table(node.parent, node.step)}")
        elif node.step == "item" and isinstance(self.values[node.parent], dict):
            self.constants.append(
                f"{self.key(index, decode(node.key))} in {self.value(node.parent)}"
            )
        elif node.step in ("env", "context"):
            self.constants.append(f"{self.reach(index)} is not MISSING")
        elif node.step == "static":
            for position, base in enumerate(self.values[node.parent].__mro__):
                name = self.bind(f"class{node.parent}_{position}", base.__dict__)
                self.constants.append(f"{node.key!r} in {name}")
        else:
            self.bind(f"step_{node.step}", STEPS[node.step])
            parent = self.value(node.parent) if node.parent >= 0 else "None"
            self.constants.append(f"step_{node.step}({parent}, {node.key!r}) is not MISSING")

    def constant(self, index: int) -> None:
        if self.guards.nodes[index].step == "env":
            found = os.environ.encodevalue(self.values[index])
            self.constants.append(f"{self.reach(index)} != {self.bind(f'c{index}', found)}")
            return
        if self.determined(index):
            return
        value, raw = self.values[index], self.reach(index)
        if value is None or value is True or value is False:
            self.constants.append(f"{raw} is not {value}")
            return
        name = self.bind(f"c{index}", value)
        if isinstance(value, (*_SINGLETONS, enum.Enum)):
            self.constants.append(f"{raw} is not {name}")
        else:
            self.constants.append(f"{raw} is not {name} and differ({raw}, {name})")

    def same(self, index: int) -> None:
        expected = self.value(self.guards.nodes[index].expected)
        condition = f"{self.reach(index)} is not {expected}"
        if expected.startswith("t"):
            self.tensors.append(f"if {condition}: return None")
        else:
            self.conditions.append(condition)

    def walk(self, index: int) -> None:
        """An object that a caller builds anew: look at its type and shape."""
        node, value = self.guards.nodes[index], self.values[index]
        if node.check == "kwargs":
            ordered, names = node.expected
            which = f"list(kwargs) != {names!r}" if ordered else f"len(kwargs) != {len(names)}"
            self.write(f"if {which}: return None" if names else "if kwargs: return None")
            return
        if node.check == "length" and node.step == "args":
            self.write(f"if len({node.step}) != {node.expected}: return None")
            return
        self.write(f"v{index} = {self.reach(index)}")
        self.write(f"if type(v{index}) is not {self.type_name(value)}: return None")
        if node.check == "container":
            self.write(f"if {self.shape(index, f'v{index}', fresh=True)}: return None")

    def shape(self, index: int, name: str, fresh: bool) -> str:
        """The condition that a container's length, keys or elements differ."""
        value, content = self.values[index], self.guards.nodes[index].expected[1]
        if isinstance(value, dict):
            if not value:
                return name
            keys = self.bind(f"keys{index}", list(dict.keys(value)))
            if isinstance(content, list) and all(type(key) in (str, int) for key in value):
                return f"list({name}) != {keys}"
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
            self.conditions.append(self.shape(index, name, fresh=False))
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
