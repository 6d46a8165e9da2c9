"""What native code of loop nests must be beyond right: the machine's widest registers, the same for
any number of threads, and as exact as eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

import tracejit
from tracejit.codegen.native.generate import generate
from tracejit.codegen.native.objects import compile_kernel, compile_text
from tracejit.fuse.loopnest import LoopNest
from tracejit.ir.dtypes import TORCH
from tracejit.runtime import cpu, devices

pytestmark = pytest.mark.skipif(bool(cpu.lacking()), reason=cpu.lacking() or "native kernels")
REGISTERS = {"avx512": "%zmm", "avx2": "%ymm", "neon": ".4s"}
FETCHES = {"avx512": "prefetcht0", "avx2": "prefetcht0", "neon": "prfm"}


@pytest.mark.parametrize("level", cpu.LEVELS)
def test_every_class_compiles_for_every_level(example, level: str) -> None:
    """Also for processors that this one is not; halves and flags fill narrower registers."""
    name, nest = example
    source = generate(nest, name, target=f"native:{level}")
    binary = compile_kernel(source, source.target)
    assert binary.code
    assert generate(nest, name, target=source.target).text == source.text


@pytest.mark.parametrize("level", cpu.LEVELS)
@pytest.mark.parametrize("name", ["add", "gelu", "softmax", "layer_norm"])
def test_code_is_as_wide_as_the_level(examples, name: str, level: str) -> None:
    source = generate(examples[name], name, target=f"native:{level}")
    _, assembly = compile_text(source.text, cpu.LEVELS[level], assembly=True)
    assert REGISTERS[level] in assembly
    assert (FETCHES[level] in assembly) == (name in ("add", "gelu"))  # long rows, from memory


@pytest.mark.parametrize("level", cpu.LEVELS)
def test_what_is_read_across_is_turned(examples, level: str) -> None:
    source = generate(examples["transpose"], "transpose", target=f"native:{level}")
    assert "in tiles with i, along which x is read" in source.strategy
    _, assembly = compile_text(source.text, cpu.LEVELS[level], assembly=True)
    assert "gather" not in assembly


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def inputs_of(nest: LoopNest) -> list[torch.Tensor]:
    """Random tensors for a nest's buffers; indices are small enough for any table."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for buffer in nest.buffers:
        dtype = TORCH[buffer.dtype]
        if dtype.is_floating_point:
            found.append(torch.randn(buffer.span, generator=generator).to(dtype))
        else:
            found.append(torch.randint(0, 2, (buffer.span,), generator=generator).to(dtype))
    return found


@pytest.mark.parametrize("level", cpu.host_levels())
def test_results_do_not_depend_on_threads(example, level: str, threads) -> None:
    name, nest = example
    if sum(nest.bytes_moved()) > 64 << 20:
        pytest.skip("too large for a test")
    source = generate(nest, name, target=f"native:{level}")
    run = devices.load(source, compile_kernel(source, source.target))
    tensors, results = inputs_of(nest), []
    for count in (1, 2, 3):
        threads(count)
        run(*tensors)
        results.append([t.clone() for t, b in zip(tensors, nest.buffers, strict=True) if b.written])
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())


SUMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda x: x.sum(),
    "rows": lambda x: x.sum(-1),
    "columns": lambda x: x.sum(0),
    "mean": lambda x: x.mean(-1),
    "variance": lambda x: x.var(-1),
    "norm": lambda x: (x * x).sum(-1).sqrt(),
    "softmax": lambda x: x.softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "cumsum": lambda x: x.cumsum(-1),
}
SHAPES = [(3, 1000), (1, 300_000), (40_000, 5), (64, 4096), (2000, 33)]


@pytest.mark.parametrize("shape", SHAPES, ids=["x".join(map(str, s)) for s in SHAPES])
@pytest.mark.parametrize("name", SUMS)
def test_as_exact_as_eager(name: str, shape: tuple[int, int]) -> None:
    """The root mean square of the errors against float64, over several draws, beside eager's; with
    a mean that is not 0, which makes long sums hard."""
    function = SUMS[name]
    compiled = tracejit.compile(function, wait=True)
    compiled(torch.zeros(shape))
    errors = torch.zeros(2, dtype=torch.float64)
    for seed in range(8):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + seed / 4
        true = function(x.double())
        for k, f in enumerate((compiled, function)):
            errors[k] += ((f(x).double() - true) ** 2).mean()
    ours, eager = errors.sqrt().tolist()
    scale = true.abs().max().item() * torch.finfo(torch.float32).eps
    assert ours <= 1.25 * eager + scale / 4, (ours, eager, scale)
