"""Files of benchmarks/ as modules: the folder is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def loaded(name: str) -> ModuleType:
    """The file of this name in benchmarks/, without its ending; in `sys.modules` it is `benchmarks_…`."""
    path = (ROOT / "benchmarks" / name).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name.replace('/', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks for its own module there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
