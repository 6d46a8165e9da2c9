"""Where kernels are executed in tests: native code by default, which is what a user's CPU runs; the
interpreter for Triton's."""

from __future__ import annotations

from tracejit.runtime import cpu

NATIVE = [] if cpu.lacking() else [f"native:{level}" for level in cpu.host_levels()]
TARGETS = ["interpret", *NATIVE]
BACKENDS = ["interpret", *(["native"] if NATIVE else [])]
TARGET = (NATIVE or ["interpret"])[0]
BACKEND = BACKENDS[-1]
