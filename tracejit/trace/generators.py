"""Random generators in a recorded call: which ones it draws from, and what it does to their states.

Draws reach the dispatcher, with the generator as an argument. Seeding, and taking and setting
states, are methods in C that no dispatcher sees: the profile hook sees that they are called, and
the rest is told from what they leave behind. A seed is read back from the generator, and is a
constant of the program as any number in Python is; the state that was given to Python is the newest
tensor; the state that is set is found by the name that the frame passes, and compared.

A state that changed between two such calls was changed by something not seen (a call from C).
"""

from __future__ import annotations

import dis
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from tracejit.ir.graph import Arg, Rng
from tracejit.runtime import private
from tracejit.runtime.origins import LIBRARY, USER, origin_of_code
from tracejit.runtime.private import generator_key as key
from tracejit.trace import young
from tracejit.trace.frames import before, named, outward
from tracejit.trace.recording import Refused
from tracejit.trace.storages import Storages

METHODS = frozenset({"manual_seed", "get_state", "set_state"})  # that a plan repeats
NEWEST = 32  # objects among which a state that was just made is looked for
_SEEDS_ALL = frozenset(
    getattr(torch.random, name).__code__
    for name in ("manual_seed", "_manual_seed_impl")
    if hasattr(torch.random, name)
)


@dataclass(eq=False)
class Known:
    """A generator other than the CPU's default. `fresh`: seeded, or as a new one is, at first.

    `generator` may be an object of the dispatcher's making; `owners` are the program's own.
    """

    generator: torch.Generator
    rng: Rng
    fresh: bool
    state: torch.Tensor | None = None  # None while a call may change it
    owners: list[torch.Generator] = field(default_factory=list)


@dataclass(eq=False)
class Running:
    """A method that is about to return."""

    name: str
    generator: torch.Generator
    known: Known | None
    taker: tuple[FrameType, int]
    state: torch.Tensor | None = None  # that is set
    all: bool = False  # seeds the default generators of all devices


@dataclass(eq=False)
class Generators:
    """The generators of one recording."""

    storages: Storages
    before: Mapping[int, tuple[torch.Generator, torch.Tensor]]  # trace.tree.Tree.generators
    known: list[Known] = field(default_factory=list)
    running: Running | None = None
    # The last state that Python got, and where: a frame and the place in its code.
    taken: torch.Tensor | None = None
    taker: tuple[FrameType, int] | None = None

    # --- draws ---

    def argument(self, generator: torch.Generator) -> Arg:
        """A generator as an argument of a draw: None for the CPU's default one."""
        if private.is_default(generator):
            return None
        found = self.find(generator)
        found.state = None
        return found.rng

    def settle(self) -> None:
        """The call that drew is over."""
        for each in self.known:
            if each.state is None:
                each.state = each.generator.get_state()

    def find(self, generator: torch.Generator, seeded: bool = False) -> Known:
        """What is known of a generator, whose state must be what the last call left."""
        for each in self.known:
            if key(each.generator) == key(generator):
                self._unchanged(generator, each.state)
                return each
        if key(generator) in self.before:
            self._unchanged(generator, self.before[key(generator)][1])
        device = _default_device(generator)
        rng = Rng("default", 0, device) if device else Rng("known", len(self.known))
        state, owners = generator.get_state(), _in_frames(generator)
        fresh = seeded or (not device and _alike(torch.Generator(generator.device), state))
        self.known.append(Known(generator, rng, fresh, state, owners))
        return self.known[-1]

    def _unchanged(self, generator: torch.Generator, state: torch.Tensor | None) -> None:
        if state is not None and not _alike(generator, state):
            raise Refused("random", "a generator was changed in a way that is not seen")

    # --- methods ---

    def called(self, name: str, generator: torch.Generator, frame: FrameType) -> None:
        """A method is about to run, called by this frame."""
        if _is_inside_seed_all(frame):
            return  # of another device: torch.manual_seed does so again
        default = private.is_default(generator)
        known = None if default else self.find(generator, name == "manual_seed")
        state = self.passed(frame) if name == "set_state" else None
        running = Running(name, generator, known, (frame, frame.f_lasti), state)
        running.all = default and name == "manual_seed" and frame.f_code in _SEEDS_ALL
        if known is not None:
            known.state = None
            if not any(generator is owner for owner in known.owners):
                known.owners.append(generator)
        self.running = running

    def returned(self, failed: bool) -> None:
        """The method is over: its node. Raises Refused."""
        running, self.running = self.running, None
        if running is None:
            return
        taken = None
        if running.name == "get_state" and not failed:
            taken = _newest(running.generator)  # before others are made
        self.settle()
        if failed:
            raise Refused("raised", f"{running.name} of a generator raised")
        target = None if running.known is None else running.known.rng
        if running.name == "manual_seed":
            number = running.generator.initial_seed()
            op, args = ("tj.seed_all", (number,)) if running.all else ("tj.seed", (target, number))
            self.storages.node(op, args, None, ())
        elif taken is not None:
            self.taken, self.taker = taken, running.taker
            self.storages.made_by(taken, "tj.get_state", (target,))
        else:
            assert running.state is not None
            if not _alike(running.generator, running.state):
                raise Refused("random", "a generator's state is set to what no name shows")
            value = self.storages.read(self.storages.find(running.state))
            self.storages.node("tj.set_state", (target, value), None, ())

    def passed(self, frame: FrameType) -> torch.Tensor:
        """The tensor that a frame passes to the method it is about to call. Raises Refused."""
        steps = before(frame)
        last, found = steps[-1], None
        if _joins(frame, last.offset):
            pass  # one of several values is passed
        elif last.opname.startswith("CALL") and self.taker == (frame, last.offset):
            found, self.taken, self.taker = self.taken, None, None
        elif last.opname.startswith("LOAD_"):
            found = named(frame, steps, len(steps) - 1)
        if not isinstance(found, torch.Tensor):
            raise Refused("random", "a generator's state is set to what no name shows")
        return found

    # --- the end ---

    def finish(
        self, there: Iterable[torch.Generator], kept: Callable[[Any], int]
    ) -> list[torch.Generator]:
        """The generators that the call was given, in the order of their numbers; the graph then
        tells them from those that it made. Raises Refused.

        there: those that a path reaches. kept: how many references the observer holds to an object.
        """
        self.taken = self.taker = self.running = None
        names: dict[Rng, Rng] = {}
        given: list[torch.Generator] = []
        paths = {key(each): each for each in there}
        for generator in paths.values():
            if not any(key(each.generator) == key(generator) for each in self.known):
                self._unchanged(generator, self.before[key(generator)][1])
        for each in self.known:
            if each.rng.kind == "default":
                continue
            device, found = str(each.generator.device), paths.get(key(each.generator))
            if found is not None:
                self.find(found)  # unchanged since
                names[each.rng] = Rng("input", len(given), device)
                given.append(found)
            elif each.fresh and each.owners and _is_alone(each, kept):
                names[each.rng] = Rng("made", len(names), device)
            else:
                raise Refused("random", "a generator is used that no path reaches")
        for node in self.storages.graph.nodes if names else ():
            node.args = tuple(_renamed(arg, names) for arg in node.args)
            node.kwargs = {k: _renamed(arg, names) for k, arg in node.kwargs.items()}
        return given


def _in_frames(generator: torch.Generator) -> list[torch.Generator]:
    """The program's object for a generator: in a variable of the innermost frame that has one."""
    for frame in outward(sys._getframe(1)):
        if origin_of_code(frame.f_code) in (USER, LIBRARY):
            for value in frame.f_locals.values():
                if type(value) is torch.Generator and key(value) == key(generator):
                    return [value]
    return []


def _is_alone(known: Known, kept: Callable[[Any], int]) -> bool:
    """Whether nobody else holds the program's objects for a generator: the call made it, and it did
    not escape."""
    base = 0
    for owners in ([object()], known.owners):  # the first is held by nobody else
        for owner in owners:
            count = sys.getrefcount(owner)
            base = base or count
            if count - (owner is known.generator) - kept(owner) > base:
                return False
    return True


def _renamed(arg: Arg, names: dict[Rng, Rng]) -> Arg:
    return names.get(arg, arg) if isinstance(arg, Rng) else arg


def _joins(frame: FrameType, offset: int) -> bool:
    """Whether other code than what stands before it leads to the call after an instruction."""
    return any(
        step.is_jump_target
        for step in dis.get_instructions(frame.f_code)
        if offset < step.offset <= frame.f_lasti
    )


def _alike(generator: torch.Generator, state: torch.Tensor) -> bool:
    return torch.equal(generator.get_state(), state)


def _default_device(generator: torch.Generator) -> str:
    """The device whose default generator it is, other than the CPU; "" for no default one."""
    if generator.device.type != "cuda":
        return ""
    index = generator.device.index or 0
    default = torch.cuda.default_generators[index]
    return f"cuda:{index}" if key(default) == key(generator) else ""


def _newest(generator: torch.Generator) -> torch.Tensor:
    """The state that a generator's method has just made: the newest tensor. Raises Refused."""
    state = generator.get_state()
    for item in reversed(young.newest(NEWEST, torch.Tensor)):
        if item is not state:
            if item.dtype == state.dtype and item.shape == state.shape and torch.equal(item, state):
                return item
            break
    raise Refused("random", "a generator's state was taken by a call that cannot be followed")


def _is_inside_seed_all(frame: FrameType) -> bool:
    """Whether torch.manual_seed runs, and this is not its own frame."""
    callers = itertools.islice(outward(frame.f_back), 8)
    return frame.f_code not in _SEEDS_ALL and any(each.f_code in _SEEDS_ALL for each in callers)
