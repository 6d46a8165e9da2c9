"""tracejit.build: record and compile a function ahead of time, for any target, into one file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from tracejit import compilation, compiler
from tracejit.api import dispatcher_of, is_compiled, wrap
from tracejit.dispatch import Dispatcher, Options
from tracejit.runtime import bundle, cache
from tracejit.runtime.bundle import Bundle
from tracejit.runtime.config import TARGET, legal
from tracejit.runtime.errors import BadOption, BuildWarning, CompilerError, NotBuilt
from tracejit.runtime.files import write_atomically
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.identity import first_code
from tracejit.runtime.reasons import Failure, Reason
from tracejit.runtime.targets import is_gpu
from tracejit.trace.recorder import observed
from tracejit.trace.recording import Recording

# Attributes by which code asks where it runs, or chooses it.
_QUESTIONS = frozenset(("is_cuda", "is_cpu", "get_device", "cpu", "cuda"))


def build(
    function: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str,
    out: str | os.PathLike[str],
) -> Bundle:
    """Compile a call of `function` for `target` into the file `out`, which `tracejit.load` takes.

    `function(*args, **kwargs)` runs once, eagerly, on the CPU tensors it is given, and is recorded;
    no GPU is needed. For a GPU target all tensors that the call gets, reaches or makes are expected
    on that GPU later. Parameters are not part of the file.

    Raises BadOption for an unknown target, NotCompilable, NotBuilt if the call can only run eagerly
    or reads objects that another process cannot find, CompilerError if a stage of the compiler
    fails; what the function itself raises; OSError if `out` cannot be written. Warns (BuildWarning)
    of code that asks on which device it is.
    """
    check(args, target)
    compiled = function if is_compiled(function) else wrap(function, Options())
    if isinstance(compiled, MethodType):
        args = (compiled.__self__, *args)
    dispatcher = dispatcher_of(compiled)
    recording, guards = recorded(dispatcher, target, tuple(args), dict(kwargs or {}))
    stored = program(dispatcher, target, recording, guards)
    found, outputs = guards.to_json(), recording.outputs
    if is_gpu(target) and _devices(guards) == {"cpu"}:
        warn_of_questions(dispatcher, guards, tuple(args), dict(kwargs or {}))
        found = bundle.on_device(found, "cuda:0")
        outputs = bundle.moved(outputs, "cpu", "cuda:0")
    name, numerics = dispatcher.name, dispatcher.options.numerics
    record = cache.make_record(found, outputs, stored.key, name)
    where = cache.environment(target, numerics)
    made = Bundle(name, first_code(dispatcher.function), target, numerics, record, stored, where)
    write_atomically(Path(out), bundle.pack(made))
    return made


def check(args: Any, target: Any) -> None:
    """Raise BadOption for arguments that are not a sequence of them, and for an unknown target."""
    if not isinstance(args, (tuple, list)):
        raise BadOption(name="args", value=type(args).__name__, legal="a tuple of arguments")
    if not isinstance(target, str) or not TARGET.fullmatch(target):
        raise BadOption(name="target", value=target, legal=legal("target"))


def recorded(
    dispatcher: Dispatcher, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Recording, GuardSet]:
    """The call's recording and guards. Raises NotBuilt."""
    _, recording, guards = observed(dispatcher.function, args, kwargs)
    if isinstance(guards, GuardSet) and (local := guards.local) is not None:
        text = f"it reads an object that no path reaches ({local.check} {local.expected})"
        guards = Reason("unguardable", text)
    if isinstance(guards, Reason):
        raise NotBuilt(name=dispatcher.name, target=target, reason=guards)
    return recording, guards


def program(
    dispatcher: Dispatcher, target: str, recording: Recording, guards: GuardSet
) -> cache.StoredPlan:
    """The recording, compiled. Raises CompilerError; `last_traces` shows how far it came."""
    stages = compilation.pipeline(dispatcher, target)
    try:
        return compilation.compiled(stages, recording, guards)
    except compiler.StageFailed as failed:
        text = failed.reason.text
        raise CompilerError(name=dispatcher.name, stage=failed.stage, cause=text) from failed.cause


def _devices(guards: GuardSet) -> set[str]:
    return {node.expected["device"] for node in guards.nodes if node.check == "tensor"}


def warn_of_questions(
    dispatcher: Dispatcher, guards: GuardSet, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Warn of the user's functions that ask on which device they run: the answer was the CPU's."""
    values = guards.values(dispatcher.function, args, kwargs)
    for value in [] if isinstance(values, Failure) else values:
        for name in questions(value.__code__) if isinstance(value, FunctionType) else ():
            text = (
                f"{value.__qualname__} of {dispatcher.name} asks for {name}, and was recorded on "
                "the CPU: the bundle does on the GPU what the code does for the CPU. If that is "
                "not the same, build where the GPU is"
            )
            warnings.warn(text, BuildWarning, stacklevel=3)


def questions(code: CodeType) -> Iterator[str]:
    """What code, and the functions it defines, asks about devices."""
    names = code.co_names
    yield from sorted(_QUESTIONS.intersection(names))
    if ("device", "type") in zip(names, names[1:]):
        yield "device.type"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from questions(constant)
