"""The nodes of a guard set while they are collected: reached values, by which path, and what each
must be.
"""

from __future__ import annotations

import sys
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import torch

from tracejit.runtime import private
from tracejit.runtime.constants import MISSING, encode, is_constant, name_of, named
from tracejit.runtime.guards import Node
from tracejit.runtime.origins import is_user_code
from tracejit.runtime.paths import instance_dict
from tracejit.runtime.predicates import container_meta, function_meta, is_container, tensor_meta

CONTAINERS = (list, tuple, dict, set, frozenset)
_C_FUNCTIONS = (
    BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType,
)  # fmt: skip
_ARRAY_FUNCTIONS = frozenset(("ufunc", "_ArrayFunctionDispatcher"))  # their types' names in NumPy
_SPELLED = frozenset((type(None), bool, int, str))  # constants that JSON spells as they are
Edge = tuple[int, str, Any]


def predicate_of(value: Any) -> tuple[str, Any]:
    """The predicate (name and JSON parameter) that says most about a value and still holds for its
    equals.
    """
    if value is MISSING:
        return "absent", None
    if is_constant(value):
        return "const", encode(value)
    if isinstance(value, torch.Tensor):
        return "tensor", tensor_meta(value)
    if isinstance(value, FunctionType):
        unnamed = "<" in value.__qualname__  # a lambda: others have the same name
        code = unnamed or is_user_code(value)
        return ("function", function_meta(value)) if code else ("lib", name_of(value))
    if isinstance(value, type):
        return "class", name_of(value)
    if isinstance(value, ModuleType):
        return "pymodule", value.__name__
    if value is torch.default_generator:
        return "generator", None
    if type(value) is torch.Generator and not private.is_default(value):
        return "rng", str(value.device)
    if is_container(value):
        return "container", container_meta(value)
    if isinstance(value, _C_FUNCTIONS) or is_array_function(value):
        return "lib", name_of(value)
    return "type", name_of(type(value))


def is_array_function(value: Any) -> bool:
    """Whether it is a function of NumPy's, found under its own name: it computes, and holds
    nothing."""
    return type(value).__name__ in _ARRAY_FUNCTIONS and named(name_of(value)) is value


class Tree:
    """Nodes with the values observed. Keeps every reached object alive, so that ids stay true."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.values: list[Any] = []
        self.edges: dict[Edge, int] = {}
        self.known: dict[int, int] = {}  # id of a reached object -> its node
        self.pointers: dict[int, int] = {}  # node of a tensor -> where its data was
        # Random generators and their states when they were reached, by their keys.
        self.generators: dict[int, tuple[torch.Generator, torch.Tensor]] = {}

    def add(self, node: Node, value: Any) -> int:
        """Append a node, whatever it is."""
        self.nodes.append(node)
        self.values.append(value)
        index = len(self.nodes) - 1
        if node.check not in ("const", "kind", "exists", "absent", "same", "empty"):
            self.known[id(value)] = index
        if node.check == "tensor" and value.layout is torch.strided:
            self.pointers[index] = value.data_ptr()
        elif node.check == "rng":
            self.generators.setdefault(private.generator_key(value), (value, value.get_state()))
        return index

    def child(
        self, parent: int, step: str, key: Any, value: Any, predicate: tuple[str, Any] | None = None
    ) -> int:
        """The node for `value`, reached by a step from a node. An object reached before keeps its
        first path.
        """
        edge = (parent, step, key if type(key) in _SPELLED else repr(key))
        index = self.edges.get(edge)
        if index is not None:
            return index
        if type(value) in _SPELLED and predicate is None:
            index = len(self.nodes)
            self.nodes.append(Node(parent, step, key, "const", value))
            self.values.append(value)
            self.edges[edge] = index
            return index
        first = self.known.get(id(value)) if value is not MISSING else None
        if first is not None:
            index = self.again(first, parent, step, key, value)
        else:
            node = Node(parent, step, key, *(predicate or predicate_of(value)))
            index = self.add(node, value)
        self.edges[edge] = index
        return index

    def module(self, name: str) -> int:
        """The root node of a module's globals."""
        return self.child(-1, "globals", name, instance_dict(sys.modules[name]), ("any", None))

    def held(self, parent: int, step: str, key: Any) -> Any:
        """What a step from a node led to; MISSING if it was not taken."""
        edge = (parent, step, key if type(key) in _SPELLED else repr(key))
        index = self.edges.get(edge, -1)
        return self.values[index] if index >= 0 else MISSING

    def again(self, first: int, parent: int, step: str, key: Any, value: Any) -> int:
        """A second way to an object: guard that both lead to the same. A path replaces a mere
        reference.
        """
        node = self.nodes[first]
        if node.step == "ref" and self.root(parent) != first:
            check, expected = predicate_of(value)
            self.nodes[first] = Node(parent, step, key, check, expected)
            return first
        self.add(Node(parent, step, key, "same", first), value)
        return first

    def root(self, index: int) -> int:
        """The node without parent above a node."""
        while index >= 0 and self.nodes[index].parent >= 0:
            index = self.nodes[index].parent
        return index

    def reference(self, value: Any) -> int:
        """A node for an object that no path reaches (so far)."""
        return self.add(Node(-1, "ref", len(self.nodes), *predicate_of(value)), value)

    def dropped(self, fresh: set[int]) -> set[int]:
        """Nodes that need not hold: of objects that the call itself made, and all reached through
        them.
        """
        gone = set(fresh)
        while True:
            more = {
                index
                for index, node in enumerate(self.nodes)
                if index not in gone
                and (node.parent in gone or (node.check == "same" and node.expected in gone))
            }
            if not more:
                return gone
            gone |= more

    def order(self, dropped: set[int]) -> list[int]:
        """The kept nodes so that parents, and objects meant by "same", come before those that need
        them.
        """
        done = set(dropped)
        order: list[int] = []
        for start in range(len(self.nodes)):
            waiting = [start]
            while waiting:
                index = waiting[-1]
                node = self.nodes[index]
                needs = [node.parent] if node.parent >= 0 else []
                needs += [node.expected] if node.check == "same" else []
                missing = [other for other in needs if other not in done]
                if missing and index not in done:
                    waiting += missing
                    continue
                waiting.pop()
                if index not in done:
                    done.add(index)
                    order.append(index)
        return order
