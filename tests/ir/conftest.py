"""Every row of the op table is loaded for these tests."""

import importlib
import pkgutil

import tracejit.ops

for module in pkgutil.iter_modules(tracejit.ops.__path__):
    importlib.import_module(f"tracejit.ops.{module.name}")
