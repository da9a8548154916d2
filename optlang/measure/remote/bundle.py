"""What runs on a device, as one file: a zip of the very modules that measure on this machine, which Python executes.

So a device times and answers as this machine does. What is in it is found by following the imports that those modules
have at their top, and those of a runtime's `open` and its session.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]
AGENT = ("optlang.measure.remote.agent",)
"""The module that keeps files and watches processes."""

MEASURED = ("optlang.measure.child", "optlang.workload.imports")
"""Those of a process that measures, besides its runtime's: the second is imported where something goes wrong."""

_MAIN = """import sys

if sys.argv[1] == "child":
    from optlang.measure.child import main

    main()
else:
    from optlang.measure.remote.agent import main

    main(sys.argv[2], float(sys.argv[3]))
"""
# A fixed time: the same modules make the same file.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The file's content and its name on the device, which says what is in it."""

    content: bytes
    sha256: str

    @property
    def name(self) -> str:
        """By its hash: several versions of optlang may use one device."""
        return f"optlang-{self.sha256[:16]}.pyz"


@functools.lru_cache
def bundle(modules: tuple[str, ...]) -> Bundle:
    """The file with these modules, and all that they import of optlang."""
    found = dict(_reached(modules))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted({**found, "__main__.py": _MAIN.encode()}.items()):
            archive.writestr(zipfile.ZipInfo(name, _TIME), text, zipfile.ZIP_DEFLATED)
    return Bundle(content.getvalue(), hashlib.sha256(content.getvalue()).hexdigest())


def _reached(roots: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The files of the modules and of all that they import of optlang, by their names inside the zip."""
    waiting, seen = list(roots), set[str]()
    while waiting:
        module = waiting.pop()
        path = None if module in seen else _file(module)
        seen.add(module)
        if path is None:
            continue
        content = path.read_bytes()
        yield path.relative_to(_PACKAGE.parent).as_posix(), content
        waiting += [module.rpartition(".")[0]] if "." in module else []
        tree = ast.parse(content)
        waiting += _imports(tree.body)
        # What runs over there is a runtime's `open` and its session: also what they import when they are called.
        opening = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "open")
        for part in (tree,) if module.endswith(".session") else opening:
            waiting += _imports(ast.walk(part))


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Modules of optlang that are imported there; a name that is none has no file."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names if item.name.split(".")[0] == "optlang")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "optlang":
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{item.name}" for item in node.names)


def _file(module: str) -> Path | None:
    base = _PACKAGE.parent.joinpath(*module.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)
