"""The table of devices, kernels as JSON, and launching on a GPU where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
import torch

from tests.executors import TARGETS
from tracejit.codegen.generators import generator_for
from tracejit.codegen.triton import offline
from tracejit.codegen.triton.generate import generate
from tracejit.ir.dtypes import TORCH
from tracejit.runtime import devices
from tracejit.runtime.devices.triton_gpu import GPUKernel
from tracejit.runtime.kernel import Binary, KernelSource
from tracejit.runtime.targets import kind_of


def test_a_source_survives_json(example) -> None:
    name, nest = example
    for target in ("cuda:90", "reference", "native:avx2", *TARGETS):
        source = generator_for(kind_of(target)).source(nest, name, target=target)
        again = KernelSource.from_json(json.loads(json.dumps(source.to_json())))
        assert again == source


def test_a_binary_survives_json(examples) -> None:
    binary = offline.compile_kernel(generate(examples["add"], "add", target="cuda:90"), "cuda:90")
    again = Binary.from_json(json.loads(json.dumps(binary.to_json())), binary.code, binary.assembly)
    assert again == binary
    assert "extern_libs" not in binary.metadata


def test_bytes_moved(examples) -> None:
    source = generate(examples["add"], "add", target="cuda:90")
    assert (source.reads, source.writes) == (2 << 22, 1 << 22)


def test_the_table() -> None:
    for kind in ("interpret", "reference", "cuda", "hip"):
        assert devices.load_for(kind) is devices.load_for(kind)
    with pytest.raises(ValueError, match="vulkan"):
        devices.load_for("vulkan")


def test_a_gpu_needs_machine_code(examples) -> None:
    with pytest.raises(ValueError, match="no machine code"):
        devices.load(generate(examples["add"], "add", target="cuda:90"))


def test_loading_the_table_loads_no_triton() -> None:
    code = (
        "import sys, tracejit.runtime.devices as devices\n"
        "for kind in ('cuda', 'hip', 'reference'): devices.load_for(kind)\n"
        "unwanted = ('triton', 'sympy', 'tracejit.fuse', 'tracejit.codegen')\n"
        "print([name for name in unwanted if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_interpreting_leaves_triton_as_it_was(examples) -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    watched = [
        (tl, "load"),
        (tl, "reduce"),
        (tl.tensor, "__add__"),
        (tl.core, "reduce"),
        (tl.dtype, "to_ir"),
    ]
    before = [getattr(place, name) for place, name in watched]
    semantic = interpreter.interpreter_semantic
    kernel = devices.load(generate(examples["argmax"], "argmax", target="interpret"))
    x, first, last = (
        torch.randn(64, 50),
        torch.empty(64, dtype=torch.int64),
        torch.empty(64, dtype=torch.int64),
    )
    kernel(x, first, last)
    with pytest.raises(ValueError, match="has 3"):
        kernel(x[:0, :3].new_empty(3), first, last)
    assert [getattr(place, name) for place, name in watched] == before
    assert interpreter.interpreter_semantic is semantic
    assert "__bool__" not in vars(tl.tensor)


def test_threads_compile_and_interpret_at_once(examples) -> None:
    x, y = torch.randn(1 << 20), torch.randn(1 << 20)
    failures: list[BaseException] = []

    def attempt(work) -> None:
        try:
            for _ in range(3):
                work()
        except BaseException as problem:
            failures.append(problem)

    def interpret() -> None:
        out = torch.empty(1 << 20)
        devices.load(generate(examples["add"], "add", target="interpret"))(x, y, out)
        assert torch.equal(out, x * 2.0 + y)

    def compile() -> None:
        assert offline.compile_kernel(
            generate(examples["layer_norm"], "k", target="hip:gfx942"), "hip:gfx942"
        ).code

    threads = [
        threading.Thread(target=attempt, args=(work,)) for work in (interpret, compile, interpret)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_launch_looks_at_alignment_each_time(examples) -> None:
    """The launcher on CPU memory, with the interpreter in place of the driver."""
    source = generate(examples["add"], "add", target="interpret")
    kernel = GPUKernel(source, Binary(b"", "cubin"))
    run, seen = devices.load(source), []

    def launch(*arguments: object) -> None:
        *tensors, block = arguments
        seen.append([t.data_ptr() % 16 for t in tensors])
        assert block == source.constants["XBLOCK"]
        run(*tensors)

    kernel._launch[-1] = launch  # the index that CPU tensors give
    size = 1 << 20
    for shift in (0, 1):
        x, y, out = (torch.randn(size + 1)[shift : size + shift] for _ in range(3))
        assert out.data_ptr() % 16 == 4 * shift
        kernel(x, y, out)
        assert torch.equal(out, x * 2.0 + y)
    assert seen == [[0, 0, 0], [0, 0, 0]]


def test_what_the_launcher_is_told(examples) -> None:
    source = generate(examples["sum_of_rows"], "k", target="cuda:90")
    description = GPUKernel(source, Binary(b"", "cubin"))._description()
    assert description.signature == {
        "x_ptr": "*fp32",
        "out_ptr": "*fp32",
        "XBLOCK": "constexpr",
        "RBLOCK": "constexpr",
    }
    assert description.constants == {(2,): 64, (3,): 64}
    assert description.fn.arg_names == ["x_ptr", "out_ptr", "XBLOCK", "RBLOCK"]


def test_nothing_is_launched_for_no_rows(examples) -> None:
    from dataclasses import replace

    source = replace(generate(examples["add"], "add", target="cuda:90"), grid=0)
    GPUKernel(source, Binary(b"", "cubin"))(torch.empty(0), torch.empty(0), torch.empty(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_each_class_on_the_gpu(example, nests) -> None:
    """Machine code against the reference, on aligned tensors and on others."""
    name, nest = example
    kind = (
        "hip:" + torch.cuda.get_device_properties(0).gcnArchName.split(":")[0]
        if torch.version.hip
        else ""
    )
    target = kind or "cuda:{}{}".format(*torch.cuda.get_device_capability())
    source = generate(nest, name, target=target)
    kernel = devices.load(source, offline.compile_kernel(source, target))
    inputs = {b.name: _data(b.dtype, b.span, b.name) for b in nest.buffers if not b.written}
    want = nests.expect(nest, inputs)
    for shift in (0, 1):
        made = {
            b.name: _shifted(torch.zeros(b.span, dtype=TORCH[b.dtype]), shift)
            for b in nest.buffers
            if b.written
        }
        given = {n: _shifted(t, shift) for n, t in inputs.items()}
        kernel(*(made[b.name] if b.written else given[b.name] for b in nest.buffers))
        torch.cuda.synchronize()
        for output, tensor in want.items():
            torch.testing.assert_close(made[output].cpu(), tensor, rtol=2e-3, atol=2e-3)


def _data(dtype: str, span: int, name: str) -> torch.Tensor:
    if dtype == "bool":
        return torch.rand(span) > 0.5
    return (
        torch.randint(0, 50000, (span,)) if dtype == "i64" else torch.randn(span).to(TORCH[dtype])
    )


def _shifted(tensor: torch.Tensor, shift: int) -> torch.Tensor:
    """The tensor on the GPU, `shift` elements into its memory, so that it is aligned or not."""
    room = torch.empty(tensor.numel() + shift, dtype=tensor.dtype, device="cuda")
    room[shift:] = tensor.to("cuda")
    return room[shift:]
