"""Tensors that Python data was made into: `torch.tensor([1, 2])`, `x[i] = 3.0`, `x[[0, 2]]`.

They reach the recorder as `lift_fresh` of a tensor that nobody has seen. It is a constant of the
program only if it was made of Python numbers, which are constants or guarded; torch.tensor also
takes tensors and arrays, and reads them without a trace. So while a call is recorded the profile
hook watches for calls of such makers, and lets exactly these pass a TorchFunctionMode, which sees
their arguments. It also notices where a tensor's data leaves torch (`tolist`, `numpy`).
"""

from __future__ import annotations

import dis
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from tracejit.ir.dtypes import NAME
from tracejit.runtime import private
from tracejit.trace.frames import named
from tracejit.trace.generators import METHODS
from tracejit.trace.recording import Refused

if TYPE_CHECKING:
    from tracejit.trace.recorder import Recorder

MAKERS = frozenset({"tensor", "as_tensor", "asarray", "scalar_tensor", "new_tensor"})
# Functions that read a tensor argument without a call that the recorder sees.
READERS = frozenset({"tensor_split", "ctc_loss"})
# Methods of tensors that do what no graph shows, and what that is.
ESCAPES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("numpy", "__array__", "data_ptr", "__dlpack__", "apply_", "map_", "map2_"),
        ("data-dependent", "{} gives a tensor's data to Python"),
    ),
    **dict.fromkeys(
        ("untyped_storage", "storage", "_typed_storage"),
        ("tensor", "{} gives a tensor's memory to Python"),
    ),
    **dict.fromkeys(
        ("seed", "initial_seed", "clone_state", "get_offset", "set_offset")
        + ("graphsafe_get_state", "graphsafe_set_state"),
        ("random", "{} of a generator is called"),
    ),
    **dict.fromkeys(
        ("requires_grad_", "retain_grad", "run_backward"), ("autograd", "{} is called")
    ),
}
# Composites of torch's that compute something else while a dispatch mode is active, as ours is, and
# for which arguments: `linear` adds a bias in place or not, `max_pool1d` has two kernels,
# one of which takes a tensor's memory for its values.
ASIDE: dict[str, Callable[..., bool]] = {
    "linear": lambda x, weight, bias=None: _mixed(x, bias),
    "max_pool1d": lambda x, *args, **kwargs: not x.is_contiguous() or x.is_neg(),
}
WATCHED = frozenset({"tolist", *MAKERS, *READERS, *ASIDE, *ESCAPES, *METHODS})
_PARAMETER = torch.nn.Parameter.__new__.__code__
LARGEST = 4096  # elements of a constant that is kept in the graph

Hook = Callable[[FrameType, str, Any], Any]


class Watch(TorchFunctionMode):
    """On the stack of modes during a watched call only. `plain`: the call has no tensor or array in
    its arguments.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.waiting = False  # for the end of a generator's method
        self.plain = False
        self.active = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        data = args[1:] if name == "new_tensor" else args
        self.plain = name in MAKERS and is_plain((data, kwargs))
        if name in READERS and any(
            isinstance(a, torch.Tensor) for a in (*args[1:], *kwargs.values())
        ):
            self.recorder.refuse(Refused("data-dependent", f"{name} reads the values of a tensor"))
        try:
            if name in ASIDE and ASIDE[name](*args, **kwargs):
                self.recorder.refuse(Refused("op", f"{name} of these arguments cannot be watched"))
                with private.without_modes():
                    return func(*args, **kwargs)
            return func(*args, **kwargs)
        finally:
            self.plain = False

    def called(self, function: Any, frame: FrameType) -> None:
        """A C function of a watched name is about to run, called by this frame."""
        name = function.__name__
        owner = getattr(function, "__self__", None)
        tensor = owner if isinstance(owner, torch.Tensor) else None
        escape = ESCAPES.get(name)
        if name in METHODS:
            if isinstance(owner, torch.Generator):
                self.waiting = True
                self.recorder.state(name, owner, frame)
            return
        if name == "requires_grad_" and tensor is not None and self.recorder.inside(tensor):
            return  # a property of what the call made
        if name == "run_backward" and _only_gives_gradients(frame):
            return  # the backward pass runs below, and is recorded like anything else
        if escape is not None:
            if tensor is not None or isinstance(owner, torch.Generator) or name == "run_backward":
                self.recorder.refuse(Refused(escape[0], escape[1].format(name)))
        elif name == "tolist":
            if tensor is not None:
                self.recorder.listed(tensor)
        elif name in ASIDE or tensor is not None or getattr(torch, name, None) is function:
            self.__enter__()  # type: ignore[no-untyped-call]
            self.active += 1

    def parameter(self, made: Any, frame: FrameType) -> None:
        """`nn.Parameter(data)` gave this."""
        data = frame.f_locals.get("data")
        if isinstance(made, torch.Tensor) and isinstance(data, torch.Tensor):
            self.recorder.adopt(made, data)

    def returned(self, failed: bool = False) -> None:
        """The watched call is over."""
        if self.waiting:
            self.waiting = False
            self.recorder.stated(failed)
        elif self.active:
            self.active -= 1
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def leave(self) -> None:
        """Off the stack of modes, also where the end of a call was not seen."""
        while self.active:
            self.returned()


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Show `watch` the calls of watched C functions, next to the profiler that is active, if one
    is.
    """
    inner: Hook | None = sys.getprofile()  # type: ignore[assignment]
    names, ours = WATCHED, Watch.__torch_function__.__code__

    def hook(frame: FrameType, event: str, arg: Any) -> None:
        if inner is not None:
            inner(frame, event, arg)
        if event == "c_call":
            if arg.__name__ in names and frame.f_code is not ours and sys.getprofile() is hook:
                watch.called(arg, frame)
        elif (
            (watch.active or watch.waiting)
            and event in ("c_return", "c_exception")
            and arg.__name__ in names
            and frame.f_code is not ours
        ):
            watch.returned(event == "c_exception")
        elif event == "return" and frame.f_code is _PARAMETER and sys.getprofile() is hook:
            watch.parameter(arg, frame)

    sys.setprofile(hook)
    try:
        yield
    finally:
        watch.leave()
        if sys.getprofile() is hook:  # an observer that gave up has put back what was there before
            sys.setprofile(inner)


def _mixed(x: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether a bias has another dtype, and autocast will not change that."""
    other = bias is not None and bias.dtype != x.dtype
    return other and not torch.is_autocast_enabled(x.device.type)


def _only_gives_gradients(frame: FrameType) -> bool:
    """Whether autograd runs for `torch.autograd.grad`, which leaves no `.grad` behind, and in this
    thread, which is so on the CPU."""
    caller = frame.f_back
    if caller is None or caller.f_code is not torch.autograd.grad.__code__:
        return False
    given = [*caller.f_locals.get("inputs", ()), *caller.f_locals.get("outputs", ())]
    return all(getattr(each, "is_cpu", True) for each in given)


def is_plain(data: Any) -> bool:
    """Whether data consists of Python numbers and their like."""
    if isinstance(data, (list, tuple)):
        return all(map(is_plain, data))
    if isinstance(data, dict):
        return all(map(is_plain, data.values()))
    return data is None or type(data) in PLAIN


PLAIN = frozenset({bool, int, float, complex, torch.dtype, torch.device, str})
_SUBSCRIPTS = frozenset({"BINARY_SUBSCR", "STORE_SUBSCR"})
_BYTES: dict[CodeType, bytes] = {}


def from_subscript(frame: FrameType) -> bool:
    """Whether the frame is at `x[…]` or `x[…] = …`: what that makes into a tensor is numbers."""
    code = frame.f_code
    text = _BYTES.get(code)
    if text is None:
        text = _BYTES[code] = code.co_code
    name = dis.opname[text[frame.f_lasti]]
    # From 3.14 on, BINARY_OP with the argument NB_SUBSCR.
    return name in _SUBSCRIPTS or (name == "BINARY_OP" and text[frame.f_lasti + 1] == 26)


def listed(frame: FrameType, tensor: torch.Tensor) -> bool:
    """Whether the frame's line spells `tensor`'s elements as constants, or names a list of numbers
    that has them.

    An index such as `[i, j]` is made into a tensor in C, which reads tensors among its items
    without a trace: so a list that is built of anything but constants does not count.
    """
    steps = _steps_of_line(frame)
    found: list[Any] = []
    for k, step in enumerate(steps):
        if step.opname in ("BUILD_LIST", "BUILD_TUPLE") and step.arg:
            parts = steps[max(k - step.arg, 0) : k]
            constant = all(p.opname == "LOAD_CONST" for p in parts)
            if step.opname == "BUILD_LIST" and not constant:
                return False
            found.append([p.argval for p in parts] if constant else None)
        elif step.opname == "LOAD_CONST":
            found.append(step.argval)
        elif step.opname.startswith("LOAD_"):
            found.append(named(frame, steps, k))
    data = tensor.flatten().tolist()
    return any(_numbers(value) == data for value in found)


def _steps_of_line(frame: FrameType) -> list[dis.Instruction]:
    """The instructions of the frame's line that run before the one it is at."""
    code = frame.f_code
    spans = [(start, end) for start, end, line in code.co_lines() if line == frame.f_lineno]
    return [
        step
        for step in dis.get_instructions(code)
        if step.offset < frame.f_lasti
        and any(start <= step.offset < end for start, end in spans)
        and step.opname not in ("CACHE", "EXTENDED_ARG", "PUSH_NULL", "NOP")
    ]


def _numbers(value: Any) -> list[Any] | None:
    """The numbers in nested lists, tuples and ranges, in order; None for anything else in them."""
    if isinstance(value, (bool, int, float)):
        return [value]
    if not isinstance(value, (list, tuple, range)):
        return None
    parts = [_numbers(part) for part in value]
    return None if None in parts else [n for part in parts for n in part or ()]


def _spelled(number: Any) -> bool:
    """Whether Python reads a complex number's text as that number: not with a zero below zero."""
    parts = (number.real, number.imag)
    return all(math.isfinite(p) and (p or math.copysign(1.0, p) > 0) for p in parts)


def contents(tensor: torch.Tensor) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The op that makes a constant: `aten.full`, or `tj.constant(data, dtype, sizes)`. Raises
    Refused.
    """
    complex_list = tensor.is_complex() and bool(tensor.shape or not _spelled(tensor.item()))
    if tensor.dtype not in NAME or complex_list or tensor.numel() > LARGEST:
        raise Refused("tensor", f"a constant of {tensor.numel()} elements of {tensor.dtype}")
    if not tensor.shape:
        return "aten.full", ((), tensor.item()), {"dtype": tensor.dtype}
    data = tuple(tensor.flatten().tolist())
    return "tj.constant", (data, NAME[tensor.dtype], tuple(tensor.shape)), {}
