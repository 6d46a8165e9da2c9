"""The graph: a typed, functional SSA program of ATen-level operations.

A `Node` applies one op (named as in ATen, `aten.add.Tensor`; `.default` is left out) to arguments
laid out as its ATen schema has them: Values, numbers, dtypes, None, and tuples of those. Nothing in
a graph mutates: a write that the caller can see is an entry of `Graph.writes`, performed after
everything else.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

# A size is an int or a sympy expression; rules use only arithmetic, so that both work.
Size = Any
Arg = Any

WIDTH = 100
INDENT = "    "
# Words that mean something in the text, so that a value called so is written value['inf'].
RESERVED = frozenset(
    {"inf", "nan", "torch", "complex", "rng", "value", "write", "together", *keyword.kwlist}
)


@dataclass(frozen=True)
class Origin:
    """Where an operation was written: the user's file and line, the function, and the module path
    (`layers.0.norm`).
    """

    file: str = ""
    line: int = 0
    function: str = ""
    module: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else "<unknown>"
        return (
            f"{place} in {self.module or self.function}"
            if (self.module or self.function)
            else place
        )


@dataclass(eq=False, slots=True)
class Value:
    """One tensor of the program. `dtype` is a short name of ir.dtypes; sizes and strides count
    elements.
    """

    name: str
    dtype: str
    sizes: tuple[Size, ...]
    strides: tuple[Size, ...]
    device: str = "cpu"
    node: Node | None = None  # None: a graph input

    def __repr__(self) -> str:
        return f"%{self.name}: {self.dtype}[{', '.join(map(str, self.sizes))}]"

    @property
    def ndim(self) -> int:
        return len(self.sizes)

    @property
    def span(self) -> int:
        return span(self.sizes, self.strides)


@dataclass(eq=False, slots=True)
class Node:
    """One operation, not changed once made. `outputs` has one Value per tensor result (also for one
    in a tuple).
    """

    op: str
    args: tuple[Arg, ...]
    kwargs: dict[str, Arg] = field(default_factory=dict)
    outputs: tuple[Value, ...] = ()
    origin: Origin = Origin()
    part_of: str = ""  # the op that was decomposed into this node; names kernels
    _inputs: tuple[Value, ...] | None = field(default=None, init=False, repr=False)
    lowers: Any = field(default=None, init=False, repr=False)  # kept by fuse.views.kind_of

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The Values among the arguments, in order, repeats included."""
        if self._inputs is None:
            self._inputs = tuple(values_in((self.args, tuple(self.kwargs.values()))))
        return self._inputs

    @property
    def out(self) -> Value:
        """The only result of an op that has one."""
        (value,) = self.outputs
        return value


@dataclass(frozen=True)
class Rng:
    """A random generator as an argument: the `key`-th that the call is given (kind "input"), the
    `key`-th that it makes, or the default one, both of a device."""

    kind: str
    key: int = 0
    device: str = "cpu"


@dataclass(eq=False)
class Graph:
    """Inputs, nodes in topological order, outputs, and writes: (input, its new value) pairs done at
    the end. `together`: inputs that lie in the same memory, if any of it is written.
    """

    inputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    writes: list[tuple[Value, Value]] = field(default_factory=list)
    together: list[list[Value]] = field(default_factory=list)
    _count: int = 0

    def __str__(self) -> str:
        return show(self)

    def fresh(self, prefix: str = "v") -> str:
        """A value name not used in this graph yet."""
        self._count += 1
        return f"{prefix}{self._count - 1}"

    def add_input(
        self,
        dtype: str,
        sizes: Iterable[Size],
        strides: Iterable[Size],
        device: str = "cpu",
        name: str = "",
    ) -> Value:
        value = Value(name or self.fresh("a"), dtype, tuple(sizes), tuple(strides), device)
        self.inputs.append(value)
        return value

    def add(
        self,
        op: str,
        args: Iterable[Arg],
        kwargs: dict[str, Arg] | None = None,
        metas: Iterable[tuple[str, tuple[Size, ...], tuple[Size, ...] | None, str]] = (),
        origin: Origin = Origin(),
    ) -> Node:
        """Append a node. Each meta is (dtype, sizes, strides or None for contiguous, device) of one
        result.
        """
        node = Node(op, tuple(args), dict(kwargs or {}), (), origin)
        node.outputs = tuple(
            Value(
                self.fresh(),
                d,
                tuple(s),
                contiguous_strides(s) if st is None else tuple(st),
                dev,
                node,
            )
            for d, s, st, dev in metas
        )
        self.nodes.append(node)
        return node

    def results(self) -> Iterator[Value]:
        """Values that must exist when the program ends."""
        yield from self.outputs
        for _, value in self.writes:
            yield value

    def users(self) -> dict[Value, list[Node]]:
        """For each value the nodes that read it, once each, in order."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                found.setdefault(value, []).append(node)
        return found


def contiguous_strides(sizes: Iterable[Size]) -> tuple[Size, ...]:
    """Row-major strides as torch gives a fresh tensor: a size of 0 counts as 1."""
    strides: list[Size] = []
    step: Size = 1
    for size in reversed(tuple(sizes)):
        strides.append(step)
        step = step * (size if size != 0 else 1)
    return tuple(reversed(strides))


def numel(sizes: Iterable[Size]) -> Size:
    """Product of sizes; 1 for no dimensions."""
    total: Size = 1
    for size in sizes:
        total = total * size
    return total


def span(sizes: Iterable[Size], strides: Iterable[Size]) -> int:
    """Elements of memory from the first to the last that are reached; 0 if there are none."""
    steps = list(zip(sizes, strides, strict=True))
    empty = any(size == 0 for size, _ in steps)
    return 0 if empty else 1 + int(sum((size - 1) * stride for size, stride in steps))


def values_in(tree: Arg, kind: type = Value) -> Iterator[Any]:
    """Every Value (or what else `kind` says) in nested tuples and lists of arguments."""
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from values_in(item, kind)


def map_values(tree: Arg, change: Callable[[Any], Arg], kind: type = Value) -> Arg:
    """`tree` with every Value (or what else `kind` says) replaced by `change(value)`."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_values(item, change, kind) for item in tree)
    return tree


def identity(arg: Arg) -> Arg:
    """A hashable stand-in for an argument: 1, 1.0 and True differ, 0.0 and -0.0 too; NaN is NaN."""
    if isinstance(arg, (tuple, list)):
        return tuple(map(identity, arg))
    if isinstance(arg, float):
        return ("float", arg.hex())
    return arg if isinstance(arg, Value) else (type(arg), arg)


# --- to text ---


def show(graph: Graph) -> str:
    """The graph as text, as ir.text, which reads it, describes."""
    lines = [_header(graph.inputs)]
    origin = Origin()
    for node in graph.nodes:
        if str(node.origin) != str(origin):
            lines.append(f"{INDENT}# {node.origin}")
            origin = node.origin
        lines.append(INDENT + show_node(node))
    names = ", ".join(show_name(v) for v in graph.outputs)
    lines.append(f"{INDENT}return {names}".rstrip())
    lines += [f"{INDENT}write {show_name(old)} <- {show_name(new)}" for old, new in graph.writes]
    lines += [f"{INDENT}together {', '.join(map(show_name, g))}" for g in graph.together]
    return "\n".join(lines)


def show_node(node: Node) -> str:
    """One operation, `v0: f32[4] = aten.neg(x)`."""
    arguments = [show_arg(a) for a in node.args]
    odd = {k: v for k, v in node.kwargs.items() if k in RESERVED}
    arguments += [f"{k}={show_arg(v)}" for k, v in node.kwargs.items() if k not in odd]
    if odd:
        inside = ", ".join(f"{k!r}: {show_arg(v)}" for k, v in odd.items())
        arguments.append(f"**{{{inside}}}")
    call = f"{node.op}({', '.join(arguments)})"
    if not node.outputs:
        return call
    return f"{', '.join(_typed(v) for v in node.outputs)} = {call}"


def show_name(value: Value) -> str:
    """`v0`, or value['layers.0.weight'] for a name that could not stand in an expression."""
    plain = value.name.isidentifier() and value.name not in RESERVED
    return value.name if plain else f"value[{value.name!r}]"


def show_type(value: Value) -> str:
    """`f32[4, 8][1, 4]cuda:0`: dtype, sizes, strides unless contiguous, device unless the CPU."""
    text = f"{value.dtype}[{_sizes(value.sizes)}]"
    if value.strides != contiguous_strides(value.sizes):
        text += f"[{_sizes(value.strides)}]"
    return text if value.device == "cpu" else text + value.device


def show_arg(arg: Arg) -> str:
    """An argument as a Python expression. A type that a graph does not have raises TypeError."""
    if isinstance(arg, Value):
        return show_name(arg)
    if isinstance(arg, list):
        return f"[{', '.join(map(show_arg, arg))}]"
    if isinstance(arg, tuple):
        return f"({', '.join(map(show_arg, arg))}{',' if len(arg) == 1 else ''})"
    if arg is None or isinstance(arg, (bool, int, float, str)):
        return repr(arg)
    if isinstance(arg, complex):
        return f"complex({arg.real!r}, {arg.imag!r})"
    if isinstance(arg, (torch.dtype, torch.memory_format, torch.layout)):
        return str(arg)
    if isinstance(arg, torch.device):
        return f"torch.device({str(arg)!r})"
    if isinstance(arg, Rng):
        return f"rng({arg.kind!r}, {arg.key}, {arg.device!r})"
    if hasattr(arg, "free_symbols"):
        return str(arg)
    raise TypeError(f"an argument of type {type(arg).__name__} has no place in a graph: {arg!r}")


def _header(inputs: list[Value]) -> str:
    typed = [_typed(v) for v in inputs]
    line = f"graph({', '.join(typed)}):"
    if len(line) <= WIDTH:
        return line
    return "\n".join(["graph(", *(f"{INDENT}{INDENT}{t}," for t in typed), "):"])


def _typed(value: Value) -> str:
    return f"{show_name(value)}: {show_type(value)}"


def _sizes(sizes: tuple[Size, ...]) -> str:
    return ", ".join(map(str, sizes))
