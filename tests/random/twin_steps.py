"""An eager and a compiled twin of a module: each step is done to both, and all that can be seen is
compared."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn

import tracejit
import tracejit.entry
from tests.executors import BACKEND
from tests.random import twin_modules as made
from tests.random.twin_modules import BLOCKS, WIDTH, Mode, Spec
from tracejit.api import dispatcher_of, plain
from tracejit.runtime.ending import running

MOST_HELD = 6  # earlier arguments and results, for calls with views of them
HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 4e-3}


class Different(AssertionError):
    """The twins differ."""


# Arguments, as data


@dataclass(frozen=True)
class Fresh:
    """A new tensor."""

    sizes: tuple[int, ...] = (2, WIDTH)
    dtype: str = "float32"
    layout: str = "plain"
    seed: int = 0

    def tensor(self) -> torch.Tensor:
        """Multiples of 1/4 in -2 … 2, or small integers."""
        sizes = list(self.sizes)
        if self.layout == "transposed":
            sizes.reverse()
        elif self.layout == "sliced" and sizes:
            sizes[0] += 1
        elif self.layout == "step" and sizes:
            sizes[-1] *= 2
        elif self.layout == "expanded" and sizes:
            sizes[0] = 1
        generator = torch.Generator().manual_seed(self.seed)
        if self.dtype == "int64":
            data = torch.randint(0, 5, sizes, generator=generator)
        else:
            data = (torch.randint(-8, 9, sizes, generator=generator) / 4).to(
                getattr(torch, self.dtype)
            )
        if self.layout == "transposed":
            return data.permute(tuple(range(data.ndim))[::-1])
        if self.layout == "sliced" and sizes:
            return data[1:]
        if self.layout == "step" and sizes:
            return data[..., ::2]
        return data.expand(self.sizes) if self.layout == "expanded" else data


@dataclass(frozen=True)
class Earlier:
    """A view of an argument or a result of an earlier call."""

    number: int
    view: str = "same"


@dataclass(frozen=True)
class Part:
    """A view of the first argument of the same call."""

    view: str = "same"


@dataclass(frozen=True)
class State:
    """A parameter or a buffer."""

    path: str


@dataclass(frozen=True)
class Within:
    """Arguments in a list, or one in a dict."""

    kind: str
    items: tuple[Any, ...]


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "same": lambda t: t,
    "first": lambda t: t[:1],
    "rest": lambda t: t[1:],
    "second": lambda t: t[::2],
    "all": lambda t: t[:],
    "detached": lambda t: t.detach(),
    "transposed": lambda t: t.t(),
    "start": lambda t: t.as_strided(t.shape, t.stride(), 0),
    "row": lambda t: t[0],
}


# What modules are patched and hooked with


def shifted(x: Any) -> Any:
    return x - 1


def mixed(self: Any, x: Any) -> Any:
    return x + self.scale


def second(self: Any, x: Any, y: Any, mode: Any) -> Any:
    return x - y


def after(module: Any, inputs: Any, output: Any) -> Any:
    return output * 0.5 if isinstance(output, torch.Tensor) else output


def after_nothing(module: Any, inputs: Any, output: Any) -> None:
    return None


def before(module: Any, inputs: Any) -> Any:
    return (inputs[0] + 0.5, *inputs[1:])


def before_write(module: Any, inputs: Any) -> None:
    inputs[0].mul_(0.5)


ORIGINAL = (made.Plain.mix, made.Net.second, made.Residual.forward)
ORIGINAL_TABLE = copy.deepcopy(made.TABLE)


def changed_residual(self: Any, x: Any) -> Any:
    return x - self.inner(x) * self.scale


def outside(what: str, value: Any) -> None:
    """Change what both twins share: globals, a closure, defaults, classes, torch's state."""
    if what == "factor":
        made.FACTOR = value
    elif what == "table":
        made.TABLE["k"] = value
    elif what == "names":
        made.TABLE["names"] = list(value)
    elif what == "closure":
        made.change_closure(value)
    elif what == "default":
        made.defaults.__defaults__ = (value,)
    elif what == "keyword default":
        made.defaults.__kwdefaults__ = {"scale": value}
    elif what == "mix":
        made.Plain.mix = mixed if value else ORIGINAL[0]  # type: ignore[method-assign]
    elif what == "second":
        made.Net.second = second if value else ORIGINAL[1]  # type: ignore[method-assign]
    elif what == "residual":
        made.Residual.forward = (  # type: ignore[method-assign]
            changed_residual if value else ORIGINAL[2]
        )
    elif what == "total":
        made.Walks.total = value
    elif what == "dtype":
        torch.set_default_dtype(getattr(torch, value))
    elif what == "deterministic":
        torch.use_deterministic_algorithms(value)


def restore() -> None:
    """Undo all that `outside` can do."""
    for what, value in (
        *(("factor", 2.0), ("closure", 2.0), ("default", 0.5), ("keyword default", 2.0)),
        *(
            ("mix", False),
            ("second", False),
            ("residual", False),
            ("total", 0.5),
            ("dtype", "float32"),
        ),
        ("deterministic", False),
    ):
        outside(what, value)
    made.TABLE.clear()
    made.TABLE.update(copy.deepcopy(ORIGINAL_TABLE))


CONTEXTS: dict[str, Callable[[], Any]] = {
    "": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast off": lambda: torch.autocast("cpu", enabled=False),
}


class Twin:
    """One of the two: a module, how it is called, what earlier calls left, random states."""

    def __init__(self, spec: Spec, wrap: Callable[[Any], Any]) -> None:
        self.spec, self.wrap = spec, wrap
        self.module = spec.build()
        self.hooks: list[Any] = []
        self.held: list[torch.Tensor] = []
        self.random = torch.manual_seed(0).get_state()
        self.forget()

    def forget(self) -> None:
        """Compile anew."""
        self.handle: Any = self.module
        if self.spec.how == "module":
            self.call = self.handle = self.wrap(self.module)
        elif self.spec.how == "method":
            self.call = self.wrap(self.module.forward)
        else:
            self.call = functools.partial(self.wrap(made.run), self.module)

    def find(self, path: str) -> Any:
        """What a dotted path leads to, through attributes and items."""
        value = self.handle
        for name in path.split(".") if path else ():
            value = value[name] if isinstance(value, Mapping) else getattr(value, name)
        return value

    def place(self, path: str) -> tuple[Any, str]:
        """The owner and the name at the end of a path."""
        parent, _, name = path.rpartition(".")
        return self.find(parent), name

    def value(self, given: Any) -> Any:
        """A value from data: Fresh is a tensor, a list is a new list, a class an object of it."""
        if isinstance(given, Fresh):
            return given.tensor()
        return copy.deepcopy(given)

    def tensor(self, given: Any, first: Any = None) -> Any:
        """An argument from data."""
        if isinstance(given, Earlier):
            found = self.held[given.number % len(self.held)] if self.held else torch.ones(2, WIDTH)
            return VIEWS[given.view](found)
        if isinstance(given, Part):
            return VIEWS[given.view](first)
        if isinstance(given, State):
            return self.find(given.path)
        if isinstance(given, Within):
            every = [self.tensor(each, first) for each in given.items]
            return every if given.kind == "list" else {"y": every[0]}
        return self.value(given)

    # Steps

    def do_call(
        self, x: Any, y: Any = None, mode: Any = None, scale: Any = 1.0, context: str = ""
    ) -> Any:
        first = self.tensor(x)
        args = [first, self.tensor(y, first), mode]
        while len(args) > 1 and args[-1] is None:
            args.pop()
        keywords = {} if scale == 1.0 else {"scale": scale}
        self.hold(args)
        with CONTEXTS[context]():
            result = self.call(*args, **keywords)
        self.hold(result)
        return result

    def hold(self, value: Any) -> None:
        """Keep tensors for later calls."""
        found = [t for t in tensors_in(value) if not any(t is h for h in self.held)]
        self.held = [*self.held, *found][-MOST_HELD:]

    def do_forget(self) -> None:
        self.forget()

    def do_drop(self) -> None:
        self.held.clear()

    def do_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def do_outside(self, what: str, value: Any) -> None:
        outside(what, value)

    def do_train(self, path: str, mode: bool) -> None:
        self.find(path).train(mode)

    def do_set(self, path: str, value: Any) -> None:
        owner, name = self.place(path)
        if isinstance(owner, dict):
            owner[name] = self.value(value)
        else:
            setattr(owner, name, self.value(value))

    def do_delete(self, path: str) -> None:
        delattr(*self.place(path))

    def do_apply(self, path: str, method: str, *args: Any) -> None:
        """Call a method of a list or dict."""
        getattr(self.find(path), method)(*map(self.value, args))

    def do_replace(self, path: str, block: str) -> None:
        owner, name = self.place(path)
        torch.manual_seed(len(path))
        new = BLOCKS[block]().requires_grad_(False)
        if isinstance(owner, nn.ModuleDict):
            owner[name] = new
        else:
            setattr(owner, name, new)

    def do_patch(self, path: str, what: str) -> None:
        """Replace a method on an instance, or give the class's back."""
        owner = self.find(path)
        if what == "unpatch":
            for name in ("mix", "forward"):
                owner.__dict__.pop(name, None)
        elif what == "mix":
            owner.mix = shifted
        else:
            owner.forward = shifted

    def do_hook(self, path: str, what: str) -> None:
        part = self.find(path)
        if what.startswith("before"):
            hook: Any = before if what == "before" else before_write
            self.hooks.append(part.register_forward_pre_hook(hook))
        else:
            hook = after if what == "after" else after_nothing
            self.hooks.append(part.register_forward_hook(hook))

    def do_unhook(self) -> None:
        if self.hooks:
            self.hooks.pop().remove()

    def do_tensor(self, path: str, what: str, seed: int = 0) -> None:
        """Change a parameter or a buffer."""
        owner, name = self.place(path)
        old = getattr(owner, name)
        integers = not old.dtype.is_floating_point
        dtype = "int64" if integers else str(old.dtype)[6:]
        new = Fresh(tuple(old.shape), dtype, seed=seed).tensor()
        wrap = isinstance(old, nn.Parameter)
        with torch.no_grad():
            if what == "new":
                setattr(owner, name, nn.Parameter(new, False) if wrap else new)
            elif what == "strided":
                layout = "transposed" if old.ndim > 1 else "step"
                other = Fresh(tuple(old.shape), dtype, layout, seed).tensor()
                setattr(owner, name, nn.Parameter(other, False) if wrap else other)
            elif what == "data":
                old.data = new
            elif what == "none":
                setattr(owner, name, None)
            elif what == "write":
                old.copy_(new)
            elif what == "data write":
                old.data.fill_(1)
            elif what == "zero":
                old.zero_()
            elif what == "cast":
                old.data = old.data.double()
        if what == "grad":
            old.requires_grad_(not old.requires_grad)

    def do_tie(self, path: str, other: str) -> None:
        setattr(*self.place(path), self.find(other))

    def do_cast(self, path: str, dtype: str) -> None:
        self.find(path).to(getattr(torch, dtype))

    def do_load(self, seed: int) -> None:
        old = self.find("").state_dict()
        kinds = {k: "int64" if not v.dtype.is_floating_point else "float32" for k, v in old.items()}
        self.find("").load_state_dict(
            {k: Fresh(tuple(v.shape), kinds[k], seed=seed).tensor() for k, v in old.items()}
        )

    def do_requires_grad(self, flag: bool) -> None:
        self.find("").requires_grad_(flag)

    def do_write(self, number: int, what: str) -> None:
        """Write to an earlier argument or result."""
        if not self.held:
            return
        found = self.held[number % len(self.held)]
        with torch.no_grad():
            if what == "add":
                found.add_(1)
            elif what == "data":
                found.data.mul_(0.5)
            else:
                found[:1] = 0

    def do_copy(self, how: str) -> None:
        """Go on with a copy of the module, or of what was compiled."""
        whole = self.spec.how == "module" and how.startswith("compiled")
        old = self.call if whole else self.module
        pickled = how.endswith("pickle")
        new = pickle.loads(pickle.dumps(old)) if pickled else copy.deepcopy(old)
        if not whole:
            self.module = new
            self.forget()
            return
        self.call = self.handle = new
        self.module = new if self.wrap is eager else plain(new)


def eager(function: Any) -> Any:
    return function


def compiled(function: Any) -> Any:
    return tracejit.compile(function, backend=BACKEND, wait=True)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a nest of containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from tensors_in(getattr(value, each.name))


class View:
    """All that can be seen: words that compare, each with its place, and tensors whose values
    do."""

    def __init__(self) -> None:
        self.words: list[tuple[str, Any]] = []
        self.tensors: list[tuple[str, torch.Tensor]] = []
        self.objects: dict[int, int] = {}
        self.storages: dict[int, int] = {}

    def see(self, place: str, value: Any) -> None:
        """Look at a value and all that it leads to. Objects are numbered as they are met."""
        if value is None or isinstance(value, (bool, int, float, str, complex, enum_type)):
            self.words.append((place, (type(value), repr(value))))
            return
        if isinstance(value, tuple):
            self.words.append((place, (type(value).__name__, len(value))))
            for number, each in enumerate(value):
                self.see(f"{place}[{number}]", each)
            return
        if callable(value) and not isinstance(value, nn.Module):
            self.words.append((place, re.sub("0x[0-9a-f]+", "", repr(value))))
            return
        number = self.objects.setdefault(id(value), len(self.objects))
        self.words.append((place, (type(value), "object", number)))
        if number < len(self.objects) - 1:
            return
        if isinstance(value, torch.Tensor):
            self.tensor(place, value)
        elif isinstance(value, list):
            self.words.append((place, len(value)))
            for index, each in enumerate(value):
                self.see(f"{place}[{index}]", each)
        elif isinstance(value, frozenset):
            self.words.append((place, sorted(value)))
        elif isinstance(value, made.Slots):
            self.see(f"{place}.value", value.value)
        elif isinstance(value, dict):
            self.words.append((place, [repr(key) for key in value]))
            for key, each in value.items():
                self.see(f"{place}[{key!r}]", each)
        else:
            self.attributes(place, value)

    def attributes(self, place: str, value: Any) -> None:
        """The attributes of an object; of hooks only how many they are."""
        for name, each in vars(value).items():
            if name.endswith(HOOKS):
                self.words.append((f"{place}.{name}", len(each)))
            elif not isinstance(each, set):
                self.see(f"{place}.{name}", each)

    def tensor(self, place: str, tensor: torch.Tensor) -> None:
        """All of a tensor but its values."""
        storage = tensor.untyped_storage()
        self.words.append(
            (
                place,
                (
                    tensor.dtype,
                    tuple(tensor.shape),
                    tensor.stride(),
                    tensor.storage_offset(),
                    f"requires_grad={tensor.requires_grad}",
                    f"is_leaf={tensor.is_leaf}",
                    f"inference={tensor.is_inference()}",
                    f"storage {self.storages.setdefault(storage._cdata, len(self.storages))}",
                    f"of {storage.nbytes()} bytes",
                ),
            )
        )
        self.tensors.append((place, tensor))


enum_type = Mode


@dataclass
class Tally:
    """What was done."""

    steps: int = 0
    calls: int = 0
    plans: int = 0
    recorded: int = 0
    raised: int = 0

    def __str__(self) -> str:
        eagerly = self.calls - self.plans - self.recorded
        return (
            f"{self.steps} steps, {self.calls} calls: {self.plans} ran a plan, "
            f"{self.recorded} were recorded, {eagerly} ran eagerly; {self.raised} raised"
        )


class Twins:
    """The twins, and the steps so far. `do` raises Different."""

    def __init__(self, spec: Spec, tally: Tally | None = None) -> None:
        restore()
        self.spec, self.tally = spec, tally or Tally()
        self.log: list[tuple[Any, ...]] = []
        self.eager, self.compiled = Twin(spec, eager), Twin(spec, compiled)
        self.compare((None, None), False)

    def close(self) -> None:
        restore()

    @property
    def dispatcher(self) -> Any:
        call = self.compiled.call
        return dispatcher_of(call.func if isinstance(call, functools.partial) else call)

    def full(self) -> bool:
        """Whether the compiled function takes no more kinds of calls."""
        found = self.dispatcher
        most = tracejit.dispatch.MOST_ENTRIES
        return len(found.entries) >= most or len(found.refused) >= most

    def do(self, name: str, *args: Any) -> None:
        """One step on both."""
        self.log.append((name, *args))
        self.tally.steps += 1
        expected = self.attempt(self.eager, name, args)
        before, ran = self.dispatcher.entries, RAN[0]
        found = self.attempt(self.compiled, name, args)
        if name == "call":
            self.tally.calls += 1
            self.tally.raised += expected[0] == "raised"
            if RAN[0] > ran:
                self.tally.plans += 1
            elif any(e.source == "recorded" for e in self.dispatcher.entries if e not in before):
                self.tally.recorded += 1
        inexact = name == "call" and "autocast" in args
        self.compare((expected, found), inexact)

    def attempt(self, twin: Twin, name: str, args: tuple[Any, ...]) -> Any:
        """The result of a step on one twin, or its exception as data."""
        kept = random.getstate()
        random.seed(len(self.log))
        torch.set_rng_state(twin.random)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                result = "returned", getattr(twin, f"do_{name}")(*args)
            except Exception as error:
                result = "raised", type(error), re.sub("0x[0-9a-f]+", "", str(error))
        twin.random = torch.get_rng_state()
        self.drawn = random.random()
        random.setstate(kept)
        return (*result, self.drawn)

    def compare(self, results: tuple[Any, Any], inexact: bool) -> None:
        """Raise Different where something differs; then give both the very same numbers."""
        views = []
        for twin, result in zip((self.eager, self.compiled), results):
            view = View()
            view.see("result", result)
            view.see("earlier", twin.held)
            view.see("self", twin.module)
            views.append(view)
        expected, found = views
        for (place, a), (other, b) in zip(expected.words, found.words):
            if (place, a) != (other, b):
                self.differ(f"eager has {place} = {a}, compiled {other} = {b}")
        if len(expected.words) != len(found.words):
            self.differ("compiled has other attributes")
        tolerance = self.tolerance(expected, inexact)
        for (place, a), (_, b) in zip(expected.tensors, found.tensors):
            if not close(a, b, tolerance):
                self.differ(f"{place}: eager {a.tolist()}, compiled {b.tolist()}")
        if not torch.equal(self.eager.random, self.compiled.random):
            self.differ("the random state differs")
        equalise(expected, found)

    def tolerance(self, view: View, inexact: bool) -> float:
        """How far numbers may be apart that were rounded on the way, to the coarsest type that is
        there."""
        if inexact or any(
            getattr(m, "inside", "") == "autocast" for m in self.eager.module.modules()
        ):
            return TOLERANCE[torch.bfloat16]
        return max((TOLERANCE.get(t.dtype, 0.0) for _, t in view.tensors), default=0.0)

    def differ(self, what: str) -> None:
        raise Different(f"after step {len(self.log)}, {self.log[-1:]}: {what}\n\n{self.program()}")

    def program(self) -> str:
        """The steps as a program that can be run."""
        return program([(self.spec, self.log)])


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    """Whether values are equal, those of floating point up to rounding."""
    a, b = a.detach(), b.detach()
    if torch.equal(a, b):
        return True
    if not a.dtype.is_floating_point:
        return False
    a, b = a.double(), b.double()
    finite = a[a.isfinite()].abs()
    size = max(1.0, finite.max().item() if finite.numel() else 0.0)
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * size, equal_nan=True)


def equalise(expected: View, found: View) -> None:
    """Give the compiled twin's tensors eager's bits, so that roundings do not add up."""
    for (_, a), (_, b) in zip(expected.tensors, found.tensors):
        b.untyped_storage().copy_(a.untyped_storage())


def program(pairs: list[tuple[Spec, list[tuple[Any, ...]]]]) -> str:
    """Steps of pairs of twins as a program that can be run."""
    lines = [
        "import functools, os, tempfile",
        'os.environ["TRACEJIT_CACHE_DIR"] = tempfile.mkdtemp()',
        "import torch",
        "from tests.random.twin_modules import Config, Mode, Pair, Settings, Slots, Spec, defaults",
        "from tests.random.twin_steps import Earlier, Fresh, Part, State, Twins, Within",
        "",
        "torch.set_num_threads(1)",
    ]
    for spec, steps in pairs:
        lines += ["", f"twins = Twins({spec})"]
        lines += [f"twins.do({', '.join(map(written, step))})" for step in steps]
    return "\n".join(lines)


def written(value: Any) -> str:
    """A value of a step as Python text."""
    if isinstance(value, functools.partial):
        return f"functools.partial(defaults, **{value.keywords})"
    if callable(value):
        return f"torch.nn.functional.{value.__name__}"
    return str(value) if isinstance(value, Mode) else repr(value)


RAN = [0]  # calls that ran a compiled plan to its end


def counted(run: Any, shown: Any, recipe: Any, failed: Any) -> Any:
    """`running` that counts."""

    def counting(inputs: Any) -> Any:
        outputs = run(inputs)
        RAN[0] += 1
        return outputs

    return running(counting, counting, recipe, failed)


@contextlib.contextmanager
def counting_plans() -> Iterator[None]:
    """Within this, RAN counts."""
    tracejit.entry.running = counted
    try:
        yield
    finally:
        tracejit.entry.running = running
