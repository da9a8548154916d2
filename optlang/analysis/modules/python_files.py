"""The user's Python, as text: which functions a file holds and what they take. Imports and runs nothing."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from importlib.util import decode_source
from pathlib import Path

from optlang.analysis.modules.names import listed
from optlang.diagnostics.model import Diagnostics, Span
from optlang.diagnostics.suggest import closest

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
            "E701",
            f"`{shown}` is no Python that can be read",
            span,
            f"line {error.lineno}: {error.msg}",
            help=f"correct {shown}",
        )
        return False, None
    if name in found:
        return True, found[name]
    meant = closest(name, found)
    callables = [item for item, signature in found.items() if signature is not None]
    diagnostics.error(
        "E701",
        f"`{shown}` has no `{name}`",
        span,
        "not defined there",
        help=f"did you mean `{meant}`?" if meant else f"it defines {listed(callables)}" if callables else "define it",
    )
    return False, None
