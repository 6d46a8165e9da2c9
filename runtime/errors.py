"""Errors and warnings that a user can cause: named classes, each with the template of its message.

An exception that the user's own function raises is never wrapped: it propagates unchanged.
"""

from __future__ import annotations

from typing import Any, ClassVar


class TracejitError(Exception):
    """Base of all errors. A subclass has a `template`; its fields are given by keyword and kept as
    attributes."""

    template: ClassVar[str] = "{text}"

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.template.format(**fields))

    def __reduce__(self) -> Any:
        return (_rebuild, (type(self), self.fields))


def _rebuild(cls: type[TracejitError], fields: dict[str, Any]) -> TracejitError:
    return cls(**fields)


class BadSetting(TracejitError, ValueError):
    """An environment variable has a value that it cannot have."""

    template = "{name}={value!r} is not a setting tracejit knows: use {legal} ({about})"


class BadOption(TracejitError, ValueError):
    """An argument of tracejit.compile (or build, explain) has a value that it cannot have."""

    template = "{name}={value!r} is not one of {legal}"


class NotCompilable(TracejitError, TypeError):
    """tracejit.compile was given something that cannot be called."""

    template = "tracejit.compile takes a function, a method or an nn.Module, not {what}"


class NotCompiled(TracejitError, TypeError):
    """explain or last_traces was given a function that tracejit.compile did not make."""

    template = "{what} is not compiled: pass what tracejit.compile returned"


class RanEagerly(TracejitError, RuntimeError):
    """Under strict=True or TRACEJIT_STRICT=1: a call that could only run eagerly."""

    template = "{name} could only run eagerly (an error because strict is on): {reason}"


class CompilerError(TracejitError, RuntimeError):
    """Under strict or in build: a stage of the compiler raised. Its exception is `__cause__`."""

    template = "compiling {name} failed in stage {stage!r}: {cause}"


class MissingExtra(TracejitError, ImportError):
    """A part of tracejit needs packages that are optional."""

    template = "{what} needs {packages}: pip install 'tracejit[{extra}]'"


class NoSuchKey(TracejitError, KeyError):
    """The cache holds nothing whose key begins so."""

    template = "no entry of the cache at {directory} begins with {key!r}"

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class AmbiguousKey(TracejitError, KeyError):
    """Several keys begin so."""

    template = "{key!r} is the beginning of {count} keys: {some}"

    def __str__(self) -> str:
        return str(self.args[0])


class NotBuilt(TracejitError, RuntimeError):
    """tracejit.build was given a call that runs eagerly, or is guarded in its process only."""

    template = "{name} cannot be built for {target}: {reason}"


class BadBundle(TracejitError, ValueError):
    """A file given to tracejit.load is not a bundle that this version can use."""

    template = "{path} is not a usable bundle: {why}"


class TracejitWarning(UserWarning):
    """Base of all warnings."""


class CompilerWarning(TracejitWarning):
    """A stage of the compiler raised; the function keeps running eagerly. Shown once per function
    and stage."""


class BuildWarning(TracejitWarning):
    """Code that tracejit.build recorded on the CPU for a GPU asks on which device it runs."""


class CacheWarning(TracejitWarning):
    """The disk cache could not be read or written as it should; the call is not affected."""


class SettingWarning(TracejitWarning):
    """An environment variable looks like one of ours but is none."""


class BackendHint(TracejitWarning):
    """Nothing was compiled, and something would help. Shown once."""
