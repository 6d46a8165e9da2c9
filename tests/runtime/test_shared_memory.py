"""Inputs that lie in one memory, some of them written: values, memory, aliasing and versions are
eager's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tracejit
from tests.executors import BACKEND, TARGET
from tracejit.api import dispatcher_of
from tracejit.ops.strides import apart

ROOT = Path(__file__).resolve().parents[2]
Place = tuple[tuple[int, ...], tuple[int, ...], int]  # sizes, strides, offset
SIZE = 24


def memory(size: int = SIZE, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(1, size + 1).to(dtype)


def placed(base: torch.Tensor, places: Any) -> list[torch.Tensor]:
    """Tensors on one storage, each with a version counter of its own."""
    return [base.data.as_strided(*place) for place in places]


def tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [t for item in tree for t in tensors(item)] if isinstance(tree, (list, tuple)) else []


def seen(given: Any, result: Any) -> list[Any]:
    """All that a caller can see: values, strides, versions, and which tensors share what."""
    found = tensors([given, result])
    homes: dict[int, int] = {}
    first: dict[int, int] = {}
    theirs = {t.untyped_storage()._cdata for t in tensors(given)}
    return [
        (
            t.tolist(), t.stride(), first.setdefault(id(t), n),
            homes.setdefault(t.untyped_storage()._cdata, len(homes)),
            (t.storage_offset(), t._is_view()) if t.untyped_storage()._cdata in theirs else None,
        )
        for n, t in enumerate(found)
    ]  # fmt: skip


def same(
    fn: Callable[..., Any],
    makes: Any,
    *,
    compiled: bool = True,
    versions: bool = True,
    backend: str = BACKEND,
) -> Any:
    """Eager and compiled calls with what each of `makes` makes, twice, do the same."""
    run = tracejit.compile(fn, backend=backend, wait=True)
    for make in makes:
        for _ in range(2):
            plain, given = make(), make()
            expected = outcome(fn, plain)
            found = outcome(run, given)
            assert seen(plain, expected) == seen(given, found)
            if versions:
                assert [bumped(t) for t in tensors(plain)] == [bumped(t) for t in tensors(given)]
            for left, right in zip(tensors(plain), tensors(given), strict=True):
                left, right = (t.new_empty(0).set_(t.untyped_storage()) for t in (left, right))
                assert torch.equal(left, right)
    dispatcher = dispatcher_of(run)
    assert dispatcher is not None
    reasons = [r for r in dispatcher.reasons if r.kind not in ("entries", "raised")]
    assert not compiled or not reasons, reasons
    assert all(entry.error is None for entry in dispatcher.entries)
    return dispatcher


def outcome(fn: Any, args: Any) -> Any:
    try:
        return fn(*args)
    except RuntimeError as error:
        return [type(error).__name__]


def bumped(tensor: torch.Tensor) -> bool:
    return tensor._version > 0


# --- named programs ---


def slices(*bounds: Any) -> Callable[[], Any]:
    """Slices of one memory, each (start, end) or (start, end, step)."""

    def make() -> Any:
        base = memory()
        return [base[slice(*b)] if b else base for b in bounds]

    return make


def square(turned: bool) -> Callable[[], Any]:
    def make() -> Any:
        x = memory(9).view(3, 3)
        return [x, x.t() if turned else x.view(9)]

    return make


def write_first(x: Any, y: Any) -> Any:
    before = y.sum()
    x.mul_(2)
    return before, x + y[: x.shape[0]], y * 2


def write_second(x: Any, y: Any) -> Any:
    y.add_(1)
    return x * 2, y * 3


def write_both(x: Any, y: Any) -> Any:
    x.mul_(2)
    y.add_(1)
    x.sub_(y.sum())
    return x.sum(), y.sum()


def write_late(x: Any, y: Any) -> Any:
    """The second is met only after the first was written, twice."""
    x.mul_(2)
    x[0] = 7
    return y + 1


def write_views(x: Any, y: Any) -> Any:
    x[1:].mul_(2)
    y[0].fill_(5)
    x[-1:].add_(y[:1])
    return x * 1, y * 1


def write_out(x: Any, y: Any) -> Any:
    torch.add(x, 1, out=x)
    torch.mul(y, 2, out=y)
    return x + x, y + y


def results(x: Any, y: Any) -> Any:
    x.add_(1)
    return x, y, x[1:], y[:2], x * 2


def turned(x: Any, y: Any) -> Any:
    y[1:].mul_(2)
    x[0].add_(y.sum())
    return x + 1, y + 1


PAIRS = {
    "the same twice": slices((), ()),
    "a part": slices((), (1, None)),
    "two parts": slices((0, 6), (3, 9)),
    "parts that touch": slices((0, 6), (6, 9)),
    "parts with a gap": slices((0, 6), (12, 18)),
    "every second": slices((0, 12, 2), (1, 12, 2)),
    "every second and all": slices((0, 12, 2), (2, 12)),
    "an empty part": slices((0, 6), (3, 3)),
}
PROGRAMS = [write_first, write_second, write_both, write_late, write_views, write_out, results]


@pytest.mark.parametrize("fn", PROGRAMS)
@pytest.mark.parametrize("pair", [name for name in PAIRS if "empty" not in name])
def test_pairs(fn: Any, pair: str) -> None:
    same(fn, [PAIRS[pair]])


@pytest.mark.parametrize("fn", [write_second, write_both, write_late, write_out])
def test_empty(fn: Any) -> None:
    same(fn, [PAIRS["an empty part"], PAIRS["a part"]])


@pytest.mark.parametrize("fn", [turned, results, write_both])
@pytest.mark.parametrize("turn", [True, False])
def test_squares(fn: Any, turn: bool) -> None:
    same(fn if turn else results, [square(turn)])


def test_other_overlaps() -> None:
    """A plan runs only for the overlap it was made for, in whichever part of the memory."""
    kinds = [
        slices((0, 6), (3, 9)),
        slices((5, 11), (8, 14)),  # the same elsewhere
        slices((3, 9), (0, 6)),
        slices((0, 6), (4, 10)),
        lambda: [memory()[:6], memory()[:6]],
        slices((0, 6), (6, 12)),
        slices((18, 24), (12, 18)),
    ]
    dispatcher = same(write_both, kinds)
    assert len(dispatcher.entries) == len(kinds) - 1


def test_the_end_of_a_storage() -> None:
    """The same sizes and distances in a storage that ends sooner."""

    def make(size: int, at: int) -> Any:
        def made() -> Any:
            base = memory(size)
            return [base[at : at + 3], base[at + 6 : at + 9]]

        return made

    same(write_both, [make(24, 3), make(9, 0), make(12, 3)])


def test_objects_of_two_kinds() -> None:
    """The same tensor twice is one input; an alias of it is another."""

    def twice() -> Any:
        x = memory()
        return [x, x]

    def detached() -> Any:
        x = memory()
        return [x, x.detach()]

    def viewed() -> Any:
        x = memory()
        return [x, x.view(24)]

    same(write_both, [twice, detached, viewed, slices((), ()), twice])


def test_three() -> None:
    def fn(x: Any, y: Any, z: Any) -> Any:
        y.mul_(2)
        first = z.sum()
        x.add_(1)
        return first, y * 1, z * 1

    orders = [((0, 6), (4, 10), ()), ((), (2, 4), (3, 9)), ((0, 4), (8, 12), (2, 10))]
    same(fn, [slices(*order) for order in orders])


def test_islands() -> None:
    """Parts that do not touch need no span, and what joins two of them later needs one."""

    def apart(x: Any, y: Any) -> Any:
        x.mul_(2)
        y.mul_(x.sum())
        return x + y

    def joined(x: Any, y: Any, z: Any) -> Any:
        x.mul_(2)
        y.mul_(3)
        z.add_(1)
        return x + y

    dispatcher = same(apart, [slices((0, 6), (6, 12))])
    assert not any(node.check == "memory" for node in dispatcher.entries[0].guards.nodes)
    same(joined, [slices((0, 6), (8, 14), (4, 10)), slices((0, 6), (8, 14), (14, 20))])


class Tied(torch.nn.Module):
    """A parameter, a view of it, a cache and a view of that."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(memory(16).view(4, 4), requires_grad=False)
        self.row = self.weight[1]
        self.register_buffer("cache", torch.zeros(4, 4))
        self.register_buffer("last", self.cache[3], persistent=False)

    def forward(self, x: Any, at: Any) -> Any:
        before = self.row * x
        self.weight.add_(1)
        self.row.mul_(2)
        self.cache[:-1] = self.cache[1:].clone()
        self.last.copy_(x)
        at.add_(1)
        return before, self.weight @ x, self.cache.sum(0), self.last


def test_module() -> None:
    plain, module = Tied(), Tied()
    run = tracejit.compile(module, backend=BACKEND, wait=True)
    for step in range(5):
        x = memory(4) + step
        expected, found = (m(x, m.cache[2]) for m in (plain, run))
        assert seen([], expected[:3]) == seen([], found[:3])
        assert found[3] is module.last
        assert torch.equal(plain.weight, module.weight) and torch.equal(plain.cache, module.cache)
    dispatcher = dispatcher_of(run)
    assert dispatcher is not None and not dispatcher.reasons and len(dispatcher.entries) == 1


def attend(cache: Any, part: Any, new: Any, at: Any) -> Any:
    part[:, at] = new
    return torch.softmax(cache.sum(-1), 0), part.mean()


def test_cache_and_its_layers() -> None:
    """A slice of a cache, at one place after another: one plan for all."""

    def make(layer: int) -> Any:
        def made() -> Any:
            caches = memory(2 * 3 * 4 * 5).view(2, 3, 4, 5)
            one = caches[layer]
            return [one, one[:2], torch.ones(2, 5) * 9, torch.tensor(2)]

        return made

    dispatcher = same(attend, [make(0), make(1), make(0)])
    assert len(dispatcher.entries) == 1


def test_gaps_are_left_alone() -> None:
    """What lies between inputs is read with them at most, and never written back."""

    def fn(x: Any, y: Any) -> Any:
        x.mul_(2)
        y.add_(1)
        return x.sum()

    base = memory().view(4, 6)
    run = tracejit.compile(fn, backend=BACKEND, wait=True)
    for _ in range(3):
        run(base[:, :2], base[:, 1:3])
    (entry,) = dispatcher_of(run).entries  # type: ignore[union-attr]
    text = entry.bound.stored.text
    assert text.count("copy_(") == 2 and "touched" not in text


def test_what_is_refused() -> None:
    def overlapping(x: Any, y: Any) -> Any:
        x.add_(1)
        return y

    def kinds() -> Any:
        x = memory()
        return [x, x.view(torch.int32)]

    dispatcher = same(overlapping, [kinds], compiled=False)
    assert "two dtypes" in dispatcher.reasons[0].text

    def needed() -> Any:
        x = memory().requires_grad_()
        return [x.detach(), x]

    dispatcher = same(overlapping, [needed], compiled=False)
    assert dispatcher.reasons[0].kind == "autograd"
    with torch.no_grad():
        same(overlapping, [needed])


def test_saved_tensors_notice_the_write() -> None:
    """Autograd's check of in-place changes: the version counter of each tensor written to."""

    def fn(x: Any, y: Any) -> Any:
        x.mul_(2)
        return y + 1

    run = tracejit.compile(fn, backend=BACKEND, wait=True)
    for written in (0, 1):
        for _ in range(3):
            base = memory()
            given = [base.data[:6], base.data[3:9]]
            weight = torch.ones(6, requires_grad=True)
            loss = (weight * given[written]).sum()
            run(*given)
            if written == 0:
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    loss.backward()
            else:
                loss.backward()


def test_exceptions_leave_memory_as_eager_does() -> None:
    def fn(x: Any, y: Any, i: Any) -> Any:
        x.mul_(2)
        return y[i]

    def make(index: int) -> Any:
        return lambda: [*slices((0, 6), (3, 9))(), torch.tensor([0, index])]

    run = tracejit.compile(fn, backend=BACKEND, wait=True)
    for index in (1, 2, 99, 2):
        plain, given = make(index)(), make(index)()
        if index == 99:
            for f, args in ((fn, plain), (run, given)):
                with pytest.raises(IndexError):
                    f(*args)
        else:
            assert torch.equal(fn(*plain), run(*given))
        assert seen(plain, []) == seen(given, [])


# --- calls that read what they write ---


def rows() -> Any:
    return [memory(16).view(4, 4)[:3, :3]]


def turn_in_place(x: Any) -> Any:
    return x.add_(x.t())


def shift(x: Any) -> Any:
    return x[1:].add_(x[:-1])


def halves(x: Any) -> Any:
    x[:, ::2].mul_(x[:, 1::2])
    x[:, :2].sub_(x[:, 2:4])
    return x + 1


def itself(x: Any) -> Any:
    x.mul_(x)
    torch.add(x, x, out=x)
    return x + 1


def crosswise(x: Any) -> Any:
    torch._foreach_add_([x[0], x[1]], [x[1], x[0]])


def one_for_all(x: Any) -> Any:
    torch._foreach_mul_([x[0], x[1]], [x[0], x[0]])


def twice_in_a_list(x: Any) -> Any:
    torch._foreach_mul_([x[0], x[0]], 2)


def listed(x: Any) -> Any:
    torch._foreach_add_([x[0], x[1]], [x[0], x[2]])
    return x + 1


def two_results(x: Any) -> Any:
    torch.max(x[2:].clone(), 0, out=(x[0], torch.empty(4, dtype=torch.long)))
    torch.aminmax(x[2:], dim=0, out=(x[0], x[1]))
    return x + 1


@pytest.mark.parametrize("fn", [turn_in_place, shift])
def test_order_of_elements_shows(fn: Any) -> None:
    """Eager goes over elements in an order, and reads what it has written."""
    dispatcher = same(fn, [rows], compiled=False)
    assert "reads elements that it writes" in dispatcher.reasons[0].text


@pytest.mark.parametrize("fn", [crosswise, one_for_all, twice_in_a_list])
def test_order_of_tensors_shows(fn: Any) -> None:
    # Under a dispatch mode torch does not count these writes.
    dispatcher = same(fn, [lambda: [memory(16).view(4, 4)]], compiled=False, versions=False)
    assert dispatcher.reasons[0].kind == "mutation"


@pytest.mark.parametrize("fn", [halves, itself, listed, two_results])
def test_order_does_not_show(fn: Any) -> None:
    same(fn, [lambda: [memory(16).view(4, 4)]], versions=fn is not listed)


def windows(x: Any) -> Any:
    x.unfold(0, 3, 1)[1].add_(1)
    return x * 2


def row_of_repeated(x: Any) -> Any:
    x[0].add_(1)
    return x * 2


@pytest.mark.parametrize(
    ("fn", "make"),
    [
        (windows, lambda: [memory(6)]),
        (row_of_repeated, lambda: [memory(4).expand(3, 4)]),
        (row_of_repeated, lambda: [memory(8).as_strided((3, 4), (2, 1))]),
    ],
)
def test_elements_with_several_places(fn: Any, make: Any) -> None:
    """A write to a part of a view in which elements repeat is seen in its other parts."""
    dispatcher = same(fn, [make], compiled=False)
    assert dispatcher.reasons[0].text == "a write to elements that overlap"


def test_one_number_for_all() -> None:
    """What is written lies in memory otherwise than what it is written to."""

    def fn(x: Any, y: Any) -> Any:
        y.copy_(x.sum().expand(1, 3))
        first = x * 2
        y.t().copy_((y + 1).clone().t())
        return first, x * 2, y * 2

    same(fn, [lambda: placed(memory(), [((2,), (2,), 0), ((1, 3), (3, 1), 0)])])


def test_repeated_and_read() -> None:
    def make() -> Any:
        base = memory()
        return [base[:6], base[2:5].expand(2, 3), base.as_strided((3, 4), (2, 1), 1)]

    same(lambda x, y, z: (x.mul_(2), y + 1, z.sum(), x[1:].sub_(1), y * 2, z * 2), [make])


# --- another process ---

WARM = """
import json, sys, torch, tracejit
from tracejit.api import dispatcher_of

@tracejit.compile(backend=sys.argv[1], wait=True)
def fn(x, y):
    x.mul_(2)
    y.add_(1)
    return x.sum() + y.sum()

found = []
for start in (0, 2, 1, 2, 2):
    base = torch.arange(24.0)
    found.append([fn(base[:6], base[start : start + 6]).item(), base.tolist()])
print(json.dumps([found, [e.source for e in dispatcher_of(fn).entries]]))
"""


def test_warm_process(tmp_path: Path) -> None:
    """Plans are found on disk, each for its overlap."""
    program = tmp_path / "program.py"
    program.write_text(WARM)
    environment = {
        **os.environ,
        "TRACEJIT_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, str(program), BACKEND],
                env=environment, capture_output=True, text=True, check=True,
            ).stdout
        )
        for _ in range(2)
    ]  # fmt: skip
    assert runs[0][0] == runs[1][0]
    for (value, after), start in zip(runs[0][0], (0, 2, 1, 2, 2), strict=True):
        base = torch.arange(24.0)
        x, y = base[:6], base[start : start + 6]
        x.mul_(2)
        y.add_(1)
        assert value == x.sum() + y.sum() and after == base.tolist()
    assert set(runs[1][1]) == {"disk"} and len(runs[1][1]) == 3


# --- built ahead of time ---


def scaled_and_summed(x: Any, y: Any) -> Any:
    x.mul_(2)
    return y.sum()


@pytest.mark.parametrize("built", [((0, 6), (3, 9)), ((0, 6), (6, 12))])
def test_bundles(built: Any, tmp_path: Path, fresh_cache: Path) -> None:
    """A bundle's plan is for the overlap that it was built with, too."""
    example = tuple(slices(*built)())
    tracejit.build(scaled_and_summed, example, target=TARGET, out=tmp_path / "b")
    tracejit.load(tmp_path / "b")
    kinds = [built, ((0, 6), (3, 9)), ((0, 6), (2, 8)), ((0, 6), (6, 12)), ((0, 6), (0, 6))]
    dispatcher = same(scaled_and_summed, [slices(*kind) for kind in kinds])
    assert [e.source for e in dispatcher.entries].count("disk") == 1


def test_inference_mode() -> None:
    with torch.inference_mode():
        same(scaled_and_summed, [slices((0, 6), (3, 9))], versions=False)


# --- random programs ---


def part_of(x: Any) -> Any:
    return x[..., 1:] if x.dim() and x.shape[-1] > 1 else x


def set_all(x: Any, y: Any) -> None:
    x[...] = 3


READS: dict[str, Callable[[Any, Any], Any]] = {
    "twice": lambda x, y: x * 2,
    "sum": lambda x, y: x.sum() + y.sum(),
    "part": lambda x, y: part_of(x) + 1,
    "itself": lambda x, y: x,
    "a view": lambda x, y: part_of(x),
}
WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "mul_": lambda x, y: x.mul_(2),
    "add_": lambda x, y: x.add_(y.sum()),
    "part": lambda x, y: part_of(x).sub_(1),
    "select": lambda x, y: x[-1].neg_() if x.dim() and x.shape[0] else x,
    "copy": lambda x, y: x.copy_(y.clone().sum().expand(x.shape)),
    "out": lambda x, y: torch.add(y.clone().sum(), x * 1, out=x),
    "set": set_all,
}


def program(steps: Any, *inputs: Any) -> Any:
    found = []
    for name, write, at, other in steps:
        x, y = inputs[at % len(inputs)], inputs[other % len(inputs)]
        if write:
            WRITES[name](x, y)
        else:
            found.append(READS[name](x, y))
    return found


@st.composite
def places(draw: Any) -> Place:
    """A view: at most two dimensions, none of whose elements overlap."""
    first = draw(st.integers(0, SIZE - 1))
    left = SIZE - first
    kind = draw(st.sampled_from(["line", "steps", "rows", "turned"]))
    if kind in ("line", "steps"):
        step = 1 if kind == "line" else draw(st.integers(1, 3))
        return (draw(st.integers(0, -(-left // step))),), (step,), first
    width = draw(st.integers(1, left))
    row = draw(st.integers(width, max(width, min(left, 8))))
    rows = draw(st.integers(1, (left - width) // row + 1))
    if kind == "rows":
        return (rows, width), (row, 1), first
    return (width, rows), (1, row), first


steps = st.lists(
    st.tuples(
        st.sampled_from([(n, False) for n in READS] + [(n, True) for n in WRITES]),
        st.integers(0, 3),
        st.integers(0, 3),
    ).map(lambda t: (*t[0], *t[1:])),
    min_size=1,
    max_size=7,
).map(tuple)


def elements(place: Place) -> set[int]:
    return set(torch.arange(2 * SIZE).as_strided(*place).flatten().tolist())


@settings(max_examples=1000)
@given(places(), places())
def test_apart(one: Place, other: Place) -> None:
    """What is said to be apart is."""
    if elements(one) and elements(other) and apart(one, other):
        assert not elements(one) & elements(other)


@pytest.mark.parametrize(
    ("one", "other", "are"),
    [
        (((4, 2), (4, 1), 0), ((4, 2), (4, 1), 2), True),
        (((4, 2), (4, 1), 0), ((4, 2), (4, 1), 1), False),
        (((6,), (2,), 0), ((6,), (2,), 1), True),
        (((6,), (2,), 0), ((6,), (3,), 1), False),
        (((2, 2), (8, 2), 0), ((2, 2), (8, 2), 1), True),
        (((3, 3), (4, 1), 0), ((3, 3), (1, 4), 0), False),
        (((3,), (1,), 3), ((3,), (1,), 0), True),
        (((3, 2), (0, 1), 0), ((2,), (1,), 1), False),
    ],
)
def test_some_that_are_apart(one: Place, other: Place, are: bool) -> None:
    assert apart(one, other) is are is apart(other, one)


@settings(max_examples=150)
@given(st.data())
def test_random_programs(data: Any) -> None:
    """Eager and compiled leave the same in all of the memory, also later with other views."""
    chosen = data.draw(steps)
    count = data.draw(st.integers(2, 4))
    calls = data.draw(
        st.lists(st.lists(places(), min_size=count, max_size=count), min_size=1, max_size=3)
    )

    def make(call: Any) -> Callable[[], Any]:
        return lambda: [chosen, *placed(memory(), call)]

    same(program, [make(call) for call in [*calls, calls[0]]], backend="reference")


@settings(max_examples=20)
@given(st.data())
def test_random_programs_as_kernels(data: Any) -> None:
    chosen = data.draw(steps)
    call = data.draw(st.lists(places(), min_size=2, max_size=3))
    same(program, [lambda: [chosen, *placed(memory(), call)]])
