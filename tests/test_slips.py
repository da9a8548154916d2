"""One slip of the hand at a time, at every place of a study where it fits: it is told, where it is, in few words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.syntax.parse import keywords, lexed, parse
from optlang.syntax.source import Source
from tests.mutations import Mutant, Mutator, line_of

SEEDS = Path(__file__).parent / "fixtures" / "seeds"
STUDY = SEEDS / "whole.opt"
EVERY = 13
"""One mutant of so many is tried: a number that is prime to how many operators come for each place."""

LEAST = {"told": 0.98, "at its place": 0.97, "in two reports at most": 0.97}
"""Shares of the mutants. A name that is misspelt where it is declared is the most of the rest."""


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


def brackets(study: str) -> list[tuple[str, int, int]]:
    """The study with each bracket left out, and with each written twice, with where and on which line that is."""
    mutants = []
    for token in Mutator(study).tokens:
        if token.value in ("{", "}", "(", ")", "[", "]"):
            line = line_of(study, token.start_pos)
            mutants.append((study[: token.start_pos] + study[token.end_pos :], token.start_pos, line))
            mutants.append((study[: token.end_pos] + token.value + study[token.end_pos :], token.start_pos, line))
    return mutants


@pytest.mark.parametrize("every", [17, pytest.param(2, marks=pytest.mark.slow)])
def test_a_bracket_too_many_or_too_few_is_one_mistake_at_its_line(every: int) -> None:
    study = STUDY.read_text(encoding="utf-8")
    mutants = brackets(study)
    assert len(mutants) == 300
    followed = []
    for text, at, line in mutants[::every]:
        found = load(STUDY, unsaved={STUDY.resolve(): text}).diagnostics
        assert len(found) in (1, 2), (line, study[at - 10 : at + 10], [item.message for item in found])
        if len(found) == 2:
            followed.append((line, study[at - 10 : at + 10], found[1].message))
        lines = {line_of(text, label.span.start) for label in (found[0].primary, *found[0].labels)}
        # A line that is gone is missed behind the line before it.
        gone = study.splitlines()[line - 1].strip() == study[at] and len(text) < len(study)
        assert lines & ({line, line - 1} if gone else {line}), (line, study[at - 10 : at + 10], lines)
    # A declaration that loses a parameter with its bracket: the setting that names it is a second report.
    assert len(followed) <= 1, followed


LAYOUTS = {
    "flush": lambda line: line.strip(),
    "tabs": lambda line: "\t" * ((len(line) - len(line.lstrip())) // 2) + line.strip(),
    "deep ends": lambda line: f"  {line}" if line.strip().startswith("}") else line,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_layout_to_go_by_the_bracket_alone_is_told(layout: str) -> None:
    study = "".join(f"{LAYOUTS[layout](line)}\n" for line in STUDY.read_text(encoding="utf-8").splitlines())
    assert not parse(Source("study", study)).diagnostics.found
    for text, _, _ in brackets(study)[::7]:
        assert len(parse(Source("study", text)).diagnostics.found) == 1


SHORT = SEEDS / "short.opt"


def misspelt(text: str) -> list[tuple[str, int, str]]:
    """The text with one letter of a keyword left out, doubled, exchanged or replaced; where, and in which word."""
    known, seen, found = keywords(), set(), []
    for before, token in zip([None, *lexed(Source("short", text))], lexed(Source("short", text)), strict=False):
        word = token.value
        begins = before is None or before.type in ("_NL", "LBRACE")
        inside = word in ("as", "python", "in", "order", "log", "step", "when", "because", "and")
        if token.type != "NAME" or word not in known or word in seen or not (begins or inside):
            continue
        seen.add(word)
        for at in range(len(word)):
            slips = [word[:at] + word[at + 1 :], word[:at] + word[at:][:1] + word[at:]]
            slips.append(word[:at] + ("x" if word[at] != "x" else "z") + word[at + 1 :])
            if word[at : at + 1] != word[at + 1 : at + 2] != "":
                slips.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
            found += [(text[: token.start_pos] + slip + text[token.end_pos :], token.start_pos, word) for slip in slips]
    return found


@pytest.mark.parametrize("every", [19, pytest.param(3, marks=pytest.mark.slow)])
def test_a_misspelt_word_of_the_language_is_one_report_with_the_right_spelling(every: int) -> None:
    text = SHORT.read_text(encoding="utf-8")
    assert not load(SHORT).diagnostics
    mutants = misspelt(text)
    assert len(mutants) > 700
    for mutant, at, word in mutants[::every]:
        found = load(SHORT, unsaved={SHORT.resolve(): mutant}).diagnostics
        assert [item.primary.span.start for item in found] == [at], (word, mutant[at - 9 : at + 12], found)
        # Two words may be as near: both are named.
        assert word in f"{found[0].help} {found[0].primary.text}", (word, mutant[at : at + 12], found[0])
