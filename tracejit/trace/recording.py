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


@dataclass
class Recording:
    """The program of one call.

    sources: the tensors that became `graph.inputs`, in the same order. generators: those of random
    numbers that the program is given after them, in the order of their numbers. outputs: how the
    return value is built from inputs and graph outputs, and what is changed (see trace.outputs);
    JSON.
    held, changed: the observer's nodes of objects that it names, and of those that it changes.
    refused: why this call can only run eagerly; its result is right all the same. Then graph is
    None. calls: ATen calls that ran. seconds: what the call took, recording included.
    """

    graph: Graph | None = None
    sources: list[torch.Tensor] = field(default_factory=list)
    outputs: Any = None
    held: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    refused: Reason | None = None
    calls: int = 0
    seconds: float = 0.0
    generators: list[torch.Generator] = field(default_factory=list)


def foreign_profiler() -> Reason | None:
    """Why a call cannot be watched now: a profile hook is set that Python can neither call nor put
    back (cProfile's is C's own). None if there is no such hook.
    """
    if isinstance(sys.getprofile(), (NoneType, FunctionType, MethodType)):
        return None
    return Reason("hook", "a profiler is active whose hook cannot be put back (cProfile)")
