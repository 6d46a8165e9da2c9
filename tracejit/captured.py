"""What a plan's graphs say of its operations: those that were recorded, in order and with the
user's lines, and what the scheduler's words `v3 layer_norm + v12 mul` stand for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tracejit.codegen.plan import place
from tracejit.ir.graph import Graph, Node
from tracejit.ir.text import parse, show_type


@dataclass(frozen=True)
class Operation:
    """One operation of a graph: its first result's name and type, and the user's line."""

    value: str
    op: str
    line: str
    result: str


def graphs(text: str) -> list[Graph]:
    """The graphs in a text that may have comments between them."""
    blocks: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("graph("):
            blocks.append([])
        inside = line.startswith(("graph(", " ", "):")) and bool(blocks)
        if inside:
            blocks[-1].append(line)
    return [parse("\n".join(block)) for block in blocks]


def recorded(found: list[Graph]) -> list[Operation]:
    """The operations of the first graph, in order: what was captured."""
    return [_operation(node) for node in found[0].nodes] if found else []


def decisions(data: list[dict[str, Any]], found: list[Graph]) -> list[dict[str, Any]]:
    """The scheduler's decisions, each with the operations on both sides. A side is a list:
    operations that were in one kernel by then."""
    by_value = {v.name: node for node in (found[-1].nodes if found else ()) for v in node.outputs}
    return [
        {
            "reason": each["reason"],
            "bytes_saved": each["bytes_saved"],
            "between": [_side(words, by_value) for words in each["what"].split(" + ")],
        }
        for each in data
    ]


def _side(words: str, by_value: dict[str, Node]) -> list[dict[str, str]]:
    """`v3 layer_norm, v5 add` as data."""
    side = []
    for word in words.split(", "):
        value, _, name = word.partition(" ")
        node = by_value.get(value)
        known = asdict(_operation(node)) if node is not None else {"op": "", "line": ""}
        side.append({"value": value, "name": name, "op": known["op"], "line": known["line"]})
    return side


def _operation(node: Node) -> Operation:
    first = node.outputs[0] if node.outputs else None
    value, result = (first.name, show_type(first)) if first else ("", "")
    return Operation(value, node.op, place(node.origin), result)
