"""The end of an observation: did the call change what it reached, and what must hold for it to be
the same again.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

import torch

from tracejit.runtime import sharing, state
from tracejit.runtime.constants import MISSING
from tracejit.runtime.guards import OBJECTS, GuardSet, Node, package_version
from tracejit.runtime.reasons import Reason
from tracejit.trace.changes import Change, Changes, Unreplayable
from tracejit.trace.effects import differs
from tracejit.trace.recording import Recording

if TYPE_CHECKING:
    from tracejit.trace.observe import Observer

REPLAYED = {"default dtype"}  # a setting too (runtime.settings): set again where a call sets it
HELD = OBJECTS | {"lib", "pymodule"}  # checks of nodes whose objects a recipe can name


class Conclusion:
    """From what an observer collected to a GuardSet or a Reason."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.tree, self.effects = observer.tree, observer.effects
        self.reach, self.coverage = observer.reach, observer.coverage

    def changes(self) -> list[Change] | Reason:
        """What the call changed, or why a plan cannot do the same."""
        for variable, value in self.observer.contexts.values():
            if differs(value, variable.get(MISSING)):
                return Reason("side-effect", f"sets context variable {variable.name}")
        now = state.capture()
        for name, before in self.observer.state.items():
            if now[name] != before and name not in REPLAYED:
                return Reason("side-effect", f"changes {name} (was {before}, is {now[name]})")
        try:
            return Changes(self.tree, self.effects.watches, self.dropped, self.words).collect()
        except Unreplayable as found:
            return Reason("side-effect", found.text, found.place)

    def reached(self) -> dict[int, int]:
        """Nodes by the ids of the objects that the call did not make and that a plan can name."""
        nodes = self.tree.nodes
        return {
            key: index
            for key, index in self.tree.known.items()
            if index not in self.dropped and nodes[index].check in HELD
        }

    @functools.cached_property
    def dropped(self) -> set[int]:
        """Nodes that need not hold."""
        return self.tree.dropped(self.made_here())

    def guards(self, recording: Recording) -> GuardSet | Reason:
        """The guards of the call, or why there are none."""
        for code in self.coverage.uncovered.values():
            if id(code) in self.reach.functions:
                continue  # a path was found later
            place = f"{code.co_filename}:{code.co_firstlineno}"
            return Reason("unguardable", f"runs {code.co_name}, which no path reaches", place)
        inputs: dict[int, int] = {}
        for number, tensor in enumerate(recording.sources):
            if number in recording.spans:
                continue
            node = self.source(recording.lazy.get(number, tensor))
            if node is None:
                text = "a tensor is used that the call made, but no operation recorded"
                return Reason("unguardable", text)
            inputs[number] = self.part(node, number, tensor, recording)
        numbers, nodes, refs = self.kept()
        found = {n: numbers[node] for n, node in inputs.items()}
        for n, span in recording.spans.items():
            key = [span.offset, span.size]
            nodes.append(Node(found[span.of], "around", key, "memory"))
            found[n] = len(nodes) - 1
        packages = {name: package_version(name) for name in self.coverage.packages if name}
        return GuardSet(
            nodes,
            [found[n] for n in range(len(recording.sources))],
            self.observer.state,
            packages,
            self.observer.names,
            sharing.groups(recording.sources) if recording.writes else None,
            refs,
            [numbers[i] for i in recording.held],
            [numbers[i] for i in recording.changed],
            [numbers[self.tree.known[id(each)]] for each in recording.generators],
        )

    def source(self, tensor: torch.Tensor) -> int | None:
        """The node of an input; a reference if no path reaches it; None if the call made it."""
        node = self.tree.known.get(id(tensor))
        if node is not None:
            return node
        if id(tensor) in self.observer.young:
            return None
        node = self.tree.reference(tensor)
        self.reach.refs[node] = weakref.ref(tensor)
        return node

    def part(self, node: int, number: int, tensor: torch.Tensor, recording: Recording) -> int:
        """The node of an input, from the node of the tensor that the call was given: it may be the
        memory of a lazy one, and where it begins may count."""
        modulus = recording.moduli.get(number)
        if modulus is not None:
            where = int(tensor.storage_offset()) % modulus
            self.tree.child(node, "misplaced", modulus, where)
        if number in recording.lazy:
            return self.tree.child(node, "physical", None, tensor)
        return node

    def made_here(self) -> set[int]:
        """Nodes of references that need no guard: the object was made by the call, is gone, or
        nothing is read of it.
        """
        parents = {node.parent for node in self.tree.nodes}
        made = set()
        for index, held in self.reach.refs.items():
            node = self.tree.nodes[index]
            if node.step != "ref":
                continue  # a path was found later
            value = held()
            idle = index not in parents and node.check != "tensor"
            if (
                value is None
                or idle
                or id(value) in self.observer.young
                or id(value) in self.reach.fresh
            ):
                made.add(index)
        return made

    def words(self, index: int) -> str:
        """The path of a node, for messages."""
        if index < 0:
            return "an object"
        return GuardSet(self.tree.nodes, [], {}, names=self.observer.names).path(index)

    def kept(self) -> tuple[dict[int, int], list[Node], list[Any]]:
        """Nodes that must hold, in order and renumbered: old index to new, the nodes, what their
        references hold."""
        order = self.tree.order(self.dropped)
        numbers = {index: number for number, index in enumerate(order)}
        nodes: list[Node] = []
        refs: list[Any] = []
        for index in order:
            node = self.tree.nodes[index]
            expected, key = node.expected, node.key
            if node.check == "same":
                expected = numbers[expected]
            if node.step == "ref":
                key = len(refs)
                refs.append(self.reach.refs[index])
            nodes.append(Node(numbers.get(node.parent, -1), node.step, key, node.check, expected))
        return numbers, nodes, refs
