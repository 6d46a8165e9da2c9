"""Guards as data: what a recorded call read, as access paths with predicates, and their evaluation
on another call.

A `GuardSet` is a list of nodes. A node reaches a value from its parent's value by one step
(runtime.paths) and says what it must be (runtime.predicates); parents come before children. The
same nodes are compiled to one function in the process (runtime.checker), and evaluated one by one
from JSON in another (`GuardSet.values`).
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from tracejit.runtime import sharing, state
from tracejit.runtime.constants import MISSING
from tracejit.runtime.paths import STEPS, print_step
from tracejit.runtime.predicates import PREDICATES, explain
from tracejit.runtime.reasons import Failure
from tracejit.runtime.version import FORMATS

VERSION = FORMATS["guards"]
OBJECTS = frozenset(
    ("type", "is", "container", "function", "class", "any", "rng")
)  # of these checks


class Node(NamedTuple):
    """`step` and `key` lead from the value of node `parent` (-1 for none) to this node's value.

    `check` names the predicate that the value fulfils, `expected` (JSON) is its parameter.
    """

    parent: int
    step: str
    key: Any
    check: str
    expected: Any = None


@dataclass(frozen=True)
class Guard:
    """A node in words: the access path, the predicate's name and its parameter."""

    path: str
    check: str
    expected: Any


@dataclass(eq=False)
class GuardSet:
    """All that must hold for a recorded program to stand for a call, and where the program's inputs
    are found."""

    nodes: list[Node]
    input_nodes: list[int]  # the nodes of the program's inputs, in order
    state: dict[str, Any]  # runtime.state.capture() when the call was recorded
    packages: dict[str, str] = field(default_factory=dict)  # libraries whose code ran, and versions
    names: list[str] = field(default_factory=list)  # positional parameters, for messages
    groups: list[list[list[int]]] | None = (
        None  # runtime.sharing.groups of the inputs, if some are written
    )
    refs: list[Any] = field(
        default_factory=list
    )  # values of "ref" nodes; weak references where possible
    held_nodes: list[int] = field(default_factory=list)  # objects that the outputs' recipe names
    changed: list[int] = field(default_factory=list)  # objects that the call changes
    generators: list[int] = field(default_factory=list)  # random generators, inputs after tensors

    @property
    def local(self) -> Node | None:
        """A guard that holds only in this process, if there is one: the set must not be stored."""
        return next((node for node in self.nodes if node.step == "ref" or node.check == "is"), None)

    def alike(self, other: GuardSet) -> bool:
        """Whether two sets hold on the same calls: two branches of one tree."""
        mine, others = (
            (each.nodes, each.state, each.packages, each.groups, each.changed)
            for each in (self, other)
        )
        return mine == others

    @property
    def inputs(self) -> list[str]:
        """Access paths of the program's tensors, in order."""
        return [self.path(index) for index in self.input_nodes]

    @property
    def guards(self) -> list[Guard]:
        """Every guard in words, in the order of evaluation."""
        return [Guard(self.path(i), n.check, n.expected) for i, n in enumerate(self.nodes)]

    def path(self, index: int) -> str:
        """The access path of a node as a person writes it: `self.layers[3].dropout.p`."""
        node = self.nodes[index]
        if node.parent < 0:
            return print_step("", node.step, node.key)
        parent = self.nodes[node.parent]
        if parent.step == "args" and node.step == "item":
            return self.names[node.key] if node.key < len(self.names) else f"args[{node.key}]"
        if parent.step == "kwargs" and node.step == "item":
            return str(node.key)
        if parent.step == "globals" and node.step == "item":
            return f"global {parent.key}.{node.key}"
        if node.step == "static" and parent.check == "class":
            return f"{str(parent.expected).partition(':')[2]}.{node.key}"
        return print_step(self.path(node.parent), node.step, node.key)

    def leads_to_gradients(self) -> bool:
        """Whether an input of the program requires gradients."""
        metas = (node.expected for node in self.nodes if node.check == "tensor")
        return any(meta["requires_grad"] for meta in metas)

    def given(self, values: list[Any]) -> tuple[Any, ...]:
        """The program's inputs among the values of nodes, generators last."""
        return tuple([values[index] for index in (*self.input_nodes, *self.generators)])

    def values(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | Failure:
        """The value of each node in this call, or the first guard that fails. Takes about 1 µs a
        guard."""
        values: list[Any] = []
        roots = {"fn": fn, "args": args, "kwargs": kwargs}
        for index, node in enumerate(self.nodes):
            parent = values[node.parent] if node.parent >= 0 else None
            value = self.step(node, parent, roots)
            if not PREDICATES[node.check](value, node.expected, values):
                return self.failure(index, value)
            values.append(value)
        return self._distinct(values) or self._rest([values[i] for i in self.input_nodes]) or values

    def _distinct(self, values: list[Any]) -> Failure | None:
        """Tensors and generators that were different objects still are, and so are objects that the
        call changes and all others: one could be written through the other."""
        seen: dict[int, int] = {id(values[index]): index for index in self.changed}
        for index, node in enumerate(self.nodes):
            first = index
            if node.check in ("tensor", "rng"):
                first = seen.setdefault(id(values[index]), index)
            elif self.changed and node.check in OBJECTS:
                first = seen.get(id(values[index]), index)
            if first != index:
                was = f"another object than {self.path(first)}"
                return Failure(self.path(index), was, "the same", "distinct")
        return None

    def failure(self, index: int, value: Any) -> Failure:
        node = self.nodes[index]
        found = explain(self.path(index), node.check, node.expected, value, self)
        return Failure(*found, node.check, index)

    def fails(
        self, failure: Failure, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Whether a guard that failed before fails on this call, or one on the path to its node;
        False where only a full evaluation can tell."""
        if failure.node < 0:
            is_state = failure.check == "state"
            return is_state and state.capture()[failure.path] != self.state[failure.path]
        chain = [failure.node]
        while self.nodes[chain[-1]].parent >= 0:
            chain.append(self.nodes[chain[-1]].parent)
        value: Any = None
        for at in reversed(chain):
            node = self.nodes[at]
            if node.check == "same":
                return False  # takes another path to tell
            value = self.step(node, value, {"fn": fn, "args": args, "kwargs": kwargs})
            if not PREDICATES[node.check](value, node.expected, []):
                return True
        return False

    def step(self, node: Node, parent: Any, roots: dict[str, Any]) -> Any:
        """A node's value in a call, from its parent's."""
        if node.step in roots:
            return roots[node.step]
        return self.ref(node.key) if node.step == "ref" else STEPS[node.step](parent, node.key)

    def _rest(self, inputs: list[torch.Tensor]) -> Failure | None:
        """What is not a path: ambient state, library versions, which inputs share memory."""
        now = state.capture()
        for name, expected in self.state.items():
            if now.get(name) != expected:
                return Failure(name, str(expected), str(now.get(name)), "state")
        for name, version in self.packages.items():
            if (here := package_version(name)) != version:
                return Failure(f"version of {name}", version, here, "version")
        if self.groups is not None and (groups := sharing.groups(inputs)) != self.groups:
            was, here = (sharing.words(each, self.inputs) for each in (self.groups, groups))
            return Failure("sharing of memory", was, here, "sharing")
        return None

    def ref(self, index: int) -> Any:
        """The object of a "ref" node; MISSING if it died, or in another process."""
        if index >= len(self.refs):
            return MISSING
        value = self.refs[index]()
        return MISSING if value is None else value

    def to_json(self) -> dict[str, Any]:
        """The set as JSON values; "ref" nodes never hold again once read back."""
        return {
            "version": VERSION,
            "nodes": [list(node) for node in self.nodes],
            "inputs": self.input_nodes,
            "state": self.state,
            "packages": self.packages,
            "names": self.names,
            "groups": self.groups,
            "held": self.held_nodes,
            "changed": self.changed,
            "generators": self.generators,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> GuardSet:
        """The set that `to_json` described. Raises KeyError, TypeError or ValueError for anything
        else."""
        if data["version"] != VERSION:
            raise ValueError(f"guards of version {data['version']}")
        nodes = [Node(*fields) for fields in data["nodes"]]
        for index, node in enumerate(nodes):
            known = node.step in STEPS and node.check in PREDICATES and node.parent < index
            if not known:
                raise ValueError(f"no guard is spelled {node}")
        named = [*data["inputs"], *data["held"], *data["changed"], *data["generators"]]
        if not all(0 <= index < len(nodes) for index in named):
            raise ValueError("an input is no node")
        return GuardSet(
            nodes, data["inputs"], data["state"], data["packages"], data["names"], data["groups"],
            held_nodes=data["held"], changed=data["changed"], generators=data["generators"],
        )  # fmt: skip


def parameter_names(fn: Any) -> list[str]:
    """Names of the positional parameters of a call of `fn`, for messages."""
    try:
        target = type(fn).forward.__get__(fn) if isinstance(fn, torch.nn.Module) else fn
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def package_version(name: str) -> str:
    """The version that an imported top-level package states; empty if it states none or is not
    loaded."""
    return str(getattr(sys.modules.get(name), "__version__", ""))
