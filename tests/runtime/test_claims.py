"""Claims: one process at a time holds one, none outlives its process; kernels are compiled once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tracejit.runtime import claims, files, log, together
from tracejit.runtime.cache import Cache
from tracejit.runtime.claims import Claims, NoClaims, is_held
from tracejit.runtime.config import config
from tracejit.runtime.errors import CacheWarning
from tracejit.runtime.kernel import Binary, KernelSource
from tracejit.runtime.worker import Leaving, worker

fcntl = pytest.importorskip("fcntl")


@pytest.fixture(autouse=True)
def fresh_warnings() -> Iterator[None]:
    log.forget()
    yield


def locks(directory: Path) -> list[str]:
    folder = directory / claims.FOLDER
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_one_holds_it(tmp_path: Path) -> None:
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert sorted(first.take(["b", "a"])) == ["a", "b"]
        assert second.take(["c", "b"]) == ["c"]
        assert locks(tmp_path) == ["a", "b", "c"] and is_held(tmp_path / "locks" / "a")
        first.release()
        assert locks(tmp_path) == ["c"]
        assert sorted(second.take(["b"])) == ["b", "c"]
    assert locks(tmp_path) == [] and not claims._open


def test_a_file_removed_between_opening_and_locking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, []

    def late(handle: int, how: int) -> None:
        calls.append(handle)
        if len(calls) == 1:  # its holder lets go just now
            (tmp_path / "locks" / "a").unlink()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with Claims(tmp_path) as mine, Claims(tmp_path) as other:
        assert mine.take(["a"]) == ["a"] and len(calls) == 2
        assert other.take(["a"]) == []


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL])
def test_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with Claims(tmp_path) as mine, pytest.raises(NoClaims):
        mine.take(["a", "b"])
    assert locks(tmp_path) == [] and not claims._open


def test_without_fcntl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "fcntl", None)
    with Claims(tmp_path) as mine, pytest.raises(NoClaims):
        mine.take(["a"])
    (tmp_path / "a").write_text("")
    assert is_held(tmp_path / "a", age=10) and not is_held(tmp_path / "a", age=1e6)


HOLDER = """
import sys, time
from pathlib import Path
from tracejit.runtime.claims import Claims
held = Claims(Path(sys.argv[1]))
held.take(["a"])
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with Claims(tmp_path) as mine:
            assert mine.take(["a"]) == []
            holder.kill()
            holder.wait()
            assert locks(tmp_path) == ["a"] and not is_held(tmp_path / "locks" / "a")
            assert mine.take(["a"]) == ["a"]
    assert locks(tmp_path) == []


def forked(work: Callable[[], bool]) -> int:
    """Fork; the child runs `work` and waits to be killed. The child's id, once it has begun."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which is what is tested
        child = os.fork()
    if child == 0:
        os.write(writer, b"1" if work() else b"0")
        time.sleep(60)
        os._exit(0)
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    os.close(writer)
    return child


def test_a_forked_child_neither_keeps_nor_frees_a_claim(tmp_path: Path) -> None:
    held = Claims(tmp_path)
    held.take(["a"])

    def child() -> bool:
        held.release()  # as if the fork were inside the context
        return not claims._open and is_held(tmp_path / "locks" / "a")

    number = forked(child)
    try:
        assert is_held(tmp_path / "locks" / "a") and locks(tmp_path) == ["a"]
        for handle in held._held.values():  # as if the parent were killed
            os.close(handle)
        assert not is_held(tmp_path / "locks" / "a")
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        claims._open.clear()


def test_forks_while_claims_are_taken(tmp_path: Path) -> None:
    """No fork lands between opening a claim and noting that it is open."""
    stop = threading.Event()

    def take_and_release() -> None:
        while not stop.is_set():
            with Claims(tmp_path) as mine:
                mine.take(["a", "b", "c"])

    def child() -> bool:
        names = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
        with Claims(tmp_path) as mine:
            mine.take(["d"])
        return not [name for name in names if f"{tmp_path}/locks" in name]

    thread = threading.Thread(target=take_and_release)
    thread.start()
    children = []
    try:
        children = [forked(child) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
        for number in children:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
    assert locks(tmp_path) == []


# kernels compiled together


def source(name: str) -> KernelSource:
    return KernelSource(name, f"{name} = 1\n", "cuda:90", (("x", "*fp32"),), ("x",), {}, 1)


SOURCES = [source(name) for name in ("one", "two", "three")]


class Compiler:
    """Counts what it compiles, and takes a while."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.seconds, self.error = seconds, error
        self.made: list[str] = []

    def __call__(self, sources: Sequence[KernelSource]) -> list[Binary]:
        self.made += [each.name for each in sources]
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return [Binary(each.text.encode(), "cubin", assembly="ptx") for each in sources]


def codes(made: Sequence[Binary]) -> list[bytes]:
    return [binary.code for binary in made]


CODES = [each.text.encode() for each in SOURCES]


def test_kernels_are_compiled_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "debug", 1)
    cache, make = Cache(tmp_path / "cache"), Compiler()
    assert codes(together.binaries(cache, "eager", SOURCES, make)) == CODES
    key = cache.kernel_key(SOURCES[0], "eager")
    assert f"tracejit| kernel one {key[:12]} compiled in 0 ms" in capsys.readouterr().err
    written = cache.store.inspect("kernels", key).written
    assert written["environment"]["target"] == "cuda:90" and written["pid"] == os.getpid()
    again = Cache(tmp_path / "cache")
    assert codes(together.binaries(again, "eager", SOURCES[::-1], make)) == CODES[::-1]
    assert make.made == ["one", "two", "three"] and locks(tmp_path / "cache") == []
    assert together.binaries(again, "eager", [], make) == []


def test_what_is_made_before_an_interruption_is_stored(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")

    def interrupted(sources: Sequence[KernelSource]) -> Iterator[Binary]:
        yield Binary(sources[0].text.encode(), "cubin", assembly="ptx")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together.binaries(cache, "eager", SOURCES, interrupted)
    (stored,) = cache.store.files("kernels")
    found = cache.read_kernel(stored.key)
    assert found is not None and found.source in SOURCES and locks(tmp_path / "cache") == []
    make = Compiler()
    assert codes(together.binaries(cache, "eager", SOURCES, make)) == CODES
    assert len(make.made) == 2


def at_once(directory: Path, makes: Sequence[Compiler]) -> list[Any]:
    """Each compiler in a thread with a cache of its own; results or errors."""
    results: list[Any] = [None] * len(makes)

    def run(number: int) -> None:
        try:
            made = together.binaries(Cache(directory), "eager", SOURCES, makes[number])
            results[number] = codes(made)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(makes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_each_kernel_is_compiled_once(tmp_path: Path) -> None:
    makes = [Compiler(0.2) for _ in range(8)]
    assert at_once(tmp_path / "cache", makes) == [CODES] * 8
    assert sorted(name for make in makes for name in make.made) == ["one", "three", "two"]
    assert locks(tmp_path / "cache") == []


def test_an_error_is_everybodys_own(tmp_path: Path) -> None:
    makes = [Compiler(0.1, ValueError(str(number))) for number in range(3)]
    assert [str(error) for error in at_once(tmp_path / "cache", makes)] == ["0", "1", "2"]
    assert locks(tmp_path / "cache") == []


def test_a_cache_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what is never stored."""

    def full(path: str, flags: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_private", full)
    makes, start = [Compiler(0.1) for _ in range(4)], time.monotonic()
    with pytest.warns(CacheWarning, match="No space left") as caught:
        assert at_once(tmp_path / "cache", makes) == [CODES] * 4
    assert len(caught) == 1 and time.monotonic() - start < 5
    assert locks(tmp_path / "cache") == []


def test_a_refused_directory(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    make = Compiler()
    with pytest.warns(CacheWarning, match="nothing is cached"):
        assert codes(together.binaries(Cache(tmp_path / "cache"), "eager", SOURCES, make)) == CODES


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, make = Cache(tmp_path / "cache"), Compiler()
    cache.store.usable()
    monkeypatch.setattr(together, "PATIENCE", 0.2)
    with Claims(tmp_path / "cache") as other:
        other.take([cache.kernel_key(SOURCES[1], "eager")])
        assert codes(together.binaries(cache, "eager", SOURCES, make)) == CODES
    assert make.made == ["one", "three", "two"]


def test_a_holder_that_died_is_replaced(tmp_path: Path) -> None:
    cache, make = Cache(tmp_path / "cache"), Compiler()
    cache.store.usable()
    key = cache.kernel_key(SOURCES[1], "eager")
    other = Claims(tmp_path / "cache")
    other.take([key])

    def die() -> None:
        time.sleep(0.1)
        for handle in other._held.values():
            claims._close(handle)

    thread = threading.Thread(target=die)
    thread.start()
    assert codes(together.binaries(cache, "eager", SOURCES, make)) == CODES
    thread.join()
    assert make.made == ["one", "three", "two"] and locks(tmp_path / "cache") == []


def test_a_forked_child_waits_for_its_parent(tmp_path: Path) -> None:
    """What a thread of the parent compiles, at a fork, is compiled once."""
    cache, make = Cache(tmp_path / "cache"), Compiler(0.3)
    other = threading.Thread(target=lambda: together.binaries(cache, "eager", SOURCES, make))
    other.start()
    while not make.made:
        time.sleep(0.001)

    def child() -> bool:
        mine = Compiler()
        return codes(together.binaries(cache, "eager", SOURCES, mine)) == CODES and not mine.made

    number = forked(child)
    other.join()
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    assert make.made == ["one", "two", "three"] and locks(tmp_path / "cache") == []


def test_a_process_that_exits_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, make = Cache(tmp_path / "cache"), Compiler()
    cache.store.usable()
    monkeypatch.setattr(worker, "closing", True)
    with Claims(tmp_path / "cache") as other:
        other.take([cache.kernel_key(SOURCES[1], "eager")])
        with pytest.raises(Leaving):
            together.binaries(cache, "eager", SOURCES, make)
        assert locks(tmp_path / "cache") == [cache.kernel_key(SOURCES[1], "eager")]
    assert make.made == ["one", "three"]
