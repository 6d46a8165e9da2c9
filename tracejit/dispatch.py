"""What happens at each call of a compiled function: find the entry whose guards hold and run its
plan.

Only the first call of its kind goes further: the disk is searched by guards, and if it holds
nothing that fits, the call runs eagerly and is recorded (tracejit.firstcall, imported then).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from tracejit.entry import Entry
from tracejit.runtime import cache, forks, log, targets, tracers
from tracejit.runtime.checker import Checker, Nobody
from tracejit.runtime.config import config
from tracejit.runtime.ending import MISS
from tracejit.runtime.errors import BackendHint, CompilerError, CompilerWarning, RanEagerly
from tracejit.runtime.identity import defined_at, describe, function_key
from tracejit.runtime.plan import Leave
from tracejit.runtime.reasons import Failure, Reason

if TYPE_CHECKING:
    from tracejit.compiler import Stage
    from tracejit.split import Parts

# What refuses a call as a whole, and says nothing about the calls in it.
BY_PARTS = frozenset(
    ("impure", "side-effect", "unguardable", "random", "data-dependent", "output", "op", "mutation")
    + ("entries",)
)

OUTER = Reason("outer-tracer", "another tracer, mode or transform is active")
BUSY = Reason("thread", "another call is being recorded just now")

MOST_REASONS = 50  # kept for explain
MOST_ENTRIES = 8  # compiled entries of one function, and also refused signatures


CompilePart = Callable[[Any], "tuple[Any, Dispatcher]"]


@dataclass(frozen=True)
class Options:
    """The arguments of tracejit.compile."""

    backend: str = "auto"
    dynamic: bool | None = None
    numerics: str = "eager"
    wait: bool = False
    strict: bool = False


class Dispatcher:
    """The entries of one compiled function, and what to do when none fits."""

    def __init__(self, function: Callable[..., Any], options: Options, part: CompilePart) -> None:
        self.function = function
        self.options = options
        self.part = part  # compiles what the function calls
        self.entries: tuple[Entry, ...] = ()
        self.first: Checker | type[Nobody] = Nobody  # of the entry that ran last
        self.refused: dict[Any, Reason] = {}  # signature of a call -> why it was not captured
        self.once: set[Any] = set()  # signatures of calls that had side effects once
        self.reasons: list[Reason] = []  # fallbacks so far, each once
        self.parts: Parts | None = None  # calls compiled on their own, if the whole runs eagerly
        self.traces: list[Stage] = []  # the program after each stage of the last compilation
        self.lock = forks.Lock(threading.Lock)  # not reentrant: a nested call runs eagerly
        _all.add(self)

    @property
    def name(self) -> str:
        return describe(self.function)

    @property
    def helps(self) -> bool:
        """Whether there is, or may yet be, something compiled to run."""
        inner = self.parts is not None and self.parts.made
        return bool(self.entries or inner or len(self.refused) < 2)

    def __call__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        first: Any = None,
        left: Leave | None = None,
    ) -> Any:
        """Run a call that `first` is not bound to, or whose plan the call left."""
        entries = self.entries
        over: set[Any] = set()  # checks of plans that the call left, or would
        if left is not None:
            self.branch(entries, first, left, over)
        for closely in (False, True):  # what is bound to the very objects of this call comes first
            if closely and tracers.traced():
                return self.for_now(OUTER, args, kwargs)
            for entry in entries:
                check = entry.check
                if check in over or (check is first and not closely):
                    continue
                try:
                    found = check.closely(args, kwargs) if closely else check.fast(args, kwargs)
                except Leave as leave:
                    left = leave
                    self.branch(entries, check, leave, over)
                    continue
                if found is not MISS:
                    if entry.reason is None and not over:
                        self.first = check
                    return found
        return self.miss(entries, args, kwargs, left)

    def branch(self, entries: tuple[Entry, ...], check: Any, left: Leave, over: set[Any]) -> None:
        """A call left a plan where its data decided otherwise: out with all that decided so."""
        if left.decision is None:  # no other branch: an index, or memory that two tensors share
            self.note(left.reason)
        over.add(check)
        entry = next((entry for entry in entries if entry.check is check), None)
        if entry is not None and left.decision is not None:
            over.update(other.check for other in entries if other.parts_from(entry, left.decision))

    def broken(
        self, entry: Entry, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A plan raised before it wrote anything, perhaps eager's own error: the eager call will
        tell. If that does not raise, the plan is at fault and is given up."""
        result = self.function(*args, **kwargs)
        text = f"{type(error).__name__}: {error}"
        if entry.catches(error, self.function, args, kwargs):
            self.note(Reason("raised", text))
            return result
        reason = Reason("compiler", text, "run")
        entry.fail(reason, error)
        self.note(reason)
        if entry.source == "disk" and not isinstance(
            error, RuntimeError
        ):  # other than the device's
            self.disown(entry, f"its plan raised {reason.text}")
        if self.strict:
            raise self.failure(entry)
        text = f"the compiled {self.name} raised {reason.text}; it runs eagerly from now on"
        log.warn_once(text, CompilerWarning, f"{self.name} run")
        return result

    def disown(self, entry: Entry, why: str) -> None:
        """Set the stored record of an entry aside, so that the next process compiles anew."""
        assert entry.bound is not None
        key = function_key(self.function, entry.bound.target, self.options.numerics)
        cache.shared().store.set_aside("records", f"{key}/{entry.bound.record}", why)

    def is_lasting(self, reason: Reason, signature: Any) -> bool:
        """Whether the next call of this kind is bound to be refused too, so that it need not be
        recorded."""
        if reason.kind in ("hook", "raised"):  # the next may be made without; or not fail
            return False
        if reason.kind != "side-effect" or signature in self.once or len(self.once) > MOST_REASONS:
            return True
        self.once.add(signature)  # it may have filled a cache: lazy modules, cached properties
        return False

    def wait_eagerly(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run eagerly a call whose entry has no plan to run, now or ever."""
        reason = entry.reason
        if reason is None or reason.kind in ("pending", "offline"):
            return self.function(*args, **kwargs)
        if reason.kind == "compiler" and self.strict:
            raise self.failure(entry)
        return self.eagerly(reason, args, kwargs)

    @property
    def strict(self) -> bool:
        return self.options.strict or config.strict

    def failure(self, entry: Entry) -> CompilerError:
        """The error that strict raises for an entry whose compilation failed."""
        reason = entry.reason
        assert reason is not None
        error = CompilerError(name=self.name, stage=reason.place, cause=reason.text)
        error.__cause__ = entry.error
        return error

    def note(self, reason: Reason) -> None:
        """Keep a reason for explain, once."""
        if reason not in self.reasons and len(self.reasons) < MOST_REASONS:
            self.reasons.append(reason)
            log.say(log.FUSION, f"{self.name} runs eagerly: {reason}")

    def eagerly(self, reason: Reason, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call as it is written, because of `reason`; an error under strict."""
        reason = self.placed(reason)
        self.note(reason)
        if self.strict:
            raise RanEagerly(name=self.name, reason=reason)
        return self.apart(reason)(*args, **kwargs)

    def placed(self, reason: Reason) -> Reason:
        """The reason with a place: the function's own, if it has none."""
        return reason if reason.place else replace(reason, place=defined_at(self.function))

    def for_now(self, reason: Reason, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run plainly a call that it is not our turn to compile: no fallback, under strict either.
        One that our own recorder sees is recorded with the call that it is part of."""
        if not tracers.recording():
            self.note(self.placed(reason))
        return self.function(*args, **kwargs)

    def apart(self, reason: Reason) -> Callable[..., Any]:
        """The function, its calls compiled on their own where that may be and helps."""
        if reason.kind not in BY_PARTS:
            return self.function
        if self.parts is None:
            from tracejit.split import Parts

            self.parts = Parts(self.part)
        return self.parts.of(self.function) or self.function

    def miss(
        self,
        seen: tuple[Entry, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        left: Leave | None = None,
    ) -> Any:
        """None of the entries `seen` fits: look on disk, else record."""
        if (foreign := foreign_tensor(args, kwargs)) is not None:
            return self.eagerly(foreign, args, kwargs)
        backend = self.options.backend
        alone = backend == "auto" and targets.only_cpu()
        device = "cpu" if alone else targets.device_of(args, kwargs, self.function)
        choice = targets.choose(backend, device)
        if choice.reason is not None:
            if self.placed(choice.reason) not in self.reasons and backend != "eager":
                log.warn_once(choice.reason.text, BackendHint, up=3)
            return self.eagerly(choice.reason, args, kwargs)
        signature = signature_of(self.function, args, kwargs)
        if signature in self.refused:
            return self.eagerly(self.refused[signature], args, kwargs)
        if not self.lock.acquire(blocking=False):
            return self.for_now(BUSY, args, kwargs)  # never wait for it
        try:
            if self.entries is seen:
                because = left.failure if left is not None else self.failed_guard(args, kwargs)
                if not self.search(choice, because, args, kwargs):
                    return self.first_call(choice, signature, because, args, kwargs)
        finally:
            self.lock.release()
        return self(args, kwargs)  # there is a new entry

    def first_call(
        self,
        choice: targets.Choice,
        signature: Any,
        because: Failure | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Record the call (under the lock), unless there are too many entries already."""
        if len(self.entries) >= MOST_ENTRIES or len(self.refused) >= MOST_ENTRIES:
            return self.eagerly(self.too_many(because), args, kwargs)
        if because is not None:
            log.say(log.CACHE, f"{self.name} is recorded again: {because}")
        from tracejit import firstcall

        return firstcall.record(self, choice, signature, because, args, kwargs)

    def search(
        self,
        choice: targets.Choice,
        because: Failure | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bool:
        """Make an entry of a stored plan whose guards hold on this call; False if there is none."""
        from tracejit.runtime.bind import bind_record, guards_of

        store = cache.shared()
        start = time.perf_counter()
        key = function_key(self.function, choice.target, self.options.numerics)
        known = {e.bound.record for e in self.entries if e.bound is not None}
        for record in store.records(key) if len(self.entries) < MOST_ENTRIES else ():
            if record.key in known:
                continue
            guards = guards_of(store, key, record, self.function, args, kwargs)
            if guards is None or (bound := bind_record(store, key, record, guards, choice)) is None:
                continue
            entry = Entry(self, guards, "disk", because)
            entry.become(bound, choice.offline)
            entry.seconds["load"] = time.perf_counter() - start
            self.entries = (*self.entries, entry)
            say = f"{self.name}: plan {bound.stored.key[:12]} from disk in {entry.took('load')}"
            log.say(log.CACHE, say)
            return True
        return False

    def failed_guard(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Failure | None:
        """The first guard of the newest entry that fails on this call; None if there is none."""
        if not self.entries:
            return None
        found = self.entries[-1].guards.values(self.function, args, kwargs)
        return found if isinstance(found, Failure) else None

    def too_many(self, because: Failure | None) -> Reason:
        """Why the function is not compiled for yet another kind of call, told of the first one."""
        if len(self.refused) >= MOST_ENTRIES:
            return Reason("entries", f"{MOST_ENTRIES} kinds of calls could not be captured")
        text = f"{MOST_ENTRIES} entries exist; in the newest this differs: {because}"
        told = (reason for reason in self.reasons if reason.kind == "entries")
        return next(told, Reason("entries", text))


def foreign_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reason | None:
    """Why a call with a tensor subclass among its arguments runs eagerly: the class would hear of
    all that is asked about it."""
    for item in (*args, *kwargs.values()):
        if isinstance(item, torch.Tensor) and type(item) not in PLAIN_TENSORS:
            return Reason("tensor", f"a tensor of type {type(item).__name__}")
    return None


PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def signature_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A rough kind of call, by which refusals are remembered: modes, and types, dtypes and sizes of
    arguments."""
    parts: list[Any] = [
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        getattr(function, "training", None),
    ]
    for item in (*args, *sorted(kwargs.items())):
        if isinstance(item, torch.Tensor):
            parts.append((type(item), item.dtype, tuple(item.size()), item.requires_grad))
        else:
            parts.append(type(item))
    return tuple(parts)


_all: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: no thread compiles; what was pending is recorded anew."""
    for dispatcher in list(_all):
        dispatcher.entries = tuple(
            e for e in dispatcher.entries if e.reason is None or e.reason.kind != "pending"
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
