"""Attention kernels against float64, everything that the call allows: no further from it than
eager."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as eager

from tests.executors import spilled
from tracejit.codegen.native import matrix_unit
from tracejit.codegen.native.attention import generate_attention
from tracejit.codegen.native.attention_frame import tiling
from tracejit.codegen.native.objects import compile_kernel, compile_text
from tracejit.fuse import attention as fuse
from tracejit.fuse.attention import Attention, Refused, as_attention, with_attention
from tracejit.fuse.program import Program, Ref, RunExtern, RunKernel, Slot
from tracejit.ir.dtypes import NAME
from tracejit.ir.graph import Origin
from tracejit.runtime import cpu, devices
from tracejit.runtime.config import config

pytestmark = pytest.mark.skipif(bool(cpu.lacking()), reason=cpu.lacking() or "native kernels")
LEVELS = cpu.host_levels()
GENERATOR = torch.Generator().manual_seed(1)
EPSILON = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@dataclass
class Call:
    """One call of attention: its tensors, and how it is called."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    causal: bool = False
    scale: float | None = None
    out: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        masks = {} if self.mask is None else {"mask": self.mask}
        return {"query": self.query, "key": self.key, "value": self.value, **masks}

    @property
    def grouped(self) -> bool:
        return self.query.ndim == 4 and self.query.shape[1] != self.key.shape[1]

    def result(self) -> Tensor:
        """A tensor for the result, full of NaN."""
        sizes = (*self.query.shape[:-1], self.value.shape[-1])
        out = self.out if self.out is not None else torch.empty(sizes, dtype=self.query.dtype)
        return out.fill_(math.nan)

    def step(self) -> tuple[RunExtern, dict[str, Slot]]:
        """The call as a program holds it, and its tensors' slots."""
        slots = {name: slot(name, tensor) for name, tensor in self.tensors.items()}
        mask = None if self.mask is None else Ref("mask")
        args = (Ref("query"), Ref("key"), Ref("value"), mask, 0.0, self.causal)
        kwargs = {"scale": self.scale, "enable_gqa": self.grouped}
        place = Origin("model.py", 7)
        return RunExtern(fuse.OP, args, kwargs, (slot("out", self.result()),), place), slots

    def nest(self) -> Attention:
        step, slots = self.step()
        return as_attention(step, slots)

    def eager(self, dtype: torch.dtype | None = None) -> Tensor:
        """What torch gives, computed in a dtype."""
        given = [t.to(dtype) if dtype else t for t in (self.query, self.key, self.value)]
        mask = self.mask
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(given[0].dtype)
        kwargs = {"is_causal": self.causal, "scale": self.scale, "enable_gqa": self.grouped}
        return eager(*given, attn_mask=mask, **kwargs)


def slot(name: str, tensor: Tensor) -> Slot:
    return Slot(name, NAME[tensor.dtype], tuple(tensor.shape), tuple(tensor.stride()))


def load(nest: Attention, target: str) -> Callable[..., None]:
    """The kernel, ready to be called with tensors."""
    source = generate_attention(nest, nest.name, target)
    return devices.load(source, compile_kernel(source, target))


def ours(call: Call, target: str) -> Tensor:
    out = call.result()
    load(call.nest(), target)(*call.tensors.values(), out)
    return out


def check(call: Call, target: str) -> None:
    """As near to float64 as eager is, in the mean and at worst; the same rows are NaN."""
    found, truth, torchs = ours(call, target).double(), call.eager(torch.float64), call.eager()
    assert torch.equal(found.isnan(), truth.isnan())
    errors = [(x.double() - truth).nan_to_num(0.0).abs() for x in (found, torchs)]
    epsilon = EPSILON[call.query.dtype] * truth.nan_to_num(0.0).abs().max().item()
    assert errors[0].max() <= 2.5 * errors[1].max() + 2 * epsilon
    if truth.numel() >= 1000:
        means = [e.square().mean().sqrt() for e in errors]
        assert means[0] <= 1.15 * means[1] + epsilon / 16


def randn(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*sizes, generator=GENERATOR).to(dtype)


def plain(
    batch: int,
    heads: int,
    rows: int,
    keys: int,
    width: int,
    columns: int | None = None,
    kv_heads: int | None = None,
    dtype: torch.dtype = torch.float32,
    **more: object,
) -> Call:
    kv, columns = kv_heads or heads, columns or width
    query = randn(batch, heads, rows, width, dtype=dtype)
    key, value = (randn(batch, kv, keys, n, dtype=dtype) for n in (width, columns))
    return Call(query, key, value, **more)  # type: ignore[arg-type]


def transposed(call: Call) -> Call:
    """As models hand it over: heads behind rows in memory."""
    views = {n: t.transpose(1, 2).contiguous().transpose(1, 2) for n, t in call.tensors.items()}
    out = call.result().transpose(1, 2).contiguous().transpose(1, 2)
    return replace(call, **views, out=out)


def columns_first(call: Call) -> Call:
    """Columns apart in memory."""
    views = {n: t.mT.contiguous().mT for n, t in call.tensors.items()}
    return replace(call, **views, out=call.result().mT.contiguous().mT)


def stepped(call: Call) -> Call:
    """Every second element of larger tensors, not from the beginning."""

    def within(tensor: Tensor) -> Tensor:
        large = torch.zeros(*(2 * n for n in tensor.shape), dtype=tensor.dtype)
        view = large[tuple(slice(1, None, 2) for _ in tensor.shape)]
        return view.copy_(tensor)

    views = {n: within(t) for n, t in call.tensors.items()}
    return replace(call, **views, out=within(call.result()))


SHAPES = {
    "one key": plain(1, 1, 1, 1, 1),
    "odd": plain(2, 3, 37, 53, 20),
    "columns differ": plain(1, 2, 33, 40, 24, 40),
    "wide": plain(1, 1, 20, 150, 256),
    "very wide": plain(1, 1, 20, 60, 300),
    "narrow": plain(1, 2, 70, 300, 3, 5),
    "many panels": plain(1, 1, 300, 70, 32),
    "few rows": plain(1, 2, 10, 130, 64),
    "causal": plain(2, 2, 128, 128, 32, causal=True),
    "causal odd": plain(1, 2, 197, 197, 24, causal=True),
    "causal, fewer keys": plain(1, 2, 150, 61, 16, causal=True),
    "causal, more keys": plain(1, 2, 61, 150, 16, causal=True),
    "scale": plain(1, 2, 40, 50, 16, scale=0.7),
    "negative scale": plain(1, 2, 40, 50, 16, scale=-0.3),
    "grouped": plain(2, 6, 40, 64, 16, kv_heads=2),
    "grouped, few rows": plain(2, 12, 5, 64, 16, kv_heads=2),
    "grouped causal": plain(1, 8, 5, 9, 16, kv_heads=2, causal=True),
    "decode": plain(2, 3, 1, 700, 64),
    "decode, few heads": plain(1, 1, 1, 2011, 128),
    "decode grouped": plain(1, 8, 1, 777, 40, 24, kv_heads=2),
    "decode, three rows": plain(1, 2, 3, 300, 17),
    "decode causal": plain(1, 2, 1, 300, 32, causal=True),
    "decode, negative scale": plain(1, 1, 1, 99, 16, scale=-0.5),
    "transposed": transposed(plain(2, 3, 50, 70, 32)),
    "transposed decode": transposed(plain(2, 3, 1, 300, 32)),
    "columns first": columns_first(plain(1, 2, 50, 70, 20)),
    "columns first decode": columns_first(plain(1, 2, 1, 70, 20)),
    "stepped": stepped(plain(1, 2, 50, 70, 20)),
    "three dims": Call(randn(3, 20, 16), randn(3, 30, 16), randn(3, 30, 16)),
    "large scores": plain(1, 1, 40, 60, 16, scale=30.0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    for level in LEVELS:
        check(SHAPES[name], f"native:{level}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types(dtype: torch.dtype) -> None:
    calls = [
        plain(1, 2, 70, 150, 36, dtype=dtype),
        plain(1, 2, 100, 100, 64, dtype=dtype, causal=True),
        plain(1, 4, 1, 300, 36, kv_heads=2, dtype=dtype),
        columns_first(plain(1, 1, 40, 50, 24, dtype=dtype)),
    ]
    for call in calls:
        for level in LEVELS:
            check(call, f"native:{level}")


BF16 = torch.bfloat16
MATRIX = [
    plain(2, 3, 64, 64, 64, dtype=BF16),
    plain(1, 2, 197, 197, 72, dtype=BF16),
    transposed(plain(1, 4, 100, 333, 40, kv_heads=2, dtype=BF16)),
    plain(2, 2, 150, 150, 32, dtype=BF16, causal=True),
    plain(1, 8, 7, 300, 64, kv_heads=2, dtype=BF16, scale=-0.2),
    plain(2, 2, 40, 77, 16, dtype=BF16, mask=torch.rand(2, 1, 40, 77, generator=GENERATOR) > 0.3),
]


def holes(*sizes: int) -> Tensor:
    """A bool mask, with rows that see nothing."""
    mask = torch.rand(*sizes, generator=GENERATOR) > 0.3
    mask[..., :2, :] = False
    return mask


def numbers(*sizes: int) -> Tensor:
    """A mask of numbers: some -inf, some as small as numbers get, a whole row of either."""
    mask = randn(*sizes)
    mask[..., 3, :] = torch.finfo(torch.float32).min
    mask[holes(*sizes) ^ True] = -math.inf
    mask[..., -1, 5] = torch.finfo(torch.float32).min
    return mask


B, H, S, K = 2, 4, 37, 53
MASKS = {
    "rows and keys": (S, K),
    "per batch": (B, 1, S, K),
    "per head": (H, S, K),
    "full": (B, H, S, K),
    "one row": (B, 1, 4, K),
    "one column": (B, 1, S, 6),
}


@pytest.mark.parametrize("kind", [holes, numbers], ids=["bool", "numbers"])
@pytest.mark.parametrize("sizes", MASKS)
def test_masks(sizes: str, kind: Callable[..., Tensor]) -> None:
    mask = kind(*MASKS[sizes])
    if sizes == "one row":
        mask = mask[:, :, 2:3]
    if sizes == "one column":
        mask = mask[..., 3:4]
    call = plain(B, H, S, K, 20, mask=mask)
    for level in LEVELS:
        check(call, f"native:{level}")


@pytest.mark.parametrize("kind", [holes, numbers], ids=["bool", "numbers"])
def test_masks_in_other_calls(kind: Callable[..., Tensor]) -> None:
    calls = [
        transposed(plain(1, 4, 33, 64, 16, mask=kind(1, 4, 33, 64))),
        columns_first(plain(1, 2, 33, 40, 16, mask=kind(1, 2, 33, 40))),
        plain(1, 8, 4, 70, 16, kv_heads=2, mask=kind(8, 4, 70)),
        plain(1, 32, 4, 70, 16, kv_heads=2, mask=kind(32, 4, 70)),
        plain(1, 2, 1, 700, 16, mask=kind(1, 2, 4, 700)[:, :, 2:3]),
        plain(1, 1, 1, 700, 16, mask=kind(4, 700)[:1]),
        columns_first(plain(1, 1, 5, 90, 16, mask=kind(1, 1, 5, 90))),
    ]
    for call in calls:
        check(call, f"native:{LEVELS[0]}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_blocks_without_keys_before_those_with_some(dtype: torch.dtype) -> None:
    """As batches padded on the left have them."""
    seen = torch.arange(400) >= torch.tensor([0, 1, 250, 390]).view(4, 1, 1, 1)
    for rows in (1, 40):
        call = plain(4, 2, rows, 400, 32, dtype=dtype, mask=seen)
        added = torch.zeros(seen.shape).masked_fill(~seen, -math.inf)
        for given in (call, replace(call, mask=added.to(dtype).expand(4, 2, rows, 400))):
            check(given, f"native:{LEVELS[0]}")


def test_mask_of_a_half_type() -> None:
    call = plain(1, 2, 40, 50, 16, dtype=torch.bfloat16, mask=numbers(40, 50).bfloat16())
    for level in LEVELS:
        check(call, f"native:{level}")


def test_nan_and_infinity_reach_what_they_reach_in_eager() -> None:
    call = plain(1, 1, 40, 50, 16)
    call.query[0, 0, 3, 2] = math.nan
    call.query[0, 0, 35, 2] = math.inf
    decode = plain(1, 1, 1, 50, 16)
    decode.key[0, 0, 30, 3] = math.nan
    for level in LEVELS:
        check(call, f"native:{level}")
        check(decode, f"native:{level}")


def test_rows_without_keys_are_zero() -> None:
    for rows in (1, 40):
        call = plain(1, 1, rows, 50, 16, mask=torch.zeros(rows, 50, dtype=torch.bool))
        for level in LEVELS:
            assert torch.equal(ours(call, f"native:{level}"), torch.zeros_like(call.query))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    calls = [
        plain(2, 4, 200, 333, 48, causal=True),
        plain(1, 1, 1, 4099, 64),
        plain(1, 4, 300, 300, 64, kv_heads=2, mask=numbers(300, 300)),
    ]
    before = torch.get_num_threads()
    try:
        for call in calls:
            kernel, results = load(call.nest(), f"native:{LEVELS[0]}"), []
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                out = call.result()
                kernel(*call.tensors.values(), out)
                results.append(out)
            assert all(torch.equal(results[0], r) for r in results[1:])
    finally:
        torch.set_num_threads(before)


NO = "_ZN2at18in_parallel_regionEv"  # a function of torch that says no


def test_bf16_without_a_matrix_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels ask whether there is one, and do without."""
    monkeypatch.setattr(matrix_unit, "PERMISSION", NO)
    for call in MATRIX:
        check(call, f"native:{LEVELS[0]}")


@pytest.mark.parametrize("k", range(6))
def test_bf16_with_whatever_there_is(k: int) -> None:
    check(MATRIX[k], f"native:{LEVELS[0]}")


def test_plain_torch_does_the_same() -> None:
    calls = [
        transposed(plain(2, 4, 9, 13, 16, kv_heads=2, mask=numbers(4, 9, 13))),
        plain(1, 2, 9, 13, 16, causal=True, scale=0.3),
        Call(randn(3, 20, 16), randn(3, 30, 16), randn(3, 30, 16)),
    ]
    for call in calls:
        out = call.result()
        fuse.run(call.nest(), {**call.tensors, "out": out})
        assert torch.allclose(out, call.eager(), atol=1e-6)


def test_few_heads_are_shared_out_by_runs_of_keys() -> None:
    nest = plain(1, 1, 1, 4096, 64).nest()
    source = generate_attention(nest, "attention", f"native:{LEVELS[0]}")
    assert "8 runs" in source.strategy
    assert source.constants["scratch"] > 0


def test_every_level_compiles_without_spilling() -> None:
    nests = [plain(1, 2, 64, 64, 64, causal=True).nest(), plain(1, 2, 1, 300, 64).nest()]
    for name, level in cpu.LEVELS.items():
        for nest in nests:
            source = generate_attention(nest, "attention", f"native:{name}")
            _, assembly = compile_text(source.text, level, assembly=True)
            assert spilled(assembly) == 0


def test_the_text_says_what_it_is() -> None:
    nest = plain(1, 2, 64, 64, 64, causal=True).nest()
    text = generate_attention(nest, "attention", f"native:{LEVELS[0]}").text
    assert text.startswith(f"; attention for native:{LEVELS[0]}: online softmax over blocks of ")
    assert "\n; attention attention(scale 0.125, causal):\n" in text
    assert "\n;   model.py:7\n" in text
    assert text.index("; scores = K · Qᵀ") < text.index("; sums = sums · shrunk + Vᵀ · weights")
    assert "query: f32[1, 2, 64, 64] strides [8192, 4096, 64, 1]" in str(nest)


def test_bytes_and_operations() -> None:
    nest = plain(2, 6, 3, 5, 16, 8, kv_heads=2, causal=True).nest()
    query, keys, values, out = 2 * 6 * 3 * 16, 2 * 2 * 5 * 16, 2 * 2 * 5 * 8, 2 * 6 * 3 * 8
    assert nest.bytes_moved() == (4 * (query + keys + values), 4 * out)
    assert nest.operations == 2 * 2 * 6 * (1 + 2 + 3) * (16 + 8)
    assert [b.name for b in nest.buffers if b.written] == ["out"]


REFUSED = {
    "dropout": ({"args": (0.5, False)}, "dropout"),
    "both masks": ({"mask": torch.zeros(4, 4), "args": (0.0, True)}, "causal too"),
    "double": ({"dtype": torch.float64}, "dtypes f64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name: str) -> None:
    given, words = REFUSED[name]
    call = plain(1, 1, 4, 4, 8, mask=given.get("mask"), dtype=given.get("dtype", torch.float32))
    step, slots = call.step()
    if "args" in given:
        step = replace(step, args=(*step.args[:4], *given["args"]))
    with pytest.raises(Refused, match=words):
        as_attention(step, slots)


def test_programs_hold_one_kernel_for_equal_calls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "debug", 2)
    call = plain(1, 2, 8, 8, 16)
    step, slots = call.step()
    again = replace(step, outs=(replace(step.outs[0], name="again"),))
    dropped = replace(
        step, args=(*step.args[:4], 0.5, False), outs=(replace(step.outs[0], name="o"),)
    )
    causal = replace(step, args=(*step.args[:5], True), outs=(replace(step.outs[0], name="c"),))
    program = Program(
        list(slots.values()), [step, again, dropped, causal], ["out", "again", "o", "c"]
    )
    found = with_attention(program).steps
    assert [type(s) for s in found] == [RunKernel, RunKernel, RunExtern, RunKernel]
    assert "o scaled_dot_product_attention stays a library call: dropout" in capsys.readouterr().err
    first, second, _, third = found
    assert first.nest is second.nest and first.nest is not third.nest
    assert (first.nest.name, third.nest.name) == ("attention", "attention_1")
    assert second.args == {"query": "query", "key": "key", "value": "value", "out": "again"}
    assert tiling(first.nest, cpu.LEVELS["avx512"]).lanes == 16
