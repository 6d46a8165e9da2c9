"""Machine code from kernel sources, with or without a GPU: `compile_kernels(sources, target)`.

Triton's stages are run here one by one, so that nothing is written to Triton's own cache, and so
that what ptxas says about registers and spills is kept. A kernel that spills is compiled again with
lighter tiles; the one that was kept stands in the Binary.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracejit.codegen.parallel import each
from tracejit.runtime import private
from tracejit.runtime.devices.base import execute
from tracejit.runtime.forks import gate
from tracejit.runtime.kernel import Binary, KernelSource

OPTIONS: dict[str, dict[str, Any]] = {
    # No contraction to FMA; denormals are kept; integers wrap.
    "cuda": {"enable_fp_fusion": False, "enable_reflect_ftz": False, "sanitize_overflow": False},
    "hip": {"enable_fp_fusion": False, "sanitize_overflow": False},
}
WARP = {"cuda": 32, "hip": 64}
ASSEMBLY = {"cuda": "ptx", "hip": "amdgcn"}


class CannotCompile(RuntimeError):
    """The compiler refused a kernel; the message has its words and the kernel's text."""


def compile_kernels(sources: Sequence[KernelSource], target: str) -> Iterator[Binary]:
    """Machine code for each source, in order and as soon as it is there; several at a time. Raises
    CannotCompile."""
    yield from each(lambda source: compile_kernel(source, target), sources)


def compile_kernel(source: KernelSource, target: str) -> Binary:
    """Machine code for one source; with lighter tiles if those asked for spill. Raises
    CannotCompile.
    """
    start = time.perf_counter()
    best: Binary | None = None
    with gate:
        for choice in itertools.chain((source,), (lighter() for lighter in source.lighter)):
            binary = compile_once(choice, target)
            if best is None or (binary.spills or 0) < (best.spills or 0):
                best = binary if choice is source else replace(binary, compiled=choice)
            if not binary.spills:
                break
    assert best is not None
    return replace(best, seconds=time.perf_counter() - start)


def compile_once(source: KernelSource, target: str) -> Binary:
    """Machine code for just this source, spilling or not. Raises CannotCompile."""
    kind, _, arch = target.partition(":")
    if kind not in OPTIONS:
        raise ValueError(f"{target!r} has no machine code; known are {', '.join(OPTIONS)}")
    goal = (kind, int(arch) if kind == "cuda" else arch, WARP[kind])
    options = {**OPTIONS[kind], "num_warps": source.num_warps, "num_stages": source.num_stages}
    try:
        module, metadata, stages = private.triton_pipeline(
            execute(source)[source.name],
            signature(source),
            dict(source.constants),
            attributes(source),
            goal,
            options,
        )
        made = _run(stages, module, metadata, kind, arch)
    except Exception as problem:  # Triton's or LLVM's, of any type
        raise CannotCompile(f"{source.name} for {target}: {problem}\n{source.text}") from problem
    return _binary(made, metadata, kind)


def signature(source: KernelSource) -> dict[str, str]:
    """The types of all parameters as Triton wants them."""
    return {**dict(source.params), **dict.fromkeys(source.constants, "constexpr")}


def attributes(source: KernelSource) -> dict[tuple[int, ...], list[list[Any]]]:
    """What may be assumed of pointers: 16-byte alignment, that 32-bit offsets reach all."""
    found: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, (name, kind) in enumerate(source.params):
        known: list[list[Any]] = [["tt.divisibility", 16]] if name in source.divisible else []
        if source.target.startswith("hip") and source.spans[position] * width(kind) < 1 << 31:
            known.append(["tt.pointer_range", 32])
        if known:
            found[(position,)] = known
    return found


def width(kind: str) -> int:
    """Bytes of an element behind a pointer type such as "*fp32"."""
    bits = int(re.sub(r"\D", "", kind))
    return max(bits // 8, 1)


def _run(
    stages: dict[str, Any], module: Any, metadata: dict[str, Any], kind: str, arch: str
) -> dict[str, Any]:
    """What each stage made, by name. The cubin is made here, to read what ptxas reports."""
    made: dict[str, Any] = {}
    for name, stage in stages.items():
        if name == "cubin":
            module = made[name] = _cubin(module, metadata, int(arch))
        else:
            module = made[name] = stage(module, metadata)
    return made


def _cubin(ptx: str, metadata: dict[str, Any], arch: int) -> bytes:
    """ptxas, with its report on registers and spills put into the metadata."""
    suffix = "a" if arch >= 90 else ""
    with tempfile.TemporaryDirectory(prefix="tracejit-") as folder:
        source, target = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        command = [
            *(private.triton_ptxas(arch), "-v", "--fmad=false", f"--gpu-name=sm_{arch}{suffix}"),
            *(str(source), "-o", str(target)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ptxas: {done.stderr.strip()}")
        metadata["ptxas"] = done.stderr
        return target.read_bytes()


def _binary(made: dict[str, Any], metadata: dict[str, Any], kind: str) -> Binary:
    assembly = str(made[ASSEMBLY[kind]])
    report = metadata.pop("ptxas", "")
    if kind == "cuda":
        registers = _number(r"Used (\d+) registers", report)
        spills = _number(r"(\d+) bytes spill stores", report) + _number(
            r"(\d+) bytes spill loads", report
        )
    else:
        registers = _number(r"\.vgpr_count:\s+(\d+)", assembly)
        spills = _number(r"\.vgpr_spill_count:\s+(\d+)", assembly) + _number(
            r"\.sgpr_spill_count:\s+(\d+)", assembly
        )
    code_kind = "cubin" if kind == "cuda" else "hsaco"
    return Binary(
        code=made[code_kind],
        kind=code_kind,
        metadata=_plain(metadata),
        assembly=assembly,
        registers=registers,
        spills=spills,
        shared=int(metadata.get("shared") or 0),
    )


def _plain(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a launcher may ask for: JSON values, without the paths of this machine."""
    found = {}
    for key, value in metadata.items():
        try:
            text = json.dumps(value)
        except TypeError:
            continue
        if key != "extern_libs":
            found[key] = json.loads(text)
    return found


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0
