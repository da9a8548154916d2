"""Words of the language that have a new name. Each is an error whose fix writes the new one; to be deleted with 0.2."""

from __future__ import annotations

from collections.abc import Iterable

RENAMED = {
    "channels_until": "channels_to_budget",
    "channels_within": "channels_to_latency",
    "aim": "resource",
    "lose": "max_drop",
    "of": "relative_to",
    "left": "remaining",
    "shape": "cost_depends_on",
}
"""The new name of each old word."""


def renamed(word: str, options: Iterable[str]) -> str | None:
    """The new name of `word`, which may be qualified (`prune.channels_until`), where it is one of `options`."""
    module, dot, name = word.rpartition(".")
    new = f"{module}{dot}{RENAMED.get(name, name)}"
    return new if name in RENAMED and new in options else None
