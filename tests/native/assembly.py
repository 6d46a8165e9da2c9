"""What an assembly text tells."""

from __future__ import annotations

import re

SPILL = re.compile(r"-byte (?:Folded )?Spill")


def spilled(assembly: str) -> int:
    """Registers that the assembly says were put on the stack for lack of room."""
    return len(SPILL.findall(assembly))
