"""Two versions of tracejit, triton, torch or the format share one directory: neither sees, damages
or throws out what is the other's, and neither is warned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.fire.common import as_new_process, assert_whole, entries, silent
from tests.fire.disks import tree
from tests.fire.programs import chain, right, softmax
from tracejit.runtime import cache, files
from tracejit.runtime.files import Item, OtherFormat
from tracejit.runtime.store import Store

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def new_process(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    as_new_process()
    monkeypatch.setattr(cache, "_checkout_state", lambda: "ours")
    with silent():
        yield
    cache.environment.cache_clear()


def other_tracejit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cache, "VERSION", "99.1")


def other_triton(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cache, "_triton_version", lambda: "99.1")


def other_torch(patch: pytest.MonkeyPatch) -> None:
    for module in (torch, torch.version):
        patch.setattr(module, "__version__", "99.1")


def other_sources(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cache, "_checkout_state", lambda: "edited")


def other_format(patch: pytest.MonkeyPatch) -> None:
    for module in (files, cache):
        patch.setattr(module, "FORMAT", files.FORMAT + 1)


OTHERS: list[Patch] = [other_tracejit, other_triton, other_torch, other_sources, other_format]


@pytest.fixture(params=OTHERS, ids=lambda other: other.__name__)
def other(request: pytest.FixtureRequest) -> Patch:
    patch: Patch = request.param
    return patch


def called_by(version: Patch | None, function: object = softmax) -> list[str]:
    """Call in a new process of this version (None: ours)."""
    as_new_process()
    with pytest.MonkeyPatch.context() as patch:
        if version is not None:
            version(patch)
        cache.environment.cache_clear()
        found = right(function, backend="interpret")
    cache.environment.cache_clear()
    return found


def test_neither_sees_the_others(fresh_cache: Path, other: Patch) -> None:
    assert called_by(None) == ["recorded"]
    ours = (
        tree(fresh_cache / "records") | tree(fresh_cache / "plans") | tree(fresh_cache / "kernels")
    )
    assert called_by(other) == ["recorded"]
    for _ in range(2):
        assert called_by(None) == ["disk"] and called_by(other) == ["disk"]
    after = tree(fresh_cache)
    assert all(after[name] == data for name, data in ours.items())
    assert len(entries(fresh_cache)) == 2 * len(ours)
    assert not (fresh_cache / "damaged").exists()


def test_keeping_the_directory_spares_the_others(fresh_cache: Path, other: Patch) -> None:
    called_by(other)
    theirs = tree(fresh_cache)
    called_by(None)
    as_new_process()
    store = Store(fresh_cache)
    store.sweep()
    assert store.trim() == 0
    assert all(tree(fresh_cache)[name] == data for name, data in theirs.items())
    assert called_by(other) == ["disk"]


def test_eviction_goes_by_use_whoever_wrote(fresh_cache: Path, other: Patch) -> None:
    """The one that was not used for long goes, not the one that another version wrote."""
    import os

    called_by(None)
    for file in Store(fresh_cache).files():
        os.utime(file.path, (1e9, 1e9))
    called_by(other, chain)
    total = sum(file.bytes for file in Store(fresh_cache).files())
    assert Store(fresh_cache).trim(total - 1) > 0
    assert called_by(other, chain) == ["disk"] and called_by(None) == ["recorded"]
    assert called_by(None) == ["disk"]


def test_entry_of_another_format_under_our_key(fresh_cache: Path) -> None:
    """It cannot come about by itself, since keys cover the format; it is absent and stays."""
    store = Store(fresh_cache)
    with pytest.MonkeyPatch.context() as patch:
        other_format(patch)
        assert store.write("kernels", "ab" * 32, Item({"new": "fields"}))
    path = store.path("kernels", "ab" * 32)
    before = path.read_bytes()
    assert store.read("kernels", "ab" * 32) is None
    with pytest.raises(OtherFormat):
        store.inspect("kernels", "ab" * 32)
    assert path.read_bytes() == before and not (fresh_cache / "damaged").exists()


def test_all_is_whole_in_its_own_version(fresh_cache: Path) -> None:
    for other in OTHERS[:-1]:
        called_by(other)
    called_by(None)
    assert_whole(fresh_cache)
