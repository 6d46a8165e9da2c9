"""From the objects a frame starts with to all that its code can read in them, as guard nodes.

A frame's code loads certain names. Every reached object that has such an attribute, statically,
gets a node for it, and its value is reached in turn; containers are opened wholly. That is more
than the frame reads, and needs no look at its data flow. No property, `__getattr__` or
`__getitem__` is run.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Iterable
from contextvars import ContextVar
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch

from tracejit.runtime.constants import LEAVES, MISSING, encode, is_constant
from tracejit.runtime.origins import CORE, USER, is_user_code
from tracejit.runtime.paths import STEPS, TABLES, instance_dict, static
from tracejit.runtime.predicates import is_container
from tracejit.trace import modules, namespaces, purity
from tracejit.trace.effects import Effects, held_by, step_of
from tracejit.trace.kinds import (
    REMEMBERING,
    ROUTINES,
    class_names,
    content_unseen,
    has_fallback,
    is_borrowed,
    is_descriptor,
    is_iterator,
    parts_of,
    steps_into,
    under,
)
from tracejit.trace.plans import Plan
from tracejit.trace.reads import passes_on
from tracejit.trace.tree import CONTAINERS, Tree, is_array_function

TOLD = frozenset(("__name__", "__qualname__", "__doc__", "__module__"))  # by a function or class
HIDDEN = frozenset(("__dict__", "__weakref__"))  # in every class
MOST_ITEMS = 1000  # a longer container is not described item by item
DEEPEST = 60  # steps from what a frame holds to what its code may read in it
DEEPEST_FRESH = 8  # the same through objects that the call made
# What a tensor tells of its history and place, which guards do not look at.
UNGUARDED = frozenset(
    ("_base", "_is_view", "_version", "grad_fn", "is_leaf", "output_nr", "retains_grad")
    + ("storage_offset", "_backward_hooks", "_post_accumulate_grad_hooks")
)


class Reach:
    """The object graph that one call reaches."""

    def __init__(self, tree: Tree, effects: Effects) -> None:
        self.tree = tree
        self.effects = effects
        self.seen: set[tuple[int, int]] = set()  # (plan, object) pairs looked at
        self.whole: set[tuple[int, int]] = set()  # pairs of which all attributes may be read
        self.fresh: dict[int, Any] = {}  # ids of objects whose __init__ ran in the call
        self.refs: dict[int, Any] = {}  # nodes of objects that no path reached: weak references
        self.functions: dict[int, list[tuple[FunctionType, int]]] = {}  # by id of the code
        # Functions of libraries that globals hold, by id of the code: the globals' node, the name.
        self.library: dict[int, tuple[int, str, FunctionType]] = {}
        self.classes: dict[int, dict[tuple[type, bool], tuple[str, ...]]] = {}  # by id of the plan
        self.problem: tuple[str, str] | None = None  # (kind, words): what no guard describes

    def refuse(self, kind: str, text: str) -> None:
        """Remember the first thing that makes the call impossible to guard."""
        if self.problem is None:
            self.problem = (kind, text)

    def child(self, parent: int, step: str, key: Any, value: Any) -> int:
        """The node of a value reached from a node; functions are remembered by their code."""
        index = self.tree.child(parent, step, key, value)
        if isinstance(value, FunctionType):
            known = self.functions.setdefault(id(value.__code__), [])
            if all(function is not value for function, _ in known):
                known.append((value, index))
        return index

    def visit(self, plan: Plan, value: Any, depth: int = 0) -> None:
        """Look at a value that a frame holds: reached by a path, made by the call, or neither."""
        kind = type(value)
        if kind in LEAVES:
            return
        if depth > DEEPEST:
            self.refuse("unguardable", f"objects are linked more than {DEEPEST} deep")
            return
        node = self.tree.known.get(id(value))
        if isinstance(value, torch.Tensor):
            if node is not None:
                self.tensor(plan, value, node)
            return
        if node is not None:
            self.scan(plan, value, node, depth)
        elif isinstance(value, CONTAINERS):
            if len(value) <= MOST_ITEMS and depth < DEEPEST_FRESH:
                for item in value:
                    self.visit(plan, item, depth + 1)
                for item in value.values() if isinstance(value, dict) else ():
                    self.visit(plan, item, depth + 1)
        elif isinstance(value, ModuleType):
            namespaces.loaded(self, plan, value)
        elif not isinstance(value, (type, *ROUTINES)) and not is_constant(value):
            self.unknown(plan, value, depth)

    def unknown(self, plan: Plan, value: Any, depth: int) -> None:
        """An object without a path: made by the call, or (decided at the end) reached in a way not
        seen.
        """
        if steps := steps_into(value):
            for step in steps:
                self.visit(plan, STEPS[step](value, None), depth + 1)
        elif id(value) in self.fresh:
            if depth < DEEPEST_FRESH:
                self.scan(plan, value, -1, depth + 1)
        elif is_iterator(value):
            if depth < DEEPEST_FRESH:
                for part in under(value):
                    self.visit(plan, part, depth + 1)
        else:
            if depth < DEEPEST_FRESH:
                for part in parts_of(value):
                    self.visit(plan, part, depth + 1)
            try:
                held = weakref.ref(value)
            except TypeError:
                self.scan(plan, value, -1, depth + 1)
                return
            node = self.tree.reference(value)
            self.refs[node] = held
            self.scan(plan, value, node, depth)

    def born(self, value: Any) -> None:
        """The `__init__` of an object without a path runs: the call makes it."""
        key = id(value)
        if key in self.tree.known or key in self.fresh:
            return
        try:
            self.fresh[key] = weakref.ref(value, lambda _: self.fresh.pop(key, None))
        except TypeError:
            self.fresh[key] = value

    def scan(self, plan: Plan, value: Any, node: int, depth: int) -> None:
        """Open an object for the names that a plan's code loads. `node` is -1 for an object that
        the call made.
        """
        if node >= 0:
            mark = (id(plan), id(value))
            if mark in self.seen:
                return
            self.seen.add(mark)
            self.watch(plan, value, node)
        if plan.origin == USER and node >= 0 and isinstance(value, (type, FunctionType)):
            for name in sorted(plan.loads & TOLD):
                self.child(node, "slot", name, STEPS["slot"](value, name))
        if node >= 0 and isinstance(value, FunctionType):
            registry = instance_dict(value).get("registry")  # of functools.singledispatch
            if isinstance(registry, types.MappingProxyType):
                self.tree.child(node, "attr", "registry", registry, ("length", len(registry)))
        if isinstance(value, ModuleType):
            namespaces.module_names(self, plan, value, node, depth)
        elif isinstance(value, type):
            names = plan.loads
            if (id(plan), id(value)) in self.whole:
                names |= {n for b in value.__mro__ if is_user_code(b) for n in vars(b)} - HIDDEN
            self.class_attributes(plan, value, node, names, depth)
        elif is_container(value):
            self.container(plan, value, node, depth)
        elif isinstance(value, ContextVar):
            namespaces.context(self, plan, value, node, depth)
        elif steps := steps_into(value):
            for step in steps:
                self.step(plan, node, step, None, STEPS[step](value, None), depth)
        elif isinstance(value, REMEMBERING):
            if is_user_code(value.__wrapped__):  # cleared, it may give another result
                name = value.__wrapped__.__qualname__
                text = f"{name} remembers results (functools.lru_cache), which no guard describes"
                self.refuse("unguardable", text)
        elif not isinstance(value, ROUTINES) or (
            isinstance(value, FunctionType) and is_user_code(value)
        ):
            self.instance(plan, value, node, depth)

    def watch(self, plan: Plan, value: Any, node: int) -> None:
        """Attributes of an object that the plan's code may store to."""
        reads = plan.reads
        if reads is None or not (reads.stores or reads.computed_store):
            return
        if type(value) in CONTAINERS or isinstance(value, (MethodType, types.BuiltinFunctionType)):
            return  # they have no attributes of their own
        if isinstance(value, ModuleType):
            owned = namespaces.origin_of(value) != CORE
        else:
            owned = not isinstance(value, type) or is_user_code(value)
        for name in reads.stores if owned else ():
            self.effects.watch_name(value, node, name, plan.code, name in reads.counts)
        if owned and reads.computed_store:
            self.effects.watch_whole(value, node, plan.code)

    def called_elsewhere(self, plan: Plan, name: Any, value: Any) -> None:
        """A function in C that does more than compute must not be called by C, which nobody sees:
        so code may call it, but not hand it on. `name`: by which the code loads it, if it does."""
        verdict = purity.judge(value)
        if verdict is not None and (type(name) is not str or passes_on(plan.code, name)):
            self.refuse("impure", f"passes {verdict} on")

    def step(self, plan: Plan, node: int, step: str, key: Any, value: Any, depth: int) -> None:
        """One step further: a node for the value if the object has one, then the value itself."""
        if isinstance(value, types.BuiltinFunctionType):
            self.called_elsewhere(plan, key, value)
        if node >= 0 and type(value) not in LEAVES and self.tree.nodes[node].step == "ref":
            # Its parent may turn out to be made by the call; an object of its own is reached for
            # itself.
            self.visit(plan, value, depth + 1)
            return
        if node >= 0:
            self.child(node, step, key, value)
        self.visit(plan, value, depth + 1)

    def tensor(self, plan: Plan, value: torch.Tensor, node: int) -> None:
        """Attributes of a tensor that are Python objects: its gradient, what a user put on it."""
        told = plan.loads & UNGUARDED if plan.origin == USER else None
        if told:
            self.refuse("unguardable", f"reads Tensor.{min(told)}, which no guard describes")
            return
        if "grad" in plan.loads and value.is_leaf:
            self.child(node, "slot", "grad", value.grad)
        attributes = instance_dict(value)
        reads = plan.reads
        names = plan.loads | reads.counts if reads is not None else plan.loads
        for name in sorted(attributes.keys() & names):
            self.step(plan, node, "attr", name, attributes[name], 0)
        if reads is not None and reads.stores:
            self.effects.watch_tensor(value, node, reads.stores, plan.code)

    def class_attributes(
        self, plan: Plan, kind: type, node: int, names: Iterable[str], depth: int
    ) -> None:
        """Data in a class, and borrowed routines (its own are guarded when they run)."""
        for name in sorted(names):
            found = static(kind, name)
            if found is MISSING:
                continue
            routine = isinstance(found, ROUTINES) or is_descriptor(found)
            if not routine or is_borrowed(kind, name, found):
                self.static(plan, node, name, found, depth)

    def static(self, plan: Plan, node: int, name: str, found: Any, depth: int) -> None:
        """What a class holds; of a static or class method, the function too."""
        self.step(plan, node, "static", name, found, depth)
        if isinstance(found, (staticmethod, classmethod)) and node >= 0:
            index = self.child(node, "static", name, found)
            self.child(index, "func", None, found.__func__)

    def container(self, plan: Plan, value: Any, node: int, depth: int) -> None:
        """All that a container holds, and what its items lead to."""
        if len(value) > MOST_ITEMS:
            if plan.origin == USER:
                self.refuse(
                    "unguardable", f"a {type(value).__name__} of {len(value)} items is read"
                )
            return
        if isinstance(value, dict):
            for position, key in enumerate(list(dict.keys(value))):
                item = dict.__getitem__(value, key)
                if is_constant(key):
                    self.step(plan, node, "item", encode(key), item, depth)
                else:
                    self.step(plan, node, "nthkey", position, key, depth)
                    self.step(plan, node, "nthvalue", position, item, depth)
        elif isinstance(value, (set, frozenset)):
            for item in value:
                self.visit(plan, item, depth + 1)
        else:
            for position, item in enumerate(value):
                self.step(plan, node, "item", position, item, depth)
        if instance_dict(value):
            self.instance(plan, value, node, depth)

    def instance(self, plan: Plan, value: Any, node: int, depth: int) -> None:
        """The attributes of an object that the plan's code may read or write."""
        reads = plan.reads
        assert reads is not None
        home = type(value).__module__
        if is_array_function(value):
            return
        if home.startswith("numpy"):
            why = "impure" if home.startswith("numpy.random") else "unguardable"
            self.refuse(why, f"reads a {home}.{type(value).__name__}")
            return
        unseen = content_unseen(value) if node >= 0 else ""
        if unseen:
            self.refuse(
                "unguardable", f"{type(value).__name__} is read, whose {unseen} no guard describes"
            )
            return
        attributes = instance_dict(value)
        computed = reads.computed or (id(plan), id(value)) in self.whole
        names = plan.loads | attributes.keys() if computed else plan.loads
        if reads.counts:  # of what is no whole number, adding to it is a read
            names |= {n for n in reads.counts if type(held_by(value, n)) is not int}
        for name in sorted(attributes.keys() & names):
            if name in TABLES.values() and name not in plan.loads:
                continue
            if not self.effects.has_set(value, name, attributes[name]):
                self.step(plan, node, "attr", name, attributes[name], depth)
        if computed and node >= 0:
            self.tree.child(node, "dict", None, attributes)
        if isinstance(value, torch.nn.Module):
            modules.parts(self, plan, value, node, None if computed else names, depth)
        kind = type(value)
        # What a user's class holds may change between calls.
        known = self.classes.setdefault(id(plan), {}) if is_user_code(kind) else plan.classes
        inherited = known.get((kind, computed))
        if inherited is None:
            inherited = known[kind, computed] = class_names(kind, plan, computed)
        if inherited:
            self.inherited(plan, value, node, inherited, depth)
        if node >= 0:
            if has_fallback(kind):
                self.absences(plan.loads, value, node)
            elif reads.optional:
                self.absences(reads.optional, value, node)

    def inherited(
        self, plan: Plan, value: Any, node: int, names: tuple[str, ...], depth: int
    ) -> None:
        """Slots, and data that the object's classes hold."""
        kind, attributes, owner = type(value), instance_dict(value), -1
        for name in names:
            found = static(kind, name)
            if isinstance(found, types.MemberDescriptorType):
                self.step(plan, node, "slot", name, STEPS["slot"](value, name), depth)
            elif name not in attributes:
                if owner < 0 and node >= 0:
                    owner = self.child(node, "class", None, kind)
                self.static(plan, owner, name, found, depth)
                if node >= 0:
                    self.tree.child(node, "attr", name, MISSING)
                    if isinstance(found, functools.cached_property):  # its value will be kept
                        self.effects.watch_name(value, node, name, plan.code)

    def absences(self, names: Iterable[str], value: Any, node: int) -> None:
        """Names that the code asks for: guard that the object does not have those that it lacks
        now.
        """
        if isinstance(value, type):
            for name in names:
                if static(value, name) is MISSING:
                    self.tree.child(node, "static", name, MISSING)
            return
        tables = TABLES if isinstance(value, torch.nn.Module) else {}
        for name in names:
            if held_by(value, name) is not MISSING or static(type(value), name) is not MISSING:
                continue
            self.tree.child(node, "attr", name, MISSING)
            if is_user_code(type(value)):
                owner = self.child(node, "class", None, type(value))
                self.tree.child(owner, "static", name, MISSING)
            for step in tables:
                self.tree.child(node, step, name, MISSING)

    def asked(self, plan: Plan, local: dict[str, Any], namespace: dict[str, Any]) -> None:
        """What the code asks of certain objects: names it computes, or that may be absent."""
        assert plan.reads is not None
        for each in plan.reads.asked:
            value = self.follow(each.of or (), local, namespace)
            if value is MISSING or type(value) in LEAVES:
                continue
            node = self.tree.known.get(id(value), -1)
            if each.name is None and not each.write:
                mark = (id(plan), id(value))
                if mark not in self.whole:
                    self.whole.add(mark)
                    self.seen.discard(mark)
                self.visit(plan, value)
            elif each.name is None and node >= 0:
                self.effects.watch_whole(value, node, plan.code)
            elif each.name is not None and node >= 0 and not each.write:
                self.absences((each.name,), value, node)

    def follow(
        self, chain: tuple[str, ...], local: dict[str, Any], namespace: dict[str, Any]
    ) -> Any:
        """The object that a variable and attributes of it lead to, without running user code."""
        value = local.get(chain[0], namespace.get(chain[0], MISSING))
        for name in chain[1:]:
            step = step_of(value, name)
            found = STEPS[step](value, name)
            node = self.tree.known.get(id(value), -1)
            if found is not MISSING and node >= 0 and self.tree.nodes[node].step != "ref":
                self.child(node, step, name, found)
            value = found if found is not MISSING else static(type(value), name)
        return value
