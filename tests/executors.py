"""Where kernels are executed in tests: native code by default, which is what a user's CPU runs; the
interpreter for Triton's; and each module of `tests/generators/`, which adds its rows by itself."""

from __future__ import annotations

import re
from importlib import import_module
from pkgutil import iter_modules

from tests import generators
from tracejit.runtime import cpu

NATIVE = [] if cpu.lacking() else [f"native:{level}" for level in cpu.host_levels()]
FOUND = [import_module(f"tests.generators.{m.name}") for m in iter_modules(generators.__path__)]
OTHERS = [target for module in FOUND for target in module.register()]
TARGETS = ["interpret", *NATIVE, *OTHERS]
BACKENDS = ["interpret", *(["native"] if NATIVE else [])]
TARGET = (NATIVE or ["interpret"])[0]
BACKEND = BACKENDS[-1]


def spilled(assembly: str) -> int:
    """Registers that a native kernel's assembly says were put on the stack for lack of room."""
    return len(re.findall(r"-byte (?:Folded )?Spill", assembly))
