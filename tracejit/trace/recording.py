"""What one recorded call leaves behind, and how recording gives up."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import FunctionType, MethodType, NoneType
from typing import Any

import torch

from tracejit.ir.graph import Graph
from tracejit.runtime.reasons import Reason


class Refused(Exception):
    """Something that the graph cannot represent was met. Raised and caught inside the recorder
    only.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


@dataclass(frozen=True)
class Span:
    """The memory around a tensor from outside as one flat tensor: `size` elements, the first of
    them `offset` elements from that of source `of`.
    """

    of: int
    offset: int
    size: int


@dataclass
class Recording:
    """The program of one call.

    sources: the tensors that became `graph.inputs`, in the same order. lazy: those that are the
    memory of a lazily conjugated or negated tensor, and of which. moduli: those of which it counts
    where they begin in their memory, modulo how many elements. spans: those that the recorder made
    of others, by their places. generators: those of random numbers that the program is given after
    them, in the order of their numbers. outputs: how the return value is built from inputs and
    graph outputs, and what is changed (see trace.outputs); JSON.
    held, changed: the observer's nodes of objects that it names, and of those that it changes.
    refused: why this call can only run eagerly; its result is right all the same. Then graph is
    None. calls: ATen calls that ran.
    """

    graph: Graph | None = None
    sources: list[torch.Tensor] = field(default_factory=list)
    lazy: dict[int, torch.Tensor] = field(default_factory=dict)
    moduli: dict[int, int] = field(default_factory=dict)
    outputs: Any = None
    spans: dict[int, Span] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    refused: Reason | None = None
    calls: int = 0
    generators: list[torch.Generator] = field(default_factory=list)

    @property
    def writes(self) -> bool:
        """Whether the program writes to an input: then it matters which inputs share memory."""
        return self.graph is not None and bool(self.graph.writes or self.spans)


def foreign_profiler() -> Reason | None:
    """Why a call cannot be watched now: a profile hook is set that Python can neither call nor put
    back (cProfile's is C's own). None if there is no such hook.
    """
    if isinstance(sys.getprofile(), (NoneType, FunctionType, MethodType)):
        return None
    return Reason("hook", "a profiler is active whose hook cannot be put back (cProfile)")
