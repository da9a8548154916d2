"""Every wrong fixture, in the forms that machines read: no problem loses its code or its place."""

from __future__ import annotations

import json
import re

import pytest

from optlang.diagnostics.render import render
from tests.test_fixtures import WRONG, loaded

CONCISE = re.compile(r"^(.+?):(\d+):\d+: \w+\[([EW]\d{3})\] ", re.MULTILINE)
GITHUB = re.compile(r"^::\w+ file=(.+?),line=(\d+),.*?title=([EW]\d{3})::", re.MULTILINE)


def test_no_form_loses_a_code_or_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WRONG
    for path in WRONG:
        monkeypatch.chdir(path.parent)
        found = loaded(path)
        assert found.diagnostics
        expected = []
        for item in found.diagnostics:
            span = item.primary.span
            line = found.texts.get(span.file, "")[:span.start].count("\n") + 1
            expected.append((span.file, line, item.code))
        rows = json.loads(render(found.diagnostics, found.texts, "json"))
        assert [(row["file"], row["line"], row["code"]) for row in rows] == expected, path.name
        for style, text, pattern in (
            ("concise", render(found.diagnostics, found.texts, "concise"), CONCISE),
            ("github", render(found.diagnostics, found.texts, "github"), GITHUB),
        ):
            read = [(file, int(line), code) for file, line, code in pattern.findall(text)]
            assert read == expected, (path.name, style)
