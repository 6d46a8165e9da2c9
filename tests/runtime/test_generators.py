"""Random generators in compiled calls: passed in, made, seeded, their states taken and set. Values
and the states of all generators afterwards are eager's, in every call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of

Maker = Callable[[], tuple[Any, ...]]


@pytest.fixture(autouse=True)
def separate(fresh_cache: Path) -> None:
    """A cache of its own for each test."""


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(value: Any) -> Any:
    """A result as lists, so that == compares it."""
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.tolist()]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return "generator" if isinstance(value, torch.Generator) else value


def history(function: Callable[..., Any], calls: list[tuple[Any, ...]], watched: Any) -> list[Any]:
    """What calls in a row give, and after each the state of every generator."""
    torch.manual_seed(1)
    found = []
    for arguments in calls:
        result = plain(function(*arguments))
        states = [torch.get_rng_state(), *(each.get_state() for each in watched)]
        found.append((result, plain(states)))
    return found


def compiled(function: Any, calls: Callable[[], tuple[list[Any], list[Any]]]) -> list[Any]:
    """Check that calls equal eager's, when recorded and when found on disk; the entries."""
    expected = history(function, *calls())
    entries: list[Any] = []
    for _ in range(2):
        wrapped = tracejit.compile(function, backend=BACKEND, wait=True)
        assert history(wrapped, *calls()) == expected
        assert dispatcher_of(wrapped).reasons == []
        entries.append(dispatcher_of(wrapped).entries)
    assert {entry.source for entry in entries[1]} == {"disk"}
    return list(entries[0])


def repeated(*seeds: int, count: int = 4) -> Callable[[], tuple[list[Any], list[Any]]]:
    """The same arguments again and again: a tensor, and generators of these seeds."""

    def calls() -> tuple[list[Any], list[Any]]:
        made = [generator(seed) for seed in seeds]
        return [(torch.ones(3), *made)] * count, made

    return calls


DRAWS: dict[str, Callable[[torch.Tensor, Any], Any]] = {
    "rand": lambda x, g: x + torch.rand(3, generator=g),
    "randn": lambda x, g: x * torch.randn(3, generator=g, dtype=torch.float64),
    "randint": lambda x, g: torch.randint(2, 9, (4,), generator=g),
    "randint of one bound": lambda x, g: torch.randint(5, (2,), generator=g),
    "randperm": lambda x, g: torch.randperm(6, generator=g) + 1,
    "bernoulli": lambda x, g: torch.bernoulli(x * 0.5, generator=g),
    "bernoulli of a number": lambda x, g: torch.bernoulli(x, 0.3, generator=g),
    "bernoulli_": lambda x, g: x.clone().bernoulli_(0.5, generator=g) + 1,
    "bernoulli_ of a tensor": lambda x, g: x.clone().bernoulli_(x * 0.5, generator=g),
    "multinomial": lambda x, g: torch.multinomial(x, 2, generator=g),
    "normal": lambda x, g: torch.normal(x, x, generator=g),
    "normal of a mean": lambda x, g: torch.normal(x, 2.0, generator=g),
    "normal of numbers": lambda x, g: torch.normal(0.0, 1.0, (3,), generator=g),
    "normal_": lambda x, g: x.clone().normal_(generator=g) * 2,
    "uniform_": lambda x, g: x.clone().uniform_(-1, 2, generator=g),
    "exponential_": lambda x, g: x.clone().exponential_(generator=g),
    "geometric_": lambda x, g: x.clone().geometric_(0.5, generator=g),
    "cauchy_": lambda x, g: x.clone().cauchy_(generator=g),
    "log_normal_": lambda x, g: x.clone().log_normal_(generator=g),
    "random_": lambda x, g: x.clone().random_(0, 5, generator=g),
    "poisson": lambda x, g: torch.poisson(x * 3, generator=g),
    "binomial": lambda x, g: torch.binomial(x * 5, x * 0.5, generator=g),
    "write to an argument": lambda x, g: x.normal_(generator=g).sum(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws(name: str) -> None:
    compiled(DRAWS[name], repeated(3))


# --- where a generator comes from ---

GLOBAL = generator(7)


class Noise(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source = generator(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(3, generator=self.source)


def test_module_attribute() -> None:
    def run(wrap: Any) -> list[Any]:
        module = Noise()
        function = wrap(module)
        found = [plain((function(torch.ones(3)), module.source.get_state())) for _ in range(3)]
        module.source = generator(8)
        found += [plain((function(torch.ones(3)), module.source.get_state())) for _ in range(3)]
        if wrap is not unchanged:
            assert dispatcher_of(function).reasons == []
            assert len(dispatcher_of(function).entries) == 1
        return found

    def unchanged(module: Any) -> Any:
        return module

    assert run(functools.partial(tracejit.compile, backend=BACKEND, wait=True)) == run(unchanged)


def from_global(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand(3, generator=GLOBAL)


def from_closure() -> tuple[Any, list[torch.Generator]]:
    source = generator(5)
    return lambda x: x + torch.rand(3, generator=source), [source]


def from_object() -> tuple[Any, list[torch.Generator]]:
    held = SimpleNamespace(sources=[generator(5), generator(6)])
    function = lambda x: (  # noqa: E731
        torch.rand(2, generator=held.sources[1]),
        x + torch.rand(3, generator=held.sources[0]),
    )
    return function, held.sources


@pytest.mark.parametrize(
    "make",
    [lambda: (from_global, [GLOBAL]), from_closure, from_object],
    ids=["global", "closure", "list"],
)
def test_places(make: Any) -> None:
    function, watched = make()

    def calls() -> tuple[list[Any], list[Any]]:
        for number, each in enumerate(watched):
            each.manual_seed(number)
        return [(torch.ones(3),)] * 4, watched

    compiled(function, calls)


def test_replaced_and_one() -> None:
    """Other generators at each call, made anew, the default one, one in two places, and none."""

    def function(x: torch.Tensor, g: Any, h: Any) -> Any:
        first = torch.rand(3, generator=g)
        return x + first, torch.rand(2, generator=h), torch.rand(1), g is h

    def calls() -> tuple[list[Any], list[Any]]:
        made = [generator(seed) for seed in range(24)]
        one, two, default = made[0], made[1], torch.default_generator
        pairs = [(one, two)] * 3 + [(two, one), (one, one), (one, one), (one, one), (one, two)]
        pairs += [(default, one), (one, default), (default, default), (None, one), (None, None)] * 2
        pairs += list(zip(made[::2], made[1::2]))
        pairs += [(each, each) for each in made] + pairs[:4]
        return [(torch.ones(3), *pair) for pair in pairs], made

    torch.manual_seed(0)
    expected = history(function, *calls())
    wrapped = tracejit.compile(function, backend=BACKEND, wait=True)
    assert history(wrapped, *calls()) == expected
    assert dispatcher_of(wrapped).reasons == []


# --- seeds and states ---


def seed_of_all(x: torch.Tensor, g: Any) -> Any:
    before = torch.rand(2)
    torch.manual_seed(-5)
    return before, x + torch.rand(3), torch.rand(2, generator=g)


def seed_of_one(x: torch.Tensor, g: Any) -> Any:
    before = torch.rand(2, generator=g)
    g.manual_seed(2**63 + 5)
    return before, torch.rand(3), x + torch.rand(3, generator=g)


def seed_of_default(x: torch.Tensor) -> Any:
    torch.default_generator.manual_seed(4)
    return torch.rand(3, generator=torch.manual_seed(6)) + x, torch.manual_seed(4)


def forked(x: torch.Tensor) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(9)
        noise = torch.rand(3)
        with torch.random.fork_rng(devices=[]):
            more = torch.randn(2)
        again = torch.randn(2)
    return x + noise, more, again, torch.rand(2)


def exchanged(x: torch.Tensor, g: Any, h: Any) -> Any:
    state = g.get_state()
    first = torch.rand(3, generator=g)
    g.set_state(h.get_state())
    h.set_state(state)
    return x + first, torch.rand(2, generator=g), torch.rand(2, generator=h)


def state_given(x: torch.Tensor, g: Any, h: Any) -> Any:
    torch.set_rng_state(g.get_state())
    return x + torch.rand(3), torch.get_rng_state(), h.get_state().sum()


def made_inside(x: torch.Tensor) -> Any:
    one, two = torch.Generator().manual_seed(3), torch.Generator()
    two.set_state(one.get_state())
    first = torch.rand(3, generator=one)
    return first + x, torch.rand(3, generator=two) - first, torch.rand(1)


def made_unseeded(x: torch.Tensor) -> Any:
    made = torch.Generator()
    return torch.rand(3, generator=made) + x, torch.rand(1)


def branching(x: torch.Tensor, g: Any, h: Any) -> Any:
    """Leaves after draws, a seed and a state."""
    noise = torch.rand(3, generator=g) + torch.rand(3)
    torch.manual_seed(11)
    h.set_state(g.get_state())
    if noise.sum() > 3:
        return noise * torch.rand(3, generator=h), torch.rand(1)
    return x + torch.rand(3, generator=h) + torch.rand(3), noise


STATES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "torch.manual_seed": (seed_of_all, (3,)),
    "manual_seed": (seed_of_one, (3,)),
    "the default's manual_seed": (seed_of_default, ()),
    "fork_rng": (forked, ()),
    "get_state and set_state": (exchanged, (3, 4)),
    "a state that is returned": (state_given, (3, 4)),
    "made inside": (made_inside, ()),
    "made inside, not seeded": (made_unseeded, ()),
}


@pytest.mark.parametrize("name", STATES)
def test_states(name: str) -> None:
    function, seeds = STATES[name]
    (entry,) = compiled(function, repeated(*seeds))
    assert entry.guards.local is None


def test_leaving() -> None:
    function = tracejit.compile(branching, backend=BACKEND, wait=True)
    expected = history(branching, *repeated(3, 4, count=20)())
    assert history(function, *repeated(3, 4, count=20)()) == expected
    assert {reason.kind for reason in dispatcher_of(function).reasons} <= {"left"}


def test_a_state_as_argument() -> None:
    def function(x: torch.Tensor, state: torch.Tensor, g: Any) -> Any:
        g.set_state(state)
        return x + torch.rand(3, generator=g)

    def calls() -> tuple[list[Any], list[Any]]:
        g = generator()
        states = [generator(seed).get_state() for seed in range(4)]
        return [(torch.ones(3), state, g) for state in states], [g]

    compiled(function, calls)


def test_an_error_leaves_what_eager_leaves() -> None:
    def function(x: torch.Tensor, i: torch.Tensor, g: Any) -> Any:
        noise = torch.rand(3, generator=g)
        torch.manual_seed(3)
        return x.index_add(0, i, torch.rand(2)) + noise

    def attempts(wrapped: Any) -> list[Any]:
        g, found = generator(), []
        torch.manual_seed(1)
        for last in (1, 1, 2, 9, 1, 9):
            try:
                result = plain(wrapped(torch.ones(3), torch.tensor([0, last]), g))
            except IndexError as error:
                result = str(error)
            found.append((result, plain((g.get_state(), torch.get_rng_state()))))
        return found

    expected = attempts(function)
    assert attempts(tracejit.compile(function, backend=BACKEND, wait=True)) == expected


# --- what is refused ---


@functools.lru_cache
def kept_elsewhere(seed: int) -> torch.Generator:
    return generator(seed)


def chosen(x: torch.Tensor, g: Any, h: Any) -> Any:
    one, two = g.get_state(), h.get_state()
    g.set_state(one if x.shape[0] == 3 else two)
    return x + torch.rand(3, generator=g)


def escaping(x: torch.Tensor) -> Any:
    made = torch.Generator().manual_seed(2)
    return x + torch.rand(3, generator=made), made


REFUSED: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "initial_seed": (lambda x, g: x + g.initial_seed(), (3,), "random"),
    "torch.initial_seed": (lambda x: x + torch.initial_seed(), (), "random"),
    "one of two states": (chosen, (3, 3), "random"),
    "escapes": (escaping, (), "output"),
    "changed unseen": (
        lambda x, g: (list(map(g.manual_seed, [9])), x + torch.rand(3, generator=g))[1],
        (3,),
        "random",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, seeds, kind = REFUSED[name]
    wrapped = tracejit.compile(function, backend=BACKEND, wait=True)
    assert history(wrapped, *repeated(*seeds)()) == history(function, *repeated(*seeds)())
    assert {reason.kind for reason in dispatcher_of(wrapped).reasons} == {kind}


def test_kept_by_a_cache() -> None:
    def function(x: torch.Tensor) -> Any:
        return x + torch.rand(3, generator=kept_elsewhere(4))

    expected = [plain(function(torch.ones(3))) for _ in range(4)]
    kept_elsewhere(4).manual_seed(4)
    wrapped = tracejit.compile(function, backend=BACKEND, wait=True)
    assert [plain(wrapped(torch.ones(3))) for _ in range(4)] == expected


# --- random programs ---

NAMES = ("g", "h", "made", "default")
STEPS = st.one_of(
    st.tuples(st.sampled_from(["rand", "normal", "randperm"]), st.sampled_from(NAMES)),
    st.tuples(st.just("seed"), st.sampled_from(NAMES), st.integers(0, 3)),
    st.tuples(st.just("all"), st.integers(0, 3)),
    st.tuples(st.just("take"), st.sampled_from(NAMES)),
    st.tuples(st.just("set"), st.sampled_from(NAMES), st.integers(0, 9)),
    st.tuples(st.just("branch"), st.floats(0.2, 0.8)),
)


def program(steps: list[tuple[Any, ...]]) -> Any:
    """A function of a tensor and two generators that does these steps; its text."""
    lines = ["made = torch.Generator()", "made.manual_seed(1)", "default = torch.default_generator"]
    lines += ["out = [x + 1]"]
    states = 0
    for kind, *rest in steps:
        if kind == "rand":
            lines.append(f"out.append(torch.rand(2, generator={rest[0]}))")
        elif kind == "normal":
            lines.append(f"out.append(x.clone().normal_(generator={rest[0]}))")
        elif kind == "randperm":
            lines.append(f"out.append(torch.randperm(3, generator={rest[0]}))")
        elif kind == "seed":
            lines.append(f"{rest[0]}.manual_seed({rest[1]})")
        elif kind == "all":
            lines.append(f"torch.manual_seed({rest[0]})")
        elif kind == "take":
            lines.append(f"state{states} = {rest[0]}.get_state()")
            states += 1
        elif kind == "set" and states:
            lines.append(f"{rest[0]}.set_state(state{rest[1] % states})")
        elif kind == "branch":
            lines.append(f"if out[-1].double().mean() > {rest[0]}: out.append(torch.rand(1))")
    lines.append("return out")
    return "def run(x, g, h):\n    " + "\n    ".join(lines)


@settings(max_examples=25)
@given(st.lists(STEPS, min_size=1, max_size=9))
def test_random_programs(steps: list[tuple[Any, ...]]) -> None:
    space: dict[str, Any] = {"torch": torch, "__name__": "generated"}
    exec(compile(program(steps), "generated.py", "exec"), space)
    function = space["run"]

    def calls() -> tuple[list[Any], list[Any]]:
        g, h, other = generator(1), generator(2), generator(3)
        default = torch.default_generator
        pairs = [(g, h)] * 3 + [(other, h), (g, g), (g, g), (default, h), (default, h), (g, h)]
        return [(torch.ones(3), *pair) for pair in pairs], [g, h, other]

    wrapped = tracejit.compile(function, backend=BACKEND, wait=True)
    assert history(wrapped, *calls()) == history(function, *calls())
    assert {reason.kind for reason in dispatcher_of(wrapped).reasons} <= {"left"}
    assert dispatcher_of(wrapped).entries


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu() -> None:
    def function(x: torch.Tensor, g: Any) -> Any:
        with torch.random.fork_rng(devices=[0]):
            noise = torch.rand(3, device="cuda")
        torch.manual_seed(5)
        return x + noise, torch.rand(3, device="cuda"), torch.rand(3, device="cuda", generator=g)

    def run(wrapped: Any) -> list[Any]:
        g = torch.Generator("cuda").manual_seed(3)
        torch.manual_seed(1)
        return [
            plain((wrapped(torch.ones(3, device="cuda"), g), torch.cuda.get_rng_state()))
            for _ in range(4)
        ]

    wrapped = tracejit.compile(function, wait=True)
    assert run(wrapped) == run(function)
    assert dispatcher_of(wrapped).reasons == []
