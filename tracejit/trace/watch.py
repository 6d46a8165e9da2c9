"""Calls in C that a recording must see, though no dispatcher does: makers of tensors from Python
data, methods by which a tensor's data or memory leaves torch, methods of random generators.

While a call is recorded the profile hook watches for their names. torch.tensor also takes tensors
and arrays, and reads them without a trace: such makers, and exactly they, pass a TorchFunctionMode,
which sees their arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from tracejit.runtime import private
from tracejit.trace.constants import is_plain
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

Hook = Callable[[FrameType, str, Any], Any]


class Watch(TorchFunctionMode):
    """Tells a recorder what it sees; on the stack of modes during a watched call only. `plain`:
    that call has no tensor or array in its arguments.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.waiting = False  # for the end of a generator's method
        self.plain = False
        self.active: list[tuple[FrameType, str]] = []  # calls under way, each with its caller
        self.apart: FrameType | None = None  # of a call under way that is torch.compile's

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
                self.recorder.apart(self.recorder.generators.called, name, owner, frame)
            return
        if name == "requires_grad_" and tensor is not None and self.recorder.storages.made(tensor):
            return  # a property of what the call made
        if name == "run_backward" and _only_gives_gradients(frame):
            return  # the backward pass runs below, and is recorded like anything else
        if escape is not None:
            if tensor is not None or isinstance(owner, torch.Generator) or name == "run_backward":
                self.recorder.refuse(Refused(escape[0], escape[1].format(name)))
        elif name == "tolist":
            if tensor is not None:
                self.recorder.apart(self.recorder.steps.listed, tensor)
        elif name in ASIDE or tensor is not None or getattr(torch, name, None) is function:
            self.__enter__()  # type: ignore[no-untyped-call]  # torch's has no types
            self.active.append((frame, name))

    def parameter(self, made: Any, frame: FrameType) -> None:
        """`nn.Parameter(data)` gave this."""
        data = frame.f_locals.get("data")
        if isinstance(made, torch.Tensor) and isinstance(data, torch.Tensor):
            self.recorder.apart(self.recorder.storages.adopt, made, data)

    def returned(self, name: str, frame: FrameType, failed: bool) -> None:
        """A C function of a watched name is over, called by this frame."""
        if self.waiting:
            self.waiting = False
            self.recorder.apart(self.recorder.generators.returned, failed)
        elif self.active and self.active[-1] == (frame, name):
            self.pop()

    def pop(self) -> None:
        """Off the stack of modes, once."""
        self.active.pop()
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # nor this

    def compiled(self, frame: FrameType) -> None:
        """What torch.compile returned is called."""
        if self.apart is None and self.recorder.step_aside():
            self.apart = frame

    def rejoin(self) -> None:
        """That call is over."""
        self.apart = None
        self.recorder.__enter__()  # type: ignore[no-untyped-call]  # nor this

    def leave(self) -> None:
        """Off the stack of modes, also where the end of a call was not seen."""
        while self.active:
            self.pop()
        if self.apart is not None:
            self.rejoin()


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Show `watch` the calls of watched C functions, next to the profiler that is active, if one
    is.
    """
    inner: Any = sys.getprofile()  # a Hook
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
            watch.returned(arg.__name__, frame, event == "c_exception")
        elif event == "call" and private.is_dynamos(frame.f_code):
            watch.compiled(frame)
        elif event == "return" and frame is watch.apart:
            watch.rejoin()
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
