"""Applies the fixes that diagnostics carry to a text."""

from __future__ import annotations

from collections.abc import Iterable

from optlang.diagnostics.model import Fix


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
