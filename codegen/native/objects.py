"""Object code from the text of native kernels, through LLVM: `compile_kernels(sources, target)`.

Nothing but the level's instruction set enters the code, so it runs on every CPU of that level.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tracejit.codegen.native.builder import UNROLLED
from tracejit.codegen.parallel import each
from tracejit.runtime import cpu, forks, private
from tracejit.runtime.cpu import Level
from tracejit.runtime.devices.native import UNDEFINED
from tracejit.runtime.kernel import Binary, KernelSource

OPTIMIZE = 2  # LLVM's -O level for the passes; code is vectorised already when it gets here
_local = threading.local()


class CannotCompile(RuntimeError):
    """LLVM refused a kernel; the message has its words and the kernel's text."""


def compile_kernels(sources: Sequence[KernelSource], target: str) -> Iterator[Binary]:
    """Object code for each source, in order and as soon as it is there; several at a time. Raises
    CannotCompile."""
    yield from each(lambda source: compile_kernel(source, target), sources)


def compile_kernel(source: KernelSource, target: str) -> Binary:
    """Object code for one source. Raises CannotCompile."""
    start = time.perf_counter()
    level = cpu.level_of(target)
    with forks.gate:
        try:
            code, _ = compile_text(source.text, level)
        except RuntimeError as problem:
            message = f"{source.name} for {target}: {problem}\n{source.text}"
            raise CannotCompile(message) from problem
    return Binary(
        code=code,
        kind="object",
        metadata={"symbols": undefined(source.text)},
        seconds=time.perf_counter() - start,
    )


def compile_text(text: str, level: Level, assembly: bool = False) -> tuple[bytes, str]:
    """Object code of a module for a level, and its assembly if asked for, which takes as long
    again. Raises RuntimeError for what LLVM refuses.
    """
    llvm = cpu.llvm()
    machine = _machine(level)
    module = llvm.parse_assembly(text, llvm.create_context())  # threads share no context
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=OPTIMIZE)
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, options)
    manager = _few_passes(llvm) if f"; {UNROLLED}\n" in text else passes.getModulePassManager()
    private.without_lock("LLVMPY_RunNewModulePassManager")(manager, module, passes)
    code = emit(machine, module)
    return code, machine.emit_assembly(module) if assembly else ""


def emit(machine: Any, module: Any) -> bytes:
    """`machine.emit_object(module)` without llvmlite's lock."""
    from llvmlite.binding import ffi

    make = private.without_lock("LLVMPY_TargetMachineEmitToMemory")
    with ffi.OutputString() as problem:
        buffer = make(machine, module, 1, problem)
        if not buffer:
            raise RuntimeError(str(problem))
    try:
        start, size = ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer)
        return ctypes.string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def _few_passes(llvm: Any) -> Any:
    """What unrolled loops need: calls inlined, slots in registers, strides that every call of a
    tile gives alike as constants of its addresses, equal values computed once. Takes half the time
    of all of -O2, and the kernels are as fast; others lose up to a third."""
    manager = llvm.create_new_module_pass_manager()
    manager.add_always_inliner_pass()
    manager.add_global_dead_code_eliminate_pass()
    manager.add_sroa_pass()
    manager.add_ipsccp_pass()
    manager.add_instruction_combine_pass()
    manager.add_simplify_cfg_pass()
    manager.add_loop_rotate_pass()
    manager.add_new_gvn_pass()
    manager.add_instruction_combine_pass()
    return manager


def _machine(level: Level) -> Any:
    """LLVM's target machine for a level; one for each thread, since they are not to be shared."""
    machines = _local.__dict__.setdefault("machines", {})
    if level.name not in machines:
        machines[level.name] = _new_machine(level)
    return machines[level.name]


def _new_machine(level: Level) -> Any:
    llvm = cpu.llvm()
    triple = f"{level.machine}-unknown-linux-gnu"
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=level.cpu, features=level.features, opt=2, reloc="pic", codemodel="small"
    )


def undefined(text: str) -> list[str]:
    """Names of functions that a module's text declares and that are not LLVM's own: what the loader
    must find in the process."""
    names = re.findall(r"^declare [^@]*@([\w.]+)\(", text, re.MULTILINE)
    return sorted({n for n in names if not n.startswith("llvm.")} | set(UNDEFINED))
