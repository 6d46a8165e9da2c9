"""tracejit's version: part of every cache key, and what `tracejit.__version__` is."""

VERSION = "0.1.0"  # pyproject.toml says the same; a test compares
