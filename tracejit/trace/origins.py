"""Where the user's program is at this moment: file, line, function, and the module it runs for."""

from __future__ import annotations

import sys
from pathlib import PurePath
from types import CodeType, FrameType
from typing import Any

import torch

from tracejit.ir.graph import Origin

_OURS = f"{PurePath(__file__).parent.parent}/"
_TORCH = f"{PurePath(torch.__file__).parent}/"

PLACES = "_tracejit_places"  # in the globals of code drawn up from a graph: an Origin for each line


def is_users(path: str) -> bool:
    """Whether a code object with this file name is neither torch's nor ours."""
    return not path.startswith((_OURS, _TORCH, "<")) or path.startswith("<string")


class _Code:
    """What a frame of this code can tell: whether it is the user's line, and whether it has a
    module as `self`.
    """

    __slots__ = ("file", "lines", "method", "name", "user")

    def __init__(self, code: CodeType) -> None:
        path = code.co_filename
        self.user = is_users(path)
        self.file = "/".join(PurePath(path).parts[-2:]).lstrip("/")
        self.name = code.co_name
        first = code.co_varnames[0] if code.co_argcount else ""
        self.method = first == "self" and not path.startswith(_OURS)
        self.lines: dict[int, int] = {}  # by instruction


_CODES: dict[CodeType, _Code] = {}


class Origins:
    """Origins of one recording; `names` gives qualified names to the modules below `root`, by
    identity.
    """

    def __init__(self, root: Any) -> None:
        module = root if isinstance(root, torch.nn.Module) else getattr(root, "__self__", None)
        self.names: dict[int, str] = {}
        if isinstance(module, torch.nn.Module):
            self.names = {id(m): name for name, m in module.named_modules(remove_duplicate=True)}
        self._made: dict[tuple[str, int, str, str], Origin] = {}
        function = getattr(root, "__func__", root)
        self.places: dict[int, Origin] | None = getattr(function, "__globals__", {}).get(PLACES)
        self.code = getattr(function, "__code__", None)

    def here(self) -> Origin:
        """The innermost frame that is neither torch's nor ours, and the innermost module with a
        name.
        """
        frame: FrameType | None = sys._getframe(1)
        if self.places is not None:
            while frame is not None and frame.f_code is not self.code:
                frame = frame.f_back
            return self.places.get(frame.f_lineno if frame else 0, Origin())
        place: tuple[str, int, str] | None = None
        module: str | None = None if self.names else ""
        while frame is not None:
            code = frame.f_code
            known = _CODES.get(code)
            if known is None:
                known = _CODES[code] = _Code(code)
            if module is None and known.method:
                module = self.names.get(id(frame.f_locals.get("self")))
            if place is None and known.user:
                place = (known.file, _line(frame, known), known.name)
            if place is not None and module is not None:
                break
            frame = frame.f_back
        key = (*(place or ("", 0, "")), module or "")
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = Origin(*key)
        return found


def _line(frame: FrameType, known: _Code) -> int:
    at = frame.f_lasti
    line = known.lines.get(at)
    if line is None:
        line = known.lines[at] = frame.f_lineno or 0
    return line
