"""Views and writes become functional: every way into a view, every write, chains of three."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.trace.replay import check, refused

Change = Callable[..., Any]

VIEWS: dict[str, Change] = {
    "slice": lambda x: x[1:3],
    "slice of dim 1": lambda x: x[:, 1:],
    "slice with a step": lambda x: x[:, ::2],
    "slice from the end": lambda x: x[-3:-1],
    "select": lambda x: x[1],
    "select from the end": lambda x: x.select(-1, -1),
    "transpose": lambda x: x.transpose(0, 1),
    "permute": lambda x: x.permute(*range(x.dim() - 1, -1, -1)),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "squeeze all": lambda x: x[:1].squeeze(),
    "view": lambda x: x.view(-1) if x.is_contiguous() else x.unsqueeze(0),
    "reshape": lambda x: x.reshape(2, -1) if x.is_contiguous() else x[1:],
    "unflatten": lambda x: x.unflatten(0, (2, -1)) if x.shape[0] % 2 == 0 else x[:1],
    "diagonal": lambda x: x.diagonal() if x.dim() > 1 else x[1:],
    "diagonal above": lambda x: x.diagonal(1) if x.dim() > 1 else x[1:],
    "diagonal below": lambda x: x.diagonal(-1, 1, 0) if x.dim() > 1 else x[:-1],
    "detach": lambda x: x.detach(),
    "alias": lambda x: x.view_as(x),
    "split": lambda x: x.split(2)[-1],
    "split with sizes": lambda x: x.split([1, x.shape[0] - 1])[1],
    "chunk": lambda x: x.chunk(2, -1)[0],
    "unbind": lambda x: x.unbind()[1],
    "tensor_split": lambda x: x.tensor_split(3)[1],
    "narrow": lambda x: x.narrow(0, 1, 2),
    "expand of nothing": lambda x: x.expand(1, *x.shape),
    "unfold without overlap": lambda x: x.unfold(0, 2, 2),
    "as_strided": lambda x: x.as_strided((2, 2), (3, 1), 1 + x.storage_offset()),
    "data": lambda x: x.data,
    "movedim": lambda x: x.movedim(0, -1),
    "real dtype": lambda x: x.view(torch.int32).view(torch.float32),
}


def set_all(v: torch.Tensor) -> None:
    v[...] = 4.0


def set_some(v: torch.Tensor) -> None:
    v[v > 0] = 4.0


WRITES: dict[str, Change] = {
    "add_": lambda v: v.add_(1),
    "mul_ by a tensor": lambda v: v.mul_(v.flip(0) if v.dim() else v),
    "copy_": lambda v: v.copy_(torch.ones_like(v)),
    "copy_ of one number": lambda v: v.copy_(torch.tensor(3)),
    "fill_": lambda v: v.fill_(2),
    "zero_": lambda v: v.zero_(),
    "clamp_": lambda v: v.clamp_(-0.5, 0.5),
    "masked_fill_": lambda v: v.masked_fill_(v > 0, 5.0),
    "setitem": set_all,
    "setitem by mask": set_some,
    "relu_": lambda v: torch.relu_(v),
    "bernoulli_": lambda v: v.bernoulli_(0.5) if v.is_contiguous() else v.neg_(),
    "out=": lambda v: torch.sin(v.clone(), out=v),
    "addcmul_": lambda v: v.addcmul_(v, v, value=2),
    "foreach": lambda v: torch._foreach_mul_([v], 3.0),
}


def on_fresh(view: Change, write: Change) -> Change:
    def fn(x: torch.Tensor) -> Any:
        y = x * 2
        v = view(y)
        write(v)
        return y, v, v + 1

    return fn


def on_argument(view: Change, write: Change) -> Change:
    def fn(x: torch.Tensor) -> Any:
        v = view(x)
        before = v + 1
        write(v)
        return before, x.sum(), v * 2

    return fn


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("where", [on_fresh, on_argument])
def test_one_view(where: Callable[..., Change], view: str, write: str) -> None:
    if where is on_argument and view == "as_strided":
        pytest.skip("an absolute offset into an argument's memory is refused")
    check(where(VIEWS[view], WRITES[write]), lambda: (torch.randn(4, 6),))


CHAIN = ["slice", "slice with a step", "transpose", "view", "diagonal", "select", "unsqueeze"]
CHAIN += ["unflatten", "split", "as_strided"]


@pytest.mark.parametrize("names", list(itertools.product(CHAIN, repeat=3)), ids="-".join)
def test_chain_of_three(names: tuple[str, str, str]) -> None:
    """A write at each level of a chain of three views, every level read afterwards."""

    def fn(x: torch.Tensor) -> Any:
        y = x * 2
        levels = [y]
        for name in names:
            levels.append(VIEWS[name](levels[-1]))
        for n, level in enumerate(levels):
            level.add_(n + 1)
            levels[0].mul_(0.5)
        return levels, [level + 1 for level in levels]

    try:
        fn(torch.randn(4, 6, 4))
    except (RuntimeError, IndexError):
        return  # no such chain in eager either
    check(fn, lambda: (torch.randn(4, 6, 4),))


@pytest.mark.parametrize("view", [v for v in VIEWS if v != "as_strided"])
def test_argument_that_is_a_view_itself(view: str) -> None:
    """The argument is a part of something larger, with gaps and an offset."""

    def fn(x: torch.Tensor) -> Any:
        v = VIEWS[view](x)
        v.add_(1)
        x.mul_(2)
        return v * 3, x.t().contiguous()

    check(fn, lambda: (torch.randn(6, 4).t(),))
    if view == "unfold without overlap":  # undone by its strides, which needs a base without gaps
        assert refused(fn, lambda: (torch.randn(6, 9)[1:5, 2:8],)).startswith("op: as_strided")
    else:
        check(fn, lambda: (torch.randn(6, 9)[1:5, 2:8],))


def test_writes_to_parts_of_a_split() -> None:
    def fn(x: torch.Tensor) -> Any:
        a, b, c = x.clone().chunk(3, 1)
        a += b
        b.mul_(c)
        c.copy_(a.detach() - b)
        return a, b, c

    check(fn, lambda: (torch.randn(4, 6),))


def test_write_is_seen_through_every_alias() -> None:
    def fn(x: torch.Tensor) -> Any:
        y = x.clone()
        row, column, flat = y[1], y[:, 2], y.view(-1)
        row += 1
        total = column.sum()
        flat[::5] = total
        return y, row, column, flat.clone()

    check(fn, lambda: (torch.randn(4, 6),))


def test_arguments_are_written_and_swapped() -> None:
    def fn(x: torch.Tensor, y: torch.Tensor) -> Any:
        old = x.clone()
        x.copy_(y)
        y.copy_(old)
        return x + y

    recording = check(fn, lambda: (torch.randn(3), torch.randn(3)))
    assert recording.graph is not None and len(recording.graph.writes) == 2


def test_write_of_another_dtype() -> None:
    def fn(x: torch.Tensor) -> Any:
        h = x.half()
        h.add_(x)
        n = torch.zeros(3, dtype=torch.int64)
        n.copy_(x[0, :3] * 10)
        h[0] = x[1]
        return h, n

    check(fn, lambda: (torch.randn(4, 6),))


def test_index_put_and_scatter() -> None:
    def fn(x: torch.Tensor, i: torch.Tensor) -> Any:
        y = x.clone()
        y[i] = 0
        y[:, i] += 1
        y[i, i] = x[0, 0]
        y.index_put_((i,), x[:2], accumulate=True)
        y.scatter_(1, i[None], 7.0)
        y.index_add_(0, i, x[:2])
        y.index_fill_(1, i, 3)
        return y

    check(fn, lambda: (torch.randn(4, 6), torch.tensor([2, 0])))


@pytest.mark.parametrize("empty", [True, False])
def test_out_is_resized_if_it_is_empty(empty: bool) -> None:
    def fn(x: torch.Tensor) -> Any:
        out = torch.empty(0) if empty else torch.empty(4, 6).t().contiguous().t()
        torch.mul(x, 2, out=out)
        out.add_(1)
        values, places = torch.empty(4), torch.empty(4, dtype=torch.int64)
        torch.max(x, 1, out=(values, places))
        return out, values, places

    check(fn, lambda: (torch.randn(4, 6),))


def test_shape_changed_in_place() -> None:
    def fn(x: torch.Tensor) -> Any:
        y = x * 2
        z = y.view_as(y)
        y.t_()
        y.unsqueeze_(0)
        y[0, 0] = 1.0
        y.squeeze_(0).transpose_(0, 1)
        return y, z

    check(fn, lambda: (torch.randn(4, 6),))


def test_strides_changed_in_place() -> None:
    """Pooling of images whose channels are last ends so."""

    def pool(x: torch.Tensor) -> Any:
        pooled = torch.nn.functional.adaptive_avg_pool2d(x, 1)
        return pooled, pooled.flatten(1) * 2

    def write(x: torch.Tensor) -> Any:
        y = x * 2
        z = y.view_as(y)
        y.as_strided_((2, 2), (3, 1), 1).add_(1)
        return y, z

    check(pool, lambda: (torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),))
    check(write, lambda: (torch.randn(4, 6),))


def test_batch_norm_updates_its_statistics() -> None:
    def fn(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> Any:
        y = torch.nn.functional.batch_norm(x, mean, var, training=True)
        z = torch.nn.functional.batch_norm(x, mean, var, training=False)
        return y, z, torch.nn.functional.instance_norm(x)

    check(fn, lambda: (torch.randn(4, 3, 5, 5), torch.zeros(3), torch.ones(3)))


def test_empty_and_zero_sized_tensors() -> None:
    def fn(x: torch.Tensor) -> Any:
        y = x.clone()
        y[:, 2:2] = 1.0
        y[4:].add_(1)
        return y, y[:0]

    check(fn, lambda: (torch.randn(4, 6),))


def test_two_arguments_on_one_memory() -> None:
    """A write to one is seen through the other."""

    def read(x: torch.Tensor, y: torch.Tensor) -> Any:
        return x + y.sum(), y

    def write(x: torch.Tensor, y: torch.Tensor) -> Any:
        y.add_(1)
        return x * 2

    def write_first(x: torch.Tensor, y: torch.Tensor) -> Any:
        x.add_(1)
        return y * 2

    def make() -> Any:
        x = torch.randn(4, 6)
        return x, x[1]

    assert not check(read, make).spans
    assert len(check(write, make).spans) == len(check(write_first, make).spans) == 1


def test_views_of_two_arguments_that_look_alike() -> None:
    """x.t() made here, and an argument that is x.t() as well: the second is not taken for the
    first.
    """

    def fn(x: torch.Tensor, y: torch.Tensor) -> Any:
        return x.t() * 2 + y

    def alike() -> Any:
        x = torch.randn(4, 4)
        return x, x.t()

    recording = check(fn, alike)
    assert len(recording.sources) == 2


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.clone().resize_(2, 2).fill_(0),
        lambda x: x.clone().unfold(0, 2, 1).add_(0),
        lambda x: x.clone().set_(x.clone()).add_(1),
        lambda x: x.t_(),
        lambda x: x.as_strided_((2, 2), (6, 1)),
    ],
    ids=["resize_", "overlap", "set_", "t_ of an argument", "as_strided_ of an argument"],
)
def test_refused(fn: Any) -> None:
    assert refused(fn, lambda: (torch.randn(4, 6),)).startswith("mutation")


def test_other_memory_through_data() -> None:
    def fn(x: torch.Tensor) -> Any:
        x.data = x * 2
        return x + 1

    assert refused(fn, lambda: (torch.randn(3),)).startswith("mutation")


def test_fresh_tensor_with_other_memory_through_data() -> None:
    def fn(x: torch.Tensor) -> Any:
        y, z = x * 2, x * 3
        y.data = z
        z.add_(1)
        return y + 1

    check(fn, lambda: (torch.randn(3),))
