"""The codes of all problems, with what each means, why it matters, and an example of it wrong and right."""

from __future__ import annotations

from optlang.diagnostics.catalogue import domains, goals, names, plugins, steps, syntax, types
from optlang.diagnostics.catalogue.entry import Entry

ENTRIES: tuple[Entry, ...] = (
    *syntax.ENTRIES, *names.ENTRIES, *types.ENTRIES, *domains.ENTRIES, *steps.ENTRIES, *goals.ENTRIES, *plugins.ENTRIES,
)
"""Every code once, in order of their numbers."""

_BY_CODE = {entry.code: entry for entry in ENTRIES}


def entry(code: str) -> Entry:
    """The entry of a code, in capitals or not; KeyError where there is none."""
    return _BY_CODE[code.upper()]


__all__ = ["ENTRIES", "Entry", "entry"]
