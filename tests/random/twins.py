"""Random steps on an eager and a compiled twin, drawn by hypothesis.

    python -m tests.random.twins --steps 50000 --seed 1 --minutes 10

prints what was done, and for a difference the fewest steps that show it, as a program.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import hypothesis
import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from torch import nn

from tests.random.twin_modules import (
    BLOCKS,
    ENDINGS,
    WIDTH,
    Config,
    Mode,
    Pair,
    Settings,
    Slots,
    Spec,
    defaults,
)
from tests.random.twin_steps import (
    CONTEXTS,
    VIEWS,
    Different,
    Earlier,
    Fresh,
    Part,
    State,
    Tally,
    Twins,
    Within,
    counting_plans,
    program,
)
from tracejit.runtime.config import config

LENGTH = 50  # steps of one pair of twins
CHUNK = 20  # pairs that share a cache folder in the long run
SHRINKING = 20.0  # seconds to look for fewer steps

SIZES = [(2, 4), (2, 4), (3, 4), (1, 4), (4, 4), (0, 4), (2, 2, 4), (4,), (2, 3)]
DTYPES = ["float32"] * 5 + ["float64", "bfloat16", "int64"]
LAYOUTS = ["plain", "plain", "transposed", "sliced", "step", "expanded"]
MODES = [None, None, "is", "write", "write first", Mode.MUL, Mode.ADD, (2.0, 1), (0.5, 1)]
NUMBERS = [1.0, 2.0, 0.5, 3, True, -1.0]
FLAGS = [True, False]
WORDS: dict[str, list[Any]] = {
    "scale": [*NUMBERS, Fresh((4,))],
    "flag": [*FLAGS, 1, None],
    "how": ["add", "mul", "neg", None],
    "config": [Config()],
    "settings": [Settings(), Settings(0.5, (2.0,))],
    "shift": NUMBERS,
    "pair": [(1.0, 2.0), (3.0,), (1.0, 2.0)],
    "rebound": FLAGS,
    "position": [0, 1, 2, -1, 3],
    "by_tensor": FLAGS,
    "step": [0, 1],
    "what": ["", "step", "log", "memo", "step log memo", ""],
    "which": ["input", "view", "result", "nothing"],
    "kept": [None, Fresh((2, 4))],
    "limit": [0.37, -9.0, 9.0],
    "noise": [0.0, 0.5],
    "chance": [0.0, 0.5],
    "where": ["all", "step", "transposed", "row", "view", "iadd", "nowhere"],
    "catches": FLAGS,
    "inside": ["no_grad", "autocast", "off", ""],
    "name": ["one", "two", "three"],
    "later": [0.5, 1.5, Fresh((4,))],
    "act": [torch.relu, torch.tanh, nn.functional.gelu, nn.functional.silu],
    "asks": [
        *("contiguous", "stride", "grad", "enabled", "inference", "autocast", "default"),
        *("leaf", "view"),
    ],
    "couple": [Pair(1.0, 2.0), Pair(2.0, 1.0), (1.0, 2.0)],
    "slots": [Slots(0.5), Slots(1.5)],
    "value": NUMBERS,
    "kinds": [frozenset({"a"}), frozenset({"b"}), frozenset()],
    "part": [functools.partial(defaults, shift=0.25), functools.partial(defaults, scale=3.0)],
    "selects": FLAGS,
    "p": [0.0, 0.5, 0.9],
    "eps": [0.1, 0.5],
    "momentum": [0.1, 0.5],
    "ending": list(ENDINGS),
    "training": FLAGS,
}
LISTS: dict[str, list[tuple[Any, ...]]] = {
    "order": [("append", "0"), ("pop",), ("reverse",), ("insert", 0, "0"), ("clear",)],
    "active": [("append", "a"), ("pop",), ("reverse",), ("append", "b")],
    "factors": [("update", {"one": 0.5}), ("update", {"one": 1.0}), ("pop", "two")],
    "held": [("reverse",), ("append", 1.0), ("__setitem__", 0, Fresh((4,))), ("pop",)],
    "names": [("update", {"a": 3.0}), ("pop", "a"), ("update", {"c": 1.0, "a": 1.0})],
    "named": [("update", {"y": 1.5}), ("update", {"z": Fresh(())}), ("pop", "y")],
    "log": [("append", 1), ("clear",)],
    "memo": [("update", {1: 2}), ("clear",)],
    "results": [("append", 1.0), ("append", Fresh((2,))), ("clear",)],
    "extra": [("update", {"bias": 1.5}), ("update", {"list": [1.0]})],
}
TENSOR_CHANGES = (
    *("new", "strided", "data", "write", "data write", "zero", "new", "data", "write"),
    *("none", "cast", "grad"),
)
OUTSIDE: list[tuple[str, list[Any]]] = [
    ("factor", NUMBERS),
    ("table", NUMBERS),
    ("names", [["a"], ["a", "b"]]),
    ("closure", NUMBERS),
    ("default", NUMBERS),
    ("keyword default", NUMBERS),
    ("mix", FLAGS),
    ("second", FLAGS),
    ("residual", FLAGS),
    ("total", NUMBERS),
    ("dtype", ["float32", "float64", "float32"]),
    ("deterministic", FLAGS),
]

# What is known to differ is not drawn.

numbers = st.integers(0, 1000)


def pick(found: Iterable[Any], number: int) -> Any:
    """One of several, by a number of any size; None if there is none."""
    every = list(found)
    return every[number % len(every)] if every else None


def attributes(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Paths to attributes of a module and of the objects in it."""
    for name, each in vars(value).items():
        if name.startswith("_"):
            continue
        yield f"{path}{name}", each
        if isinstance(each, (Config, Settings)):
            yield from attributes(each, f"{path}{name}.")
        elif isinstance(each, Slots):
            yield f"{path}{name}.value", each.value


class Machine(RuleBasedStateMachine):
    """Draws steps for one pair of twins. What is drawn depends on the eager one only."""

    tally: ClassVar[Tally] = Tally()
    logs: ClassVar[list[tuple[Spec, list[tuple[Any, ...]]]]] = []  # until one failed
    failed: ClassVar[Different | None] = None

    @initialize(
        blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3),
        ending=st.sampled_from(WORDS["ending"]),
        how=st.sampled_from(["module", "module", "method", "function"]),
        training=st.booleans(),
    )
    def start(self, blocks: list[str], ending: str, how: str, training: bool) -> None:
        self.twins = Twins(Spec(tuple(blocks), ending, how, training), self.tally)
        if self.failed is None:
            self.logs.append((self.twins.spec, self.twins.log))
        self.last: tuple[Any, ...] = (Fresh(),)

    def teardown(self) -> None:
        if hasattr(self, "twins"):
            self.twins.close()

    def do(self, name: str, *args: Any) -> None:
        try:
            self.twins.do(name, *args)
        except Different as error:
            if self.failed is None:
                type(self).failed = error
            raise

    def call(self, *args: Any) -> None:
        """A call, by a function that still takes calls."""
        self.last = args
        if self.twins.full():
            self.do("forget")
        self.do("call", *args)

    @property
    def fresh_seed(self) -> int:
        return len(self.twins.log)

    def modules(self, number: int) -> tuple[str, nn.Module]:
        """A module and the path to it, which starts with a dot for a submodule."""
        found = pick(self.twins.eager.module.named_modules(), number)
        return found[0], found[1]

    # Calls

    @rule(
        sizes=st.sampled_from(SIZES),
        dtype=st.sampled_from(DTYPES),
        layout=st.sampled_from(LAYOUTS),
        second=st.sampled_from([None, None, None, 2.0, "tensor", "list", "dict", *VIEWS]),
        mode=st.sampled_from(MODES),
        scale=st.sampled_from([1.0, 1.0, 1.0, 2.0, 3]),
        context=st.sampled_from(["", "", *CONTEXTS]),
    )
    def fresh(
        self,
        sizes: tuple[int, ...],
        dtype: str,
        layout: str,
        second: Any,
        mode: Any,
        scale: Any,
        context: str,
    ) -> None:
        if second == "transposed":
            sizes = (WIDTH, WIDTH)
        if second == 2.0 and isinstance(mode, str):
            mode = None
        x = Fresh(sizes, dtype, layout, self.fresh_seed)
        other = Fresh(sizes, dtype, "plain", self.fresh_seed + 500)
        if second == "tensor":
            y: Any = other
        elif second in ("list", "dict"):
            y = Within(second, (other, Part()))
        else:
            y = Part(second) if isinstance(second, str) else second
        self.call(x, y, mode, scale, context)

    @rule(sizes=st.sampled_from(SIZES[:5]), mode=st.sampled_from(MODES))
    def usual(self, sizes: tuple[int, ...], mode: Any) -> None:
        self.call(Fresh(sizes, seed=self.fresh_seed), None, mode)

    @rule()
    def again(self) -> None:
        self.repeat()

    @rule(times=st.integers(1, 3))
    def several(self, times: int) -> None:
        for _ in range(times):
            self.repeat()

    def repeat(self) -> None:
        """The last call with other numbers."""
        x, *others = self.last
        if isinstance(x, Fresh):
            x = Fresh(x.sizes, x.dtype, x.layout, self.fresh_seed)
        self.call(x, *others)

    @rule(
        first=st.integers(0, 5),
        view=st.sampled_from(sorted(VIEWS)),
        second=st.sampled_from([None, "part", 0, 1, 2, 3]),
        other=st.sampled_from(sorted(VIEWS)),
        mode=st.sampled_from(MODES),
    )
    def earlier(self, first: int, view: str, second: Any, other: str, mode: Any) -> None:
        y: Any = Part(other) if second == "part" else second
        self.call(Earlier(first, view), Earlier(y, other) if isinstance(y, int) else y, mode)

    @rule(
        number=numbers,
        other=numbers,
        second=st.sampled_from([None, "state", "part", "earlier"]),
        mode=st.sampled_from(MODES),
    )
    def state(self, number: int, other: int, second: Any, mode: Any) -> None:
        """A parameter or a buffer is an argument."""
        module = self.twins.eager.module
        every = [*module.named_parameters(), *module.named_buffers()]
        rows = [n for n, t in every if t.ndim == 2 and t.shape[1] == WIDTH]
        if not rows:
            return
        x = State(pick(rows, number))
        others: dict[Any, Any] = {
            None: None,
            "state": State(pick(rows, other)),
            "part": Part(pick(VIEWS, other)),
            "earlier": Earlier(other),
        }
        self.call(x, others[second], mode)

    # Changes

    @rule(number=numbers, other=numbers, value=numbers)
    def attribute(self, number: int, other: int, value: int) -> None:
        path, module = self.modules(number)
        start = f"{path}." if path else ""
        known = [
            (p, WORDS[p.split(".")[-1]])
            for p, _ in attributes(module, start)
            if p.split(".")[-1] in WORDS
        ]
        if hasattr(module, "factors"):
            known.append((f"{start}later", WORDS["later"]))
        found = pick(known, other)
        if found is not None:
            self.do("set", found[0], pick(found[1], value))

    @rule(number=numbers, other=numbers, value=numbers)
    def container(self, number: int, other: int, value: int) -> None:
        places = [
            (path, LISTS[path.split(".")[-1]])
            for name, module in self.twins.eager.module.named_modules()
            for path, _ in attributes(module, f"{name}." if name else "")
            if path.split(".")[-1] in LISTS
        ]
        path, ways = pick(places, other)
        self.do("apply", path, *pick(ways, value))

    @rule(number=numbers, change=numbers)
    def tensor(self, number: int, change: int) -> None:
        module = self.twins.eager.module
        names = [n for n, _ in module.named_parameters(remove_duplicate=False)]
        names += [n for n, _ in module.named_buffers(remove_duplicate=False)]
        name, what = pick(names, number), pick(TENSOR_CHANGES, change)
        self.do("tensor", name, what, self.fresh_seed)

    @rule(number=numbers, other=numbers)
    def tie(self, number: int, other: int) -> None:
        names = dict(self.twins.eager.module.named_parameters(remove_duplicate=False))
        first = pick(names, number)
        if first is not None:
            same = [n for n, p in names.items() if p.shape == names[first].shape]
            self.do("tie", first, pick(same, other))

    @rule(what=st.integers(0, 5), number=numbers, value=numbers)
    def whole(self, what: int, number: int, value: int) -> None:
        path, _ = self.modules(number)
        if what == 0:
            self.do("load", self.fresh_seed)
        elif what == 1:
            self.do("requires_grad", value % 3 == 0)
        elif what == 2:
            self.do("cast", path, pick(["float64", "float32", "bfloat16", "float32"], value))
        else:
            self.do("train", path, value % 2 == 0)

    @rule(number=numbers, block=st.sampled_from(sorted(BLOCKS)))
    def replace(self, number: int, block: str) -> None:
        path = pick((f"blocks.{n}" for n in self.twins.eager.module.blocks), number)
        self.do("replace", path, block)

    @rule(what=st.integers(0, 6), number=numbers)
    def hook(self, what: int, number: int) -> None:
        path, module = self.modules(number)
        if what == 0:
            self.do("unhook")
        elif what < 5:
            kinds = ["before", "before write", "after", "after nothing"]
            self.do("hook", path, kinds[what - 1])
        elif hasattr(module, "mix"):
            self.do("patch", path, pick(["mix", "forward", "unpatch"], number // 7))
        elif path:
            self.do("patch", path, pick(["forward", "unpatch", "unpatch"], number // 7))

    @rule(number=numbers, value=numbers)
    def outside(self, number: int, value: int) -> None:
        what, values = pick(OUTSIDE, number)
        self.do("outside", what, pick(values, value))

    @rule(what=st.integers(0, 6), number=numbers)
    def other(self, what: int, number: int) -> None:
        if what == 0:
            self.do("seed", number)
        elif what == 1:
            self.do("drop")
        elif what == 2:
            self.do("forget")
        elif what < 5:
            self.do("write", number, pick(["add", "data", "part"], number // 7))
        else:
            ways = ["deepcopy", "pickle", "compiled deepcopy", "compiled pickle"]
            self.do("copy", pick(ways, number))


# The command

Steps = list[tuple[Any, ...]]
Pairs = list[tuple[Spec, Steps]]  # done one after the other with one cache folder


def repeats(pairs: Pairs) -> Different | None:
    """What differs when these steps are done, beginning with an empty cache."""
    with cache_folder():
        for spec, steps in pairs:
            twins = Twins(spec)
            try:
                for step in steps:
                    twins.do(*step)
            except Different as error:
                return error
            finally:
                twins.close()
    return None


@contextlib.contextmanager
def cache_folder() -> Iterator[None]:
    """An empty cache, in force within this."""
    with TemporaryDirectory() as folder:
        before, config.cache_dir = config.cache_dir, folder
        try:
            yield
        finally:
            config.cache_dir = before


def shortened(items: list[Any], fails: Callable[[list[Any]], bool], end: float) -> list[Any]:
    """Fewer of the items that still fail: halves, quarters, … are left out as far as time goes."""
    size = max(1, len(items) // 2)
    while size:
        at, shorter = 0, False
        while at < len(items):
            if time.monotonic() > end:
                return items
            left = items[:at] + items[at + size :]
            if fails(left):
                items, shorter = left, True
            else:
                at += size
        if size == 1 and not shorter:
            break
        size = max(1, size // 2)
    return items


def fewer(pairs: Pairs) -> Pairs:
    """Fewer steps of fewer and simpler modules that still show a difference."""
    end = time.monotonic() + SHRINKING
    if repeats(pairs[-1:]):
        pairs = pairs[-1:]
    else:
        pairs = shortened(pairs, lambda left: repeats(left) is not None, end)
    for number in reversed(range(len(pairs))):
        before, (spec, steps), later = pairs[:number], pairs[number], pairs[number + 1 :]

        def fails(left: Steps) -> bool:
            return repeats([*before, (spec, left), *later]) is not None  # noqa: B023

        steps = shortened(steps, fails, end)
        for change in simpler(spec):
            if repeats([*before, (change, steps), *later]):
                spec = change
                break
        pairs = [*before, (spec, steps), *later]
    return pairs


def simpler(spec: Spec) -> Iterator[Spec]:
    for blocks in (spec.blocks[:n] for n in range(1, len(spec.blocks) + 1)):
        yield replace(spec, blocks=blocks, ending="plain", training=False)
        yield replace(spec, blocks=blocks)


def chunk(seed: int, pairs: int) -> Different | None:
    """Some pairs of twins with one cache folder; what differed."""
    Machine.logs, Machine.failed = [], None
    hypothesis.seed(seed)(Machine)
    how = settings(
        max_examples=pairs,
        stateful_step_count=LENGTH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    with cache_folder():
        try:
            run_state_machine_as_test(Machine, settings=how)
        except Exception:  # after a difference, also hypothesis's own that it is not repeated
            if Machine.failed is None:
                raise
    return Machine.failed


def report(error: Different, folder: Path | None, number: int) -> str:
    """The difference in fewest steps as a program."""
    pairs = Machine.logs
    found = repeats(pairs)
    if found is None:
        text = f"# not repeated\n{program(pairs[-1:])}"
    else:
        pairs = fewer(pairs)
        text = program(pairs)
    text += "\n\n# " + str(found and repeats(pairs) or error).split("\n")[0]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"difference_{number}.py").write_text(text + "\n")
    return text


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=50_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--minutes", type=float, default=0.0, help="stop after this time")
    options.add_argument("--keep-going", type=Path, help="write differences here and go on")
    given = options.parse_args()
    torch.set_num_threads(1)
    start, seed, differences = time.monotonic(), given.seed, 0
    tally = Machine.tally
    with counting_plans():
        while tally.steps < given.steps:
            error = chunk(seed, CHUNK)
            seed += 1
            seconds = time.monotonic() - start
            if error is not None:
                differences += 1
                print(report(error, given.keep_going, seed - 1), flush=True)
            rate = tally.steps / seconds
            print(f"{tally}; {differences} differences; {rate:.0f} steps/s", flush=True)
            stop = error is not None and given.keep_going is None
            if stop or (given.minutes and seconds > given.minutes * 60):
                break
    return int(differences > 0)


if __name__ == "__main__":
    # Under its own name, so that classes are what pickle finds.
    from tests.random.twins import main as run

    raise SystemExit(run())
