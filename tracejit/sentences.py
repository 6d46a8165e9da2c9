"""Guards as sentences, for explain and the command line: `x is a float32 tensor [8, 8] on cpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracejit.ir.graph import contiguous_strides
from tracejit.runtime.constants import decode
from tracejit.runtime.guards import GuardSet

# Checks that a reader can take for granted; explain counts them.
QUIET: dict[str, str] = {
    "any": "names that exist",
    "exists": "places that are written",
    "absent": "attributes not set",
    "empty": "tables of hooks empty",
    "length": "lengths",
    "lib": "library functions not replaced",
    "class": "classes",
    "type": "types",
    "pymodule": "modules",
    "kwargs": "names of keyword arguments",
}


def sentences(guards: GuardSet) -> list[str]:
    """One sentence for each guard, in their order."""
    return [sentence(guards, index) for index in range(len(guards.nodes))]


def sentence(guards: GuardSet, index: int) -> str:
    """What must hold at one node, as a person would say it."""
    node, path = guards.nodes[index], guards.path(index)
    if node.check == "same":
        return f"{path} is the same object as {guards.path(node.expected)}"
    return _SENTENCES[node.check](path, node.expected)


def tensor(path: str, expected: dict[str, Any]) -> str:
    """`x is a float32 tensor [8, 8] on cpu, contiguous, no grad`."""
    sizes, strides = expected["sizes"], expected["strides"]
    kind = expected["type"].rpartition(":")[2]
    noun = {"Tensor": "tensor", "Parameter": "parameter"}.get(kind, kind)
    notes = [
        f"layout {expected['layout']}"
        if strides is None
        else ("contiguous" if strides == [*contiguous_strides(sizes)] else f"strides {strides}"),
        "requires grad" if expected["requires_grad"] else "no grad",
    ]
    marks = ("conjugated", "negated", "made in inference mode", "zeros without memory")
    notes += [mark for mark, on in zip(marks, expected["flags"], strict=True) if on]
    what = f"{_a(expected['dtype'])} {noun} {sizes} on {expected['device']}"
    return f"{path} is {what}, {', '.join(notes)}"


def constant(path: str, expected: Any) -> str:
    """`self.drop.p == 0.1`, `mask is None`."""
    value = decode(expected)
    return f"{path} {'is' if value is None or isinstance(value, bool) else '=='} {value!r}"


def function(path: str, expected: list[Any]) -> str:
    return f"code of {path} unchanged (hash {expected[1][:8]})"


def container(path: str, expected: list[Any]) -> str:
    """`self.cfg is a dict with keys 'a', 'b'`, `self.layers is a ModuleList of 4`."""
    kind, content = expected
    if not content:
        return f"{path} is an empty {kind.rpartition(':')[2]}"
    if isinstance(content, int):
        return f"{path} is {_a(kind)} of {content}"
    what = "elements" if kind.rpartition(":")[2] in ("set", "frozenset") else "keys"
    return f"{path} is {_a(kind)} with {what} {', '.join(repr(decode(c)) for c in content)}"


def keywords(path: str, expected: list[Any]) -> str:
    ordered, names = expected
    if not names:
        return "no keyword arguments"
    return f"keyword arguments are {', '.join(names)}{', in this order' if ordered else ''}"


def _a(kind: str) -> str:
    """`module:Qual.Name` as `a Name`."""
    name = kind.rpartition(":")[2].rpartition(".")[2]
    return f"{'an' if name[:1].lower() in tuple('aeio') else 'a'} {name}"


_SENTENCES: dict[str, Callable[[str, Any], str]] = {
    "any": lambda path, expected: f"{path} exists",
    "exists": lambda path, expected: f"{path} exists",
    "memory": lambda path, expected: f"{path} lies in its storage",
    "const": constant,
    "absent": lambda path, expected: f"{path} is not set",
    "type": lambda path, expected: f"{path} is {_a(expected)}",
    "kind": lambda path, expected: f"{path} is {_a(expected)}, whichever",
    "class": lambda path, expected: f"{path} is the class {expected.rpartition(':')[2]}",
    "function": function,
    "lib": lambda path, expected: f"{path} is the library's {expected.replace(':', '.')}",
    "pymodule": lambda path, expected: f"{path} is the module {expected}",
    "container": container,
    "kwargs": keywords,
    "length": lambda path, expected: f"{path} has length {expected}",
    "empty": lambda path, expected: f"{path} is empty",
    "generator": lambda path, expected: f"{path} is torch's default generator",
    "rng": lambda path, expected: f"{path} is a random generator of {expected}",
    "tensor": tensor,
    "is": lambda path, expected: f"{path} is the very object that was there ({_a(expected)})",
}


def state_words(state: dict[str, Any]) -> str:
    """Torch's state (of runtime.state.capture) in words; what is off is left out, grad mode not."""
    words = ["grad mode on" if state.get("grad mode") else "grad mode off"]
    for name, value in state.items():
        if name == "grad mode" or value == -1 or not value or value == [False, False]:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        words.append(f"{name} {'on' if value in (True, [True, True]) else value}")
    return ", ".join(words)
