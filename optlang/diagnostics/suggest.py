"""What a word was probably meant to be: the one "did you mean" of optlang."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_SHORTEST = 3
"""A beginning of fewer letters is the beginning of too many words."""

_FEWEST = 5
"""Of words with fewer letters one slip makes another word: `rmse` and `mse`, `adam` and `adamw`."""


def closest(word: str, options: Iterable[str]) -> str | None:
    """The option that `word` probably stands for, None where none is near; case does not count.

    In this order: the same letters otherwise joined (`size_compressed`), the last part of a longer name (`static` of
    `quant.static`), one slip of the hand, the beginning of one option alone (`lat` of `latency`), more slips, and an
    option that is one part of the word (`train_set`). Slips are counted as by `slips`: one for words of up to four
    letters, else at most a third of the longer word's length. The nearest wins, then the first.
    """
    known = list(dict.fromkeys(options))
    rules: tuple[Callable[[str, list[str]], str | None], ...] = (_same, _ending, _slipped_once, _begun, _slipped, _part)
    for rule in rules:
        found = rule(word, known)
        if found is not None:
            return found
    return None


def certain(word: str, options: Iterable[str]) -> str | None:
    """The one option that `word` can only be a misspelling of, None where there is a doubt.

    A doubt is: another option that is near too, fewer than five letters, more than one slip (two in a word of seven
    letters or more), or a digit that differs (`float64` is not `float16` misspelt).
    """
    known = list(dict.fromkeys(options))
    joined = [option for option in known if _plain(option) == _plain(word)]
    tails = [option for option in known if option.rpartition(".")[2] == word]
    for exact in (joined, tails):
        if exact:
            return exact[0] if len(exact) == 1 else None
    near = [option for option in known if _near(word, option)]
    if len(near) != 1 or closest(word, known) != near[0] or len(word) < _FEWEST:
        return None
    allowed = 1 if min(len(word), len(near[0])) < 7 else 2
    same_digits = re.findall(r"\d", word) == re.findall(r"\d", near[0])
    return near[0] if same_digits and slips(word.lower(), near[0].lower()) <= allowed else None


def slips(a: str, b: str) -> int:
    """How many letters are left out, added, replaced or exchanged with their neighbor between two words.

    The optimal string alignment distance (Damerau 1964); difflib compares common blocks, and knows no exchange.
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, above, row = row, before, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _plain(word: str) -> str:
    return re.sub(r"[._-]", "", word.lower())


def _same(word: str, known: list[str]) -> str | None:
    return next((option for option in known if _plain(option) == _plain(word)), None)


def _ending(word: str, known: list[str]) -> str | None:
    return next((option for option in known if option.rpartition(".")[2] == word), None)


def _near(word: str, option: str) -> bool:
    return _distance(word, option) is not None


def _distance(word: str, option: str) -> int | None:
    """The slips between two words, None where they are too many to have been meant."""
    longer = max(len(word), len(option))
    allowed = 1 if longer <= 4 else longer // 3
    # Two letters of which one is wrong have little in common.
    if longer < 2 or abs(len(word) - len(option)) > allowed:
        return None
    distance = slips(word.lower(), option.lower())
    return distance if distance <= allowed and not (longer == 2 and distance) else None


def _slipped_once(word: str, known: list[str]) -> str | None:
    return next((option for option in known if _distance(word, option) in (0, 1)), None)


def _slipped(word: str, known: list[str]) -> str | None:
    found = {option: distance for option in known if (distance := _distance(word, option)) is not None}
    return min(found, key=lambda option: found[option]) if found else None


def _begun(word: str, known: list[str]) -> str | None:
    if len(word) < _SHORTEST:
        return None
    longer = sorted((option for option in known if option.lower().startswith(word.lower())), key=len)
    return longer[0] if longer and all(option.startswith(longer[0]) for option in longer) else None


def _part(word: str, known: list[str]) -> str | None:
    parts = re.split(r"[._-]", word)
    if len(parts) == 1:
        return None
    # What a word says comes last: `prune_ratio`; but `train_set` begins with it.
    return next((option for part in (*reversed(parts), *parts) for option in known if option == part), None)
