"""The end of an observation: did the call change what it reached, and what must hold for it to be
the same again.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

import torch

from tracejit.runtime import settings, sharing, state
from tracejit.runtime.constants import MISSING
from tracejit.runtime.guards import OBJECTS, GuardSet, Node, package_version
from tracejit.runtime.reasons import Reason
from tracejit.trace.changes import Change, Changes, Unreplayable
from tracejit.trace.effects import differs
from tracejit.trace.recording import Recording

if TYPE_CHECKING:
    from tracejit.trace.observe import Observer

HELD = OBJECTS | {"lib", "pymodule"}  # checks of nodes whose objects a recipe can name


def changes(observer: Observer) -> list[Change] | Reason:
    """What the call changed, or why a plan cannot do the same."""
    for variable, value in observer.contexts.values():
        if differs(value, variable.get(MISSING)):
            return Reason("side-effect", f"sets context variable {variable.name}")
    now = state.capture()
    for name, before in observer.state.items():
        if now[name] != before and name not in settings.IN_STATE:
            return Reason("side-effect", f"changes {name} (was {before}, is {now[name]})")
    path = functools.partial(path_of, observer)
    try:
        return Changes(observer.tree, observer.effects.watches, dropped(observer), path).collect()
    except Unreplayable as found:
        return Reason("side-effect", found.text, found.place)


def reached(observer: Observer) -> dict[int, int]:
    """Nodes by the ids of the objects that the call did not make and that a plan can name."""
    nodes, gone = observer.tree.nodes, dropped(observer)
    return {
        key: index
        for key, index in observer.tree.known.items()
        if index not in gone and nodes[index].check in HELD
    }


def guards(observer: Observer, recording: Recording) -> GuardSet | Reason:
    """The guards of the call, or why there are none."""
    for code in observer.coverage.uncovered.values():
        if id(code) not in observer.reach.functions:  # or a path was found later
            place = f"{code.co_filename}:{code.co_firstlineno}"
            return Reason("unguardable", f"runs {code.co_name}, which no path reaches", place)
    inputs: dict[int, int] = {}
    for number, tensor in enumerate(recording.sources):
        if number not in recording.spans:
            node = _input(observer, number, tensor, recording)
            if node is None:
                text = "a tensor is used that the call made, but no operation recorded"
                return Reason("unguardable", text)
            inputs[number] = node
    numbers, nodes, refs = _kept(observer)
    found = {n: numbers[node] for n, node in inputs.items()}
    for n, span in recording.spans.items():
        nodes.append(Node(found[span.of], "around", [span.offset, span.size], "memory"))
        found[n] = len(nodes) - 1
    return GuardSet(
        nodes,
        [found[n] for n in range(len(recording.sources))],
        observer.state,
        {name: package_version(name) for name in observer.coverage.packages if name},
        observer.names,
        sharing.groups(recording.sources) if recording.writes else None,
        refs,
        [numbers[i] for i in recording.held],
        [numbers[i] for i in recording.changed],
        [numbers[observer.tree.known[id(each)]] for each in recording.generators],
    )


def path_of(observer: Observer, index: int) -> str:
    """The path of a node, for messages."""
    if index < 0:
        return "an object"
    return GuardSet(observer.tree.nodes, [], {}, names=observer.names).path(index)


def _input(
    observer: Observer, number: int, tensor: torch.Tensor, recording: Recording
) -> int | None:
    """The node of an input, from that of the tensor that the call was given: it may be the memory
    of a lazy one, and where it begins may count. None if the call made it.
    """
    node = _source(observer, recording.lazy.get(number, tensor))
    modulus = recording.moduli.get(number)
    if node is not None and modulus is not None:
        where = int(tensor.storage_offset()) % modulus
        observer.tree.child(node, "misplaced", modulus, where)
    if node is not None and number in recording.lazy:
        return observer.tree.child(node, "physical", None, tensor)
    return node


def _source(observer: Observer, tensor: torch.Tensor) -> int | None:
    """The node of a tensor; a reference if no path reaches it; None if the call made it."""
    node = observer.tree.known.get(id(tensor))
    if node is None and id(tensor) not in observer.young:
        node = observer.tree.reference(tensor)
        observer.reach.refs[node] = weakref.ref(tensor)
    return node


def dropped(observer: Observer) -> set[int]:
    """Nodes that need not hold: references to what the call made, to what is gone, or of which
    nothing is read; and all that was reached through them.
    """
    nodes, reach = observer.tree.nodes, observer.reach
    parents = {node.parent for node in nodes}
    made = set()
    for index, held in reach.refs.items():
        if nodes[index].step == "ref":  # or a path was found later
            value = held()
            idle = index not in parents and nodes[index].check != "tensor"
            fresh = id(value) in observer.young or id(value) in reach.fresh
            if value is None or idle or fresh:
                made.add(index)
    return observer.tree.dropped(made)


def _kept(observer: Observer) -> tuple[dict[int, int], list[Node], list[Any]]:
    """Nodes that must hold, in order and renumbered: old index to new, the nodes, what their
    references hold.
    """
    tree = observer.tree
    order = tree.order(dropped(observer))
    numbers = {index: number for number, index in enumerate(order)}
    nodes: list[Node] = []
    refs: list[Any] = []
    for index in order:
        node = tree.nodes[index]
        expected, key = node.expected, node.key
        if node.check == "same":
            expected = numbers[expected]
        if node.step == "ref":
            key = len(refs)
            refs.append(observer.reach.refs[index])
        nodes.append(Node(numbers.get(node.parent, -1), node.step, key, node.check, expected))
    return numbers, nodes, refs
