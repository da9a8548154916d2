"""docs/architecture.md is true: every file that it names exists and holds what it says, and every room has its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| `([^`|]+\.py)` \| `(\w+)` \|$", PAGE, re.MULTILINE)


def test_the_page_says_where_twenty_things_are() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize(("what", "file", "name"), ROWS)
def test_a_thing_is_where_the_page_says(what: str, file: str, name: str) -> None:
    text = (ROOT / "optlang" / file).read_text(encoding="utf-8")
    assert re.search(rf'^(async def|def|class) {name}\b|^{name}\b.*=|"{name}"', text, re.MULTILINE), what


def test_every_file_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(?:optlang/)?([a-z_/]+/[a-z_]+\.py)`", PAGE))
    assert len(named) > 30
    assert not [file for file in sorted(named) if not ((ROOT / "optlang" / file).is_file() or (ROOT / file).is_file())]


def test_every_room_has_a_line() -> None:
    described = set(re.findall(r"^\| `([a-z]+)/` \|", PAGE, re.MULTILINE))
    rooms = {path.parent.name for path in (ROOT / "optlang").glob("*/__init__.py")}
    assert described == rooms
