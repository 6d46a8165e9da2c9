"""Files that are broken, exchanged, missing, or written by somebody with other ideas of their
content: reported by name or silently absent, never used, and made again."""

from __future__ import annotations

import copy
import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fire.common import as_new_process, assert_sound, entries, named, silent
from tests.fire.programs import block, chain, right, softmax
from tracejit.runtime.errors import CacheWarning, TracejitWarning
from tracejit.runtime.files import Damaged, Item
from tracejit.runtime.store import Store
from tracejit.runtime.upkeep import KINDS


@pytest.fixture
def warm(fresh_cache: Path) -> Iterator[Path]:
    """A cache that holds what softmax needs, met by a new process."""
    as_new_process()
    assert right(softmax) == ["recorded"]
    as_new_process()
    yield fresh_cache


def paths(directory: Path, kind: str) -> list[Path]:
    store = Store(directory)
    return [store.path(kind, key) for found, key in entries(directory) if found == kind]


def assert_healed(directory: Path, function: Any = softmax) -> None:
    """Another process finds everything whole on disk."""
    as_new_process()
    with silent():
        assert right(function) == ["disk"]
    assert_sound(directory)


HOWS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "first line": lambda data: data.partition(b"\n")[0],
    "first line whole": lambda data: b"".join(data.partition(b"\n")[:2]),
    "half": lambda data: data[: len(data) // 2],
    "last byte lost": lambda data: data[:-1],
    "more": lambda data: data + b"\n",
    "twice": lambda data: data + data,
    "zeros": lambda data: bytes(len(data)),
    "zeros from the middle": lambda data: data[: len(data) // 2] + bytes(len(data) // 2),
    "beginning lost": lambda data: bytes(100) + data[100:],
    "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:],
    "a pickle": lambda data: b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08tracejit\x94.",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", HOWS)
def test_broken_file(warm: Path, kind: str, how: str) -> None:
    (path,) = paths(warm, kind)
    path.write_bytes(HOWS[how](path.read_bytes()))
    with pytest.warns(CacheWarning, match=named(path)):
        assert right(softmax) == ["recorded"]
    assert_healed(warm)


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    item = Item({"n": [1, None, "x"]}, {"a": b"some bytes", "b": b""})
    assert store.write("plans", "k", item)
    path = store.path("plans", "k")
    data, numbers = path.read_bytes(), random.Random(0)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << numbers.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(Damaged):
            store.inspect("plans", "k")
    path.write_bytes(data)
    assert store.inspect("plans", "k") == item


def exchange(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def test_swapped_kernels(fresh_cache: Path) -> None:
    as_new_process()
    model = block()
    right(model)
    first, second = paths(fresh_cache, "kernels")[:2]
    exchange(first, second)
    as_new_process()
    with pytest.warns(CacheWarning, match=f"{named(first)}|{named(second)}"):
        assert right(model) == ["recorded"]
    assert_healed(fresh_cache, model)


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_entries(warm: Path, kind: str) -> None:
    right(chain)
    first, second = paths(warm, kind)
    exchange(first, second)
    as_new_process()
    with pytest.warns(CacheWarning, match=f"{named(first)}|{named(second)}"):
        right(softmax)
        right(chain)
    assert_healed(warm)
    assert_healed(warm, chain)


def test_entry_of_another_kind(warm: Path) -> None:
    (plan,), (kernel,) = paths(warm, "plans"), paths(warm, "kernels")
    plan.write_bytes(kernel.read_bytes())
    with pytest.warns(CacheWarning, match=named(plan)):
        assert right(softmax) == ["recorded"]
    assert_healed(warm)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_entry_is_made_again_silently(warm: Path, kind: str) -> None:
    (path,) = paths(warm, kind)
    path.unlink()
    with silent():
        assert right(softmax) == ["recorded"]
    assert_healed(warm)


@pytest.mark.parametrize("kind", KINDS)
def test_directory_in_place_of_an_entry(warm: Path, kind: str) -> None:
    (path,) = paths(warm, kind)
    path.unlink()
    (path / "inside").mkdir(parents=True)
    with pytest.warns(CacheWarning, match=named(warm)):
        right(softmax)
    as_new_process()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        right(softmax)
        assert right(chain) == ["recorded"]
    assert (path / "inside").is_dir()


WRONG: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, "", "x", "../../x", [], [None], {}, {"a": 1})


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a JSON document, but the document's own."""
    if at:
        yield at
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from places(value, (*at, name))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from places(value, (*at, index))


def replaced(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(tree)
    inner = made
    for step in at[:-1]:
        inner = inner[step]
    inner[at[-1]] = value
    return made


def value_at(tree: Any, at: tuple[Any, ...]) -> Any:
    for step in at:
        tree = tree[step]
    return tree


def rewrite(directory: Path, kind: str, fields: Any = None, parts: Any = None) -> Path:
    """Change the content of the one entry of a kind, under a right digest."""
    store = Store(directory)
    ((_, key),) = [entry for entry in entries(directory) if entry[0] == kind]
    item = the_item(directory, kind)
    changed = Item(
        item.fields if fields is None else fields, item.parts if parts is None else parts
    )
    assert store.write(kind, key, changed)
    return store.path(kind, key)


def the_item(directory: Path, kind: str) -> Item:
    """The one entry of a kind."""
    ((_, key),) = [entry for entry in entries(directory) if entry[0] == kind]
    return Store(directory).inspect(kind, key)


def assert_survives(directory: Path, what: Any, heals: bool = True) -> None:
    """Calls are right, whatever is warned of, and afterwards the disk is whole."""
    as_new_process()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracejitWarning)
        try:
            right(softmax)
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    as_new_process()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        found = right(softmax)
    texts = [str(w.message) for w in shown]
    assert not heals or (found == ["disk"] and not texts), (what, found, texts)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_types_of_fields(warm: Path, kind: str, tmp_path: Path) -> None:
    kept = shutil.copytree(warm, tmp_path / "kept")
    fields = the_item(warm, kind).fields
    choices = [
        (at, wrong)
        for at in places(fields)
        for wrong in WRONG
        if type(wrong) is not type(value_at(fields, at))
    ]
    some = [c for c in choices if len(c[0]) == 1]  # all at the top, and a sample of the rest
    some += random.Random(0).sample([c for c in choices if len(c[0]) > 1], 60)
    for at, wrong in some:
        rewrite(warm, kind, fields=replaced(fields, at, wrong))
        heals = "inputs" not in at and "outputs" not in at  # wrong indices raise when it runs
        assert_survives(warm, (kind, at, wrong), heals)
        shutil.rmtree(warm)
        shutil.copytree(kept, warm)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_that_are_gone(warm: Path, kind: str) -> None:
    whole = the_item(warm, kind)
    for name in whole.fields:
        less = {n: v for n, v in whole.fields.items() if n != name}
        rewrite(warm, kind, fields=less)
        assert_survives(warm, (kind, name))


PARTS = (None, b"", b"\xff\xfe", b"def (", b"[" * 100_000, b"raise ValueError")


@pytest.mark.parametrize("kind", ["kernels", "plans"])
def test_wrong_parts(warm: Path, kind: str) -> None:
    whole = the_item(warm, kind)
    for name in whole.parts:
        for wrong in PARTS:
            parts = {n: v for n, v in whole.parts.items() if n != name}
            parts.update({} if wrong is None else {name: wrong})
            rewrite(warm, kind, parts=parts)
            assert_survives(warm, (kind, name, wrong))


@pytest.mark.parametrize(
    "sizes", [5, {"a": -1}, {"a": "4"}, {"a": 10**9}, {"a": 1.5}, {"a": 3}, {}]
)
def test_wrong_sizes_of_parts(tmp_path: Path, sizes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "cache")
    dumps = json.dumps

    def other(document: Any, **options: Any) -> str:
        return dumps({**document, "parts": sizes}, **options)

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", other)
        assert store.write("kernels", "k", Item({"n": 1}, {"a": b"four"}))
    with pytest.raises(Damaged):
        store.inspect("kernels", "k")
    with pytest.warns(CacheWarning, match=named(store.path("kernels", "k"))):
        assert store.read("kernels", "k") is None


def test_deep_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", lambda document, **options: "[" * 200_000)
        assert store.write("kernels", "k", Item({}))
    with pytest.warns(CacheWarning, match=named(store.path("kernels", "k"))):
        assert store.read("kernels", "k") is None


def test_key_that_leads_outside(warm: Path, tmp_path: Path) -> None:
    """Keys taken out of a file are no paths: nothing outside is read, moved or written."""
    outside = Store(tmp_path / "outside")
    assert outside.write("kernels", "x", Item({"not": "a kernel"}))
    before = outside.path("kernels", "x").read_bytes()
    target = "../../outside/kernels/x"
    for kind, field in (("plans", "kernels"), ("records", "plan")):
        wrong: Any = {"k": target} if field == "kernels" else target
        rewrite(warm, kind, fields={**the_item(warm, kind).fields, field: wrong})
        assert_survives(warm, (kind, field))
        assert outside.path("kernels", "x").read_bytes() == before
