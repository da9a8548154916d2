"""Lines and columns, and the order of problems."""

from __future__ import annotations

import pytest

from optlang.diagnostics.model import Diagnostics, Lines, Span


@pytest.mark.parametrize(
    ("offset", "place"), [(0, (1, 1)), (2, (1, 3)), (3, (2, 1)), (4, (3, 1)), (6, (3, 3))]
)
def test_offsets_become_lines_and_columns(offset: int, place: tuple[int, int]) -> None:
    assert Lines("ab\n\ncd").at(offset) == place


def test_lines_come_without_their_ends() -> None:
    lines = Lines("ab\r\ncd\n")
    assert [lines.line(number) for number in range(1, len(lines) + 1)] == ["ab", "cd", ""]
    assert lines.start(2) == 4


def test_problems_are_sorted_and_told_once() -> None:
    found = Diagnostics()
    found.warn("W208", "never used", Span("b", 0, 1))
    found.error("E201", "unknown", Span("a", 9, 10))
    found.error("E101", "unexpected", Span("a", 2, 3))
    found.error("E101", "unexpected", Span("a", 2, 3))
    assert [item.code for item in found.sorted()] == ["E101", "E201", "W208"]
    assert found.failed
