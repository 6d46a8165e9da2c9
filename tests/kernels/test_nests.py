"""Whole nests on the interpreter and in native code, in every way through their loops: against
eager and against the reference executor.
"""

from __future__ import annotations

import math

import pytest
import torch

from tracejit.codegen.triton.generate import generate
from tracejit.fuse.index import Index, Indirect, delinear
from tracejit.fuse.scalar import cast, const, index_value, make, where
from tracejit.ir.dtypes import TORCH
from tracejit.runtime import devices

SIZES = (1, 2, 3, 7, 8, 31, 32, 33, 97, 128)
HOW = ("chosen", "rows", "row", "chunks", "row-chunks", "wide-chunks")
each_strategy = pytest.mark.parametrize("how", HOW)


@pytest.fixture
def nests(each):
    return each


def agree(nests, nest, inputs, how="chosen", rtol=1e-6):
    """Run both ways, require that they agree, and give the generated kernel's outputs."""
    ours, want = nests.run(nest, inputs, how), nests.expect(nest, inputs)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, want[name], rtol=rtol, atol=rtol, equal_nan=True)
    return ours


# Pointwise


@pytest.mark.parametrize("size", [*SIZES, 1023, 1024, 1025])
@pytest.mark.parametrize("how", ["chosen", "blocks"])
def test_sizes(nests, size: int, how: str) -> None:
    (i,) = nests.axes(i=size)
    nest = nests.nest([i], {"out": (i, nests.load("x", i) * 2.0 + nests.load("y", i))})
    x, y = torch.randn(size), torch.randn(size)
    nests.same_bits(nests.run(nest, {"x": x, "y": y}, how)["out"], x * 2.0 + y)


def test_no_axes(nests) -> None:
    nest = nests.nest([], {"out": (0, nests.load("x", 0) + 1.0)})
    nests.same_bits(nests.run(nest, {"x": torch.tensor([2.5])})["out"], torch.tensor([3.5]))


def test_no_rows(nests) -> None:
    i, j, r = nests.axes(i=0, j=3, r=5)
    pointwise = nests.nest(
        [i, j],
        {
            "out": (
                i * 3 + j,
                nests.load(
                    "x",
                    i * 3 + j,
                )
                + 1.0,
            )
        },
    )
    rows = nests.nest([i, r], {"out": (i, nests.reduce("sum", nests.load("x", i * 5 + r)))})
    for nest in (pointwise, rows):
        nests.kernel(nest, "kernel")(torch.empty(3), torch.empty(3))


def test_broadcasting(nests) -> None:
    i, j, k = nests.axes(i=3, j=5, k=7)
    flat = i * 35 + j * 7 + k
    value = (
        nests.load("x", flat)
        + nests.load("row", k) * nests.load("column", i)
        + nests.load("one", 0)
    )
    nest = nests.nest([i, j, k], {"out": (flat, value)})
    x, row, column, one = torch.randn(3, 5, 7), torch.randn(7), torch.randn(3, 1, 1), torch.randn(1)
    ours = agree(nests, nest, {"x": x, "row": row, "column": column, "one": one})["out"]
    nests.same_bits(ours.view(3, 5, 7), x + row * column + one)


def test_strides_in_and_out(nests) -> None:
    i, j = nests.axes(i=6, j=9)
    nest = nests.nest(
        [i, j],
        {"out": (i * 20 + j * 2, nests.load("x", i + j * 6) + nests.load("y", i * 18 + j * 2 + 1))},
    )
    x, y = torch.randn(9, 6), torch.randn(6, 18)
    out = agree(nests, nest, {"x": x, "y": y})["out"]
    nests.same_bits(out.as_strided((6, 9), (20, 2)).contiguous(), x.t() + y[:, 1::2])


SIDES = [(8, 8), (7, 200), (63, 65), (64, 64), (130, 9), (200, 31)]


@pytest.mark.parametrize("sizes", SIDES, ids=[f"{a}x{b}" for a, b in SIDES])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16", "i64", "i8", "bool"])
def test_turned(nests, dtype: str, sizes: tuple[int, int]) -> None:
    """Read along one axis and written along the other, in a batch; beside it what is not turned."""
    rows, columns = sizes
    k, i, j = nests.axes(k=2, i=rows, j=columns)
    each = rows * columns
    turned = nests.load("x", k * each + j * rows + i, dtype)
    stores = {
        "out": (k * each + i * columns + j, turned),
        "other": (k * 2 * each + i * (columns * 2) + j + 1, nests.load("y", j * rows + i, dtype)),
        "same": (
            k * each + i * columns + j,
            make("where", nests.load("z", k * each + i * columns + j, "bool"), turned, turned),
        ),
    }
    x, y = (torch.randn(n, columns, rows).mul(3).to(TORCH[dtype]) for n in (2, 1))
    z = torch.rand(2, rows, columns) < 0.5
    nest = nests.nest([k, i, j], stores)
    ours = nests.run(nest, {"x": x, "y": y, "z": z})
    want = x.mT.contiguous().view(-1)
    nests.same_bits(ours["out"], want)
    nests.same_bits(ours["same"], want)
    other = torch.ones(2 * 2 * each - columns + 1, dtype=TORCH[dtype])
    spread = other.as_strided((2, rows, columns), (2 * each, 2 * columns, 1), 1)
    spread.copy_(y.mT.expand(2, rows, columns))
    nests.same_bits(ours["other"][: len(other)], other[: len(ours["other"])])


def test_views_that_need_division(nests) -> None:
    (i,) = nests.axes(i=60)
    a, b, c = delinear(i, (3, 4, 5))
    nest = nests.nest([i], {"out": (i, nests.load("x", c * 12 + a * 4 + b))})
    x = torch.randn(5, 3, 4)
    nests.same_bits(agree(nests, nest, {"x": x})["out"], x.permute(1, 2, 0).reshape(-1))


def test_division_of_negative_positions_rounds_down(nests) -> None:
    (i,) = nests.axes(i=20)
    back = i - 7
    stores = {"down": (i, index_value(back // 4)), "rest": (i, index_value(back % 4))}
    ours = agree(nests, nests.nest([i], stores), {})
    want = torch.arange(20) - 7
    nests.same_bits(ours["down"], want // 4)
    nests.same_bits(ours["rest"], want % 4)


def test_masked_load_is_zero_outside(nests) -> None:
    """Padding: nothing is read where the mask is false, whatever the position is."""
    (i,) = nests.axes(i=10)
    position = index_value(i - 3)
    inside = (position >= 0) & (position < 5)
    nest = nests.nest([i], {"out": (i, nests.load("x", i - 3, mask=inside))}, spans={"x": 5})
    x = torch.randn(5)
    want = torch.nn.functional.pad(x, (3, 2))
    nests.same_bits(agree(nests, nest, {"x": x})["out"], want)


def test_mask_that_varies_where_the_position_does_not(nests) -> None:
    i, r = nests.axes(i=3, r=5)
    for axis, size in ((i, 3), (r, 5)):
        chosen = nests.load("m", axis, "bool")
        value = nests.load("x", 0, mask=chosen)
        if axis is i:
            nest = nests.nest([i], {"out": (i, value)})
        else:
            nest = nests.nest([i, r], {"out": (i, nests.reduce("sum", value))})
        agree(nests, nest, {"x": torch.randn(1), "m": torch.arange(size) % 2 == 0})


def test_gather(nests) -> None:
    i, j = nests.axes(i=6, j=4)
    token = nests.load("tokens", i, "i64")
    row = Index.of(Indirect(token, 10))
    nest = nests.nest([i, j], {"out": (i * 4 + j, nests.load("table", row * 4 + j))})
    table, tokens = torch.randn(10, 4), torch.tensor([9, 0, 3, 3, 7, 1])
    nests.same_bits(
        agree(nests, nest, {"table": table, "tokens": tokens})["out"].view(6, 4), table[tokens]
    )


def test_gather_with_negative_indices(nests) -> None:
    (i,) = nests.axes(i=5)
    token = nests.load("tokens", i, "i64")
    wrapped = where(token < 0, token + 8, token)
    nest = nests.nest([i], {"out": (i, nests.load("x", Index.of(Indirect(wrapped, 8))))})
    x, tokens = torch.randn(8), torch.tensor([-1, 0, 7, -8, 3])
    nests.same_bits(agree(nests, nest, {"x": x, "tokens": tokens})["out"], x[tokens])


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_types_are_rounded_after_each_operation(nests, dtype: str) -> None:
    (i,) = nests.axes(i=500)
    x, y = (cast(nests.load(n, i, dtype), "f32") for n in "xy")
    product = cast(cast(x * y, dtype), "f32")
    nest = nests.nest([i], {"out": (i, cast(product + y, dtype))})
    kind = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    a, b = torch.randn(500).to(kind), torch.randn(500).to(kind)
    nests.same_bits(agree(nests, nest, {"x": a, "y": b})["out"], a * b + b)


def test_integers_wrap_at_their_own_width(nests) -> None:
    (i,) = nests.axes(i=3)
    x, y = nests.load("x", i, "i8"), nests.load("y", i, "u8")
    nest = nests.nest([i], {"a": (i, x * x + x), "b": (i, y - 3)})
    a, b = (
        torch.tensor([127, -128, 100], dtype=torch.int8),
        torch.tensor([0, 255, 2], dtype=torch.uint8),
    )
    ours = agree(nests, nest, {"x": a, "y": b})
    nests.same_bits(ours["a"], a * a + a)
    nests.same_bits(ours["b"], b - 3)


def test_masked_stores(nests) -> None:
    """Two ranges stored by one nest: where the mask is false nothing is written, whatever the
    position.
    """
    (i,) = nests.axes(i=10)
    here = index_value(i)
    nest = nests.nest(
        [i],
        {"low": (i, nests.load("x", i)), "high": (i - 6, nests.load("x", i) * 2.0)},
        masks={"low": here < 6, "high": here >= 6},
        spans={"low": 6, "high": 4},
    )
    x = torch.randn(10)
    ours = agree(nests, nest, {"x": x})
    nests.same_bits(ours["low"], x[:6])
    nests.same_bits(ours["high"], x[6:] * 2.0)


# Reductions


@each_strategy
@pytest.mark.parametrize("columns", SIZES)
def test_softmax(nests, how: str, columns: int) -> None:
    i, r = nests.axes(i=5, r=columns)
    x = nests.load("x", i * columns + r)
    e = make("exp", x - nests.reduce("max", x))
    nest = nests.nest([i, r], {"out": (i * columns + r, e / nests.reduce("sum", e))})
    data = torch.randn(5, columns) * 10
    data[0, 0] = -math.inf if columns > 1 else 0.0
    data[1, columns // 2] = math.nan
    out = agree(nests, nest, {"x": data}, how)["out"].view(5, columns)
    torch.testing.assert_close(out, data.softmax(1), equal_nan=True)


@each_strategy
def test_layer_norm_with_residual(nests, how: str) -> None:
    """Three results of one pass and two rows of parameters; half input, sums in fp32."""
    rows, columns = 6, 96
    i, r = nests.axes(i=rows, r=columns)
    flat = i * columns + r
    total = cast(nests.load("x", flat, "f16"), "f32") + nests.load("residual", flat)
    mean = nests.reduce("sum", total) * (1 / columns)
    centred = total - mean
    variance = nests.reduce("sum", centred * centred) * (1 / columns)
    scaled = centred * make("rsqrt", variance + 1e-5) * nests.load("w", r) + nests.load("b", r)
    stores = {"sum": (flat, total), "out": (flat, cast(scaled, "f16")), "mean": (i, mean)}
    inputs = {"x": torch.randn(rows, columns).half(), "residual": torch.randn(rows, columns),
              "w": torch.randn(columns), "b": torch.randn(columns)}  # fmt: skip
    ours = agree(nests, nests.nest([i, r], stores), inputs, how, rtol=1e-3)
    added = inputs["x"].float() + inputs["residual"]
    nests.same_bits(ours["sum"].view(rows, columns), added)
    want = torch.nn.functional.layer_norm(added, (columns,), inputs["w"], inputs["b"])
    torch.testing.assert_close(ours["out"].view(rows, columns).float(), want, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours["mean"], added.mean(1))


COUNT = [1, 2, 3, 4, 5, 6, 7]
ODD = [0.0, -0.0, math.nan, 7.0, math.nan, -1.0, 2.0]
ENDLESS = [math.inf, 1, 2, math.inf, -math.inf, 0, 0]
WIDE = [1 << 60, 3, -(1 << 63), 2, (1 << 63) - 1, 1, 1]
TIED = [1, -2, 5, 5, -2, 0, 3]
NUMBERS = {
    "f32": torch.tensor([[1.5, -2.0, 0.5, 3.0, 3.0, -2.0, 1.0], ODD, [-math.inf] * 7, ENDLESS]),
    "i64": torch.tensor([TIED, [0] * 7, [-1] * 7, WIDE]),
    "i8": torch.tensor([TIED, [-128] * 7, [127] * 7, COUNT], dtype=torch.int8),
    "u8": torch.tensor([[1, 2, 5, 5, 2, 0, 3], [0] * 7, [255] * 7, COUNT], dtype=torch.uint8),
    "bool": torch.tensor([[True] * 7, [False] * 7, [True] + [False] * 6, [False] + [True] * 6]),
}
COMBINATIONS = [
    *((name, dtype) for name in ("sum", "prod") for dtype in ("f32", "i64")),
    *((name, dtype) for name in ("min", "max", "argmin", "argmax") for dtype in NUMBERS),
    *(
        ("any", "bool"),
        ("all", "bool"),
        ("xor", "i64"),
        ("xor", "bool"),
        ("any", "i64"),
        ("all", "i64"),
    ),
]


@each_strategy
@pytest.mark.parametrize(("name", "dtype"), COMBINATIONS, ids=[f"{n}-{d}" for n, d in COMBINATIONS])
def test_reductions(nests, how: str, name: str, dtype: str) -> None:
    """Extremes with NaN, infinities and ties; 5 rows of which a tile has 4; 7 columns."""
    i, r = nests.axes(i=5, r=7)
    data = torch.cat([NUMBERS[dtype], NUMBERS[dtype][:1].flip(1)])
    nest = nests.nest([i, r], {"out": (i, nests.reduce(name, nests.load("x", i * 7 + r, dtype)))})
    if name.startswith("arg") and dtype == "bool":
        ours = nests.run(nest, {"x": data}, how)["out"]
        nests.same_bits(ours, getattr(data.to(torch.int8), name)(1))
        return
    ours = agree(nests, nest, {"x": data}, how)["out"]
    if name.startswith("arg"):
        nests.same_bits(ours, getattr(data, name)(1))


@each_strategy
def test_half_extremes(nests, how: str) -> None:
    i, r = nests.axes(i=3, r=50)
    for dtype, kind in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        x = nests.load("x", i * 50 + r, dtype)
        nest = nests.nest(
            [i, r], {"a": (i, nests.reduce("max", x)), "b": (i, nests.reduce("argmin", x))}
        )
        data = torch.randn(3, 50).to(kind)
        ours = nests.run(nest, {"x": data}, how)
        nests.same_bits(ours["a"], data.amax(1))
        nests.same_bits(ours["b"], data.argmin(1))


@each_strategy
def test_several_reduction_axes(nests, how: str) -> None:
    """Over the first and last of three dimensions, in row-major order; the argmax counts in that
    order.
    """
    s, i, r = nests.axes(s=4, i=3, r=5)
    x = nests.load("x", s * 15 + i * 5 + r)
    stores = {"sum": (i, nests.reduce("sum", x)), "place": (i, nests.reduce("argmax", x))}
    data = torch.randn(4, 3, 5)
    ours = agree(nests, nests.nest([s, i, r], stores), {"x": data}, how)
    torch.testing.assert_close(ours["sum"], data.sum((0, 2)))
    nests.same_bits(ours["place"], data.movedim(0, 1).reshape(3, 20).argmax(1))


@each_strategy
def test_reduction_over_far_columns(nests, how: str) -> None:
    i, r = nests.axes(i=37, r=45)
    nest = nests.nest([i, r], {"out": (i, nests.reduce("sum", nests.load("x", r * 37 + i)))})
    data = torch.randn(45, 37)
    torch.testing.assert_close(agree(nests, nest, {"x": data}, how)["out"], data.sum(0))


@each_strategy
def test_reducing_what_does_not_vary(nests, how: str) -> None:
    """Constants, and values of the row, still count once for each column."""
    i, r = nests.axes(i=5, r=7)
    one, row = const(1.0, "f32"), nests.load("x", i)
    stores = {
        "count": (i, nests.reduce("sum", one)),
        "sum": (i, nests.reduce("sum", row)),
        "most": (i * 7 + r, nests.reduce("max", row)),
        "running": (i * 7 + r, nests.scan("sum", row)),
        "place": (i, nests.reduce("argmax", row)),
        "columns": (i, nests.reduce("sum", nests.load("w", r))),
        "first": (i, nests.reduce("argmin", nests.load("w", r))),
    }
    inputs = {"x": torch.randn(5), "w": torch.randn(7)}
    ours = agree(nests, nests.nest([i, r], stores), inputs, how)
    assert ours["count"].tolist() == [7.0] * 5


@each_strategy
@pytest.mark.parametrize("columns", [1, 31, 32, 97])
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min"])
def test_scans(nests, how: str, columns: int, name: str) -> None:
    i, r = nests.axes(i=3, r=columns)
    flat = i * columns + r
    nest = nests.nest([i, r], {"out": (flat, nests.scan(name, nests.load("x", flat)))})
    agree(nests, nest, {"x": torch.rand(3, columns) + 0.5}, how, rtol=1e-5)


@each_strategy
def test_scan_of_a_softmax(nests, how: str) -> None:
    """A scan in a late pass, and a reduction of a scan."""
    i, r = nests.axes(i=3, r=40)
    flat = i * 40 + r
    x = nests.load("x", flat)
    e = make("exp", x - nests.reduce("max", x))
    running = nests.scan("sum", e / nests.reduce("sum", e))
    below = nests.reduce("sum", cast(cast(running < 0.5, "i64"), "f32"))
    nest = nests.nest([i, r], {"running": (flat, running), "below": (i, below)})
    data = torch.randn(3, 40)
    ours = agree(nests, nest, {"x": data}, how, rtol=1e-5)
    torch.testing.assert_close(ours["running"].view(3, 40), data.softmax(1).cumsum(1))


@each_strategy
def test_integer_scan_and_masked_load_in_a_row(nests, how: str) -> None:
    i, r = nests.axes(i=3, r=40)
    flat = i * 40 + r
    shifted = nests.load("x", flat - 1, "i64", mask=index_value(r) >= 1)
    nest = nests.nest(
        [i, r],
        {"out": (flat, nests.scan("sum", shifted)), "sum": (i, nests.reduce("sum", shifted))},
    )
    agree(nests, nest, {"x": torch.randint(-5, 5, (3, 40))}, how)


def test_reductions_over_no_axis_are_the_element(nests) -> None:
    (i,) = nests.axes(i=4)
    x = nests.load("x", i)
    stores = {
        "a": (i, nests.reduce("sum", x)),
        "b": (i, nests.reduce("argmax", x)),
        "c": (i, nests.scan("prod", x)),
    }
    data = torch.randn(4)
    ours = agree(nests, nests.nest([i], stores), {"x": data})
    nests.same_bits(ours["a"], data)
    nests.same_bits(ours["b"], torch.zeros(4, dtype=torch.int64))


def test_one_long_row(nests) -> None:
    """More columns than are held at once, in chunks as the interpreter chooses them."""
    columns = 200_003
    (r,) = nests.axes(r=columns)
    x = nests.load("x", r)
    nest = nests.nest(
        [r], {"sum": (0, nests.reduce("sum", x)), "place": (0, nests.reduce("argmin", x))}
    )
    data = torch.randn(columns)
    ours = agree(nests, nest, {"x": data}, rtol=1e-3)
    ours_off = (ours["sum"].double() - data.double().sum()).abs()
    assert ours_off <= 2 * (data.sum().double() - data.double().sum()).abs() + 1e-4
    assert ours["place"].item() == data.argmin().item()


def test_launching_beyond_a_tensor_is_refused(nests) -> None:
    (i,) = nests.axes(i=8)
    kernel = devices.load(
        generate(nests.nest([i], {"out": (i, nests.load("x", i))}), "k", target="interpret")
    )
    with pytest.raises(ValueError, match="x_ptr, which has 7"):
        kernel(torch.randn(7), torch.empty(8))
    with pytest.raises(ValueError, match="takes 2 tensors"):
        kernel(torch.randn(8))


def test_a_kernel_called_as_a_combining_function(nests) -> None:
    i, r = nests.axes(i=4, r=6)
    nest = nests.nest([i, r], {"out": (i, nests.reduce("sum", nests.load("x", i * 6 + r)))})
    kernel = devices.load(generate(nest, "add", target="interpret"))
    x, out = torch.randn(4, 6), torch.empty(4)
    kernel(x, out)
    torch.testing.assert_close(out, x.sum(1))
    for name in ("and", "not a name", ""):
        with pytest.raises(ValueError, match="cannot be called"):
            generate(nest, name, target="interpret")


def test_names_that_collide(nests) -> None:
    """Buffers called as axes, masks, functions and keywords are."""
    (i,) = nests.axes(i=5)
    names = ["i", "mask", "tl", "tmp0", "lambda", "x", "x_ptr", "kernel", "libdevice", "float"]
    total = const(0.0, "f32")
    for name in names:
        total = total + make("exp", nests.load(name, i))
    inputs = {name: torch.randn(5) for name in names}
    agree(nests, nests.nest([i], {"out": (i, total)}), inputs)
