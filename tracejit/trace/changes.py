"""What a call changed in the Python objects that it reached, as changes that its plan can replay.

Places that the code stores to are watched (trace.effects); everything else that was reached is
compared with what its guard says. A change is the difference between the call's start and its end.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracejit.runtime.constants import MISSING, decode, is_constant, same
from tracejit.runtime.paths import STEPS, TABLES, static
from tracejit.runtime.predicates import PREDICATES, words
from tracejit.runtime.replay import WRITABLE
from tracejit.trace.effects import Watched, differs, place_of, step_of
from tracejit.trace.tree import Tree

if TYPE_CHECKING:
    from tracejit.runtime.guards import Node

LISTS = (list, deque)
DICTS = (dict, OrderedDict, defaultdict)
_FIXED = frozenset(("self", "class", "base", "dict"))  # steps to what cannot be rebound


@dataclass(frozen=True)
class Change:
    """One object (by its node) and how it changed. `kind` and `values` are as runtime.outputs has
    them: a change's values are Python objects that are still to be spelled."""

    node: int
    kind: str  # put, drop, count, extend, fill, rekey, renew
    step: str = ""
    key: Any = None
    values: tuple[Any, ...] = ()
    place: str = ""  # file:line of the store, if it is known


class Unreplayable(Exception):
    """A change that no plan can make: what was changed, in words, and where."""

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(text)
        self.text, self.place = text, place


class Changes:
    """Collects the changes of one call, from its watches and its nodes."""

    def __init__(self, tree: Tree, watches: list[Watched], dropped: set[int], path: Any) -> None:
        self.tree, self.dropped, self.path = tree, dropped, path
        self.watches = [watch for watch in watches if watch.node not in dropped]
        self.found: dict[tuple[int, str, Any], Change] = {}

    def collect(self) -> list[Change]:
        """All of them, one a place. Raises Unreplayable."""
        for change in self.seen():
            self.found.setdefault((change.node, change.step, repr(change.key)), change)
        return list(self.found.values())

    def seen(self) -> Iterator[Change]:
        """What changed in watched places, then in guarded values: of some a second time."""
        for watch in self.watches:
            yield from self.of_watch(watch)
        for index, node in enumerate(self.tree.nodes):
            if index not in self.dropped and node.parent >= 0 and node.check != "same":
                yield from self.of_node(index, node)

    # Watched places

    def of_watch(self, watch: Watched) -> Iterator[Change]:
        """What changed in a watched place."""
        now = watch.read()
        if not differs(watch.before, now):
            self.unchanged(watch)
            return
        if watch.step == "dict":
            yield from self.of_snapshots(watch, now)
            return
        text = f"writes {self.path(watch.node)}.{watch.name} "
        text += f"(was {words(watch.before)}, is {words(now)})"
        if watch.node < 0 or watch.step not in WRITABLE:
            raise Unreplayable(text, place_of(watch))
        yield from self.rebound(watch, watch.name, watch.before, now, text)

    def unchanged(self, watch: Watched) -> None:
        """Guard what a place holds: perhaps the call stored just that, and would again."""
        if watch.counted or watch.node < 0:
            return
        names = watch.before if watch.step == "dict" else {watch.name: watch.before}
        for name, value in names.items():
            name = name.rpartition(".")[2]
            default = "slot" if watch.step == "grad" else watch.step
            if not isinstance(value, dict) or watch.step != "dict":
                step = watch.steps.get(name, "attr" if default == "dict" else default)
                self.tree.child(watch.node, step, name, value)

    def of_snapshots(self, watch: Watched, now: Any) -> Iterator[Change]:
        """Attributes whose names the code computes."""
        for name in [*watch.before, *(n for n in now if n not in watch.before)]:
            before, after = watch.before.get(name, MISSING), now.get(name, MISSING)
            if differs(before, after) and not isinstance(after, dict):
                text = f"writes {self.path(watch.node)}.{name}"
                yield from self.rebound(watch, name.rpartition(".")[2], before, after, text)

    def rebound(
        self, watch: Watched, name: str, before: Any, now: Any, text: str
    ) -> Iterator[Change]:
        """A place holds something else, perhaps in another of the object's dicts than before."""
        node, where = watch.node, place_of(watch)
        was = watch.steps.get(name, "")
        step = watch.step
        if step in ("attr", "dict"):
            step = step_of(self.tree.values[node], name)
        if watch.counted and type(before) is int and type(now) is int:
            self.tree.child(node, step, name, before, predicate=("kind", "builtins:int"))
            yield Change(node, "count", step, name, (now - before,), where)
            return
        if watch.counted and before is MISSING:
            self.inherited(node, name)
        elif watch.counted and not self.is_read(node, name):
            raise Unreplayable(text, where)  # nothing guards what it was
        self.tree.child(node, was or step, name, before, ("exists", None) if was else None)
        if was and (now is MISSING or was != step):
            yield Change(node, "drop", was, name, (), where)
        if now is not MISSING:
            yield Change(node, "put", step, name, (now,), where)

    def inherited(self, node: int, name: str) -> None:
        """Guard what an object's class holds: the first `self.n += 1` reads it there."""
        kind = type(self.tree.values[node])
        owner = self.tree.child(node, "class", None, kind)
        self.tree.child(owner, "static", name, static(kind, name))

    def is_read(self, node: int, name: str) -> bool:
        """Whether a guard says what the place held."""
        return any(edge[0] == node and edge[2] == name for edge in self.tree.edges)

    # Guarded values

    def of_node(self, index: int, node: Node) -> Iterator[Change]:
        """What changed in a reached value, or in the place that it was reached from."""
        tree = self.tree
        before = tree.values[index]
        now = STEPS[node.step](tree.values[node.parent], node.key)
        if node.step in _FIXED or now is before:
            if index in tree.pointers and before.data_ptr() != tree.pointers[index]:
                raise Unreplayable(f"gives other memory to {self.path(index)}")
            if node.check != "lib" and not PREDICATES[node.check](before, node.expected, []):
                yield from self.content(index, node, before)
        elif not (is_constant(before) and is_constant(now) and same(before, now)):
            yield from self.replaced(index, node, before, now)

    def replaced(self, index: int, node: Node, before: Any, now: Any) -> Iterator[Change]:
        """A place that was read holds something else. Items are their container's content."""
        holder = self.tree.values[node.parent]
        above = self.tree.nodes[node.parent]
        if above.check == "container":
            yield from self.content(node.parent, above, holder)
            return
        inherited = node.step == "static" and node.key not in holder.__dict__
        if node.step not in WRITABLE or inherited:
            text = f"writes {self.path(index)} (was {words(before)}, is {words(now)})"
            raise Unreplayable(text)
        kind = "drop" if now is MISSING else "put"
        values = () if now is MISSING else (now,)
        yield Change(node.parent, kind, node.step, node.key, values)

    def content(self, index: int, node: Node, value: Any) -> Iterator[Change]:
        """What changed inside an object that stayed the same one."""
        if node.step == "dict" or node.step in ("attr", "hooks") and node.key in TABLES.values():
            yield from self.of_attributes(node, value)
            return
        kind = type(value) if node.check == "container" else None
        if kind in LISTS:
            yield self.of_list(index, value)
        elif kind in DICTS:
            yield self.of_dict(index, value)
        elif kind is set:
            yield self.of_set(index, node, value)
        else:
            text = f"writes {self.path(index)} (is {words(value)})"
            raise Unreplayable(text)

    def of_attributes(self, node: Node, value: dict[str, Any]) -> Iterator[Change]:
        """Attributes, submodules, parameters or buffers that came or went, if no watch saw it."""
        step = next((step for step, table in TABLES.items() if table == node.key), "attr")
        known = {c.key for c in self.found.values() if c.node == node.parent}
        for name in {*map(decode, node.expected[1])}.symmetric_difference(value) - known:
            kind = "put" if name in value else "drop"
            yield Change(node.parent, kind, step, name, (value[name],) if name in value else ())

    def items(self, index: int, keys: list[Any]) -> list[Any]:
        """What a container held under these keys when it was reached."""
        found = [self.tree.held(index, "item", key) for key in keys]
        if any(item is MISSING for item in found):
            raise Unreplayable(f"changes {self.path(index)}, which was not read item by item")
        return found

    def of_list(self, index: int, value: Any) -> Change:
        """New items at the end, or other items."""
        count = self.tree.nodes[index].expected[1]
        before, now = self.items(index, list(range(count))), list(value)
        grown = len(now) >= count and not any(map(differs, before, now))
        if grown and getattr(value, "maxlen", None) is None:
            return Change(index, "extend", values=tuple(now[count:]))
        return Change(index, "fill", values=tuple(now))

    def of_dict(self, index: int, value: dict[Any, Any]) -> Change:
        """Keys that are gone, and items that are new or others."""
        keys = self.tree.nodes[index].expected[1]
        if not isinstance(keys, list) or not all(map(is_constant, value)):
            raise Unreplayable(f"changes {self.path(index)}, whose keys are no constants")
        before = dict(zip(map(decode, keys), self.items(index, keys)))
        gone = [key for key in before if key not in value]
        new = [k for k in value if k not in before or differs(before[k], value[k])]
        kept = [key for key in before if key in value]
        if [*kept, *(key for key in new if key not in before)] != list(value):
            gone, new = list(before), list(value)  # another order
        return Change(index, "rekey", values=(gone, [(key, value[key]) for key in new]))

    def of_set(self, index: int, node: Node, value: set[Any]) -> Change:
        """Elements that are gone, and new ones."""
        if not isinstance(node.expected[1], list) or not all(map(is_constant, value)):
            raise Unreplayable(f"changes {self.path(index)}, whose elements are no constants")
        before = set(map(decode, node.expected[1]))
        return Change(index, "renew", values=(list(before - value), list(value - before)))
