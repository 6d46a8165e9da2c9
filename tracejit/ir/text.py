"""Graphs as text and back: `parse(show(graph))` is the same program and prints the same.

    graph(x: f32[4, 8], weight: f32[8, 8][1, 8]cuda:0):
        # model.py:12 in layers.0.norm
        v0: f32[4, 8] = aten.add.Tensor(x, weight, alpha=2)
        v1: f32[4], v2: i64[4] = aten.max.dim(v0, 1)
        tj.expect(v2, 3)
        return v0
        write x <- v0
        together x, weight

A type is dtype[sizes], then [strides] unless they are contiguous, then the device unless it is the
CPU. A value whose name is no identifier is written value['layers.0.weight']. Arguments are Python
expressions; names that are no value are sympy symbols, positive integers.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tracejit.ir.graph import (
    RESERVED,
    Arg,
    Graph,
    Node,
    Origin,
    Rng,
    Size,
    Value,
    contiguous_strides,
)

TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[(\[)\],=]""")


class ParseError(ValueError):
    """Text that is not a graph; the message has the line."""


def parse(text: str) -> Graph:
    """The graph that `show` printed as `text`. Raises ParseError, with the line, for other text."""
    head, body = _split_header(text)
    reader = _Reader()
    for item in _split(head):
        reader.graph.inputs.append(reader.define(item))
    for line in body:
        try:
            reader.line(line.strip())
        except (ParseError, SyntaxError, KeyError, ValueError) as error:
            raise ParseError(f"cannot read {line.strip()!r}: {error}") from error
    reader.graph._count = _beyond(reader.values)
    return reader.graph


class _Reader:
    """The graph read so far, its values by name, and the origin in force."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.values: dict[str, Value] = {}
        self.origin = Origin()

    def line(self, line: str) -> None:
        if not line:
            return
        if line.startswith("#"):
            self.origin = _origin(line[1:].strip())
        elif line == "return" or line.startswith("return "):
            self.graph.outputs = [
                self.values[_plain(name)] for name in _split(line[len("return") :])
            ]
        elif line.startswith("write "):
            old, new = (self.values[_plain(name)] for name in line[len("write ") :].split(" <- "))
            self.graph.writes.append((old, new))
        elif line.startswith("together "):
            names = _split(line[len("together ") :])
            self.graph.together.append([self.values[_plain(name)] for name in names])
        else:
            self.node(line)

    def node(self, line: str) -> None:
        results, call = _split_result(line)
        match = re.fullmatch(r"([\w.]+)\((.*)\)", call)
        if match is None:
            raise ParseError("not a call")
        tree = ast.parse(f"f({match[2]})", mode="eval").body
        assert isinstance(tree, ast.Call)
        node = Node(
            match[1], tuple(map(self.expression, tree.args)), self.keywords(tree), (), self.origin
        )
        node.outputs = tuple(self.define(item, node) for item in _split(results))
        self.graph.nodes.append(node)

    def keywords(self, call: ast.Call) -> dict[str, Arg]:
        found: dict[str, Arg] = {}
        for keyword_ in call.keywords:
            if keyword_.arg is not None:
                found[keyword_.arg] = self.expression(keyword_.value)
            elif isinstance(keyword_.value, ast.Dict):
                for key, value in zip(keyword_.value.keys, keyword_.value.values, strict=True):
                    assert isinstance(key, ast.Constant)
                    found[str(key.value)] = self.expression(value)
        return found

    def define(self, item: str, node: Node | None = None) -> Value:
        """The new value that `name: type` describes."""
        called, _, kind = item.rpartition(": ")
        match = re.fullmatch(r"(\w+)\[([^\[\]]*)\](?:\[([^\[\]]*)\])?([\w:]*)", kind)
        if match is None:
            raise ParseError(f"{item!r} is not a name and a type")
        dtype, sizes, strides, device = match.groups()
        name = _plain(called)
        if name in self.values:
            raise ParseError(f"{name} is defined already")
        shape = self.sizes(sizes)
        steps = contiguous_strides(shape) if strides is None else self.sizes(strides)
        self.values[name] = Value(name, dtype, shape, steps, device or "cpu", node)
        return self.values[name]

    def sizes(self, text: str) -> tuple[Size, ...]:
        tree = ast.parse(f"({text},)" if text else "()", mode="eval").body
        assert isinstance(tree, ast.Tuple)
        return tuple(map(self.expression, tree.elts))

    def expression(self, tree: ast.expr) -> Arg:
        """The argument that a Python expression stands for."""
        rule = _EXPRESSIONS.get(type(tree))
        if rule is None:
            raise ParseError(f"{ast.unparse(tree)} has no meaning here")
        return rule(self, tree)


def _name(reader: _Reader, tree: Any) -> Arg:
    if tree.id in ("inf", "nan"):
        return float(tree.id)
    return reader.values[tree.id] if tree.id in reader.values else _symbol(tree.id)


def _call(reader: _Reader, tree: Any) -> Arg:
    name = ast.unparse(tree.func)
    arguments = [reader.expression(a) for a in tree.args]
    if name == "complex":
        return complex(*arguments)
    if name == "torch.device":
        return torch.device(*arguments)
    if name == "rng":
        return Rng(*arguments)
    return getattr(_sympy(), name)(*arguments)


def _subscript(reader: _Reader, tree: Any) -> Arg:
    return reader.values[_plain(ast.unparse(tree))]


def _attribute(reader: _Reader, tree: Any) -> Arg:
    if isinstance(tree.value, ast.Name) and tree.value.id == "torch":
        return getattr(torch, tree.attr)
    raise ParseError(f"{ast.unparse(tree)} has no meaning here")


def _binary(reader: _Reader, tree: Any) -> Arg:
    left, right = reader.expression(tree.left), reader.expression(tree.right)
    if isinstance(tree.op, ast.Div):  # a ratio of sizes stays exact
        left = _sympy().Integer(left) if isinstance(left, int) else left
    return _BINARY[type(tree.op)](left, right)


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_EXPRESSIONS: dict[type[ast.expr], Callable[[_Reader, Any], Arg]] = {
    ast.Constant: lambda reader, tree: tree.value,
    ast.Name: _name,
    ast.Tuple: lambda reader, tree: tuple(map(reader.expression, tree.elts)),
    ast.List: lambda reader, tree: list(map(reader.expression, tree.elts)),
    ast.UnaryOp: lambda reader, tree: -reader.expression(tree.operand),
    ast.BinOp: _binary,
    ast.Call: _call,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
}


def _sympy() -> Any:
    import sympy

    return sympy


def _symbol(name: str) -> Size:
    return _sympy().Symbol(name, integer=True, positive=True)


def _split_header(text: str) -> tuple[str, list[str]]:
    """What stands between `graph(` and `):`, and the lines below it."""
    lines = text.strip("\n").splitlines()
    for n, line in enumerate(lines):
        if line.endswith("):"):
            head = " ".join(part.strip() for part in lines[: n + 1])
            if head.startswith("graph("):
                return head[len("graph(") : -len("):")].strip(), lines[n + 1 :]
            break
    raise ParseError("a graph begins with graph(…):")


def _plain(text: str) -> str:
    """The name that `show_name` wrote."""
    if text.isidentifier() and text not in RESERVED:
        return text
    if text.startswith("value[") and text.endswith("]"):
        return str(ast.literal_eval(text[len("value[") : -1]))
    raise ParseError(f"{text!r} is not a name")


def _split_result(line: str) -> tuple[str, str]:
    """`results = call`, or a call alone, as (results or "", call)."""
    for at in _outside(line, "="):
        return line[:at].strip(), line[at + 1 :].strip()
    return "", line


def _split(text: str) -> list[str]:
    """Split at commas outside brackets and strings; a comma at the end adds nothing."""
    cuts = [-1, *_outside(text, ","), len(text)]
    pieces = [text[a + 1 : b].strip() for a, b in zip(cuts, cuts[1:], strict=False)]
    return [piece for piece in pieces if piece]


def _outside(text: str, mark: str) -> Iterator[int]:
    """Where `mark` stands in `text` outside brackets and strings."""
    depth = 0
    for token in TOKEN.finditer(text):
        depth += (token[0] in "([") - (token[0] in ")]")
        if token[0] == mark and depth == 0:
            yield token.start()


def _origin(text: str) -> Origin:
    """The origin whose `str` is `text`; what follows `in` is taken for the module path."""
    place, _, module = text.partition(" in ")
    match = re.fullmatch(r"(.*):(\d+)(?: in (.*))?", text)
    if match is None:
        return Origin(module=module) if place == "<unknown>" else Origin(file=text)
    return Origin(match[1], int(match[2]), module=match[3] or "")


def _beyond(values: dict[str, Value]) -> int:
    """A count past every number that ends a value's name, so that fresh names are fresh."""
    numbers = [int(m[1]) for m in (re.search(r"(\d+)$", name) for name in values) if m]
    return max(numbers, default=-1) + 1
