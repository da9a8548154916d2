"""Text from a database, checked before it becomes a path, a line of a program or a command.

A database may come from another person, and what is exported from it is run. optlang itself writes nothing that is
refused here.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from optlang.interfaces import OptlangError

WRITTEN = frozenset({
    "README.md", "manifest.json", "run.py", "build.sh", "serve.py", "run.mjs", "index.html", "examples.json",
})
"""Files that an export writes itself: no file of an artifact may stand for one of them."""

_TOOLS = frozenset({"trtexec", "tensorrt_rtx"})
_FILES = frozenset({"--onnx", "--saveEngine"})
_OPTIONS = _FILES | {
    "--skipInference", "--stronglyTyped", "--minShapes", "--optShapes", "--maxShapes", "--builderOptimizationLevel",
    "--memPoolSize", "--noTF32", "--sparsity", "--useGpu", "--computeCapabilities",
}


def folder(name: Any) -> str:
    """The name of a target, which becomes a folder's."""
    if not isinstance(name, str) or not re.fullmatch(r"[^\W\d]\w*", name):
        raise _refused("a target", name)
    return name


def file(name: Any) -> str:
    """The name of an artifact's file: a relative path with `/`, inside the artifact's folder."""
    if not isinstance(name, str):
        raise _refused("a file", name)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise OptlangError(f"the artifact names a file outside its folder: {name!r}", help=_TRUST)
    # As pages and shells take it without quotes; no drive, and no two spellings of one name.
    if not re.fullmatch(r"\w[\w .@+=,()/-]*", name) or name != str(path):
        raise _refused("a file", name)
    if name.casefold() in {item.casefold() for item in WRITTEN}:
        raise OptlangError(f"the artifact names a file that every export writes itself: {name!r}", help=_TRUST)
    return name


def calls(value: Any) -> str:
    """The object that makes a model: in a file of the study's folder, or in an installed package.

    None of Python's own modules makes a model, and some run commands.
    """
    source, colon, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not all(part.isidentifier() for part in name.split(".")):
        raise _refused("an object", value)
    if source.endswith(".py"):
        return f"{file(source)}:{name}"
    parts = source.split(".")
    if not all(part.isidentifier() for part in parts) or parts[0] in sys.stdlib_module_names:
        raise _refused("an object", value)
    return str(value)


def word(value: Any, what: str) -> str:
    """A name or a version that stands in a program as it is."""
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w.+-]*", value):
        raise _refused(what, value)
    return value


def count(value: Any, what: str) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refused(what, value)
    return value


def truth(value: Any, what: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _refused(what, value)
    return value


def one_of(value: Any, known: Iterable[str], what: str) -> str:
    """One of the words that optlang knows."""
    if value not in tuple(known):
        raise _refused(what, value)
    return str(value)


def command(text: Any) -> str:
    """A command that builds an engine again: one of NVIDIA's two tools, their options, and files next to it."""
    try:
        tool, *options = shlex.split(text if isinstance(text, str) else "")
    except ValueError as error:
        raise _refused("a command", text) from error
    if tool not in _TOOLS:
        raise _refused("a command", text)
    for option in options:
        name, _, value = option.partition("=")
        if name not in _OPTIONS or (name in _FILES and file(value) != PurePosixPath(value).name):
            raise _refused("an option of a command", option)
    return shlex.join([tool, *options])


_TRUST = "export from databases that optlang wrote, and that you trust"


def _refused(what: str, value: Any) -> OptlangError:
    return OptlangError(f"the database names {what} as optlang never does: {value!r}", help=_TRUST)
