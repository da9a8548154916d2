"""The command `check`, and how every command reads its files. Runs nothing that a study names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optlang.cli.exits import WRONG, colored, usage
from optlang.cli.options import CheckFormat
from optlang.plan.quantities import counted

if TYPE_CHECKING:
    from optlang.analysis.load import Loaded
    from optlang.plan.model import Plan


def _overrides(sets: list[str] | None) -> dict[str, str]:
    found = {}
    for item in sets or ():
        name, equal, value = item.partition("=")
        if not equal or not name:
            raise usage(f"--set {item}: write a name, `=` and a value", "for example --set epochs=5")
        found[name.strip()] = value.strip()
    return found


def plan_of(file: Path, sets: list[str] | None = None) -> tuple[Plan, str]:
    """The plan of a study and the text that it was read from, which may change in the file at any time.

    Raises StudyError with all of its problems. Warnings are shown.
    """
    from optlang.analysis.load import load
    from optlang.diagnostics.model import StudyError
    from optlang.diagnostics.render import render

    if not _exists(file) or not file.is_file():
        raise usage(f"there is no file {file}", "name a study, for example studies/digits.opt")
    loaded = load(file, _overrides(sets))
    if loaded.failed:
        raise StudyError(loaded.diagnostics, dict(loaded.texts))
    if loaded.plan is None:
        raise usage(f"{file} declares no study", "a study begins with `study NAME {`; modules are checked, not run")
    if loaded.diagnostics:
        sys.stderr.write(render(loaded.diagnostics, loaded.texts, color=colored(sys.stderr)))
    return loaded.plan, loaded.parsed.source.text


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Studies, modules, folders of them.")],
    format: Annotated[CheckFormat, typer.Option(help="How problems are shown.")] = CheckFormat.full,
    fix: Annotated[bool, typer.Option("--fix", help="Fix mistakes with one possible fix, then check again.")] = False,
) -> int:
    """Find every problem of studies and modules; runs none of their code."""
    from optlang.analysis.load import load
    from optlang.diagnostics.render import render

    files = opt_files(files)
    fixed = sum(fix_file(file) for file in files) if fix else 0
    found: list[Any] = []
    texts: dict[str, str] = {}
    for file in files:
        loaded = load(file)
        found += loaded.diagnostics
        texts |= loaded.texts
    found = list(dict.fromkeys(found))
    sys.stdout.write(render(found, texts, format.value, color=colored(sys.stdout)))
    errors = sum(item.severity == "error" for item in found)
    if format is CheckFormat.full:
        warnings = len(found) - errors
        said = [counted(count, word) for count, word in ((errors, "error"), (warnings, "warning")) if count]
        own = {file.as_posix() for file in files}  # others are imported, and left alone
        could = 0 if fix else sum(item.fix is not None and item.fix.span.file in own for item in found)
        more = f", {could} fixable with `--fix`" if could else f", {fixed} fixed" if fixed else ""
        sys.stderr.write(f"{counted(len(files), 'file')} checked: {' and '.join(said) or 'no problems'}{more}\n")
    return WRONG if errors else 0


_MOST_ROUNDS = 20
"""A fixed mistake may uncover another one, so files are checked and fixed again, this often at most."""


def fix_file(path: Path) -> int:
    """Apply the fixes of the file at `path`, again and again while there are some; how many were written.

    What stays is the text with the fewest errors: where they never become fewer, the file as it was. Runs no code of
    the user's; raises OutsideError where the file cannot be read or written.
    """
    import codecs

    from optlang.analysis.load import load
    from optlang.diagnostics.fixes import apart, applied
    from optlang.syntax.source import read

    applied_so_far = written = 0
    found = load(path)
    fewest = _errors(found)
    before: bytes | None = None
    for _ in range(_MOST_ROUNDS):
        shown = path.as_posix()
        fixes = apart(item.fix for item in found.diagnostics if item.fix is not None and item.fix.span.file == shown)
        if not fixes:
            break
        current = read(path)
        before = current if before is None else before
        mark = codecs.BOM_UTF8 if current.startswith(codecs.BOM_UTF8) else b""
        path.write_bytes(mark + applied(found.texts[shown], fixes).encode())
        applied_so_far += len(fixes)
        found = load(path)
        if _errors(found) < fewest:
            fewest, written, before = _errors(found), applied_so_far, None
    if before is not None:
        path.write_bytes(before)
    return written


def _errors(found: Loaded) -> int:
    return sum(item.severity == "error" for item in found.diagnostics)


def opt_files(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and for each folder the .opt files below it, apart from what lies in hidden folders."""
    missing = [str(path) for path in paths if not _exists(path)]
    if missing:
        raise usage(f"there is no file {', '.join(missing)}", "name one or more .opt files, or folders of them")
    found: list[Path] = []
    for path in paths:
        below = [path] if not path.is_dir() else sorted(
            file for file in path.rglob("*.opt")
            if file.is_file() and not any(part[0] == "." for part in file.relative_to(path).parts)
        )
        if not below:
            raise usage(f"no .opt file lies in {path}", "name another folder, or a file")
        found += below
    return list(dict.fromkeys(found))


def read_or_refuse(path: Path) -> bytes:
    """What a file holds; raises OutsideError where it cannot be read."""
    from optlang.interfaces import OutsideError
    from optlang.syntax.source import read

    try:
        return read(path)
    except OSError as error:
        raise OutsideError(
            f"cannot read {path}: {error.strerror or error}", help="give the path of an .opt file"
        ) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # No file can have such a name.
        return False
