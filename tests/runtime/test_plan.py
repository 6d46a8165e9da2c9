"""Plans: a program rendered, loaded and run gives what its steps say; memory is reused only where
nobody sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tracejit
from tests.executors import BACKEND
from tracejit.codegen import memory
from tracejit.codegen.memory import memory_plan
from tracejit.codegen.plan import render
from tracejit.fuse.loopnest import Buffer, LoopNest
from tracejit.fuse.program import (
    Alias,
    CheckIndex,
    Expect,
    Program,
    Ref,
    RunExtern,
    RunKernel,
    Slot,
)
from tracejit.ir.graph import Origin, contiguous_strides
from tracejit.runtime.plan import Leave, Plan, apart, load
from tracejit.runtime.reasons import Failure

NEST = LoopNest("plus_one", (), (Buffer("x", "f32", 16), Buffer("out", "f32", 16, True)), ())
HERE = Origin("/home/someone/model.py", 7, "forward", "layers.0")


def slot(name: str, *sizes: int, dtype: str = "f32") -> Slot:
    return Slot(name, dtype, sizes, contiguous_strides(sizes))


def kernel(source: str, out: Slot) -> RunKernel:
    return RunKernel(NEST, {"x": source, "out": out.name}, (out,), (HERE,))


def plus_one(x: torch.Tensor, out: torch.Tensor) -> None:
    out.copy_((x + 1).reshape(out.shape))


def rendered(program: Program) -> tuple[str, dict[str, Any]]:
    return render(program, {id(NEST): "plus_one"}, "a test")


def loaded(program: Program) -> Plan:
    text, manifest = rendered(program)
    return load(text, json.loads(json.dumps(manifest)), {"plus_one": plus_one})


def test_text_is_readable() -> None:
    program = Program([slot("x", 4, 4)], [kernel("x", slot("v", 4, 4))], ["v"])
    assert rendered(program)[0] == (
        "# a test\n"
        "def run(inputs):\n"
        "    (x,) = inputs\n"
        "    # model.py:7 in layers.0\n"
        "    v = empty_cpu((4, 4), (4, 1), f32)\n"
        "    plus_one(x, v)\n"
        "    return (v,)\n"
    )


@pytest.mark.parametrize("kept", [0, memory.KEPT])
def test_chain_reuses_memory_but_not_for_outputs(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KEPT", kept)
    steps = [kernel(f"v{i}", slot(f"v{i + 1}", 4, 4)) for i in range(5)]
    program = Program([slot("v0", 4, 4)], [*steps], ["v5"])
    text, manifest = rendered(program)
    # Two in turn, and one of its own for the output.
    assert text.count("empty_cpu(") == (1 if kept else 3)
    assert len(manifest["kept"]) == (2 if kept else 0)
    plan = loaded(program)
    x = torch.randn(4, 4)
    before = x.clone()
    (out,) = plan.run((x,))
    assert torch.equal(out, before + 1 + 1 + 1 + 1 + 1) and torch.equal(x, before)
    (again,) = plan.run((x,))
    assert again.data_ptr() != out.data_ptr()


def test_calls_at_once_have_buffers_of_their_own() -> None:
    steps = [kernel("x", slot("a", 16)), kernel("a", slot("b", 16))]
    text, manifest = render(Program([slot("x", 16)], [*steps], ["b"]), {id(NEST): "plus_one"})
    depth, inner = 0, torch.full((16,), 100.0)

    def meddling(x: torch.Tensor, out: torch.Tensor) -> None:
        """Calls the plan once more between its two kernels, as another thread might."""
        nonlocal depth
        depth += 1
        if depth == 2:
            assert torch.equal(plan.run((inner,))[0], inner + 2)
        plus_one(x, out)

    plan = load(text, manifest, {"plus_one": meddling})
    x = torch.zeros(16)
    assert torch.equal(plan.run((x,))[0], x + 2) and depth == 4


def test_what_is_kept_is_small_and_seen_by_no_library_call() -> None:
    steps = [
        kernel("x", slot("called", 16)),
        kernel("x", slot("large", memory.KEPT)),
        kernel("x", slot("small", 16)),
        Alias("small", slot("view", 4, 4)),
        kernel("view", slot("out", 16)),
        RunExtern("aten.neg", (Ref("called"),), {}, (slot("minus", 16),)),
        kernel("large", slot("end", 16)),
    ]
    outputs = ["out", "minus", "end"]
    assert [*memory_plan(Program([slot("x", 16)], steps, outputs)).kept] == ["small"]


def test_a_plan_that_is_left_can_be_called_again() -> None:
    steps = [
        kernel("x", slot("a", 1)),
        Expect("a", 2.0, HERE),
        kernel("a", slot("b", 1)),
    ]
    plan = loaded(Program([slot("x", 1)], steps, ["b"]))
    with pytest.raises(Leave):
        plan.run((torch.zeros(1),))
    assert [plan.run((torch.ones(1),))[0].item() for _ in range(2)] == [3.0, 3.0]


def test_view_keeps_memory_alive() -> None:
    steps = [
        kernel("a", slot("b", 4, 4)),
        Alias("b", slot("c", 16)),
        kernel("a", slot("d", 4, 4)),
        kernel("d", slot("e", 4, 4)),
        RunExtern("aten.add.Tensor", (Ref("c"), 5), {}, (slot("f", 16),)),
    ]
    plan = loaded(Program([slot("a", 4, 4)], steps, ["e", "f"]))
    x = torch.zeros(4, 4)
    e, f = plan.run((x,))
    assert torch.equal(e, x + 2) and torch.equal(f, torch.full((16,), 6.0))


def test_library_call_that_may_alias_keeps_memory_alive() -> None:
    steps = [
        kernel("a", slot("b", 16)),
        RunExtern("aten.dropout", (Ref("b"), 0.5, False), {}, (slot("c", 16),)),  # gives b itself
        kernel("a", slot("d", 16)),
        kernel("d", slot("e", 16)),
        kernel("e", slot("g", 16)),
        RunExtern("aten.add.Tensor", (Ref("c"), Ref("g")), {}, (slot("f", 16),)),
    ]
    plan = loaded(Program([slot("a", 16)], steps, ["f"]))
    assert torch.equal(plan.run((torch.zeros(16),))[0], torch.full((16,), 4.0))


def test_outputs_never_share_with_inputs_or_each_other() -> None:
    steps = [kernel("a", slot("b", 4, 4)), Alias("b", slot("c", 16)), Alias("a", slot("d", 16))]
    plan = loaded(Program([slot("a", 4, 4)], steps, ["b", "b", "c", "d", "a"]))
    x = torch.randn(4, 4)
    outputs = plan.run((x,))
    pointers = [t.untyped_storage().data_ptr() for t in (*outputs, x)]
    assert len(set(pointers)) == len(pointers)
    assert torch.equal(outputs[3], x.view(16)) and torch.equal(outputs[4], x)


def test_swap_through_writes() -> None:
    steps = [Alias("a", slot("va", 4)), Alias("b", slot("vb", 4))]
    plan = loaded(Program([slot("a", 4), slot("b", 4)], steps, ["va"], [("a", "vb"), ("b", "va")]))
    a, b = torch.arange(4.0), torch.arange(4.0, 8.0)
    (old,) = plan.run((a, b))
    assert (
        a.tolist() == [4, 5, 6, 7] and b.tolist() == [0, 1, 2, 3] and old.tolist() == [0, 1, 2, 3]
    )


def test_transposed_write_to_itself() -> None:
    steps = [Alias("a", Slot("t", "f32", (3, 3), (1, 3)))]
    x = torch.arange(9.0).view(3, 3)
    expected = x.t().clone()
    assert loaded(Program([slot("a", 3, 3)], steps, [], [("a", "t")])).run((x,)) == ()
    assert torch.equal(x, expected)


@pytest.mark.parametrize("number", [1.0, 0.0, float("nan"), float("inf"), -0.0])
def test_expected_number(number: float) -> None:
    plan = loaded(Program([slot("a")], [Expect("a", number, HERE)], [], [("a", "a")]))
    assert plan.run((torch.tensor(number),)) == ()
    with pytest.raises(Leave) as caught:
        plan.run((torch.tensor(2.0),))
    leave = caught.value
    assert leave.reason.place == "model.py:7 in layers.0"
    assert leave.failure == Failure(leave.reason.place, repr(number), "2.0", "data")
    assert leave.decision == (0, 2.0) and f"is 2.0, recorded was {number!r}" in leave.reason.text


def test_a_plan_that_is_left_for_no_number_says_what_is_so() -> None:
    x = torch.zeros(4)
    with pytest.raises(Leave) as caught:
        apart((x,), (16,), (x[1:],), (12,))
    text = "a tensor that is written lies in memory of another"
    assert caught.value.failure == Failure("", "", text, "data") and caught.value.decision is None


def test_zero_has_a_sign() -> None:
    with pytest.raises(Leave):
        loaded(Program([slot("a")], [Expect("a", 0.0)])).run((torch.tensor(-0.0),))


def test_leaving_writes_nothing_and_restores_random_state() -> None:
    steps = [
        RunExtern("aten.rand", ([4],), {}, (slot("r", 4),)),
        RunExtern("aten.sum", (Ref("a"),), {}, (slot("s"),)),
        Expect("s", 6.0),
        kernel("r", slot("v", 4)),
    ]
    plan = loaded(Program([slot("a", 4)], steps, ["r"], [("a", "v")]))
    x = torch.arange(4.0)
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    assert torch.equal(plan.run((x,))[0], expected)
    wrong = torch.ones(4)
    torch.manual_seed(1)
    with pytest.raises(Leave):
        plan.run((wrong,))
    assert torch.equal(wrong, torch.ones(4))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("values", "wrap", "holds"),
    [
        ([0, 3], True, True),
        ([-4, 3], True, True),
        ([4], True, False),
        ([-5], True, False),
        ([-1], False, False),
        ([], False, True),
    ],
)
def test_index_check(values: list[int], wrap: bool, holds: bool) -> None:
    plan = loaded(Program([slot("i", len(values), dtype="i64")], [CheckIndex("i", 4, wrap)]))
    tensor = torch.tensor(values, dtype=torch.int64)
    if holds:
        assert plan.run((tensor,)) == ()
    else:
        with pytest.raises(Leave, match="outside"):
            plan.run((tensor,))


def test_library_call_with_several_results_and_constants() -> None:
    steps = [
        RunExtern("aten.max.dim", (Ref("a"), 1), {}, (slot("m", 4), slot("i", 4, dtype="i64"))),
        RunExtern(
            "aten._to_copy", (Ref("m"),), {"dtype": torch.float64}, (slot("d", 4, dtype="f64"),)
        ),
        RunExtern("aten.clamp", (Ref("d"), float("-inf"), 0.5), {}, (slot("c", 4, dtype="f64"),)),
    ]
    x = torch.randn(4, 4)
    i, c = loaded(Program([slot("a", 4, 4)], steps, ["i", "c"])).run((x,))
    assert torch.equal(i, x.max(1).indices) and torch.equal(
        c, x.max(1).values.double().clamp(max=0.5)
    )


def test_library_call_with_other_strides_is_laid_out() -> None:
    out = Slot("c", "f32", (4, 3), (1, 4))
    steps = [RunExtern("aten.clone", (Ref("a"),), {}, (out,))]
    x = torch.randn(4, 3)
    (c,) = loaded(Program([slot("a", 4, 3)], steps, ["c"])).run((x,))
    assert c.stride() == (1, 4) and torch.equal(c, x)


def test_awkward_names() -> None:
    names = ["inputs", "f32", "plus_one", "class", "layers.0.w", "empty_cpu", "aten_mm", "view"]
    program = Program([slot(n, 2) for n in names], [kernel("class", slot("run", 2))], ["run"])
    tensors = tuple(torch.full((2,), float(i)) for i in range(len(names)))
    assert loaded(program).run(tensors)[0].tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
    "text",
    [
        "import os\ndef run(inputs):\n    return ()\n",
        "def run(inputs):\n    import os\n    return ()\n",
        "def run(inputs):\n    return inputs.__class__\n",
        "def run(inputs):\n    return open('/etc/passwd')\n",
        "def run(inputs):\n    def inner(): return ()\n    return inner()\n",
        "def run(inputs):\n    return tuple(x for x in inputs)\n",
        "x = 1\n",
    ],
)
def test_text_that_does_more_than_a_plan_is_refused(text: str) -> None:
    _, manifest = render(Program([slot("a", 2)], [], ["a"]), {})
    with pytest.raises(ValueError, match="plan"):
        load(text, manifest, {})


def test_program_that_cannot_be_spelled() -> None:
    with pytest.raises(ValueError, match="before it is defined"):
        render(Program([], [kernel("nowhere", slot("v", 2))], ["v"]), {id(NEST): "plus_one"})
    with pytest.raises(ValueError, match="cannot spell"):
        step: Any = RunExtern("aten.clone", (object(),), {}, ())
        render(Program([], [step], []), {})


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Kernels and views in random order over shapes of one to three sizes, some values returned."""
    made = [slot("a", 16)]
    steps: list[Any] = []
    for number in range(draw(st.integers(1, 14))):
        source = draw(st.sampled_from(made))
        sizes = draw(st.sampled_from([(16,), (4, 4), (2, 8)]))
        out = slot(f"v{number}", *sizes)
        steps.append(
            kernel(source.name, out) if draw(st.integers(0, 3)) else Alias(source.name, out)
        )
        made.append(out)
    outputs = draw(st.lists(st.sampled_from([s.name for s in made]), min_size=1, max_size=4))
    flat = [s.name for s in made if s.sizes == (16,)]
    writes = [("a", draw(st.sampled_from(flat)))] if draw(st.booleans()) else []
    return Program([slot("a", 16)], steps, outputs, writes)


def without_reuse(program: Program, a: torch.Tensor) -> list[torch.Tensor]:
    """What the program means, each value in memory of its own."""
    values = {"a": a.clone()}
    for step in program.steps:
        if isinstance(step, RunKernel):
            (out,) = step.outs
            values[out.name] = (values[step.args["x"]] + 1).reshape(out.sizes)
        elif isinstance(step, Alias):
            values[step.out.name] = values[step.base].reshape(step.out.sizes)
    return [values[name] for name in program.outputs] + [values[v] for _, v in program.writes]


@given(programs(), st.booleans())
def test_random_programs(program: Program, keep: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "KEPT", memory.KEPT if keep else 0)
        plan = loaded(program)
    a = torch.arange(16.0)
    expected = without_reuse(program, a)
    outputs = plan.run((a,))
    plan.run((torch.full((16,), 1e6),))  # writes to none of what the first call gave
    found = [*outputs, *([a] if program.writes else [])]
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape and torch.equal(got, want)
    pointers = [t.untyped_storage().data_ptr() for t in (*outputs, a)]
    assert len(set(pointers)) == len(pointers)


def test_peak_is_counted() -> None:
    steps = [kernel(f"v{i}", slot(f"v{i + 1}", 16)) for i in range(6)]
    found = memory_plan(Program([slot("v0", 16)], [*steps], ["v6"]))
    assert (found.peak, found.allocated) == (3 * 64, 64)  # two buffers are kept


def test_the_profiler_sees_kernels_by_name(fresh_cache: Any) -> None:
    f = tracejit.compile(lambda x: torch.softmax(x * 2, -1) + 1, backend=BACKEND, wait=True)
    x = torch.randn(4, 8)
    for _ in range(3):
        f(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.testing.assert_close(f(x), torch.softmax(x * 2, -1) + 1)
    names = {event.key for event in profile.key_averages()}
    assert "tracejit::mul_softmax_add" in names
    assert any(name.startswith("tracejit plan: ") for name in names)
