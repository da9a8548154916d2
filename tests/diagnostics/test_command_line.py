"""The next command to type works as it stands."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from optlang.diagnostics.command_line import command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nothing in the path that commands are looked up in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_database_is_named_where_it_is_not_the_default_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert command("front", "x") == "optlang front x"
    assert command("front", "x", db=Path("optlang.duckdb")) == "optlang front x"
    assert command("front", "x", db=folder / "optlang.duckdb") == "optlang front x"
    assert command("front", "x", db=folder / "my results" / "x.duckdb") == "optlang front x --db 'my results/x.duckdb'"
    other = folder.parent / "optlang.duckdb"
    assert command("front", "x", db=other) == f"optlang front x --db {other}"
    assert command("sql", "FROM front WHERE run = 'a'") == """optlang sql "FROM front WHERE run = 'a'\""""
    for word in ("it's", 'say "it\'s"', "$HOME's", "a b", "`x`'", "\\'"):
        assert shlex.split(command("sql", word)) == ["optlang", "sql", word]


def test_the_program_is_named_as_it_was_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = program(folder / "bin" / "optlang")
    monkeypatch.setattr(sys, "argv", [str(installed)])
    assert command("front") == "optlang front"
    other = program(folder / "other env" / "bin" / "optlang")
    monkeypatch.setattr(sys, "argv", [os.path.relpath(other)])
    assert command("front") == "'other env/bin/optlang' front"
    monkeypatch.setattr(sys, "argv", ["/somewhere/optlang/__main__.py"])
    assert command("front") == f"{sys.executable} -m optlang front", "the one in the path is another's"
    monkeypatch.setattr(sys, "executable", str(program(folder / "bin" / "python")))
    assert command("front") == "optlang front", "beside the Python that runs"
    installed.unlink()
    assert command("front") == "python -m optlang front"
