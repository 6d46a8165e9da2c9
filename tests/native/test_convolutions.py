"""Convolutions as sums over windows: against float64, for each instruction set that is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tracejit
from tests.executors import NATIVE
from tests.native.test_product import rand
from tracejit.codegen.native import providers
from tracejit.codegen.native.trials import generated
from tracejit.ir.convolutions import Windows, open_convolutions, windows_of
from tracejit.ir.execute import call
from tracejit.ir.graph import Graph
from tracejit.ir.products import GENERATED, LIBRARY
from tracejit.ir.verify import verify

pytestmark = pytest.mark.skipif(not NATIVE, reason="native kernels")
each_target = pytest.mark.parametrize("target", NATIVE)

# (batch, channels, *image), (filters, *kernel), and what else is said.
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3×3": ((2, 5, 12, 13), (7, 3, 3), {"padding": 1}),
    "3×3, no padding": ((1, 4, 9, 40), (20, 3, 3), {}),
    "large": ((1, 40, 30, 36), (33, 3, 3), {"padding": 1}),
    "small image": ((2, 70, 7, 7), (40, 3, 3), {"padding": 1}),
    "step of 2": ((1, 8, 33, 67), (9, 3, 3), {"padding": 1, "stride": 2}),
    "steps that differ": ((1, 8, 20, 21), (9, 3, 2), {"padding": (0, 1), "stride": (3, 2)}),
    "stem": ((1, 3, 50, 50), (16, 7, 7), {"padding": 3, "stride": 2}),
    "one place": ((2, 20, 9, 16), (33, 1, 1), {}),
    "one place, step of 2": ((2, 20, 9, 35), (33, 1, 1), {"stride": 2}),
    "apart": ((1, 6, 20, 20), (5, 3, 3), {"padding": 2, "dilation": 2}),
    "apart by different": ((1, 6, 20, 20), (5, 2, 3), {"dilation": (3, 1)}),
    "long": ((2, 5, 101), (6, 4), {"padding": 2, "stride": 3}),
    "solid": ((1, 3, 6, 9, 20), (4, 3, 2, 3), {"padding": (1, 0, 1)}),
    "one filter": ((1, 6, 20, 20), (1, 3, 3), {"padding": 1}),
    "one window": ((3, 6, 5, 5), (9, 5, 5), {}),
    "padding wider than the image": ((1, 2, 2, 2), (3, 5, 5), {"padding": 4}),
    "many terms": ((1, 300, 6, 6), (8, 3, 3), {"padding": 1}),
}
FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def geometry(kernel: tuple[int, ...], said: dict[str, Any]) -> tuple[Any, ...]:
    """The rest of the arguments of aten.convolution."""

    def each(name: str, otherwise: int) -> tuple[int, ...]:
        value = said.get(name, otherwise)
        return value if isinstance(value, tuple) else (value,) * len(kernel)

    none = (0,) * len(kernel)
    return each("stride", 1), each("padding", 0), each("dilation", 1), False, none, 1


@each_target
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, dtype: torch.dtype, target: str) -> None:
    image, (filters, *kernel), said = SHAPES[name]
    more = geometry(tuple(kernel), said)
    x, bias = rand(*image, dtype=dtype), rand(filters, dtype=dtype)
    weight = rand(filters, image[1], *kernel, dtype=dtype)
    convolve = FUNCTIONS[len(kernel)]
    truth = convolve(x.double(), weight.double(), bias.double(), **said)
    size = convolve(x.double().abs(), weight.double().abs(), bias.double().abs(), **said)
    out = torch.full(truth.shape, torch.nan, dtype=dtype)
    generated("aten.convolution", (x, weight, bias), more, out, target)(x, weight, bias, out)
    exact = 1e-15 if dtype == torch.float64 else 4e-7
    rounding = torch.finfo(dtype).eps / 2 if dtype.itemsize == 2 else 0.0
    assert bool(((out.double() - truth).abs() <= exact * size + rounding * truth.abs()).all())


@each_target
def test_images_and_weights_anywhere_in_memory(target: str) -> None:
    x = rand(2, 12, 13, 8).permute(0, 3, 1, 2)
    weight = rand(3, 3, 8, 6).permute(3, 2, 0, 1)
    x = x[:, :, 1:, :10]
    more = geometry((3, 3), {"padding": 1, "stride": 1})
    truth = F.conv2d(x.double(), weight.double(), None, padding=1)
    out = torch.empty(truth.shape).to(memory_format=torch.channels_last)
    nothing = torch.zeros(6)
    generated("aten.convolution", (x, weight, nothing), more, out, target)(x, weight, nothing, out)
    torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-5)


class Net(torch.nn.Module):
    """What follows convolutions in networks: normalization, activation, a shortcut, pooling."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.one = torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.two = torch.nn.Conv2d(8, 8, 3, padding="same", dilation=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        x = F.relu(x + self.two(F.silu(self.one(x))))
        return x.mean((2, 3))


@pytest.mark.parametrize("way", [LIBRARY, GENERATED])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks(
    way: str, groups: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    monkeypatch.setattr(providers, "provider", lambda wanted, target: way)
    torch.manual_seed(0)
    net, x = Net(groups).eval().to(dtype), rand(2, 3, 60, 44, dtype=dtype)
    compiled = tracejit.compile(net)
    tolerance = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(x), net(x), check_stride=True, **tolerance)
        for channels_last in (False, True):
            y = x.to(memory_format=torch.channels_last) if channels_last else x
            torch.testing.assert_close(compiled(y), net(y), check_stride=True, **tolerance)
    lines = [line for line in str(tracejit.explain(compiled)).split("\n") if "(library)" in line]
    called = any("aten.convolution" in line for line in lines)
    assert called == (way == LIBRARY or groups > 1)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_results_lie_as_eager_lays_them(
    memory: torch.memory_format, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    monkeypatch.setattr(providers, "provider", lambda wanted, target: GENERATED)
    x, weight = rand(2, 5, 12, 9).to(memory_format=memory), rand(4, 5, 3, 3)
    compiled = tracejit.compile(F.conv2d)
    for _ in range(2):
        torch.testing.assert_close(compiled(x, weight), F.conv2d(x, weight), check_stride=True)


def graph_of(x: tuple[int, ...], weight: tuple[int, ...], *more: Any) -> Graph:
    graph = Graph()
    tensors = [torch.empty(x), torch.empty(weight)]
    given = [graph.add_input("f32", tuple(t.shape), tuple(t.stride())) for t in tensors]
    out = call("aten.convolution", (*tensors, None, *more), {})
    meta = ("f32", tuple(out.shape), tuple(out.stride()), "cpu")
    graph.outputs = [graph.add("aten.convolution", (*given, None, *more), {}, [meta]).out]
    return graph


def test_the_geometry_is_asked_for() -> None:
    graph = graph_of((2, 3, 9, 8), (4, 3, 3, 1), [2], [1, 0], [1], False, [0], 1)
    asked: list[Windows] = []
    assert open_convolutions(graph, lambda w: asked.append(w) or LIBRARY) is graph
    assert asked == [
        Windows("f32", 2, 3, (9, 8), 4, (5, 4), (3, 1), (2, 2), (1, 0), (1, 1)),
    ]
    opened = open_convolutions(graph, lambda w: GENERATED)
    verify(opened)
    assert [n.op for n in opened.nodes][-1] == "aten.sum.dim_IntList"


@pytest.mark.parametrize(
    "graph",
    [
        graph_of((2, 4, 9, 8), (4, 2, 3, 3), [1], [1], [1], False, [0], 2),
        graph_of((2, 4, 9, 8), (4, 2, 3, 3), [1], [1], [1], True, [0], 1),
        graph_of((0, 4, 9, 8), (4, 4, 3, 3), [1], [1], [1], False, [0], 1),
    ],
    ids=["groups", "transposed", "empty"],
)
def test_others_stay_calls(graph: Graph) -> None:
    assert windows_of(graph.nodes[0]) is None
    assert open_convolutions(graph, lambda w: GENERATED) is graph
