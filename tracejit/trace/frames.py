"""What a frame that is about to call something has in its variables."""

from __future__ import annotations

import dis
from types import FrameType
from typing import Any


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
