"""What the code of a running frame is about to do, and what its variables hold."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from pathlib import PurePath
from types import FrameType
from typing import Any

_OURS = f"{PurePath(__file__).parent}/"
_SILENT = frozenset({"CACHE", "EXTENDED_ARG", "PRECALL", "NOP", "KW_NAMES", "PUSH_NULL"})


def outward(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def caller() -> FrameType:
    """The innermost frame that is not the recorder's."""
    frames = outward(sys._getframe(1))
    return next(each for each in frames if not each.f_code.co_filename.startswith(_OURS))


def before(frame: FrameType) -> list[dis.Instruction]:
    """The instructions before the one that a frame is at, less those that move no values."""
    return [
        step
        for step in dis.get_instructions(frame.f_code)
        if step.offset < frame.f_lasti and step.opname not in _SILENT
    ]


def named(frame: FrameType, steps: list[dis.Instruction], k: int) -> Any:
    """What the variable, or the attributes in a row of one, that instruction `k` loads holds."""
    chain: list[str] = []
    while steps[k].opname in ("LOAD_ATTR", "LOAD_METHOD") and k > 0:
        chain.insert(0, steps[k].argval)
        k -= 1
    value = frame.f_locals.get(steps[k].argval, frame.f_globals.get(steps[k].argval))
    for name in chain:
        value = getattr(value, "__dict__", {}).get(name)
    return value
