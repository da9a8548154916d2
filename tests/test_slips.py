"""One slip of the hand at a time, at every place of a study where it fits: it is told, where it is, in few words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from mutations import Mutant, Mutator, line_of

from optlang.plan.load import load

SEEDS = Path(__file__).parent / "fixtures" / "seeds"
STUDY = SEEDS / "whole.opt"
EVERY = 13
"""One mutant of so many is tried: a number that is prime to how many operators come for each place."""

LEAST = {"told": 0.98, "at its place": 0.95, "in two reports at most": 0.95}
"""Shares of the mutants. An opening bracket that is left out is the most of the rest: its line is told too."""


def lines_of(mutant: Mutant, study: str) -> set[int]:
    """The lines on which a report is due; a name that is misspelt is told where it is used, or where it is declared."""
    lines = set(mutant.lines)
    word = re.search(r"\w+$", study[: mutant.at + 1])
    if mutant.operator.startswith("name") and word is not None:
        whole = re.match(r"\w+", study[mutant.at :])
        assert whole is not None
        lines |= {line_of(study, found.start()) for found in re.finditer(rf"\b{whole[0]}\b", study)}
    return lines


def is_free(mutant: Mutant, study: str) -> bool:
    """Whether the slip is in a name that stands nowhere else: that is another name, and no mistake."""
    whole = re.match(r"\w+", study[mutant.at :])
    return mutant.operator.startswith("name") and whole is not None and len(re.findall(rf"\b{whole[0]}\b", study)) == 1


@pytest.mark.slow
def test_a_slip_is_told_where_it_is_and_with_few_echoes() -> None:
    study = STUDY.read_text(encoding="utf-8")
    counts: Counter[str] = Counter()
    for mutant in list(Mutator(study).all())[::EVERY]:
        found = load(STUDY, unsaved={STUDY.resolve(): mutant.text}).diagnostics
        if not found and (is_free(mutant, study) or mutant.operator == "two statements on a line"):
            continue
        counts["all"] += 1
        counts["told"] += bool(found)
        first = found[:1]
        due = lines_of(mutant, study)
        placed = any(
            line_of(mutant.text, label.span.start) in due for item in first for label in (item.primary, *item.labels)
        )
        counts["at its place"] += placed
        counts["in two reports at most"] += 0 < len(found) <= 2
    shares = {what: counts[what] / counts["all"] for what in LEAST}
    assert counts["all"] > 150
    assert all(shares[what] >= least for what, least in LEAST.items()), shares
