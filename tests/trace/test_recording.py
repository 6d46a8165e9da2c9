"""What a recording contains: constants, numbers from data, canonical ops, origins, order of random
draws, refusals.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F

from tests.trace.replay import check, refused
from tracejit.ir.execute import Left, execute
from tracejit.ir.graph import Graph
from tracejit.trace.canonical import RULES
from tracejit.trace.recorder import record
from tracejit.trace.schema import overload_of


def x46() -> tuple[torch.Tensor]:
    return (torch.randn(4, 6),)


def graph_of(fn: Any, *args: Any) -> Graph:
    _, recording = record(fn, args, {})
    assert recording.refused is None, recording.refused
    assert recording.graph is not None
    return recording.graph


def ops_of(fn: Any, *args: Any) -> list[str]:
    return [node.op for node in graph_of(fn, *args).nodes]


# --- constants ---


def constants(x: torch.Tensor) -> Any:
    y = x * torch.tensor([1.0, float("inf"), -0.0, 2.0, 3.0, 4.0]) + torch.tensor(0.5)
    y[1] = 3
    y[:, [0, 2]] = 7.5
    y = y[[1, 0, 3]] + torch.as_tensor(2) + y.new_tensor([1] * 6)
    return torch.where(x > 0, 1.0, x), y, torch.tensor([[1, 2], [3, 4]], dtype=torch.int16)


def test_constants() -> None:
    check(constants, x46)
    assert "tj.constant" in ops_of(constants, *x46())


def test_factories_keep_their_dtype() -> None:
    def fn(x: torch.Tensor) -> Any:
        return (
            x + torch.ones(6) + torch.arange(6),
            torch.zeros_like(x, dtype=torch.int8),
            torch.eye(3),
        )

    check(fn, x46)
    nodes = graph_of(fn, *x46()).nodes
    assert all(
        "dtype" in n.kwargs for n in nodes if n.op in ("aten.ones", "aten.arange", "aten.eye")
    )


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: torch.tensor([x[0, 0], 2.0]) + x.sum(),
        lambda x: x + torch.tensor(numpy.ones(6, dtype="float32")),
        lambda x: x + torch.from_numpy(numpy.ones(6, dtype="float32")),
        lambda x: x + torch.from_numpy(x.numpy()),
        lambda x: torch.tensor_split(x, torch.tensor([1, 2]))[1] + 1,
    ],
)
def test_data_that_leaves_the_graph_is_refused(fn: Any) -> None:
    kind = refused(fn, x46).split(":")[0]
    assert kind in ("data-dependent", "op")


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + torch.tensor(x.tolist()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.new_ones(x.gt(0).nonzero().shape[0]),
        lambda x: x + 1 if torch.equal(x, x.abs()) else x,
    ],
)
def test_sizes_and_numbers_from_data_are_checked(fn: Any) -> None:
    """Also where nothing but Python saw them: with other data the graph is left."""
    graph = graph_of(fn, torch.full((4, 6), 2.0))
    execute(graph, [torch.full((4, 6), 2.0)])
    other = torch.full((4, 6), 2.0)
    other[0, :2] = torch.tensor([-1.0, 0.0])
    with pytest.raises(Left):
        execute(graph, [other])


# --- numbers ---


def test_numbers_from_data_are_expected() -> None:
    def fn(x: torch.Tensor) -> Any:
        y = x * 2 if x.sum() > 0 else x
        return y[int((x[0, 0] > 5).long())] + x.max().item()

    x = torch.ones(4, 6)
    graph = graph_of(fn, x)
    numbers = [node.args[1] for node in graph.nodes if node.op == "tj.expect"]
    assert numbers == [True, 0, 1.0]
    (found,), _ = execute(graph, [x])
    assert torch.equal(found, fn(x))
    with pytest.raises(Left):
        execute(graph, [-x])


# --- canonical ops ---


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"is_causal": True},
        {"attn_mask": torch.linspace(-1, 1, 25).view(5, 5)},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        {"scale": 0.5},
        {"enable_gqa": True},
    ],
)
def test_attention_is_one_op(kwargs: dict[str, Any]) -> None:
    heads = 2 if "enable_gqa" in kwargs else 4

    mask = kwargs.pop("attn_mask", None)

    def fn(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None) -> Any:
        return F.scaled_dot_product_attention(q, k, k, mask, **kwargs)

    args = torch.randn(1, 4, 5, 8), torch.randn(1, heads, 5, 8), mask
    check(fn, lambda: args)
    assert "aten.scaled_dot_product_attention" in ops_of(fn, *args)


def test_every_rule_is_of_an_op_that_torch_has() -> None:
    for name in RULES:
        if not name.startswith("aten._") or hasattr(torch.ops.aten, name.split(".")[1]):
            overload_of(name)


def test_results_for_backward_bring_the_real_call_back() -> None:
    def fn(q: torch.Tensor) -> Any:
        out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)
        return out[0] + 1, out[1].sum()

    def made() -> tuple[torch.Tensor, ...]:
        return (torch.randn(1, 2, 5, 8),)

    check(fn, made)
    ops = [node.op for node in graph_of(fn, *made()).nodes]
    assert "aten._scaled_dot_product_flash_attention_for_cpu" in ops
    assert "aten.scaled_dot_product_attention" not in ops


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: F.softmax(x, -1) + F.layer_norm(x, (6,)) * F.rms_norm(x, (6,)),
        lambda x: F.gelu(x) @ F.silu(x).T,
        lambda x: torch.einsum("ij,kj->ik", x, x),
        lambda x: F.conv1d(x[None], torch.ones(2, 4, 3)),
        lambda x: F.embedding(torch.tensor([1, 2]), x),
        lambda x: F.cross_entropy(x, torch.tensor([1, 2, 0, 3])),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: torch.stack(x.unbind()).cumsum(0).roll(1, 0).repeat(2, 1).tril(),
        lambda x: torch.view_as_complex(x.view(4, 3, 2)).abs(),
        lambda x: F.group_norm(x.view(2, 4, 3), 2),
        lambda x: x.bfloat16().softmax(-1, dtype=torch.float32),
        lambda x: x.unfold(1, 3, 2).sum(-1).diagonal(),
    ],
)
def test_functions(fn: Any) -> None:
    check(fn, x46)


# --- random ---


def test_random_draws_keep_their_order() -> None:
    def fn(x: torch.Tensor) -> Any:
        a = F.dropout(x, 0.5)
        torch.rand(3)  # drawn, not used
        noise = torch.randn_like(x).uniform_()
        return a, noise, torch.empty(3).normal_(), torch.randint(9, (4,)), x.bernoulli(0.3)

    check(fn, x46)


def test_a_generator_of_the_callers_is_refused() -> None:
    source = torch.Generator()
    assert refused(lambda x: x + torch.rand(6, generator=source.manual_seed(0)), x46)


# --- the call itself ---


def test_errors_are_eagers() -> None:
    with pytest.raises(RuntimeError, match="must match the size"):
        record(lambda x: x + torch.ones(5), x46(), {})


def test_an_error_for_data_that_is_caught_is_refused() -> None:
    def fn(x: torch.Tensor) -> Any:
        try:
            return x[torch.tensor([99])]
        except IndexError:
            return x * 2

    assert refused(fn, x46).startswith("raised")


def test_sparse_tensors_are_refused() -> None:
    assert refused(lambda x: x.to_sparse().to_dense(), x46).split(":")[0] in ("op", "tensor")


def test_new_tensors_that_require_gradients_are_refused() -> None:
    def fn(x: torch.Tensor) -> Any:
        return x + torch.ones(6, requires_grad=True)

    assert refused(fn, x46).startswith("autograd")


def test_subclasses_are_refused() -> None:
    class Mine(torch.Tensor):
        pass

    x = torch.randn(3).as_subclass(Mine)
    result, recording = record(lambda x: x + 1, (x,), {})
    assert type(result) is Mine
    assert recording.refused is not None and recording.refused.kind == "tensor"


def test_backward_inside_the_call_is_refused() -> None:
    def fn(x: torch.Tensor) -> Any:
        w = x.detach().requires_grad_()
        (w * 2).sum().backward()
        return w.grad + 0

    assert refused(fn, x46).startswith("autograd")


def test_inside_another_tracer_the_call_is_plain() -> None:
    seen: list[Any] = []

    def inner(x: torch.Tensor) -> torch.Tensor:
        result, recording = record(lambda x: x + 1, (x,), {})
        seen.append(recording.refused)
        return result

    assert torch.equal(torch.func.vmap(inner)(torch.ones(3)), torch.full((3,), 2.0))
    assert seen[0].kind == "outer-tracer"


def test_profiler_is_given_back() -> None:
    def profiler(*event: Any) -> None:
        pass

    sys.setprofile(profiler)
    try:
        record(lambda x: x + torch.tensor(1), x46(), {})
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    record(lambda x: x + torch.tensor(1), x46(), {})
    assert sys.getprofile() is None
    assert torch._C._len_torch_function_stack() == 0


def test_memory_is_not_held() -> None:
    """Tensors that the call made die when the call drops them."""
    import weakref

    alive: list[Any] = []

    def fn(x: torch.Tensor) -> Any:
        y = x * 2
        alive.append(weakref.ref(y))
        y = y + 1
        alive.append(alive[0]() is None)
        return y

    record(fn, x46(), {})
    assert alive[1] is True


# --- origins ---


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return helper(self.linear(x))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x + 1


def helper(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


def test_origins_name_lines_functions_and_modules() -> None:
    with torch.no_grad():
        graph = graph_of(Model(), *x46())
    found = [(n.op, n.origin.function, n.origin.module) for n in graph.nodes if n.op != "aten.t"]
    assert found == [
        ("aten.addmm", "forward", "layers.0.linear"),
        ("aten.relu", "helper", "layers.0"),
        ("aten.addmm", "forward", "layers.1.linear"),
        ("aten.relu", "helper", "layers.1"),
        ("aten.add.Tensor", "forward", ""),
    ]
    assert {n.origin.file for n in graph.nodes} == {"trace/test_recording.py"}
    lines = {n.op: n.origin.line for n in graph.nodes}
    assert lines["aten.relu"] == helper.__code__.co_firstlineno + 1


def test_recording_loads_no_compiler() -> None:
    text = (
        "import sys, torch; from tracejit.trace.recorder import record\n"
        "def f(x):\n    y = x.clone(); y[1:] += 1; y[0] = 3.0; return y.t().relu_()\n"
        "record(f, (torch.randn(4, 6),), {})\n"
        "heavy = ('torch._dynamo', 'torch._inductor', 'sympy', 'triton')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_conjugated_and_negated_views_are_values() -> None:
    def fn(x: torch.Tensor) -> Any:
        y = torch.fft.fft(x)
        z = y.conj()
        z.mul_(2j)
        return torch.fft.ifft(x).abs(), z.imag + 1, y.real * 2, (y + z).t().resolve_conj()

    check(fn, x46)


def test_seeding_inside_the_call() -> None:
    def fn(x: torch.Tensor) -> Any:
        torch.manual_seed(7)
        return torch.rand(6) + x

    check(fn, x46)


def test_a_random_seed_inside_the_call_is_refused() -> None:
    def fn(x: torch.Tensor) -> Any:
        torch.default_generator.seed()
        return x + 1

    assert refused(fn, x46).startswith("random")


def test_inference_mode() -> None:
    def fn(x: torch.Tensor) -> Any:
        y = F.linear(x, x).t()
        y[1:] += 1
        return y, x[1]

    with torch.inference_mode():
        check(fn, x46)


def test_autocast_is_recorded_as_casts() -> None:
    weight = torch.nn.Parameter(torch.randn(6, 6))

    def fn(x: torch.Tensor) -> Any:
        return F.linear(x, weight) + 1

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        graph = graph_of(fn, *x46())
    assert [n.op for n in graph.nodes].count("aten._to_copy") == 2
    assert graph.outputs[0].dtype == "bf16"


def test_default_device_and_dtype_of_the_call() -> None:
    def fn(x: torch.Tensor) -> Any:
        return x.double() + torch.ones(6)

    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("cpu"):
            check(fn, lambda: (torch.randn(4, 6, dtype=torch.float32),))
            nodes = graph_of(fn, torch.randn(4, 6)).nodes
    finally:
        torch.set_default_dtype(torch.float32)
    assert next(n for n in nodes if n.op == "aten.ones").kwargs["dtype"] is torch.float64


def test_recording_takes_the_path_that_eager_takes() -> None:
    """torch's own fast paths look for modes and subclasses: they must not find the recorder."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        expected = layer(x)
        result, recording = record(layer, (x,), {})
    assert torch.equal(expected, result)
    assert recording.graph is not None
    assert [n.op for n in recording.graph.nodes] == ["aten._transformer_encoder_layer_fwd"]


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: F.linear(x[:, 0], torch.ones(5, 4), torch.ones(5, dtype=torch.float64)),
        lambda x: F.max_pool1d(x.t()[None], 2),
    ],
)
def test_what_a_dispatch_mode_would_change_is_eagers(fn: Any) -> None:
    (x,) = x46()
    found, recording = record(fn, (x,), {})
    expected = fn(x)
    assert found.dtype == expected.dtype and found.stride() == expected.stride()
    assert recording.refused is not None and "cannot be watched" in recording.refused.text
