"""Imports point one way, and never in a circle (a stage imports the stages it consumes)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        yield importlib.import_module("imports")


@pytest.fixture(scope="module")
def graph(tool: Any) -> Any:
    return tool.graph()


def test_no_import_leads_back_to_where_it_began(tool: Any, graph: Any) -> None:
    assert tool.cycles(graph) == []


def test_no_import_points_against_the_direction(tool: Any, graph: Any) -> None:
    assert tool.arrows(graph) == []


def test_every_folder_is_seen(tool: Any, graph: Any) -> None:
    assert {tool.layer_of(module) for module in graph} == set(tool.LAYERS)
    assert sum(map(len, graph.values())) > len(graph)


def test_layers_have_an_order(tool: Any) -> None:
    names = list(tool.LAYERS)
    for place, (_, may) in enumerate(tool.LAYERS.values()):
        assert set(may) <= set(names[:place])


TEXTS = {
    "tracejit.runtime.a": "def f():\n    from tracejit.codegen import b\n    import sympy.core",
    "tracejit.codegen.b": "from typing import TYPE_CHECKING\nfrom tracejit.runtime.a import f",
    "tracejit.trace.c": "if TYPE_CHECKING:\n    from tracejit.fuse.d import nest",
    "tracejit.fuse.d": "import tracejit.ir.graph\nimport sympy\nimport tracejit.fuse.e",
    "tracejit.fuse.e": "if TYPE_CHECKING:\n    import tracejit.fuse.d",
    "tracejit.ir.graph": "",
}


def test_mistakes_are_found(tool: Any) -> None:
    found = {
        name: [item._replace(name=tool.module_of(item.name, TEXTS)) for item in tool.imports(text)]
        for name, text in TEXTS.items()
    }
    assert tool.cycles(found) == [["tracejit.codegen.b", "tracejit.runtime.a"]]
    assert tool.arrows(found) == [
        "tracejit.runtime.a:2 (runtime) imports tracejit.codegen.b",
        "tracejit.runtime.a:3 (runtime) imports sympy",
        "tracejit.trace.c:2 (trace) imports tracejit.fuse.d",
    ]
