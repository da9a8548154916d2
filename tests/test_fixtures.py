"""Small wrong files and the exact text that each is answered with; right files that are answered with nothing.

`OPTLANG_WRITE_FIXTURES=1` writes the expected texts anew: read what changed before you keep it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from optlang.analysis.load import Loaded, load
from optlang.diagnostics.render import render

FIXTURES = Path(__file__).parent / "fixtures"
WRONG = sorted((FIXTURES / "err").glob("[EW][0-9][0-9][0-9]_*.opt"))
RIGHT = sorted((FIXTURES / "ok").glob("*.opt"))


def loaded(path: Path) -> Loaded:
    """The file as a user in its folder would check it, with what a comment in it says that the command line sets."""
    text = path.read_bytes().decode("utf-8", "replace")
    return load(Path(path.name), dict(re.findall(r"^#.*--set (\w+)=(\S+)", text, re.MULTILINE)))


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_a_wrong_file_is_answered_with_its_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    found = loaded(path)
    text = render(found.diagnostics, found.texts)
    expected = path.with_suffix(".txt")
    if os.environ.get("OPTLANG_WRITE_FIXTURES"):
        expected.write_text(text, encoding="utf-8")
    assert text == expected.read_text(encoding="utf-8")
    assert path.stem[:4] in {item.code for item in found.diagnostics}
    assert found.plan is None or path.stem.startswith("W")


@pytest.mark.parametrize("path", RIGHT, ids=lambda path: path.stem)
def test_a_right_file_has_no_problems(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    found = loaded(path)
    assert not found.diagnostics, render(found.diagnostics, found.texts)


def test_every_text_has_its_file() -> None:
    assert {path.stem for path in (FIXTURES / "err").glob("*.txt")} == {path.stem for path in WRONG}
