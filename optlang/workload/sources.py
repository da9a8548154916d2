"""Which Python files a module is made of, found by reading them: nothing is imported or run."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path


def file_of(module: str, paths: list[str] | None = None) -> Path | None:
    """The file of an installed module, found by looking for it: importing would run its parents."""
    parts = module.split(".")
    for folder in paths if paths is not None else sys.path:
        place = Path(folder or ".").joinpath(*parts)
        for candidate in (place.with_name(place.name + ".py"), place / "__init__.py"):
            if exists(candidate):
                return candidate
    return None


def exists(path: Path) -> bool:
    """Whether there is a file; a name that can be no file's, or a link that leads back to itself, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def tree(path: Path) -> ast.Module:
    """The syntax tree of a file. Raises SyntaxError, which names the file, where it is not Python."""
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except ValueError as error:
        raise SyntaxError(str(error), (str(path), 1, 0, "")) from error


def meaning(path: Path) -> str:
    """A hash of what a file says to Python: comments and layout do not change it. Raises SyntaxError."""
    return hashlib.sha256(ast.dump(tree(path)).encode()).hexdigest()


def reached(first: Path, root: Path, package: str | None = None) -> set[Path]:
    """The files below `root` that `first` may import, itself included, however many imports away.

    `root` is the folder that absolute imports start from. With `package` only names of that package are followed: next
    to an installed one lie all others. Imports for type checkers alone do not count. Raises SyntaxError.
    """
    found: set[Path] = set()
    waiting = [first.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += _next(path, root.resolve(), package)
    return found


def _next(path: Path, root: Path, package: str | None) -> list[Path]:
    # By the file's state, since one process may live longer than a version of a user's file.
    state = path.stat()
    return list(_followed(path, root, package, state.st_mtime_ns, state.st_size))


@functools.cache
def _followed(path: Path, root: Path, package: str | None, _time: int, _size: int) -> tuple[Path, ...]:
    names = _imports(tree(path), path, root)
    return tuple(dict.fromkeys(
        file for name in names if package is None or name.partition(".")[0] == package for file in _files(name, root)
    ))


def _imports(module: ast.Module, path: Path, root: Path) -> Iterator[str]:
    """Dotted names, seen from `root`, that the module may import."""
    package = path.relative_to(root).parts[:-1]
    for node in _running(module):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield alias.name
            case ast.ImportFrom(module=stem_name, names=names, level=level):
                base = [*package[: len(package) - level + 1]] if level else []
                stem = ".".join([*base, *([stem_name] if stem_name else [])])
                if stem:
                    yield stem
                for alias in names:
                    yield f"{stem}.{alias.name}" if stem else alias.name
            case ast.Call(func=ast.Name(id="__import__" | "import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, without what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), orelse=otherwise):
                for item in otherwise:
                    yield item
                    yield from _running(item)
            case _:
                yield child
                yield from _running(child)


def _files(name: str, root: Path) -> Iterator[Path]:
    """The files that importing a dotted name runs: its packages' and its own, where it is a module."""
    place = root
    for part in name.split("."):
        if (place / f"{part}.py").is_file():
            yield (place / f"{part}.py").resolve()
        place = place / part
        if not place.is_dir():
            return
        if (place / "__init__.py").is_file():
            yield (place / "__init__.py").resolve()
