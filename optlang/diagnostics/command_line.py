"""The next command to type, as it works where the user is: the program as it was started, and the database it is about.

Only the shell's quoting is known here.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

DEFAULT_DB = Path("optlang.duckdb")
"""The database that a command takes where it names none."""


def command(*words: str, db: Path | None = None) -> str:
    """A command of optlang that can be pasted into a shell; with `--db` where `db` is not the default one."""
    named = [] if db is None or db.resolve() == DEFAULT_DB.resolve() else ["--db", _written(db)]
    return " ".join(map(_quoted, [*_program(), *words, *named]))


def _quoted(word: str) -> str:
    # A text of SQL has single quotes: around it double ones are easier to read than what shlex makes of it.
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _written(path: Path) -> str:
    """The path from the current folder where it lies below it, else the whole path."""
    whole = path.resolve()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(whole)


def _program() -> list[str]:
    """How optlang was started: by its name where the shell finds this one, else by its path or as a module."""
    started = Path(sys.argv[0])
    if started.parts[-2:] == ("optlang", "__main__.py"):
        if _is(shutil.which("optlang"), Path(sys.executable).parent / "optlang"):
            return ["optlang"]
        return ["python" if _is(shutil.which("python"), Path(sys.executable)) else sys.executable, "-m", "optlang"]
    if started.stem == "optlang" and not _is(shutil.which("optlang"), started):
        return [str(started)]
    return ["optlang"]


def _is(found: str | None, path: Path) -> bool:
    # The links themselves: the Python of an environment is a link to one that lacks its packages.
    return found is not None and Path(found).absolute() == path.absolute()
