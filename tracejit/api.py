"""tracejit.compile: a compiled function that is still a function, a compiled module that is still
that module."""

from __future__ import annotations

import copy
import functools
import importlib
import weakref
from collections.abc import Callable, Collection
from types import MethodType
from typing import Any, TypeVar, overload

import torch

from tracejit.dispatch import Dispatcher, Options
from tracejit.runtime.ending import MISS
from tracejit.runtime.errors import BadOption, NotCompilable, NotCompiled
from tracejit.runtime.plan import Leave
from tracejit.runtime.targets import BACKENDS

F = TypeVar("F", bound=Callable[..., Any])

LEGAL: dict[str, Collection[Any]] = {
    "backend": BACKENDS,
    "dynamic": (None, False),
    "numerics": ("eager", "fast"),
    "wait": (False, True),
    "strict": (False, True),
}


@overload
def compile(
    fn_or_module: F,
    *,
    backend: str = ...,
    dynamic: bool | None = ...,
    numerics: str = ...,
    wait: bool = ...,
    strict: bool = ...,
) -> F: ...
@overload
def compile(
    fn_or_module: None = None,
    *,
    backend: str = ...,
    dynamic: bool | None = ...,
    numerics: str = ...,
    wait: bool = ...,
    strict: bool = ...,
) -> Callable[[F], F]: ...


def compile(
    fn_or_module: Any = None,
    *,
    backend: str = "auto",
    dynamic: bool | None = None,
    numerics: str = "eager",
    wait: bool = False,
    strict: bool = False,
) -> Any:
    """Compile a function, a method or an nn.Module; without one, a decorator that does.

    The first call of each kind runs eagerly and is recorded; later ones run what it was compiled
    into. A module gives a module of the same class that shares all its state (parameters, buffers,
    attributes, hooks); the given module itself stays eager.

    backend: "auto" (Triton for GPU tensors, native for CPU tensors), "triton", "native",
    "interpret", "reference" or "eager".
    dynamic: None or False: compile for the sizes of each call.
    numerics: "eager" (results round as eager's do, random numbers are eager's) or "fast" (kernels
    draw random numbers themselves, others than eager's).
    wait: compile within the first call instead of in the background.
    strict: a call that can only run eagerly is an error (RanEagerly, CompilerError).

    Raises BadOption for a value not listed here, NotCompilable for something that is no function or
    module.
    """
    options = Options(backend, dynamic, numerics, wait, strict)
    for name, legal in LEGAL.items():
        value = getattr(options, name)
        if not any(
            value is choice or (isinstance(choice, str) and value == choice) for choice in legal
        ):
            raise BadOption(name=name, value=value, legal=", ".join(map(repr, legal)))
    if fn_or_module is None:
        return functools.partial(wrap, options=options)
    return wrap(fn_or_module, options)


def wrap(function: Any, options: Options) -> Any:
    """The compiled form of a function or module. One that is compiled already is compiled anew,
    with these options."""
    if isinstance(function, MethodType) and is_compiled(function):
        function = MethodType(plain(function), function.__self__)
    elif is_compiled(function):
        function = plain(function)
    if isinstance(function, torch.nn.Module) and not isinstance(function, torch.jit.ScriptModule):
        return compiled_module(function, options)
    if isinstance(function, (type, torch.jit.ScriptModule, classmethod, property)) or not callable(
        function
    ):
        raise NotCompilable(
            what=f"{type(function).__name__} {getattr(function, '__name__', '')}".strip()
        )
    return CompiledFunction(function, options)


def _new_dispatcher(function: Any, options: Options) -> Dispatcher:
    def part(called: Any) -> tuple[Any, Dispatcher]:
        """What a function that runs eagerly calls, compiled; as it is if it is compiled already."""
        compiled = called if is_compiled(called) else wrap(called, options)
        return compiled, dispatcher_of(compiled)

    return Dispatcher(function, options, part)


# Torch's own compiler takes this as true in the code that it traces. (A call costs 0.02 µs.)
_traced_by_dynamo = torch.compiler.is_dynamo_compiling


def _call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
    """A call of something compiled. What it does most of the time is here and in the text of the
    compiled check: every frame counts."""
    dispatcher = self._tracejit_dispatcher
    if _traced_by_dynamo():
        return dispatcher.function(*args, **kwargs)
    first, left = dispatcher.first, None
    try:
        found = first.fast(args, kwargs)
        if found is not MISS:
            return found
    except Leave as leave:
        left = leave
    return dispatcher(args, kwargs, first, left)


class CompiledFunction:
    """A function, compiled. It has the name, signature, documentation and `__wrapped__` of the
    original."""

    __wrapped__: Callable[..., Any]

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        if isinstance(function, staticmethod):
            function = function.__func__
        functools.update_wrapper(self, function)
        self._tracejit_dispatcher = _new_dispatcher(function, options)

    __call__ = _call

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or isinstance(self.__wrapped__, MethodType):
            return self
        return MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<compiled {self.__wrapped__!r}>"

    def __reduce__(self) -> Any:
        """By name where the name leads here (a decorated function), else the original and the
        options."""
        module = getattr(self, "__module__", None)
        name = getattr(self, "__qualname__", "")
        try:
            found: Any = functools.reduce(
                getattr, name.split("."), importlib.import_module(module or "")
            )
        except (ImportError, AttributeError, ValueError):
            found = None
        anew = wrap, (self.__wrapped__, self._tracejit_dispatcher.options)
        return name if found is self else anew

    def __copy__(self) -> CompiledFunction:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledFunction:
        return self


def compiled_module(module: torch.nn.Module, options: Options) -> torch.nn.Module:
    """A module of the same class whose calls are compiled. It and `module` have one `__dict__`: all
    state is shared."""
    made: torch.nn.Module = object.__new__(_compiled_class(type(module)))
    object.__setattr__(made, "__dict__", module.__dict__)
    object.__setattr__(made, "_tracejit_dispatcher", _new_dispatcher(module, options))
    return made


_classes: weakref.WeakKeyDictionary[type, weakref.ref[type]] = weakref.WeakKeyDictionary()


def _compiled_class(cls: type) -> type:
    """The subclass of a module's class whose calls are dispatched. It has the name of its base."""
    known = _classes.get(cls)
    found = known() if known is not None else None
    if found is None:
        namespace = {
            "__slots__": ("_tracejit_dispatcher",),
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__call__": _call,
            "__class__": property(_class_of, _set_class),
            "__reduce_ex__": _reduce_module,
            "__copy__": _copy_module,
            "__deepcopy__": _deepcopy_module,
        }
        found = type(cls)(cls.__name__, (cls,), namespace)
        _classes[cls] = weakref.ref(found)
    return found


def _class_of(self: Any) -> type:
    return type(self._tracejit_dispatcher.function)


def _set_class(self: Any, cls: type) -> None:
    """`module.__class__ = C` (torch's parametrizations do it) changes the module that runs."""
    self._tracejit_dispatcher.function.__class__ = cls


def _reduce_module(self: Any, protocol: int) -> Any:
    dispatcher = self._tracejit_dispatcher
    return wrap, (dispatcher.function, dispatcher.options)


def _copy_module(self: Any) -> Any:
    dispatcher = self._tracejit_dispatcher
    return wrap(copy.copy(dispatcher.function), dispatcher.options)


def _deepcopy_module(self: Any, memo: dict[int, Any]) -> Any:
    dispatcher = self._tracejit_dispatcher
    return wrap(copy.deepcopy(dispatcher.function, memo), dispatcher.options)


def is_compiled(function: Any) -> bool:
    """Whether tracejit.compile made it."""
    return _dispatcher(function) is not None


def _dispatcher(function: Any) -> Dispatcher | None:
    if isinstance(function, MethodType):
        function = function.__func__
    is_module = "_tracejit_dispatcher" in type(function).__dict__
    if is_module or isinstance(function, CompiledFunction):
        found: Dispatcher = function._tracejit_dispatcher
        return found
    return None


def dispatcher_of(function: Any) -> Dispatcher:
    """The dispatcher behind something compiled. Raises NotCompiled otherwise."""
    found = _dispatcher(function)
    if found is None:
        raise NotCompiled(what=repr(function))
    return found


def plain(function: Any) -> Any:
    """What was compiled: the function or module as it was."""
    return dispatcher_of(function).function
