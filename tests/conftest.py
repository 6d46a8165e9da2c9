"""Where every test starts: one thread, fixed seeds, a cache of its own, none of your settings."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before torch and tracejit are imported: both read the environment then.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in [n for n in os.environ if n.startswith("TRACEJIT_")]:
    del os.environ[name]
os.environ["TRACEJIT_CACHE_DIR"] = tempfile.mkdtemp(prefix="tracejit-tests-")
os.environ["TRACEJIT_VERIFY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # random weights only: a test that asks for a download is wrong

# A shell starts what runs in the background with Ctrl-C ignored, which children would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest
import torch

from tracejit.runtime.config import config

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, print_blob=True
)
hypothesis.settings.load_profile("repeatable")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers whichever tests ran before, in whichever worker."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def fresh_cache(tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, in force for this test."""
    before = config.cache_dir
    config.cache_dir = str(tmp_path / "cache")
    yield tmp_path / "cache"
    config.cache_dir = before


def pytest_sessionfinish() -> None:
    """Leave nothing behind."""
    import shutil

    shutil.rmtree(os.environ["TRACEJIT_CACHE_DIR"], ignore_errors=True)
