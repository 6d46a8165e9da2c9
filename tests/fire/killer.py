"""The program that test_kill runs: it forks writers, kills them, and looks at what is left.

It imports no torch, so that a fork costs nothing. Exits with a traceback if anything is wrong, else
prints how much was done, as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.fire.steps import died, fork, killed_at_each_step
from tracejit.runtime import log
from tracejit.runtime.claims import Claims
from tracejit.runtime.files import Item
from tracejit.runtime.store import Store
from tracejit.runtime.upkeep import KINDS

OLD = Item({"n": 1}, {"binary": bytes(3000), "text": b"old"})
NEW = Item({"n": 2}, {"binary": bytes(range(256)) * 20, "text": b"new"})
FUNCTION = "f" * 64


def key(number: int) -> str:
    return f"{number:064x}"


def check(directory: Path) -> Store:
    """A new process's store: all in place is whole, and what is left over can be swept."""
    log.forget()
    store = Store(directory)
    for file in [file for kind in KINDS for file in store.files(kind)]:
        assert store.inspect(file.kind, file.key) in (OLD, NEW), file
        assert store.read(file.kind, file.key) in (OLD, NEW), file
    store.sweep()
    assert [str(rest.path) for rest in store.leftovers()] == []
    assert not (directory / "damaged").exists() or prepared(directory)
    return store


def prepared(directory: Path) -> bool:
    """Whether `damaged` holds only what a scenario put there."""
    return all("set-aside" in path.name for path in (directory / "damaged").iterdir())


def write(kind: str) -> Callable[[Store], None]:
    name = f"{FUNCTION}/{key(1)}" if kind == "records" else key(1)

    def act(store: Store) -> None:
        assert store.write(kind, name, NEW)
        assert store.read(kind, name) == NEW

    return act


def overwrite(store: Store) -> None:
    assert store.read("kernels", key(0)) == OLD or store.read("kernels", key(0)) == NEW
    assert store.write("kernels", key(0), NEW)
    assert store.read("kernels", key(0)) == NEW


def hit(store: Store) -> None:
    before = store.hits(key(7))
    store.hit(key(7))
    assert store.hits(key(7)) == before + 1


def trim(store: Store) -> None:
    store.trim(9000)
    assert sum(file.bytes for file in store.files()) <= 9000


def remove(store: Store) -> None:
    store.remove("kernels", key(0))
    assert store.read("kernels", key(0)) is None


def sweep(store: Store) -> None:
    store.sweep()
    assert list(store.leftovers()) == []


def touch(store: Store) -> None:
    os.utime(store.path("kernels", key(0)), (5, 5))
    store.touch("kernels", key(0))
    assert store.read("kernels", key(0)) == OLD


def set_aside(store: Store) -> None:
    store.write("kernels", "set-aside", OLD)
    store.set_aside("kernels", "set-aside", "a test says so")
    assert store.read("kernels", "set-aside") is None


def claim(store: Store) -> None:
    names = [key(1), key(2)]
    with Claims(store.directory) as claims:
        assert claims.take(names) == names
        assert all(rest.alive for rest in store.leftovers() if rest.path.name in names)
    assert not [rest for rest in store.leftovers() if rest.path.name in names]


SCENARIOS: dict[str, Callable[[Store], None]] = {
    **{f"write {kind}": write(kind) for kind in KINDS},
    "overwrite": overwrite,
    "hit": hit,
    "trim": trim,
    "remove": remove,
    "sweep": sweep,
    "touch": touch,
    "set aside": set_aside,
    "claim": claim,
}


def prepare(directory: Path) -> None:
    """Some entries, and what a dead process left."""
    store = Store(directory)
    for number in range(0, 10, 5):
        assert store.write("kernels", key(number), OLD)
        assert store.write("records", f"{FUNCTION}/{key(number)}", OLD)
    for size in range(1, 4):
        assert died(fork(functools.partial(limited, store, size)))


def limited(store: Store, size: int) -> None:
    """A write that the kernel ends by a signal after `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    store.write("kernels", key(1), NEW)


def steps(root: Path) -> dict[str, int]:
    """Every scenario killed at each of its steps; how many steps it has."""
    counts = {}
    for name, act in SCENARIOS.items():
        directory = root / name.replace(" ", "-")

        def once(directory: Path = directory, act: Callable[[Store], None] = act) -> None:
            act(Store(directory))

        def again(step: int, directory: Path = directory) -> None:
            check(directory)
            shutil.rmtree(directory)
            prepare(directory)

        prepare(directory)
        counts[name] = killed_at_each_step(once, again)
    return counts


def halves(root: Path) -> dict[str, int]:
    """Writes cut off by the kernel after some of their bytes."""
    whole = root / "cut" / "kernels" / key(1)
    assert Store(root / "cut").write("kernels", key(1), NEW)
    size = whole.stat().st_size
    whole.unlink()
    cuts = [0, 1, 20, size // 2, size - 1]
    for cut in cuts:
        assert died(fork(functools.partial(limited, Store(root / "cut"), cut)))
        assert not whole.exists()
        check(root / "cut")
    return {"cuts": len(cuts)}


def content(name: str) -> Item:
    """What is stored under a key: up to 400 kB, made without much work."""
    number = int(name[-64:], 16)
    return Item({"name": name}, {"binary": name[-8:].encode() * (number * 7919 % 50_000)})


def writer(directory: Path, report: int, number: int) -> None:
    """Write for ever; report each key after it is stored."""
    store, count = Store(directory), 0
    while True:
        count += 1
        kind = KINDS[count % 3]
        name = key(number * 1000 + count)
        full = f"{FUNCTION}/{name}" if kind == "records" else name
        if store.write(kind, full, content(full)):
            os.write(report, f"{kind} {full}\n".encode())
        store.hit(name)
        if count % 7 == 0:
            store.trim(1 << 40)
            store.sweep()


def reported(read: int) -> set[tuple[str, str]]:
    """The whole lines of a pipe that nobody writes to any more."""
    with os.fdopen(read) as lines:
        text = lines.read()
    return {(kind, name) for kind, name in (line.split() for line in text.splitlines())}


def seconds_of_some_writes(root: Path) -> float:
    """How long a new process takes for about three, here and now, within reason."""
    start = time.perf_counter()
    assert not died(fork(lambda: Store(root / "timed").write("kernels", key(1), content(key(250)))))
    return min(max(3 * (time.perf_counter() - start), 0.004), 0.03)


def kills(root: Path, times: int, seed: int) -> dict[str, int]:
    """Kill writers at random moments, two at a time. What they reported is there, and nothing in
    place is damaged."""
    directory, numbers, longest = root / "killed", random.Random(seed), seconds_of_some_writes(root)
    promised: set[tuple[str, str]] = set()
    torn = 0
    for number in range(0, times, 2):
        pairs = [start(directory, number + other) for other in range(2)]
        for pid, _ in pairs:
            time.sleep(numbers.random() * longest)
            os.kill(pid, signal.SIGKILL)
        for pid, read in pairs:
            assert died(pid)
            promised |= reported(read)
        torn += sum(1 for rest in Store(directory).leftovers() if not rest.alive)
    return {"kills": times, "torn": torn, "reported": len(promised), **whole(directory, promised)}


def start(directory: Path, number: int) -> tuple[int, int]:
    """A writer, and where it reports."""
    read, write = os.pipe()
    pid = fork(lambda: writer(directory, write, number))
    os.close(write)
    return pid, read


def whole(directory: Path, promised: set[tuple[str, str]]) -> dict[str, int]:
    """Assert that all that was promised is there and all that is there is whole; counts."""
    store = Store(directory)
    found = {(file.kind, file.key) for kind in KINDS for file in store.files(kind)}
    assert promised <= found, sorted(promised - found)[:5]
    for kind, name in found:
        assert store.inspect(kind, name) == content(name), name
        assert store.read(kind, name) == content(name), name
    left = len(list(store.leftovers()))
    store.sweep()
    assert [str(rest.path) for rest in store.leftovers()] == []
    assert not (directory / "damaged").exists()
    return {"stored": len(found), "left": left}


def main() -> None:
    word, root = sys.argv[1], Path(sys.argv[2])
    made = {
        "steps": lambda: steps(root),
        "halves": lambda: halves(root),
        "kills": lambda: kills(root, int(sys.argv[3]), 1),
    }[word]()
    assert "torch" not in sys.modules  # with it, each fork would take ten times as long
    print(json.dumps(made))


if __name__ == "__main__":
    main()
