"""tracejit's version, and those of what it writes for other processes, versions and programs.

A number is raised when a reader of the one before would read it wrongly. docs/reference.md has a
line for each.
"""

VERSION = "0.1.0"  # pyproject.toml says the same; a test compares

FORMATS: dict[str, int] = {
    "file": 2,  # of the cache, and bundles: header, JSON line, parts; 1 had no key in its JSON line
    "guards": 3,  # the JSON of a record's guards
    "json": 1,  # what commands print with --json
    "results": 1,  # what `tracejit bench --out` writes
}
