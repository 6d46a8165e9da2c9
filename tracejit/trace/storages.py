"""Which value a tensor is: tensors are told apart by their storage and geometry, never by their
Python identity alone.

Each storage has a root, the tensor first seen on it, and aliases that are reached from it by chains
of views (trace.aliases). A write through an alias gives the storage a new version: the chain is
undone up to the root. Reading an alias of an older version makes its view again, from the root's
new value (trace.descent). Memory that the call did not make (arguments, parameters) may have
several roots, one for each tensor that came from outside, until it is written to: then they become
views of one (trace.spans).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from tracejit.ir.dtypes import NAME, itemsize
from tracejit.ir.graph import Arg, Graph, Node, Origin, Value, numel
from tracejit.ops.strides import dense
from tracejit.runtime import private
from tracejit.runtime.aliases import CONJUGATED, NEGATED, lazy_bits, physical
from tracejit.runtime.private import storage_key
from tracejit.trace import descent, spans
from tracejit.trace.aliases import Alias, Storage, memory_of
from tracejit.trace.infer import Kwargs, Meta, infer, viewable
from tracejit.trace.recording import Refused, Span


class Storages:
    """All tensors of one recording."""

    def __init__(self, graph: Graph, origin: Callable[[], Origin]) -> None:
        self.graph, self.origin = graph, origin
        self.sources: list[torch.Tensor] = []
        self.inputs: list[Alias] = []  # the root of each source
        self.spans: dict[int, Span] = {}  # by their number among the inputs
        self.lazy: dict[int, torch.Tensor] = {}  # sources that are memory of a lazy tensor, whose
        self.moduli: dict[int, int] = {}  # where a source begins in its memory counts, modulo this
        self._known: dict[int, Storage] = {}
        self._weak: list[int] = []
        self._devices: dict[torch.device, str] = {}

    def close(self) -> None:
        """Let go of the storages' addresses, and of the tensors."""
        self.sources, self.lazy = [], {}
        for pointer in self._weak:
            private.free_weak_storage(pointer)
        self._weak.clear()
        self._known.clear()

    # --- which alias a tensor is ---

    def find(self, tensor: torch.Tensor) -> Alias:
        """The alias that a tensor is; a new input for memory not seen before. Raises Refused."""
        if tensor.layout is not torch.strided:
            raise Refused("tensor", f"a tensor of {tensor.layout}")
        home = self._known.get(storage_key(tensor.untyped_storage()))
        if home is None:
            return self._enter(tensor, None)
        key = home.key(tensor)
        found = home.aliases.get(key)
        if home.outside:
            if found is None:
                return self._enter(tensor, home)
            if not self._same(found, tensor):
                raise Refused("mutation", "a tensor from outside changed its shape")
        elif found is None:
            if len(home.roots) > 1:
                raise Refused("op", "a tensor on memory that several results share")
            found = home.aliases[key] = self._strided(tensor, home.roots[0])
        return found

    def home(self, tensor: torch.Tensor) -> Storage | None:
        """The storage record of a tensor's memory, if it has been seen."""
        return self._known.get(storage_key(tensor.untyped_storage()))

    def made(self, tensor: torch.Tensor) -> bool:
        """Whether the call made a tensor: its memory, or this view of memory from outside."""
        home = self._known.get(memory_of(tensor))
        if home is None or not home.outside:
            return home is not None or not memory_of(tensor)
        given = any(tensor is each for each in (*self.sources, *self.lazy.values()))
        return id(tensor) in home.aliases and not given

    def meta(self, tensor: torch.Tensor) -> Meta:
        """dtype, sizes, strides and device of a real tensor. Raises Refused for what a graph does
        not have.
        """
        dtype = NAME.get(tensor.dtype)
        where = tensor.device
        if dtype is None or tensor.layout is not torch.strided or where.type == "meta":
            raise Refused("tensor", f"a tensor of {tensor.dtype}, {tensor.layout} on {where}")
        device = self._devices.get(where)
        if device is None:
            device = self._devices[where] = str(where)
        return dtype, tuple(tensor.shape), tensor.stride(), device

    def _alias(self, tensor: torch.Tensor, home: Storage, meta: Meta | None = None) -> Alias:
        """A tensor's geometry, as an alias without a value."""
        dtype, sizes, strides, device = meta or self.meta(tensor)
        offset, lazy = int(tensor.storage_offset()), lazy_bits(tensor)
        return Alias(home, dtype, sizes, strides, offset, device, lazy)

    def _enter(self, tensor: torch.Tensor, home: Storage | None) -> Alias:
        """A tensor from outside becomes an input."""
        check_type(tensor)
        if home is None:
            home = Storage(outside=True)
            self._known[storage_key(tensor.untyped_storage())] = home
        memory = tensor
        if lazy_bits(tensor):
            memory = physical(tensor)
            self.lazy[len(self.sources)] = tensor
        alias = self._alias(memory, home)
        self.add_input(memory, alias)
        alias.given = True
        home.roots.append(alias)
        home.aliases[id(memory)] = alias
        if home.version:
            spans.join(self, alias)
        if memory is not tensor:
            alias = home.aliases[id(tensor)] = self._lazily(alias, lazy_bits(tensor))
        return alias

    def add_input(self, tensor: torch.Tensor, alias: Alias) -> None:
        """A tensor with this alias becomes an input of the graph."""
        alias.value, alias.version = self._input(tensor, alias), 0

    def _input(self, tensor: torch.Tensor, alias: Alias) -> Value:
        self.sources.append(tensor)
        self.inputs.append(alias)
        return self.graph.add_input(alias.dtype, alias.sizes, alias.strides, alias.device)

    def _lazily(self, root: Alias, bits: int) -> Alias:
        """The alias of a tensor that reads its memory with these bits."""
        for bit, op in LAZY.items():
            if bits & bit:
                root = replace(
                    root, parent=root, op=op, lazy=root.lazy | bit, value=None, given=False,
                    origin=self.origin(),
                )  # fmt: skip
        return root

    def number(self, tensor: torch.Tensor) -> int:
        """The number of the input that is this very tensor, not merely its memory; -1 if none is.
        A lazy tensor becomes one only here: nothing but the return value can have a use for it.
        """
        for number, source in enumerate(self.sources):
            if source is tensor:
                return number
        if not any(tensor is lazy for lazy in self.lazy.values()):
            return -1
        self._input(tensor, self.find(tensor))
        return len(self.sources) - 1

    def define(
        self,
        tensor: torch.Tensor,
        value: Value | None,
        lost: str = "",
        meta: Meta | None = None,
        restore: Callable[[], Value] | None = None,
    ) -> None:
        """A tensor that the call made, in new memory, is `value`; or None, and `restore` makes it
        when it is read, or reading it is refused with `lost`.
        """
        storage = tensor.untyped_storage()
        home = self._known.get(storage_key(storage))
        if home is None:
            home = self._known[storage_key(storage)] = Storage()
            self._weak.append(private.weak_storage(storage))
        alias = self._alias(tensor, home, meta)
        if alias.lazy:
            raise Refused("op", "an operation whose result is lazily conjugated or negated")
        alias.value, alias.version = value, 0
        home.lost, home.restore = lost, restore
        home.roots.append(alias)
        home.aliases[home.key(tensor)] = alias

    def redefine(self, tensor: torch.Tensor, value: Value) -> None:
        """A tensor of the call's own was resized and filled: forget what its memory was."""
        home = self.home(tensor)
        if home is None or home.outside:
            raise Refused("mutation", "a tensor from outside was resized")
        home.version += 1
        home.roots.clear()
        home.aliases.clear()
        self.define(tensor, value)
        home.roots[0].version = home.version

    # --- views ---

    def view(self, result: torch.Tensor, parent: Alias, op: str, args: tuple[Arg, ...]) -> None:
        """`result` is the view `op(parent, *args)`; reached by its strides if `op` is empty. Raises
        Refused.
        """
        home, key = parent.home, parent.home.key(result)
        if not home.outside and key in home.aliases:
            return
        known = parent
        if parent.parent is not None and op == parent.op and op in LAZY.values():
            known = parent.parent  # which it undoes
        if not op:
            alias = self._strided(result, parent.root)
        elif home.outside and self._same(known, result):
            alias = known
        else:
            alias = self._derive(result, parent, op, args)
        home.aliases[key] = alias

    def adopt(self, made: torch.Tensor, data: torch.Tensor) -> None:
        """`made` is another tensor on the memory of `data`, as that lies there."""
        where = memory_of(data)
        home = self._known.get(where)
        seen = home is not None and not home.outside  # then it is known by how it looks
        if where and not seen and not data.is_meta and data.layout is torch.strided:
            alias = self.find(data)
            alias.home.aliases[id(made)] = alias

    def _same(self, alias: Alias, tensor: torch.Tensor) -> bool:
        return (
            alias.sizes == tensor.shape
            and alias.strides == tensor.stride()
            and alias.offset == tensor.storage_offset()
            and NAME.get(tensor.dtype) == alias.dtype
            and lazy_bits(tensor) == alias.lazy
        )

    def _derive(self, result: torch.Tensor, parent: Alias, op: str, args: tuple[Arg, ...]) -> Alias:
        alias = self._alias(result, parent.home)
        alias.parent, alias.op, alias.args, alias.origin = parent, op, args, self.origin()
        if parent.home.outside and itemsize(alias.dtype) > itemsize(parent.dtype):
            self._align(alias)
        return alias

    def _align(self, alias: Alias) -> None:
        """Whether memory may be viewed as a larger dtype depends on where the input begins."""
        root = alias.root
        number = self.inputs.index(root)
        modulus = itemsize(alias.dtype) // itemsize(root.dtype)
        if modulus > 1:
            self.moduli[number] = max(modulus, self.moduli.get(number, 1))

    def _strided(self, tensor: torch.Tensor, root: Alias) -> Alias:
        """An alias of unknown descent."""
        alias = self._alias(tensor, root.home)
        if alias.dtype != root.dtype or alias.lazy:
            raise Refused("op", "a tensor whose memory was made as something else")
        place = alias.offset - root.offset
        reach = sum((n - 1) * s for n, s in zip(alias.sizes, alias.strides))
        inside = 0 <= place < numel(root.sizes) - reach
        if not inside or dense(root.sizes, root.strides) is None:
            raise Refused("op", "a view that reaches outside the tensor it was made from")
        alias.parent, alias.op, alias.origin = root, "aten.as_strided", self.origin()
        alias.args = (alias.sizes, alias.strides, place)
        return alias

    # --- values ---

    def read(self, alias: Alias) -> Value:
        """The alias's value now. Raises Refused."""
        home = alias.home
        if alias.version == home.version and alias.value is not None:
            return alias.value
        if alias.parent is None and home.restore is not None and home.version == 0:
            alias.value = home.restore()
            return alias.value
        if alias.parent is None:
            raise Refused("op", home.lost or "memory that two tensors share was written to")
        base = self.read(alias.parent)
        alias.value = descent.look(self, alias, base)
        alias.version = home.version
        return alias.value

    def write(self, alias: Alias, value: Value) -> None:
        """The alias's elements become those of `value` (same dtype and sizes). Raises Refused."""
        home = alias.home
        if alias.version == home.version and alias.value is value:
            return  # `x[i] += 1` ends with `x[i] = x[i]`
        if len(home.roots) > 1 and not home.outside:
            raise Refused("mutation", "memory that two tensors share is written to")
        if len(home.roots) > 1:
            spans.cover(self, alias.top)
        alias.root.written = True
        changed = [(alias, value)]
        while alias.parent is not None:
            descent.check_separable(alias)
            value = descent.undo(self, alias, value)
            alias = alias.parent
            if alias.span and value.strides != alias.strides:
                value = self.add("aten.clone", (value,), {"memory_format": torch.contiguous_format})
            changed.append((alias, value))
        descent.check_separable(alias)
        home.version += 1
        for root in home.roots:  # others are not touched by it
            root.version = home.version
        for written, new in changed:
            written.value, written.version = new, home.version

    # --- nodes ---

    def add(
        self, op: str, args: tuple[Arg, ...], kwargs: Kwargs, origin: Origin | None = None
    ) -> Value:
        """A node of the recorder's own, with one result, whose look is inferred. Raises Refused."""
        if op == "aten.view" and not viewable(*args):
            copy = self.add("aten.clone", args[:1], {"memory_format": torch.contiguous_format})
            args = (copy, *args[1:])
        (value,) = self.apply(op, args, kwargs, origin)
        return value

    def apply(
        self, op: str, args: tuple[Arg, ...], kwargs: Kwargs, origin: Origin | None = None
    ) -> tuple[Value, ...]:
        """A node of the recorder's own and its results. Raises Refused."""
        try:
            metas = infer(op, args, kwargs)
        except RuntimeError as error:
            raise Refused("op", f"{op} cannot be replayed: {error}") from error
        return self.graph.add(op, args, kwargs, metas, origin or self.origin()).outputs

    def node(
        self, op: str, args: tuple[Arg, ...], kwargs: Kwargs | None, metas: Sequence[Meta]
    ) -> Node:
        """A node of the call's, whose results look like this."""
        return self.graph.add(op, args, kwargs, metas, self.origin())

    def made_by(
        self, tensor: torch.Tensor, op: str, args: tuple[Arg, ...], kwargs: Kwargs | None = None
    ) -> None:
        """A tensor that the call made, in new memory, is what this node gives."""
        meta = self.meta(tensor)
        self.define(tensor, self.node(op, args, kwargs, [meta]).out, meta=meta)


# What a tensor's lazy bits make of the values in its memory.
LAZY = {CONJUGATED: "aten.conj_physical", NEGATED: "aten.neg"}


def check_type(tensor: torch.Tensor) -> None:
    """Raises Refused for subclasses of Tensor other than Parameter."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise Refused("tensor", f"a tensor of type {type(tensor).__name__}")
    if private.is_zero_tensor(tensor):
        raise Refused("tensor", "a tensor of zeros without memory")
