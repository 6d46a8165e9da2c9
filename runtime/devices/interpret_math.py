"""`libdevice` for the interpreter: the functions that Triton's NumPy interpreter does not have,
computed by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tracejit.runtime import private

# What libdevice and torch call the same.
ALIKE = (
    "exp exp2 expm1 log log2 log10 log1p rsqrt sin cos tan asin acos atan sinh cosh tanh asinh "
    "acosh atanh trunc erf erfc erfinv lgamma pow atan2 hypot copysign nextafter fmod"
)
# libdevice's name -> torch's function.
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "nearbyint": torch.round,
    **{name: getattr(torch, name) for name in ALIKE.split()},
}


class Library:
    """Stands for the module `libdevice` in a kernel's namespace: `libdevice.exp(x)` on the
    interpreter's tensors."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FUNCTIONS:
            raise AttributeError(f"the interpreter's libdevice has no {name}")
        function = FUNCTIONS[name]
        return lambda *operands: apply(function, operands)


def apply(function: Callable[..., torch.Tensor], operands: tuple[Any, ...]) -> Any:
    """The function of blocks and numbers, broadcast, in the dtype of the blocks."""
    import triton.language as tl

    first = next(x for x in operands if isinstance(x, tl.tensor))
    arrays = [
        x.handle.data if isinstance(x, tl.tensor) else first.handle.data.dtype.type(x)
        for x in operands
    ]
    tensors = [
        torch.from_numpy(np.require(a, requirements=["C", "W"]))
        for a in np.broadcast_arrays(*arrays)
    ]
    with torch.no_grad():
        data = function(*tensors).numpy()
    handle = private.triton_interpreter().TensorHandle(data, first.dtype)
    blocks = [x for x in operands if isinstance(x, tl.tensor) and x.type.is_block()]
    return tl.tensor(
        handle, tl.block_type(first.dtype, list(data.shape)) if blocks else first.dtype
    )
