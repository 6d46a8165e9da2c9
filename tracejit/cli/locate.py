"""`MODULE:FUNCTION` on the command line, and the arguments of a call: from text to objects.

What cannot be found is a click.UsageError with what is there instead; what the user's own code
raises is raised.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
NAMED = 6  # names that a message lists


def split(text: str) -> tuple[str, str]:
    """Module and attribute path of `MODULE:FUNCTION`."""
    module, _, name = text.rpartition(":")
    if not module or not name:
        raise click.UsageError(f"{text!r} is not MODULE:FUNCTION, such as model.py:forward")
    return module, name


def module(text: str) -> ModuleType:
    """The module of this name, or in this file. The current folder, or the file's, comes first on
    the path."""
    if text.endswith(".py") or os.sep in text:
        return _module_in(Path(text))
    _first_on_path(Path.cwd())
    try:
        return importlib.import_module(text)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{text}.".startswith(f"{error.name}."):
            raise  # the module is there; one that it imports is not
        raise click.UsageError(f"there is no module {text!r}{_near_file(text)}") from None


def _module_in(path: Path) -> ModuleType:
    """The module in a file, under the name that an import would give it."""
    if not path.is_file():
        raise click.UsageError(f"there is no file {str(path)!r}{_near_file(path.stem)}")
    path = path.resolve()
    folder, names = path.parent, [path.stem]
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    if names[-1] == "__init__" and len(names) > 1:
        names.pop()
    name = ".".join(names)
    _first_on_path(folder)
    found = importlib.import_module(name) if all(map(str.isidentifier, names)) else None
    if found is not None and Path(found.__file__ or "").resolve() == path:
        return found
    return _loaded(name, path)  # the name is no identifier, or something else has it already


def _loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{str(path)!r} is no Python file")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def _first_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _near_file(name: str) -> str:
    """` (did you mean model.py?)` if a file here is called nearly so."""
    files = {path.stem: path.name for path in Path.cwd().glob("*.py")}
    near = difflib.get_close_matches(name, files, 1)
    return f" (did you mean {files[near[0]]}?)" if near else ""


def attribute(inside: ModuleType, path: str) -> Any:
    """What an attribute path leads to. A method of a class is bound to an instance made without
    arguments; a class of modules gives such an instance."""
    import torch

    found: Any = inside
    for name in path.split("."):
        if isinstance(found, type) and _is_method(found, name):
            found = instance(found)
        try:
            found = getattr(found, name)
        except AttributeError:
            raise click.UsageError(_no_such(inside, found, name)) from None
    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        found = instance(found)
    if not callable(found):
        raise click.UsageError(f"{path} cannot be called: its type is {type(found).__name__}")
    return found


def _is_method(cls: type, name: str) -> bool:
    from tracejit.api import is_compiled

    raw = inspect.getattr_static(cls, name, None)
    return inspect.isfunction(raw) or (is_compiled(raw) and not isinstance(raw, type))


def instance(cls: type) -> Any:
    """An instance made without arguments."""
    needed = required(cls)
    if needed:
        raise click.UsageError(
            f"{cls.__name__} needs {', '.join(needed)} to be made: name an instance, or a function"
        )
    return cls()


def _no_such(inside: ModuleType, owner: Any, name: str) -> str:
    """`model has no 'forwrd' (did you mean forward?)`, or with some of what it has."""
    known = [n for n in dir(owner) if not n.startswith("_")]
    if owner is inside:  # its own functions, rather than what it imports
        known = [
            n for n in known if getattr(getattr(owner, n), "__module__", "") == inside.__name__
        ]
    called = getattr(owner, "__name__", type(owner).__name__)
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"{called} has no {name!r} (did you mean {near[0]}?)"
    some = f"; it has {', '.join(known[:NAMED])}{' …' if len(known) > NAMED else ''}"
    return f"{called} has no {name!r}{some if known else ''}"


def required(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters that a call must give."""
    return [
        p.name
        for p in _parameters(function)
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    signature = _signature(function)
    return list(signature.parameters.values()) if signature is not None else []


def _signature(function: Any) -> inspect.Signature | None:
    """The signature of a call, of a module's forward; None where Python knows none."""
    whole = isinstance(function, type) or inspect.isroutine(function)
    forward = None if whole else getattr(function, "forward", None)
    try:
        return inspect.signature(forward if callable(forward) else function)
    except (TypeError, ValueError):
        return None


def fits(function: Callable[..., Any], arguments: Arguments) -> None:
    """Raises click.UsageError if the function cannot be called with these arguments."""
    signature = _signature(function)
    if signature is None:
        return
    try:
        signature.bind(*arguments[0], **arguments[1])
    except TypeError as error:
        raise click.UsageError(f"the arguments do not fit {signature}: {error}") from None


def evaluated(text: str, inside: ModuleType) -> Arguments:
    """The arguments that an expression such as `torch.randn(4, 8), scale=2` gives."""
    import torch

    names = {"torch": torch, **vars(inside), "__call__": lambda *args, **kwargs: (args, kwargs)}
    try:
        found: Arguments = eval(compile(f"__call__({text}\n)", "--args", "eval"), names)
    except Exception as error:  # the user's expression's
        words = error.msg if isinstance(error, SyntaxError) else str(error)
        raise click.UsageError(f"--args {text!r}: {type(error).__name__}: {words}") from None
    return found


def made(maker: Callable[[], Any]) -> Arguments:
    """The arguments that a function makes: (args, kwargs), args, or a single argument."""
    needed = required(maker)
    if needed:
        raise click.UsageError(f"--inputs names a function that needs {', '.join(needed)} itself")
    found = maker()
    if isinstance(found, tuple):
        pair = (
            len(found) == 2 and isinstance(found[0], (tuple, list)) and isinstance(found[1], dict)
        )
        return (tuple(found[0]), found[1]) if pair else (found, {})
    return (tuple(found), {}) if isinstance(found, list) else ((found,), {})
