"""Run a call eagerly and record it: each ATen call that reaches the dispatcher becomes a node of
the graph.

The call is the recording: it runs once, on the real tensors, below autograd and autocast. Nothing
here computes anything; what cannot be represented makes the recording refuse, with a reason, and
lets the call go on undisturbed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from tracejit.ir.graph import Graph
from tracejit.runtime import private
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.identity import defined_at
from tracejit.runtime.reasons import Reason
from tracejit.runtime.tracers import being_recorded, traced
from tracejit.trace.aliases import memory_of
from tracejit.trace.canonical import WRAPPED
from tracejit.trace.changes import Change
from tracejit.trace.generators import Generators
from tracejit.trace.meta import raises_without_data, tensors_in, without_values
from tracejit.trace.observe import Observer
from tracejit.trace.origins import Origins
from tracejit.trace.outputs import containers, encode
from tracejit.trace.recording import Recording, Refused, foreign_profiler
from tracejit.trace.schema import Does, composite_kernel, facts_of
from tracejit.trace.steps import Step, Steps
from tracejit.trace.storages import Storages
from tracejit.trace.watch import Watch, watching


def record(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    observer: Observer | None = None,
) -> tuple[Any, Recording]:
    """Run `fn(*args, **kwargs)` once and record it; its own result, and the recording.

    observer: a context manager that is entered around the call itself. An exception of `fn` is
    raised as it is.
    """
    if traced():
        refused = Reason("outer-tracer", "another tracer, mode or transform is active")
        return fn(*args, **kwargs), Recording(refused=refused)
    hooked = foreign_profiler()
    if hooked is not None:
        return fn(*args, **kwargs), Recording(refused=hooked)
    recorder = Recorder(fn, args, kwargs, observer)
    try:
        with recorder.running():
            result = fn(*args, **kwargs)
        return result, recorder.finish(result)
    finally:
        recorder.close()


def observed(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Recording, GuardSet | Reason]:
    """Run `fn(*args, **kwargs)` once, recorded and observed: its own result, the recording, and the
    guards under which it is right, or why it cannot be used.
    """
    observer = Observer(fn, args, kwargs)
    result, recording = record(fn, args, kwargs, observer=observer)
    if recording.refused is not None:
        observer.release()
    return result, recording, recording.refused or observer.finish(recording)


class Recorder(private.TorchDispatchMode):
    """The state of one recording. `refused` is set once, and nothing is recorded after that."""

    supports_higher_order_operators = True  # they are refused, and run

    def __init__(
        self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], observer: Observer | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.graph = Graph()
        self.origins = Origins(fn)
        self.storages = Storages(self.graph, self.origins.here)
        self.observer = observer
        before = {} if observer is None else observer.tree.generators
        self.generators = Generators(self.storages, before)
        self.watch = Watch(self)
        self.steps = Steps(self.storages, self.watch, self.generators)
        self.refused: Reason | None = None
        self.calls = 0
        self.aside = False  # what torch is asked now is none of the call's
        self.given = _given(fn, args, kwargs)
        self.outside = containers((args, kwargs))
        self.place = defined_at(fn)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Everything that must surround the call."""
        with being_recorded(), self, self.observer or nullcontext(), watching(self.watch):
            yield

    def refuse(self, why: Refused) -> None:
        """Give up recording; the first reason counts."""
        if self.refused is None:
            self.refused = Reason(why.kind, why.text, str(self.origins.here()))

    def step_aside(self) -> bool:
        """A function of torch.compile's is about to run: off the stack of modes, under which torch
        does not compile. False if that may not be."""
        self.refuse(Refused("op", "torch.compile compiles a function that it calls"))
        alone = private.dispatch_modes() == 1
        if alone:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as in Watch
        return alone

    def apart(self, work: Callable[..., None], *given: Any) -> None:
        """Work of ours between calls: what torch is asked meanwhile is not recorded."""
        if self.refused is None:
            self.aside = True
            try:
                work(*given)
            except Exception as error:  # ours: it must not end the user's call
                self._failed(error)
            finally:
                self.aside = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Or torch wraps the method below in a call that imports torch._dynamo (1.2 s) first."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.refused is not None or self.aside:
            return func(*self._viewable(func, args), **kwargs)
        self.calls += 1
        profile = sys.getprofile()
        sys.setprofile(None)
        try:
            args = self._viewable(func, args)
            parts = composite_kernel(func)
            if parts is None:
                return self._call(func, args, kwargs)
            with self:  # it arrived whole because of inference mode: what it calls is recorded
                return parts(*args, **kwargs)
        finally:
            sys.setprofile(profile)

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call for real, between what must be known before it and what it leaves behind."""
        facts = facts_of(func)
        if without_values(facts.does, args, kwargs):
            return self._on_meta(func, args, kwargs)
        step = self.steps.of(facts, args, kwargs)
        self._advance(step, None)
        try:
            result = func(*args, **kwargs)
        except Exception as error:  # the op's, of any type: it goes on to the user
            if not raises_without_data(func, args, kwargs, error):
                self.refuse(Refused("raised", f"{facts.name} raised {type(error).__name__}"))
            raise
        if self.refused is None:
            self._advance(step, result)
            self.apart(self.generators.settle)
        return result

    def _viewable(self, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, the first as a tensor where a view is to be made of a number that stands
        for one: func takes no number there, as torch does without a mode."""
        if not args or type(args[0]) not in WRAPPED or facts_of(func).does is not Does.VIEW:
            return args
        number = args[0]
        tensor = torch.scalar_tensor(number, dtype=WRAPPED[type(number)])
        if not self.aside:
            self.apart(self.steps.number, tensor, number)
        return (tensor, *args[1:])

    def _on_meta(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call that gives tensors without values: the graph has no use for them."""
        result = func(*args, **kwargs)
        if not all(tensor.is_meta for tensor in tensors_in(result)):
            self.refuse(Refused("tensor", f"{func} makes a tensor of one without values"))
        return result

    def _advance(self, step: Step, result: Any) -> None:
        """The part of a step before or after the call. Whatever fails there only ends the
        recording.
        """
        try:
            step.send(result)
        except StopIteration:
            pass
        except Exception as error:  # ours: it must not end the user's call
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Refuse for an error: a reason, or one of ours, or torch's about a rare tensor."""
        if not isinstance(error, Refused):
            error = Refused("op", f"recording failed: {type(error).__name__}: {error}")
        self.refuse(error)

    def close(self) -> None:
        """Let go of the call's tensors now, not when the next collection breaks the cycles here."""
        self.storages.close()
        self.given.clear()
        del self.watch, self.steps, self.generators, self.observer

    def finish(self, result: Any) -> Recording:
        """The recording, once the call has returned `result`."""
        if self.refused is None:
            try:
                changes = [] if self.observer is None else self.observer.changes()
                if not isinstance(changes, Reason):
                    return self._recording(result, changes)
                self.refused = changes
            except Exception as error:  # ours: it must not end the user's call
                self._failed(error)
                # The call is over: nothing in it can be pointed at.
                self.refused = self.refused and replace(self.refused, place=self.place)
        return Recording(refused=self.refused, calls=self.calls)

    def _recording(self, result: Any, changes: list[Change]) -> Recording:
        """The recording of a call that nothing speaks against so far. Raises Refused."""
        reached = {} if self.observer is None else self.observer.reached()
        tree, held = encode(result, changes, reached, self.storages, self.outside)
        generators = self._generators(reached)
        self._check_given()
        self._write_back()
        return Recording(
            self.graph,
            self.storages.sources,
            self.storages.lazy,
            self.storages.moduli,
            tree,
            self.storages.spans,
            held,
            sorted({change.node for change in changes}),
            calls=self.calls,
            generators=generators,
        )

    def _generators(self, reached: dict[int, int]) -> list[torch.Generator]:
        """The generators that the call was given."""
        observer = self.observer
        if observer is None:
            return self.generators.finish((), lambda _: 0)
        there = [each for each, _ in observer.tree.generators.values() if id(each) in reached]
        return self.generators.finish(there, observer.holds)

    def _check_given(self) -> None:
        """No tensor that the call was given lies in other memory than before (`x.data = …`)."""
        for tensor, where, needs_grad in self.given:
            if memory_of(tensor) != where:
                raise Refused("mutation", "a tensor from outside was given other memory")
            if tensor.requires_grad != needs_grad:
                raise Refused("autograd", "requires_grad of a tensor from outside was changed")
        found = self.storages
        for number, (tensor, alias) in enumerate(zip(found.sources, found.inputs, strict=True)):
            if found.home(found.lazy.get(number, tensor)) is not alias.home:
                raise Refused("mutation", "a tensor from outside was given other memory")

    def _write_back(self) -> None:
        """The graph ends with what the call wrote to memory from outside."""
        found = self.storages
        for number, (alias, before) in enumerate(zip(found.inputs, self.graph.inputs, strict=True)):
            if alias.home.version == 0:
                continue
            tensor = found.lazy.get(number, found.sources[number])
            if tensor.requires_grad and torch.is_grad_enabled():
                raise Refused("autograd", "a write to a tensor that requires gradients")
            value = self.storages.read(alias) if alias.given and alias.written else before
            if value is not before:
                self.graph.writes.append((before, value))
        tops = [alias.top for alias in found.inputs]
        self.graph.together = [
            [value for value, other in zip(self.graph.inputs, tops, strict=True) if other is top]
            for top in dict.fromkeys(tops[n] for n in found.spans)
        ]


def _given(fn: Any, args: Any, kwargs: Any) -> list[tuple[torch.Tensor, int, bool]]:
    """Tensors that the call is given, their memory, and whether they require gradients."""
    found = list(tensors_in((args, kwargs)))
    module = fn if isinstance(fn, torch.nn.Module) else getattr(fn, "__self__", None)
    if isinstance(module, torch.nn.Module):
        found += [*module.parameters(), *module.buffers()]
    return [(t, memory_of(t), t.requires_grad) for t in found]
