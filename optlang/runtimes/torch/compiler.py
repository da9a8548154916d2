"""The C++ compiler that torch's Inductor calls: whether it is here, and what to install. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from contextlib import AbstractContextManager

_INSTALL = {
    "g++": "apt install g++ on Debian and Ubuntu, dnf install gcc-c++ on Fedora",
    "clang++": "xcode-select --install",
    "cl": "Microsoft's C++ Build Tools, and start from their command prompt",
}


def found() -> str | None:
    """The compiler's path, None where there is none: what CXX names, otherwise g++, on macOS clang++, on Windows cl."""
    return shutil.which(_named())


def missing() -> str | None:
    """None where torch and the compiler that it would call are here, else what to install."""
    if importlib.util.find_spec("torch") is None:
        return 'pip install "torch>=2.10,<2.14"'
    if found() is not None:
        return None
    if _named() != _usual():
        return f"CXX names the C++ compiler {_named()}, which was not found: name another one"
    return f"no C++ compiler {_usual()}: {_INSTALL[_usual()]}; or name another one in CXX"


def quiet() -> AbstractContextManager[None]:
    """Without what torch warns of in its own code while it compiles."""
    from optlang.workload import process_state
    from optlang.workload.export import torch_export

    return process_state.quiet(remarks=(*torch_export.REMARKS, (r"To copy construct from a tensor", UserWarning)))


def _named() -> str:
    return os.environ.get("CXX", _usual())


def _usual() -> str:
    return {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
