"""The short cuts for library calls take the same arguments and give the same results as the ops
they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tracejit.runtime.externs import DIRECT, fastest, resolve

T = torch.randn
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "aten.mm": ((T(3, 4), T(4, 5)), {}),
    "aten.bmm": ((T(2, 3, 4), T(2, 4, 5)), {}),
    "aten.addmm": ((T(5), T(3, 4), T(4, 5)), {"beta": 0.5, "alpha": 2}),
    "aten.baddbmm": ((T(2, 3, 5), T(2, 3, 4), T(2, 4, 5)), {"beta": 0.5, "alpha": 2}),
    "aten.convolution": (
        (T(1, 4, 8, 8), T(6, 2, 3, 3), T(6), [2, 1], [1, 0], [1, 1], False, [0, 0], 2),
        {},
    ),
    "aten.scaled_dot_product_attention": (
        (T(1, 2, 4, 8), T(1, 2, 4, 8), T(1, 2, 4, 8), T(4, 4), 0.0, False),
        {"scale": 0.3},
    ),
}


@pytest.mark.parametrize("op", DIRECT)
def test_short_cut_is_the_op(op: str) -> None:
    args, kwargs = CALLS[op]
    found, expected = fastest(op)(*args, **kwargs), resolve(op)(*args, **kwargs)
    assert torch.equal(found, expected) and found.stride() == expected.stride()


def test_ops_by_name() -> None:
    assert fastest("aten.add.Tensor") is torch.ops.aten.add.Tensor
    with pytest.raises(AttributeError, match="no_such_op"):
        resolve("aten.no_such_op")


def test_constant() -> None:
    made = resolve("tj.constant")([1, 2, 3, 4], "i32", [2, 2])
    assert made.dtype is torch.int32 and made.tolist() == [[1, 2], [3, 4]]
