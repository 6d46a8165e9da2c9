"""The end of an observation: did the call change what it reached, and what must hold for it to be
the same again.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from tracejit.runtime import sharing, state
from tracejit.runtime.constants import MISSING, is_constant, same
from tracejit.runtime.guards import GuardSet, Node, package_version
from tracejit.runtime.paths import STEPS
from tracejit.runtime.predicates import PREDICATES, words
from tracejit.runtime.reasons import Reason
from tracejit.trace.effects import differs, place_of

if TYPE_CHECKING:
    from tracejit.trace.observe import Observer


class Conclusion:
    """From what an observer collected to a GuardSet or a Reason."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.tree, self.effects = observer.tree, observer.effects
        self.reach, self.coverage = observer.reach, observer.coverage

    def guards(self, sources: Sequence[torch.Tensor], writes: bool) -> GuardSet | Reason:
        """The guards of the call, or why there are none."""
        for code in self.coverage.uncovered.values():
            if id(code) in self.reach.functions:
                continue  # a path was found later
            place = f"{code.co_filename}:{code.co_firstlineno}"
            return Reason("unguardable", f"runs {code.co_name}, which no path reaches", place)
        inputs = [self.source(tensor) for tensor in sources]
        if None in inputs:
            return Reason(
                "unguardable", "a tensor is used that the call made, but no operation recorded"
            )
        dropped = self.tree.dropped(self.made_here())
        changed = self.changed(dropped)
        if changed is not None:
            return changed
        return self.build(
            [index for index in inputs if index is not None], sources, dropped, writes
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

    def changed(self, dropped: set[int]) -> Reason | None:
        """What the call changed in what it had reached."""
        watch = self.effects.changed(dropped)
        if watch is not None:
            path = self.words(watch[0].node)
            return Reason(
                "side-effect", f"writes {path}.{watch[0].name} ({watch[1]})", place_of(watch[0])
            )
        for variable, value in self.observer.contexts.values():
            if differs(value, variable.get(MISSING)):
                return Reason("side-effect", f"sets context variable {variable.name}")
        now = state.capture()
        for name, before in self.observer.state.items():
            if now[name] != before:
                return Reason("side-effect", f"changes {name} (was {before}, is {now[name]})")
        return self.changed_nodes(dropped)

    def changed_nodes(self, dropped: set[int]) -> Reason | None:
        """Reached values that are others now, or no longer what they were."""
        tree = self.tree
        for index, node in enumerate(tree.nodes):
            if index in dropped or node.parent < 0 or node.check == "same":
                continue
            before = tree.values[index]
            now = STEPS[node.step](tree.values[node.parent], node.key)
            if node.step in ("self", "class", "dict", "base") or now is before:
                holds = node.check == "lib" or PREDICATES[node.check](before, node.expected, [])
            else:
                holds = is_constant(before) and is_constant(now) and same(before, now)
            moved = index in tree.pointers and before.data_ptr() != tree.pointers[index]
            if not holds or moved:
                return Reason(
                    "side-effect",
                    f"writes {self.words(index)} (was {words(before)}, is {words(now)})",
                )
        return None

    def words(self, index: int) -> str:
        """The path of a node, for messages."""
        if index < 0:
            return "an object"
        return GuardSet(self.tree.nodes, [], {}, names=self.observer.names).path(index)

    def build(
        self, inputs: list[int], sources: Sequence[torch.Tensor], dropped: set[int], writes: bool
    ) -> GuardSet:
        """Kept nodes in order, renumbered."""
        order = self.tree.order(dropped)
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
        packages = {name: package_version(name) for name in self.coverage.packages if name}
        groups = sharing.groups(sources) if writes else None
        guards = GuardSet(
            nodes,
            [numbers[i] for i in inputs],
            self.observer.state,
            packages,
            self.observer.names,
            groups,
            refs,
        )
        guards.check = guards.compile(self.observer.fn)
        return guards
