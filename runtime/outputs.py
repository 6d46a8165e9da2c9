"""How a call's return value is built from the plan's outputs and the call's inputs.

The recipe is JSON, written by the recorder. Leaves:
    {"out": i}                              the plan's output i
    {"view": i, "sizes", "strides", "offset"}   a view of output i, `offset` elements into it
    {"input": i}                            that input, the same object
    {"input_view": i, …}                    a view of that input
    {"held": k}                             an object that was there before, the k-th that the
                                            guards hold ready
    {"const": c}                            a constant, spelled as in runtime.constants
    {"global": "module:name"}               a class or function
Containers: {"list": […]}, {"tuple": […]}, {"dict": [[key, value], …]}, {"namedtuple": name,
"items"}, {"object": name, "fields": [[name, value], …]} (an instance with these attributes, also of
a dataclass) and {"pytree": name, "context", "children"} for a class registered with torch's pytree.
Equal tensor leaves are one object; `nth` tells apart several tensors that look the same. Further
fields of "out", "view" and "input_view" (runtime.aliases):
    "dtype": name, "pairs": bool            a view as this dtype, `offset` bytes into the base;
                                            pairs and complex numbers may be one another
    "inference": bool                       made in this inference mode, not in the call's
    "lazy": bits                            conjugated or negated as it is read
    "apart": true                           autograd does not lead to what it is a view of
    "made": [requires_grad, is a parameter, [[name, value], …]]     a leaf of autograd

A call that changes Python objects has {"after": [change, …], "result": …} at the top: when all
values are built, the changes are made in order, then the call returns. Each says where first:
    {"put": [k, step, key], "value"}        a place of held object k holds this (runtime.replay)
    {"drop": [k, step, key]}                … holds nothing
    {"count": [k, step, key], "by": n}      … holds a number that grows by n
    {"extend": k, "items"}, {"fill": k, "items"}      a list's new end, a list's new content
    {"rekey": k, "gone": [c, …], "set": [[key, value], …]}      keys of a dict
    {"renew": k, "gone": [c, …], "new": [c, …]}       elements of a set
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tracejit.runtime import aliases, private, replay
from tracejit.runtime.constants import MISSING, decode, named
from tracejit.runtime.pytrees import Mould

Rebuild = Callable[..., Any]


@dataclass(frozen=True)
class Recipe:
    """A recipe as Python over `inputs`, `held` and `outputs`: lines, an expression for the result,
    and what other names in them stand for."""

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
    """The function `rebuild(inputs, outputs, held)` that builds what the recipe says. Raises as
    `spelled` does."""
    recipe = spelled(tree)
    body = "\n    ".join([*recipe.lines, f"return {recipe.result}"])
    names = dict(recipe.names)
    exec(
        compile(f"def rebuild(inputs, outputs, held=()):\n    {body}\n", "<outputs>", "exec"), names
    )
    rebuild: Rebuild = names["rebuild"]
    return rebuild


class _Writer:
    """Straight-line Python for one recipe: lines for shared views, one expression for the rest."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {**_HELPERS, **replay.HELPERS}
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
        """A tensor as it is, or a line that makes another of it once, however often that is
        returned."""
        kind = next(iter(tree))
        base = f"{_BASES[kind]}[{int(tree[kind])}]"
        if len(tree) == 1:
            return base
        key = json.dumps(tree, sort_keys=True)
        if key not in self.views:
            self.views[key] = f"view{len(self.views)}"
            self.lines.append(f"{self.views[key]} = {self.other(base, tree)}")
        return self.views[key]

    def other(self, text: str, tree: Any) -> str:
        """The expression for a tensor on the memory of another."""
        if "apart" in tree:
            text = f"{text}.detach()"
        if "sizes" in tree:
            sizes, strides = (tuple(map(int, tree[which])) for which in ("sizes", "strides"))
            place = f"{text}, {sizes}, {strides}, {int(tree['offset'])}"
            if "dtype" in tree:
                dtype = self.bind(_dtype(tree["dtype"]))
                text = f"retyped({place}, {dtype}, {bool(tree['pairs'])})"
            else:
                text = f"view({place})"
        if "inference" in tree:
            text = f"inferring({text}, {bool(tree['inference'])})"
        if "lazy" in tree:
            text = f"lazily({text}, {int(tree['lazy'])})"
        if "made" in tree:
            needs_grad, parameter, fields = tree["made"]
            attributes = self.pairs({"dict": fields})
            text = f"made({text}, {bool(needs_grad)}, {bool(parameter)}, {attributes})"
        return text

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

    def after(self, tree: Any) -> str:
        """All values first, then the changes, then the result."""
        result = self.made(self.expression(tree["result"]))
        self.lines += [_CHANGES[next(iter(change))](self, change) for change in tree["after"]]
        return result

    def made(self, expression: str) -> str:
        """A name for what an expression gives at this point."""
        name = f"made{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def place(self, where: Any) -> str:
        """`held[k], step, key`: the arguments that say where."""
        number, step, key = where
        if step not in replay.WRITABLE:
            raise ValueError(f"nothing is written by a step {step!r}")
        return f"held[{int(number)}], {step!r}, {self.constant({'const': key})}"

    def put(self, change: Any) -> str:
        return f"put({self.place(change['put'])}, {self.made(self.expression(change['value']))})"

    def count(self, change: Any) -> str:
        where = self.place(change["count"])
        name = self.made(f"count({where}) + {int(change['by'])}")
        return f"put({where}, {name})"

    def refill(self, change: Any) -> str:
        kind = next(iter(change))
        items = self.made(f"[{self.items(change['items'])}]")
        target = f"held[{int(change[kind])}]"
        return f"{target}.extend({items})" if kind == "extend" else f"fill({target}, {items})"

    def rekey(self, change: Any) -> str:
        gone = ", ".join(self.constant({"const": key}) for key in change["gone"])
        pairs = "".join(
            f"({self.constant({'const': key})}, {self.expression(value)}), "
            for key, value in change["set"]
        )
        return f"rekey(held[{int(change['rekey'])}], [{gone}], {self.made(f'[{pairs}]')})"

    def renew(self, change: Any) -> str:
        gone, new = (
            ", ".join(self.constant({"const": part}) for part in change[which])
            for which in ("gone", "new")
        )
        return f"renew(held[{int(change['renew'])}], [{gone}], [{new}])"

    def pytree(self, tree: Any) -> str:
        cls = find(tree["pytree"])
        node = private.pytree_nodes().get(cls)
        if node is None:
            raise ValueError(f"{tree['pytree']} is not registered with torch's pytree here")
        make, context = self.bind(Mould(node.unflatten_fn)), self.expression(tree["context"])
        return f"{make}([{self.items(tree['children'])}], {context})"


_BASES = {"out": "outputs", "view": "outputs", "input": "inputs", "input_view": "inputs"}
_RULES: dict[str, Callable[[_Writer, Any], str]] = {
    "out": _Writer.tensor,
    "input": _Writer.tensor,
    "view": _Writer.tensor,
    "input_view": _Writer.tensor,
    "held": lambda writer, tree: f"held[{int(tree['held'])}]",
    "after": _Writer.after,
    "const": _Writer.constant,
    "global": lambda writer, tree: writer.bind(find(tree["global"])),
    "list": lambda writer, tree: f"[{writer.items(tree['list'])}]",
    "tuple": lambda writer, tree: f"({writer.items(tree['tuple'])})",
    "dict": _Writer.pairs,
    "namedtuple": _Writer.named_tuple,
    "object": _Writer.instance,
    "pytree": _Writer.pytree,
}

_CHANGES: dict[str, Callable[[_Writer, Any], str]] = {
    "put": _Writer.put,
    "drop": lambda writer, change: f"drop({writer.place(change['drop'])})",
    "count": _Writer.count,
    "extend": _Writer.refill,
    "fill": _Writer.refill,
    "rekey": _Writer.rekey,
    "renew": _Writer.renew,
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


def _dtype(name: Any) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"there is no dtype {name!r}")
    return found


def _instance(cls: Any, fields: dict[str, Any]) -> Any:
    made = cls.__new__(cls)
    made.__dict__.update(fields)
    return made


_HELPERS: dict[str, Any] = {
    "view": aliases.view,
    "retyped": aliases.retyped,
    "inferring": aliases.inferring,
    "lazily": aliases.lazily,
    "made": aliases.made,
    "instance": _instance,
}
