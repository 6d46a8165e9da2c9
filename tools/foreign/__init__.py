"""Models that no one here wrote, compiled as a new user would."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.foreign.case import Case

MODULES = ("vision", "language", "graphs")  # each has a list CASES


def cases() -> list[Case]:
    """All of them."""
    found = (import_module(f"tools.foreign.{name}").CASES for name in MODULES)
    return [case for some in found for case in some]
