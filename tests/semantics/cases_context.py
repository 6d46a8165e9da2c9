"""Context: what surrounds a call, from autocast to threads and forks.

Left out, for want of a GPU: streams, and TF32 as anything but a flag.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import os
import pickle
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .cases import CHANGED, Wrap, attempt, case, t

X = "Context"


def under(name: str, function: Any, *contexts: Any, eager: str = "", wrong: str = "") -> None:
    """A case: a function called under no context, then under each of `contexts` and without."""

    def program(c: Wrap) -> Iterator[Any]:
        f, x = c(function), t(3, 3)
        yield f(x)
        yield f(x)
        yield f(x)
        yield CHANGED
        for context in contexts:
            with context():
                yield f(x)
                yield f(x)
            yield f(x)

    case(X, name, eager=eager, wrong=wrong)(program)


def autocast(dtype: Any = torch.bfloat16, enabled: bool = True) -> Any:
    return torch.autocast("cpu", dtype, enabled=enabled)


@contextlib.contextmanager
def both(*contexts: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        yield


def product(x: Any) -> Any:
    return x @ x, x.softmax(-1), (x @ x) + x


def product_inside(x: Any) -> Any:
    with autocast():
        y = x @ x
        with autocast(enabled=False):
            z = y.float() @ x
        u = z @ x
    return y, z, u, u.float() @ x, torch.is_autocast_enabled("cpu")


under(
    "autocast on/off",
    product,
    autocast,
    lambda: autocast(torch.float16),
    lambda: autocast(enabled=False),
)
under(
    "autocast nested",
    product,
    lambda: both(autocast, lambda: autocast(torch.float16)),
    lambda: both(autocast, lambda: autocast(enabled=False)),
)
under("autocast inside", product_inside, autocast, lambda: autocast(enabled=False))
under(
    "inference_mode",
    lambda x: (x * 2, x[1:], torch.ones(2), torch.is_inference_mode_enabled()),
    torch.inference_mode,
    torch.no_grad,
    torch.inference_mode,
)


@case(X, "inference_mode inside")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        with torch.inference_mode():
            y = x * 2
        return y, x + 1

    g = c(f)
    yield g(t(3))
    yield g(t(3))
    yield g(t(3))
    yield CHANGED
    with torch.inference_mode():
        yield g(t(3)), g(t(3))
    yield g(t(2)), g(t(2))


@case(X, "no_grad", eager="autograd")
def _(c: Wrap) -> Iterator[Any]:
    m, x = nn.Linear(3, 3), t(2, 3)
    f = c(m)
    with torch.no_grad():
        yield f(x)
        yield f(x)
        yield f(x)
    yield CHANGED
    yield f(x), f(x)
    with torch.no_grad():
        yield f(x), f(x.clone().requires_grad_(True))
    y = f(x)
    y.sum().backward()
    yield y, m.weight.grad


@case(X, "no_grad inside")
def _(c: Wrap) -> Iterator[Any]:
    w = nn.Parameter(t(3))

    def f(x: Any) -> Any:
        with torch.no_grad():
            y = x * w
        return y + 1, torch.is_grad_enabled()

    g = c(f)
    yield g(t(3))
    yield g(t(3))
    yield g(t(3))
    yield CHANGED
    with torch.no_grad():
        yield g(t(3)), g(t(3))
    yield g(t(3)), g(t(3))


@case(X, "enable_grad inside", eager="autograd")
def _(c: Wrap) -> Iterator[Any]:
    w = nn.Parameter(t(3))

    def f(x: Any) -> Any:
        with torch.enable_grad():
            y = x * w
        return y * 2, torch.is_grad_enabled()

    g = c(f)
    with torch.no_grad():
        yield g(t(3))
        yield g(t(3))
        yield g(t(3))
    yield CHANGED
    y, _ = g(t(3))
    y.sum().backward()
    yield y, w.grad
    w.requires_grad_(False)
    with torch.no_grad():
        yield g(t(3)), g(t(3))


@contextlib.contextmanager
def setting(change: Callable[[Any], None], value: Any, back: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(back)


under(
    "set_default_dtype",
    lambda x: (x + torch.ones(3), torch.zeros(2), torch.tensor(1.5), x * 1.5),
    lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
)


@case(X, "set_default_dtype inside")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, dtype: Any) -> Any:
        torch.set_default_dtype(dtype)
        return x + torch.ones(3)

    g, x = c(f), t(3)
    for _ in range(3):
        yield g(x, torch.float64), torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
    yield CHANGED
    for dtype in (torch.float32, torch.float16):
        yield g(x, dtype), torch.get_default_dtype(), g(x, dtype)


def empties(x: Any) -> Any:
    made = torch.empty(3)  # filled with NaN if algorithms must be deterministic
    sure = torch.are_deterministic_algorithms_enabled()
    return x * 2, made.isnan() if sure else made.shape


under(
    "use_deterministic_algorithms",
    empties,
    lambda: setting(torch.use_deterministic_algorithms, True, False),
)


def flagged(x: Any) -> Any:
    return x @ x, torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()


under(
    "TF32 flags",
    flagged,
    lambda: setting(torch.set_float32_matmul_precision, "high", "highest"),
    lambda: setting(lambda v: setattr(torch.backends.cuda.matmul, "allow_tf32", v), True, False),
    lambda: torch.backends.cudnn.flags(allow_tf32=False),
)
under(
    "anomaly mode",
    lambda x: (x * 2).sqrt().sum() + torch.is_anomaly_enabled(),
    torch.autograd.detect_anomaly,
)


@case(X, "anomaly mode with gradients", eager="autograd")
def _(c: Wrap) -> Iterator[Any]:
    f = c(lambda x: (x * 2).sqrt().sum())
    for _ in range(3):
        x = torch.ones(3, requires_grad=True)
        y = f(x)
        y.backward()
        yield y, x.grad
    yield CHANGED
    for _ in range(2):
        x = torch.zeros(3, requires_grad=True)
        with torch.autograd.set_detect_anomaly(True):
            y = f(x * 0)
            yield y, str(attempt(y.backward))[:40]


@case(X, "profiler active (kernels appear with readable names)")
def _(c: Wrap) -> Iterator[Any]:
    f, x = c(lambda x: (x * 2).softmax(-1)), t(3, 4)

    def profiled() -> Any:
        with torch.profiler.profile() as profiler:
            y = f(x)
        names = {event.name for event in profiler.events()}
        return y, any("softmax" in name for name in names)

    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    yield profiled()
    yield f(x), profiled()
    x = t(5, 6)
    yield profiled(), profiled(), f(x), profiled()


def warn(x: Any) -> Any:
    warnings.warn("careful", RuntimeWarning, stacklevel=1)
    return x * 2 + 1


def mean_of(x: Any) -> Any:
    return functional.mse_loss(x, x[:1]) * 2  # warns that sizes differ


def warned(name: str, function: Any, eager: str = "") -> None:
    """A case: which warnings calls give under Python's rules of when to show one."""

    def program(c: Wrap) -> Iterator[Any]:
        f, x = c(function), t(3)

        def shown(rule: str) -> Any:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter(rule)
                results = [f(x) for _ in range(3)]
            return results, [(w.category, str(w.message)) for w in seen]

        yield shown("default")
        yield shown("default")
        yield shown("once")
        yield CHANGED
        yield shown("always")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield attempt(f, x), attempt(f, x)
        yield shown("ignore"), shown("default")

    case(X, name, eager=eager)(program)


warned("warnings emitted once per eager's rule", warn, eager="impure")
warned("warnings of torch emitted once per eager's rule", mean_of, eager="impure")


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


LOGGER = logging.getLogger("tracejit-cases")
LOGGER.propagate = False


@case(X, "logging (the frame eager, its pure calls compiled)", eager="impure")
def _(c: Wrap) -> Iterator[Any]:
    def helper(x: Any) -> Any:
        return (x * 2).relu() + 1

    def f(x: Any) -> Any:
        y = helper(x)
        LOGGER.info("a sum of %d numbers", x.numel())
        return helper(y)

    kept = Kept()
    LOGGER.handlers = [kept]
    LOGGER.setLevel(logging.INFO)
    g = c(f)
    for _ in range(3):
        yield g(t(3)), list(kept.lines)
    yield CHANGED
    LOGGER.setLevel(logging.WARNING)
    yield g(t(3)), g(t(3)), list(kept.lines)
    LOGGER.setLevel(logging.INFO)
    yield g(t(2)), g(t(2)), list(kept.lines)


@case(X, "print (the frame eager, its pure calls compiled)", eager="impure")
def _(c: Wrap) -> Iterator[Any]:
    def helper(x: Any) -> Any:
        return (x * 2).relu() + 1

    def f(x: Any, name: str) -> Any:
        y = helper(x)
        print(name, tuple(y.shape))
        return helper(y)

    g = c(f)
    yield g(t(3), "a")
    yield g(t(3), "b")
    yield g(t(3), "c")
    yield CHANGED
    yield g(t(2), "d"), g(t(2), "e")


@case(X, "torch.compiler.is_compiling")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        if torch.compiler.is_compiling() or torch.compiler.is_dynamo_compiling():
            return x + 100
        return x - 1, torch.compiler.is_exporting(), torch.jit.is_tracing()

    g = c(f)
    yield g(t(3))
    yield g(t(3))
    yield g(t(3))
    yield CHANGED
    yield g(t(2)), g(t(2))


@case(X, "an exception thrown midway leaves state as eager leaves it")
def _(c: Wrap) -> Iterator[Any]:
    class Stateful(nn.Module):
        limit = 10.0

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))
            self.norm = nn.BatchNorm1d(3, affine=False)

        def forward(self, x: Any, n: int) -> Any:
            self.seen += x[0]
            x.mul_(2)
            y = self.norm(x)
            if x.sum() > self.limit:
                raise ValueError("over the limit")
            self.seen.mul_(2)
            return y.view(n, -1)

    m = Stateful()
    f = c(m)
    for _ in range(3):
        x = t(4, 3) * 0.1
        yield attempt(f, x, 6), x, dict(m.named_buffers())
    yield CHANGED
    for n, scale in ((6, 100.0), (5, 0.1), (6, 0.1), (6, 100.0), (5, 0.1)):
        x = t(4, 3).abs() * scale
        yield attempt(f, x, n), x, dict(m.named_buffers())


@case(X, "KeyboardInterrupt during compilation leaves the cache sound")
def _(c: Wrap) -> Iterator[Any]:
    from tracejit import compilation

    def interrupted(f: Any, stage: str) -> None:
        """A call that is cut off at a stage of the compiler, if it compiles."""

        def cut(*args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

        old = getattr(compilation, stage)
        setattr(compilation, stage, cut)
        try:
            f(t(3))
        except KeyboardInterrupt:
            pass
        finally:
            setattr(compilation, stage, old)

    f = c(lambda x: x * 3 - 7)
    interrupted(f, "complete")
    yield f(t(3))
    yield f(t(3))
    yield f(t(3))
    yield CHANGED
    for scale, stage in enumerate(("compiled", "stored_plan", "keep")):
        g = c(lambda x, s=scale: x * s - 9)
        interrupted(g, stage)
        yield g(t(3)), g(t(3)), g(t(3))


def together(*works: Callable[[], None]) -> None:
    """Run each in a thread of its own, all beginning at once."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], None]) -> None:
        barrier.wait()
        work()

    threads = [threading.Thread(target=begin, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@case(X, "threads: 8 threads first-calling one function", eager="thread")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any) -> Any:
        return torch.softmax(x * 2, -1) + x

    g, xs = c(f), [t(3, 4) for _ in range(8)]

    def all_at_once() -> Any:
        results: list[Any] = [None] * 8

        def work(i: int) -> Callable[[], None]:
            def calls() -> None:
                results[i] = [g(xs[i]) for _ in range(3)]

            return calls

        together(*map(work, range(8)))
        return results

    yield all_at_once()
    yield all_at_once()
    yield g(xs[0])
    yield CHANGED
    xs = [t(2 + i % 2, 4) for i in range(8)]
    yield all_at_once()
    yield all_at_once()


@case(X, "threads: different functions")
def _(c: Wrap) -> Iterator[Any]:
    functions = [c(lambda x, k=k: (x * k).sin() + x.sum(-1, keepdim=True)) for k in range(4)]
    xs = [t(3, 4) for _ in range(4)]

    def all_at_once() -> Any:
        results: list[Any] = [None] * 4

        def work(i: int) -> Callable[[], None]:
            def calls() -> None:
                results[i] = [functions[i](xs[i]) for _ in range(3)]

            return calls

        together(*map(work, range(4)))
        return results

    yield all_at_once()
    yield all_at_once()
    yield CHANGED
    xs = [t(2, 2) for _ in range(4)]
    yield all_at_once()
    yield all_at_once()


@case(X, "threads: one thread changing a module attribute")
def _(c: Wrap) -> Iterator[Any]:
    class Scaled(nn.Module):
        scale = 1.0

        def forward(self, x: Any) -> Any:
            return x * self.scale + 1

    m = Scaled()
    f, x = c(m), torch.ones(3)
    yield f(x)
    yield f(x)
    yield f(x)
    yield CHANGED
    m.scale = 2.0
    yield f(x), f(x)  # both are on disk for the next process, whatever the threads meet
    seen: list[Any] = []

    def change() -> None:
        for number in range(40):
            m.scale = 2.0 if number % 2 else 1.0

    def call() -> None:
        seen.extend(f(x) for _ in range(40))

    together(change, call, call)
    yield {tuple(y.tolist()) for y in seen} <= {(2.0,) * 3, (3.0,) * 3}, len(seen)
    m.scale = 5.0
    yield f(x), f(x)


def in_child(function: Callable[[], Any]) -> Any:
    """What a function gives in a forked child."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of the process
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, pickle.dumps([y.tolist() for y in function()]))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    return status, [torch.tensor(y) for y in pickle.loads(data)] if data else None


@case(X, "fork after compile")
def _(c: Wrap) -> Iterator[Any]:
    f, g = c(lambda x, k: x * k + 1), c(lambda x: x.cos() * 2)
    x = torch.ones(3)
    yield f(x, 2)
    yield f(x, 2), in_child(lambda: [f(x, 2), f(x, 2)])
    yield f(x, 2), in_child(lambda: [f(x, 3), f(x, 3), f(x, 2)])
    yield CHANGED
    yield in_child(lambda: [g(x), g(x), f(x, 4)]), f(x, 4), f(x, 4)
    yield g(x), g(x), in_child(lambda: [g(x * 2)])


def pickled_function(x: Any) -> Any:
    return x * 4 - 1


@case(X, "pickle of a compiled function")
def _(c: Wrap) -> Iterator[Any]:
    f = c(pickled_function)
    yield f(t(3))
    g = pickle.loads(pickle.dumps(f))
    yield f(t(3)), g(t(3))
    yield f(t(3)), g(t(3)), g.__name__
    yield CHANGED
    h = pickle.loads(pickle.dumps(g))
    yield h(t(2)), h(t(2)), g(t(2))


@case(X, "deepcopy of a compiled function")
def _(c: Wrap) -> Iterator[Any]:
    w = t(3)
    f = c(lambda x: x * w)
    yield f(t(3))
    g = copy.deepcopy({"f": f})["f"]
    yield f(t(3)), g(t(3))
    yield f(t(3)), g(t(3))
    yield CHANGED
    w.add_(1)
    yield f(t(3)), g(t(3)), copy.copy(f)(t(3))


@case(X, "garbage collection: a compiled module that is dropped is freed")
def _(c: Wrap) -> Iterator[Any]:
    def left_after(calls: int) -> list[bool]:
        m = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).requires_grad_(False)
        f = c(m)
        for _ in range(calls):
            f(torch.ones(2, 3))
        kept = [weakref.ref(each) for each in (m, m[0], m[0].weight)]
        del m, f
        gc.collect()
        return [reference() is not None for reference in kept]

    yield left_after(1)
    yield left_after(2)
    yield left_after(3)
    yield CHANGED

    def closed_over() -> Any:
        w = torch.ones(4)
        f = c(lambda x: x * w)
        f(torch.ones(4))
        f(torch.ones(4))
        return weakref.ref(w)

    for _ in range(2):
        kept = closed_over()
        gc.collect()
        yield kept() is not None


@case(X, "garbage collection: arguments and results are not kept")
def _(c: Wrap) -> Iterator[Any]:
    f = c(lambda x, d: x * d["w"])

    def left() -> list[bool]:
        x, d = torch.ones(3), {"w": torch.ones(3)}
        y = f(x, d)
        kept = [weakref.ref(each) for each in (x, d["w"], y)]
        del x, y, d
        return [reference() is not None for reference in kept]

    yield left()
    yield left()
    yield left()
    yield CHANGED
    gc.collect()
    yield left(), left(), f(torch.ones(2), {"w": torch.ones(2)}), left()


@case(X, "10,000 calls without growth in memory")
def _(c: Wrap) -> Iterator[Any]:
    m = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.1)).requires_grad_(False)
    f, g = c(lambda x: x * 2 if x[0] > 0 else x - 1), c(m)
    up, down, rows = torch.ones(3), -torch.ones(3), torch.ones(2, 3)

    def calls(number: int) -> None:
        for _ in range(number):
            f(up), f(down), f(rows[:, 0]), g(rows)

    yield f(up), f(down)
    yield f(up), f(down), f(rows[:, 0]), g(rows)
    yield CHANGED
    calls(20)
    gc.collect()
    before = sys.getallocatedblocks()
    calls(2500)
    gc.collect()
    yield sys.getallocatedblocks() - before < 1000
