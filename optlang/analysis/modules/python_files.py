"""The user's Python, as text: which functions a file holds and what they take. Imports and runs nothing."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from importlib.util import decode_source
from pathlib import Path

from optlang.analysis.modules.names import listed, suggestion
from optlang.diagnostics.model import Diagnostics, Span
from optlang.diagnostics.suggest import closest
from optlang.workload.sources import exists, file_of

LARGEST = 1024 * 1024
"""How many bytes a Python file may have that is read for its functions; torch's longest has half of it."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The arguments of a function or a class: all by name, those without a default, and whether any other goes."""

    arguments: tuple[str, ...]
    required: tuple[str, ...]
    open: bool


def objects(text: str) -> dict[str, Signature | None]:
    """What a module defines at its top level; None for what cannot be known without running it.

    Raises SyntaxError where the text is no Python, or nests deeper than Python's own parser follows.
    """
    found: dict[str, Signature | None] = {}
    try:
        with warnings.catch_warnings():
            # What Python thinks of the style of somebody's file is no matter here.
            warnings.simplefilter("ignore")
            body = _top(ast.parse(text).body)
    except (RecursionError, MemoryError):
        raise SyntaxError("nested too deeply for Python's parser", ("", 1, 0, "")) from None
    except ValueError as error:
        raise SyntaxError(str(error), ("", 1, 0, "")) from None
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found[name] = None if node.decorator_list else _signature(node.args, bound=False)
            case ast.ClassDef(name=name, body=body):
                made = next(
                    (item for item in body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None
                )
                found[name] = (
                    _signature(made.args, bound=True) if made is not None and not node.decorator_list else None
                )
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found.update({(alias.asname or alias.name).partition(".")[0]: None for alias in names})
            case ast.Assign(targets=targets):
                found.update(
                    {item.id: None for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)}
                )
            case ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = None
    return found


def _top(body: list[ast.stmt]) -> list[ast.stmt]:
    # What stands under `if` and `try` is defined at the top level too.
    found: list[ast.stmt] = []
    for node in body:
        found.append(node)
        for name in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                found += _top(getattr(node, name, []))
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                found += _top(handler.body)
    return found


def _signature(arguments: ast.arguments, *, bound: bool) -> Signature:
    named = [item.arg for item in (*arguments.posonlyargs, *arguments.args)][1 if bound else 0 :]
    plain = named[: len(named) - len(arguments.defaults)] if arguments.defaults else named
    keywords = [item.arg for item in arguments.kwonlyargs]
    missing = [
        item.arg for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None
    ]
    return Signature(tuple(named + keywords), tuple(plain + missing), arguments.kwarg is not None)


def text_of(path: Path) -> str:
    """The text of a Python file, in the encoding that it names.

    Raises OSError where it cannot be read, ValueError where it is too large, UnicodeError or SyntaxError where it is no
    text in its encoding.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    return decode_source(data)


def read_python(diagnostics: Diagnostics, source: str, folder: Path, span: Span, *, installed: bool) -> str | None:
    """The text of a Python file or module; None, with E203, E701 or E703, where there is none.

    `installed` says that an installed distribution's module names it, which has no file next to it.
    """
    path = _located(diagnostics, source, folder, span, installed=installed)
    if path is None:
        return None
    try:
        return text_of(path)
    except (OSError, UnicodeError, SyntaxError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        diagnostics.error(
            "E701", f"`{source}` cannot be read", span, reason or "no text", help="correct it, or name another file"
        )
        return None


def _located(diagnostics: Diagnostics, source: str, folder: Path, span: Span, *, installed: bool) -> Path | None:
    """The file that `source` names; None, with E203 or E703, where there is none."""
    if source.endswith(".py") or "/" in source or "\\" in source:
        if installed:
            diagnostics.error(
                "E703", f"`{source}` is a file, and this module is an installed one's", span,
                "not in the study's folder", help='name the installed Python module: `"package.module:object"`',
            )
            return None
        path = inside(folder, source)
        if path is None:
            diagnostics.error(
                "E703", f"`{source}` lies outside the study's folder", span, "not read",
                help="move the file into the study's folder, or install it and import it by its module's name",
            )
            return None
        if not exists(path):
            files = [file.name for file in sorted(folder.glob("*.py"))]
            diagnostics.error(
                "E203", f"there is no file `{source}` in the study's folder", span, "not found",
                help=suggestion(source, files, "the path is relative to the study's folder"),
            )
            return None
    else:
        path = file_of(source)
        if path is None:
            diagnostics.error(
                "E203", f"there is no installed module `{source}`", span, "not found",
                help='install it, or name a file of the folder: `import python "models.py" as mine`',
            )
            return None
    return path


def inside(folder: Path, name: str) -> Path | None:
    """The file `name` of the study's folder; None where it would lie outside."""
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError):
        # A name that no file can have, or a link that leads back to itself.
        return folder / "no file"
    return path if path.is_relative_to(folder.resolve()) else None


def find_object(
    diagnostics: Diagnostics, text: str, shown: str, name: str, span: Span
) -> tuple[bool, Signature | None]:
    """Whether the module `shown` holds `name`, and its signature where that is known; else E701."""
    try:
        found = objects(text)
    except SyntaxError as error:
        diagnostics.error(
            "E701", f"`{shown}` is no Python that can be read", span, f"line {error.lineno}: {error.msg}",
            help=f"correct {shown}",
        )
        return False, None
    if name in found:
        return True, found[name]
    meant = closest(name, found)
    callables = [item for item, signature in found.items() if signature is not None]
    diagnostics.error(
        "E701", f"`{shown}` has no `{name}`", span, "not defined there",
        help=f"did you mean `{meant}`?" if meant else f"it defines {listed(callables)}" if callables else "define it",
    )
    return False, None
