"""Writes the fixes that diagnostics carry into the files that they speak of, as far as that mends them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path

from optlang.analysis.modules.load import Loaded, load
from optlang.diagnostics.model import Fix
from optlang.syntax.source import read

_MOST_ROUNDS = 20
"""A mistake that is mended may uncover another one; each round must leave fewer errors."""


def mend(path: Path) -> int:
    """Apply the fixes of the file at `path`, again and again while errors become fewer; how many were written.

    A file whose errors do not become fewer is left as it was. Runs no code of the user's; raises OutsideError where the
    file cannot be read or written.
    """
    written = 0
    found = load(path)
    for _ in range(_MOST_ROUNDS):
        shown = path.as_posix()
        fixes = apart(item.fix for item in found.diagnostics if item.fix is not None and item.fix.span.file == shown)
        if not fixes:
            break
        before = read(path)
        mark = codecs.BOM_UTF8 if before.startswith(codecs.BOM_UTF8) else b""
        path.write_bytes(mark + applied(found.texts[shown], fixes).encode())
        after = load(path)
        if _errors(after) >= _errors(found):
            path.write_bytes(before)
            break
        written += len(fixes)
        found = after
    return written


def apart(fixes: Iterable[Fix]) -> list[Fix]:
    """The fixes in the order of the text, without those that overlap one before, or begin where one ends."""
    chosen: list[Fix] = []
    for fix in sorted(set(fixes), key=lambda item: item.span):
        if not chosen or fix.span.start > chosen[-1].span.end:
            chosen.append(fix)
    return chosen


def applied(text: str, fixes: Iterable[Fix]) -> str:
    """The text with fixes that do not overlap."""
    for fix in sorted(fixes, key=lambda item: item.span, reverse=True):
        text = text[: fix.span.start] + fix.replacement + text[fix.span.end :]
    return text


def _errors(found: Loaded) -> int:
    return sum(item.severity == "error" for item in found.diagnostics)
