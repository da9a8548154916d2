"""The model and data of transformer.opt: those of studies/real/docstrings.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_FILE = Path(__file__).resolve().parents[2] / "studies" / "real" / "docstrings.py"
_SPEC = importlib.util.spec_from_file_location("studies_real_docstrings", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules[_MODULE.__name__] = _MODULE
_SPEC.loader.exec_module(_MODULE)

bert, data = _MODULE.bert, _MODULE.data
