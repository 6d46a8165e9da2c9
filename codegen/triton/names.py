"""Identifiers of a kernel: after what they hold, each used once."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

RESERVED = frozenset(
    {"tl", "triton", "libdevice", "range", "float", "XBLOCK", "RBLOCK", "start"}
) | set(keyword.kwlist)


class Names:
    """Gives names that are valid and new."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self.taken: set[str] = {*RESERVED, *reserved}
        self.count = 0

    def fresh(self, wanted: str) -> str:
        """`wanted`, made an identifier; with a number behind it if it is taken."""
        base = re.sub(r"\W", "_", wanted)
        if not base or base[0].isdigit():
            base = f"b_{base}"
        name, k = base, 1
        while name in self.taken:
            name, k = f"{base}_{k}", k + 1
        self.taken.add(name)
        return name

    def temporary(self) -> str:
        """The next of tmp0, tmp1 …"""
        name = self.fresh(f"tmp{self.count}")
        self.count += 1
        return name
