"""How a call's return value is built from the plan's outputs and the call's inputs.

The recipe is JSON, written by the recorder. Leaves:
    {"out": i}                              the plan's output i
    {"view": i, "sizes", "strides", "offset", "nth"}   a view of output i, `offset` elements into it
    {"input": i}                            that input, the same object
    {"input_view": i, …}                    a view of that input
    {"const": c}                            a constant, spelled as in runtime.constants
    {"global": "module:name"}               a class or function
Containers: {"list": […]}, {"tuple": […]}, {"dict": [[key, value], …]}, {"namedtuple": name,
"items"}, {"object": name, "fields": [[name, value], …]} (an instance with these attributes, also of
a dataclass) and {"pytree": name, "context", "children"} for a class registered with torch's pytree.
Equal tensor leaves are one object; `nth` tells apart several tensors that look the same.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tracejit.runtime import private
from tracejit.runtime.constants import MISSING, decode, named
from tracejit.runtime.moulds import Mould

Rebuild = Callable[[tuple[Any, ...], tuple[Any, ...]], Any]


@dataclass(frozen=True)
class Recipe:
    """A recipe as Python over `inputs` and `outputs`: lines, an expression for the result, and what
    other names in them stand for."""

    lines: tuple[str, ...]
    result: str
    names: dict[str, Any]


def spelled(tree: Any) -> Recipe:
    """The recipe as Python.

    Raises ValueError for a recipe with an unknown part, or that names a class that is not there.
    """
    writer = _Writer()
    result = writer.expression(tree)
    return Recipe(tuple(writer.lines), result, writer.names)


def compile_tree(tree: Any) -> Rebuild:
    """The function `rebuild(inputs, outputs)` that builds what the recipe says. Raises as `spelled`
    does."""
    recipe = spelled(tree)
    body = "\n    ".join([*recipe.lines, f"return {recipe.result}"])
    names = dict(recipe.names)
    exec(compile(f"def rebuild(inputs, outputs):\n    {body}\n", "<outputs>", "exec"), names)
    rebuild: Rebuild = names["rebuild"]
    return rebuild


class _Writer:
    """Straight-line Python for one recipe: lines for shared views, one expression for the rest."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"view": _view, "instance": _instance}
        self.lines: list[str] = []
        self.views: dict[str, str] = {}

    def bind(self, value: Any) -> str:
        """A name for a value that Python text cannot spell."""
        name = f"kept{len(self.names)}"
        self.names[name] = value
        return name

    def expression(self, tree: Any) -> str:
        if not isinstance(tree, dict) or not tree:
            raise ValueError(f"no output is described by {tree!r}")
        kind = next(iter(tree))
        rule = _RULES.get(kind)
        if rule is None:
            raise ValueError(f"no output is described by {tree!r}")
        return rule(self, tree)

    def items(self, trees: Any) -> str:
        return "".join(f"{self.expression(tree)}, " for tree in trees)

    def tensor(self, tree: Any) -> str:
        kind = "out" if "out" in tree else "input"
        return (
            f"{kind}puts[{int(tree['out'])}]" if kind == "out" else f"inputs[{int(tree['input'])}]"
        )

    def view(self, tree: Any) -> str:
        """A line that makes the view once, however often it is returned."""
        key = json.dumps(tree, sort_keys=True)
        if key not in self.views:
            base = (
                f"outputs[{int(tree['view'])}]"
                if "view" in tree
                else f"inputs[{int(tree['input_view'])}]"
            )
            place = (
                tuple(map(int, tree["sizes"])),
                tuple(map(int, tree["strides"])),
                int(tree["offset"]),
            )
            self.views[key] = f"view{len(self.views)}"
            self.lines.append(f"{self.views[key]} = view({base}, {', '.join(map(repr, place))})")
        return self.views[key]

    def constant(self, tree: Any) -> str:
        value = decode(tree["const"])
        plain = value is None or isinstance(value, (bool, str)) or type(value) is int
        return repr(value) if plain else self.bind(value)

    def pairs(self, tree: Any) -> str:
        inside = (f"{self.expression(k)}: {self.expression(v)}" for k, v in tree["dict"])
        return f"{{{', '.join(inside)}}}"

    def named_tuple(self, tree: Any) -> str:
        cls = find(tree["namedtuple"])
        make = getattr(cls, "_make", cls)  # torch.return_types take a sequence themselves
        return f"{self.bind(make)}(({self.items(tree['items'])}))"

    def instance(self, tree: Any) -> str:
        fields = ", ".join(f"{name!r}: {self.expression(v)}" for name, v in tree["fields"])
        return f"instance({self.bind(find(tree['object']))}, {{{fields}}})"

    def pytree(self, tree: Any) -> str:
        cls = find(tree["pytree"])
        node = private.pytree_nodes().get(cls)
        if node is None:
            raise ValueError(f"{tree['pytree']} is not registered with torch's pytree here")
        make, context = self.bind(Mould(node.unflatten_fn)), self.expression(tree["context"])
        return f"{make}([{self.items(tree['children'])}], {context})"


_RULES: dict[str, Callable[[_Writer, Any], str]] = {
    "out": _Writer.tensor,
    "input": _Writer.tensor,
    "view": _Writer.view,
    "input_view": _Writer.view,
    "const": _Writer.constant,
    "global": lambda writer, tree: writer.bind(find(tree["global"])),
    "list": lambda writer, tree: f"[{writer.items(tree['list'])}]",
    "tuple": lambda writer, tree: f"({writer.items(tree['tuple'])})",
    "dict": _Writer.pairs,
    "namedtuple": _Writer.named_tuple,
    "object": _Writer.instance,
    "pytree": _Writer.pytree,
}


def find(name: str) -> Any:
    """The class or function `module:qualname`, importing its module if need be.

    Raises ValueError if there is none.
    """
    found = named(name)
    if found is MISSING:
        try:
            importlib.import_module(name.partition(":")[0])
        except ImportError as error:
            raise ValueError(f"{name} cannot be imported") from error
        found = named(name)
    if found is MISSING:
        raise ValueError(f"there is no {name}")
    return found


def _view(
    base: torch.Tensor, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> torch.Tensor:
    return torch.as_strided(base, sizes, strides, base.storage_offset() + offset)


def _instance(cls: Any, fields: dict[str, Any]) -> Any:
    made = cls.__new__(cls)
    made.__dict__.update(fields)
    return made
