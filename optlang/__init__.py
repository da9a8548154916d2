"""optlang: declare a study of optimization techniques in a small text file, search it, measure it, query the results.

The public Python API. Names are loaded when they are first used: importing any submodule executes this file, and
`optlang --help` must not wait for what it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optlang.analysis.load import load
    from optlang.interfaces import OptlangError, OutsideError
    from optlang.plan.model import Plan
    from optlang.run.scheduler import Outcome
    from optlang.run.study import Options, run
    from optlang.store.reader import connect as open_store

__all__ = ["Options", "OptlangError", "Outcome", "OutsideError", "Plan", "load", "open_store", "run"]

_MODULES = {
    "Options": ("optlang.run.study", "Options"),
    "OptlangError": ("optlang.interfaces", "OptlangError"),
    "Outcome": ("optlang.run.scheduler", "Outcome"),
    "OutsideError": ("optlang.interfaces", "OutsideError"),
    "Plan": ("optlang.plan.model", "Plan"),
    "load": ("optlang.analysis.load", "load"),
    "open_store": ("optlang.store.reader", "connect"),
    "run": ("optlang.run.study", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'optlang' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _MODULES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
