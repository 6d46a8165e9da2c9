"""What each kind of ATen call becomes in the graph.

A step is a generator: up to its `yield` it looks at the arguments as they are before the call; then
the call runs; it is sent the result, and adds the nodes. Raising Refused, before or after, ends the
recording and not the call.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tracejit.ir.dtypes import COMPLEX, FLOATS, TORCH
from tracejit.ir.graph import Arg, Value, values_in
from tracejit.ops.strides import dense_strides
from tracejit.ops.table import OPS
from tracejit.runtime.state import fills
from tracejit.trace import overlaps
from tracejit.trace.aliases import Alias
from tracejit.trace.canonical import Call, Restore, canonical, tidy_kwargs
from tracejit.trace.constants import contents, from_subscript, listed
from tracejit.trace.descent import described
from tracejit.trace.frames import caller
from tracejit.trace.generators import Generators
from tracejit.trace.infer import Meta
from tracejit.trace.recording import Refused
from tracejit.trace.schema import Does, Facts, graph_name, overload_of
from tracejit.trace.storages import Storages
from tracejit.trace.warns import warns
from tracejit.trace.watch import Watch

NAN = float("nan")
_EMPTY = ("aten.empty", "aten.new_empty")  # how ops begin that leave memory unwritten
MOST_LISTED = 32  # numbers that tolist() may give Python, each compared at every call
Step = Generator[None, Any, None]


class Steps:
    """The steps of one recording: they read and write its storages and add to its graph."""

    def __init__(self, storages: Storages, watch: Watch, generators: Generators) -> None:
        self.storages, self.watch, self.generators = storages, watch, generators
        self.default = torch.get_default_dtype()  # as it will be when the plan runs

    def of(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """The step of one call."""
        if warns(facts.name, args, kwargs):
            facts = replace(facts, does=Does.REFUSE, why=("op", f"torch warns of {facts.name}"))
        step: Step = _STEPS[facts.does](self, facts, args, kwargs)
        return step

    # --- arguments ---

    def values(self, tree: Any) -> Arg:
        """Arguments as the graph has them. Raises Refused."""
        kind = type(tree)
        if kind in PLAIN:
            return tree
        if isinstance(tree, torch.Tensor):
            return self.storages.read(self.storages.find(tree))
        if isinstance(tree, (list, tuple)):
            return tuple([self.values(item) for item in tree])
        if kind is torch.Generator:
            return self.generators.argument(tree)
        raise Refused("op", f"an argument of type {kind.__name__}")

    def call(self, name: str, args: Any, kwargs: dict[str, Any]) -> Call:
        """The canonical call."""
        values = self.values(args)
        named = {k: self.values(v) for k, v in kwargs.items()}
        device = next((v.device for v in values_in((values, tuple(named.values())))), "")
        return canonical(Call(name, values, tidy_kwargs(named, device)))

    def functional(self, facts: Facts, args: Any, kwargs: dict[str, Any]) -> Call:
        """The canonical call of an op without its write."""
        more = {name: v for name, (place, v) in facts.defaults.items() if place >= len(args)}
        call = self.call(graph_name(facts.functional), args, {**more, **kwargs})
        if self.takes_default(call) and (facts.outs or any(type(n) is float for n in call.args)):
            raise Refused("op", f"{facts.name} of whole numbers, and the default dtype is special")
        return call

    # --- what the kinds of calls do; each runs up to its `yield` before the call ---

    def compute(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """New tensors."""
        if facts.name.startswith(_EMPTY) and fills():
            yield from self.filled(facts, args, kwargs)
            return
        if facts.name == "aten.as_strided_scatter":
            self.check_places(args, kwargs)
        call = self.call(facts.name, args, kwargs)
        if facts.name == "aten.index.Tensor":
            call.args = (call.args[0], self.numbered(call.args[1], args[1]), *call.args[2:])
        result = yield
        self.define(call, _tensors(result), facts)

    def filled(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """Memory without values, which a deterministic mode fills."""
        (tensor,) = _tensors((yield))
        dtype = tensor.dtype
        if dtype.is_complex or not tensor.is_contiguous():
            raise Refused("op", f"{facts.name}, filled because algorithms must be deterministic")
        number = NAN if dtype.is_floating_point else True
        if not (dtype.is_floating_point or dtype is torch.bool):
            number = torch.iinfo(dtype).max
        where = {"dtype": dtype, "device": tensor.device}
        self.storages.made_by(tensor, "aten.full", (tuple(tensor.shape), number), where)

    def numbered(self, indices: Arg, tensors: Any) -> Arg:
        """Indices with numbers in place of masks: the places where a mask holds, a column for each
        of its dimensions. How many there are is guarded."""
        found: list[Arg] = []
        assert isinstance(indices, tuple)
        for value, tensor in zip(indices, tensors, strict=True):
            if tensor is None or tensor.dtype not in (torch.bool, torch.uint8):
                found.append(value)
                continue
            sizes = (int(tensor.count_nonzero()), tensor.dim())
            meta = ("i64", sizes, (1, sizes[0]), str(tensor.device))
            places = self.storages.node("aten.nonzero", (value,), {}, [meta]).out
            found += [
                self.storages.add("aten.select.int", (places, 1, d), {}) for d in range(sizes[1])
            ]
        return tuple(found)

    def check_places(self, args: Any, kwargs: Any) -> None:
        """Strides count in memory; the graph knows places in a contiguous tensor only."""
        base = args[0]
        shifted = self.storages.find(base).home.outside or base.storage_offset() != 0
        if not base.is_contiguous() or (shifted and _has_offset(args[1:], kwargs)):
            raise Refused("op", "as_strided_scatter into memory that is not a contiguous tensor's")

    def define(self, call: Call, results: list[torch.Tensor], facts: Facts) -> None:
        """A node whose values are `results`, new tensors all."""
        kept = results if call.kept is None else [results[n] for n in call.kept]
        metas = [self.storages.meta(t) for t in kept]
        if facts.factory:
            call.kwargs.setdefault("dtype", TORCH[metas[0][0]])  # not the default of another day
        if any(self.storages.home(t) is not None for t in results):
            raise Refused("op", f"{facts.name} gave memory that was known before")
        self.settle(call, metas)
        node = self.storages.node(call.op, call.args, call.kwargs, metas)
        for tensor, value, meta in zip(kept, node.outputs, metas):
            self.storages.define(tensor, value, meta=meta)
        if call.kept is not None and len(results) > len(kept):
            looks = list(map(self.storages.meta, results))
            restore = Restore(self.storages.graph, node, call, looks)
            for n, tensor in enumerate(results):
                if n not in call.kept:
                    self.storages.define(tensor, None, restore=partial(restore, n))

    def settle(self, call: Call, metas: list[Meta]) -> None:
        """Whole numbers that become floats of torch's default dtype do so by a node of their own,
        if it is not float32 now or when the plan runs: nothing in a graph depends on it."""
        if not self.takes_default(call) or call.kwargs.get("dtype") is not None:
            return
        dtype, floats = TORCH[metas[0][0]], [n for n in call.args if type(n) is float]
        if dtype is torch.bool and floats:  # a comparison
            dtype = torch.get_default_dtype()
        if dtype.is_floating_point or dtype.is_complex:
            if torch.Tag.pointwise not in overload_of(call.op).tags:
                raise Refused("op", f"{call.op} of whole numbers, and the default dtype is special")
            add = partial(self.storages.add, "aten._to_copy")
            call.args = tuple(
                add((v,), {"dtype": dtype}) if isinstance(v, Value) else v for v in call.args
            )

    def takes_default(self, call: Call) -> bool:
        """Whether a call may make floats of whole numbers, and of which dtype is not sure."""
        if torch.get_default_dtype() is self.default is torch.float32:
            return False
        dtypes = [v.dtype for v in values_in((call.args, tuple(call.kwargs.values())))]
        return bool(dtypes) and not any(d in FLOATS or d in COMPLEX for d in dtypes)

    def view(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """An alias of the first argument, or a constant's first appearance."""
        source = args[0]
        if facts.name == "aten.lift_fresh" and self.storages.home(source) is None:
            yield from self._constant(source)
            return
        parent = self.storages.find(source)
        result = yield
        if self.storages.home(result) is not parent.home:  # a view op that copied after all
            raise Refused("op", f"{facts.name} made a copy")
        if facts.name == "aten.as_strided" and parent.home.outside and _has_offset(args, kwargs):
            raise Refused("op", "as_strided with an offset into memory from outside")
        op, where = described(facts.name, parent, result, args[1:], kwargs)
        self.storages.view(result, parent, op, where)

    def _constant(self, tensor: torch.Tensor) -> Step:
        frame = caller()
        spelled = from_subscript(frame) and (tensor.dim() == 0 or listed(frame, tensor))
        if not self.watch.plain and not spelled:
            raise Refused("op", "a tensor made from Python data that may not be constant")
        made = contents(tensor)
        yield
        self.storages.made_by(tensor, *made)

    def number(self, tensor: torch.Tensor, number: Any) -> None:
        """A tensor that torch makes of a number."""
        self.storages.made_by(tensor, "aten.full", ((), number), {"dtype": tensor.dtype})

    def parts(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """split and unbind: each part is a slice or a select of its own."""
        parent = self.storages.find(args[0])
        result = yield
        unbound = facts.name == "aten.unbind.int"
        (dim,) = args[1 if unbound else 2 :] or (kwargs.get("dim", 0),)
        dim, start = dim % len(parent.sizes), 0
        for n, part in enumerate(result):
            if unbound:
                self.storages.view(part, parent, "aten.select.int", (dim, n))
                continue
            end = start + part.shape[dim]
            self.storages.view(part, parent, "aten.slice.Tensor", (dim, start, end, 1))
            start = end

    def reshape(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """`x.t_()`: the tensor becomes a view of what it was."""
        parent = self.storages.find(args[0])
        if parent.home.outside:
            raise Refused("mutation", "a tensor from outside changed its shape")
        result = yield
        op, where = described(facts.name.replace("_", ""), parent, result, args[1:], kwargs)
        self.storages.view(result, parent, op, where)

    def write(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """`x.add_(y)`: the functional op, cast to x's dtype, becomes x's value."""
        alias = self.storages.find(args[0])
        if facts.random and not args[0].is_contiguous():
            raise Refused("random", f"{facts.name} on a tensor that is not contiguous")
        overlaps.check(self.storages, facts, [alias], (*args[1:], *kwargs.values()))
        call = self.functional(facts, args, kwargs)
        yield
        self._unmoved(args[0], alias)
        self.storages.write(alias, self._functional(call, alias))

    def _functional(self, call: Call, alias: Alias) -> Value:
        """The value that a write gives an alias."""
        if call.op == "aten.copy":
            return self._copied(call.args[0], call.args[1])
        if call.op in OPS or torch.Tag.pointwise in overload_of(call.op).tags:
            return self._fitted(self.storages.add(call.op, call.args, call.kwargs), alias)
        meta = (alias.dtype, alias.sizes, dense_strides(alias.sizes, alias.strides), alias.device)
        return self.storages.node(call.op, call.args, call.kwargs, [meta]).out

    def _fitted(self, value: Value, alias: Alias) -> Value:
        """`value` in the alias's dtype; its sizes must be the alias's already."""
        if value.sizes != alias.sizes:
            raise Refused("mutation", f"a write of {list(value.sizes)} to {list(alias.sizes)}")
        if value.dtype != alias.dtype:
            value = self.storages.add("aten._to_copy", (value,), {"dtype": TORCH[alias.dtype]})
        return value

    def _copied(self, old: Value, source: Value) -> Value:
        """What `old.copy_(source)` leaves in `old`."""
        add = self.storages.add
        wanted: dict[str, Arg] = {}
        if source.dtype != old.dtype:
            wanted["dtype"] = TORCH[old.dtype]
        if source.device != old.device:
            wanted["device"] = torch.device(old.device)
        if wanted:
            source = add("aten._to_copy", (source,), wanted)
        return source if source.sizes == old.sizes else add("aten.expand", (source, old.sizes), {})

    def _unmoved(self, tensor: torch.Tensor, alias: Alias) -> None:
        if alias.sizes != tensor.shape or alias.strides != tensor.stride():
            raise Refused("mutation", "a write changed a tensor's shape")

    def out(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """`torch.add(x, y, out=z)`: z may be resized if it is empty and the call's own. Or
        `torch._foreach_add_(xs, ys)`: one node with a result for each x."""
        targets = [kwargs[name] for name in facts.outs] or args[0]
        aliases = [self.storages.find(t) for t in targets]
        plain = {k: v for k, v in kwargs.items() if k not in facts.outs}
        operands = args if facts.outs else args[1:]
        overlaps.check(self.storages, facts, aliases, (*operands, *plain.values()))
        call = self.functional(facts, args, plain)
        yield
        values = self.storages.apply(call.op, call.args, call.kwargs)
        for target, alias, value in zip(targets, aliases, values, strict=not facts.outs):
            if alias.sizes == target.shape:
                self._unmoved(target, alias)
                self.storages.write(alias, self._fitted(value, alias))
            elif 0 in alias.sizes and value.dtype == alias.dtype:
                self.storages.redefine(target, value)
            else:
                raise Refused("mutation", f"{facts.name} resized its output")

    def stats(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """A batch norm; in training it writes to the running statistics (arguments 3 and 4)."""
        call = self.call(facts.name, args, kwargs)
        writes = call.op == "aten._native_batch_norm_legit_functional"
        stats = [self.storages.find(t) for t in args[3:5]] if writes else []
        result = yield
        if not writes:
            self.define(call, _tensors(result), facts)
            return
        metas = [self.storages.meta(t) for t in (*_tensors(result)[:3], *args[3:5])]
        node = self.storages.node(call.op, call.args, call.kwargs, metas)
        for n, tensor in enumerate(_tensors(result)):
            self.storages.define(
                tensor, node.outputs[n] if n < 3 else None, "a buffer for backward"
            )
        for alias, value in zip(stats, node.outputs[3:]):
            self.storages.write(alias, value)

    def read(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """`.item()`: from here on the program is right for this number only."""
        value = self.storages.read(self.storages.find(args[0]))
        self.expect(value, (yield))

    def expect(self, value: Value, number: Any) -> None:
        """Python got a number: the program is right if the value is that again."""
        if isinstance(number, complex) or number != number:
            raise Refused("data-dependent", f"Python got the number {number}")
        self.storages.node("tj.expect", (value, number), None, ())

    def compare(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        """`torch.equal(x, y)`: the program is right for this outcome only."""
        x, y = (self.values(tensor) for tensor in args[:2])
        outcome = yield
        if args[0].shape == args[1].shape:
            equal = self.storages.add("aten.eq.Tensor", (x, y), {})
            every = self.storages.add("aten.all", (equal,), {})
            self.expect(every, outcome)

    def listed(self, tensor: torch.Tensor) -> None:
        """`x.tolist()`: from here on the program is right for these numbers only."""
        if tensor.numel() > MOST_LISTED:
            raise Refused("data-dependent", f"tolist of {tensor.numel()} numbers")
        value = self.storages.read(self.storages.find(tensor))
        if value.sizes:
            value = self.storages.add("aten.reshape", (value, (tensor.numel(),)), {})
        numbers = tensor.detach().flatten().tolist()
        for place, number in enumerate(numbers):
            where = (value, 0, place)
            one = self.storages.add("aten.select.int", where, {}) if value.sizes else value
            self.expect(one, number)

    def nothing(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        yield

    def give_up(self, facts: Facts, args: Any, kwargs: Any) -> Step:
        raise Refused(*facts.why)
        yield


_STEPS: dict[Does, Callable[..., Any]] = {
    Does.COMPUTE: Steps.compute,
    Does.VIEW: Steps.view,
    Does.PARTS: Steps.parts,
    Does.WRITE: Steps.write,
    Does.OUT: Steps.out,
    Does.STATS: Steps.stats,
    Does.RESHAPE: Steps.reshape,
    Does.READ: Steps.read,
    Does.COMPARE: Steps.compare,
    Does.NOTHING: Steps.nothing,
    Does.REFUSE: Steps.give_up,
}
PLAIN = frozenset(
    {bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout}
    | {torch.memory_format}
)


def _tensors(result: Any) -> list[torch.Tensor]:
    """The tensors of a result, in order. Raises Refused for results of another kind."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, (tuple, list)):
        return [t for part in result for t in _tensors(part)]
    if result is None:
        return []
    raise Refused("op", f"a result of type {type(result).__name__}")


def _has_offset(args: Any, kwargs: Any) -> bool:
    """Whether as_strided is told where to begin, from the start of the memory."""
    return any(offset is not None for offset in (*args[3:], kwargs.get("storage_offset")))
