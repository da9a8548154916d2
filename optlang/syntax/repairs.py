"""How one bracket repairs a line: it is inserted, removed or exchanged. Layout and grammar: brackets.py, trials.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optlang.syntax.tokens import Token

CLOSER = {"LBRACE": "RBRACE", "LPAR": "RPAR", "LSQB": "RSQB"}
CLOSERS = frozenset(CLOSER.values())
SIGN = {"LBRACE": "{", "RBRACE": "}", "LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]"}
OPENER = {closer: opener for opener, closer in CLOSER.items()}


@dataclass(frozen=True, slots=True)
class Repair:
    """One bracket that is put before the token `at` of a line, taken away there, or exchanged."""

    at: int
    removed: Token | None = None
    put: Token | None = None

    def applied(self, tokens: Sequence[Token]) -> list[Token]:
        put = [self.put] if self.put is not None else []
        return [*tokens[: self.at], *put, *tokens[self.at + (self.removed is not None) :]]


def repairs(tokens: Sequence[Token]) -> Iterator[Repair]:
    """All repairs that remove one bracket, exchange a closing one, or insert one."""
    for at, token in enumerate(tokens):
        if token.type in SIGN:
            yield Repair(at, removed=token)
        if token.type in CLOSERS:
            others = [kind for kind in OPENER if kind != token.type]
            for kind in others:
                put = Token.at(kind, SIGN[kind], token.start_pos, token.end_pos)
                yield Repair(at, removed=token, put=put)
    for at, token in enumerate(tokens):
        for kind in CLOSER:
            yield Repair(at, put=Token.at(kind, SIGN[kind], token.start_pos, token.start_pos))
    for at in range(len(tokens), 0, -1):
        place = tokens[at - 1].end_pos
        for kind in OPENER:
            yield Repair(at, put=Token.at(kind, SIGN[kind], place, place))


def adds_up(tokens: Sequence[Token], opens: bool) -> bool:
    """Whether every bracket has its partner in the line, but for the last one where the line opens a block."""
    opened: list[str] = []
    for token in tokens:
        if token.type in CLOSER:
            opened.append(CLOSER[token.type])
        elif token.type in CLOSERS and (not opened or opened.pop() != token.type):
            return False
    return len(opened) == opens


def _pairs(tokens: Sequence[Token]) -> Iterator[tuple[Token, Token]]:
    opened: list[Token] = []
    for token in tokens:
        if token.type in CLOSER:
            opened.append(token)
        elif token.type in CLOSERS:
            yield opened.pop(), token


def partner(tokens: Sequence[Token], at: int) -> Token:
    """The other bracket of the pair that the token at `at` belongs to."""
    for opener, closer in _pairs(tokens):
        if opener is tokens[at]:
            return closer
        if closer is tokens[at]:
            return opener
    return tokens[at]


def _uneven(text: str, tokens: Sequence[Token]) -> int:
    """How many pairs have a space inside one of their brackets and none inside the other."""
    written = [pair for pair in _pairs(tokens) if all(token.end_pos > token.start_pos for token in pair)]
    return sum(
        text[opener.end_pos : opener.end_pos + 1].isspace()
        is not text[closer.start_pos - 1 : closer.start_pos].isspace()
        for opener, closer in written
    )


def unlikely(text: str, tokens: Sequence[Token], repair: Repair) -> tuple[bool, int, int]:
    """What is more is less likely. A hand writes a bracket twice, or leaves one out; what is left looks even."""
    removed = repair.removed
    behind = removed is not None and repair.at > 0 and tokens[repair.at - 1].type == removed.type
    twice = removed is not None and behind and tokens[repair.at - 1].end_pos == removed.start_pos
    if removed is None:
        rank = 4 if _is_idle(tokens, repair) else 1
    elif repair.put is not None:
        rank = 2
    else:
        rank = 0 if behind and removed.type in CLOSERS else 3
    return not (twice and repair.put is None), _uneven(text, repair.applied(tokens)), rank


def _is_idle(tokens: Sequence[Token], repair: Repair) -> bool:
    """Whether a parenthesis that is put in would make a group of one word or number."""
    if repair.put is None or repair.put.type not in ("LPAR", "RPAR"):
        return False
    repaired = repair.applied(tokens)
    ends = sorted((repair.at, next(at for at, token in enumerate(repaired) if token is partner(repaired, repair.at))))
    called = ends[0] > 0 and repaired[ends[0] - 1].type == "NAME"
    return ends[1] - ends[0] == 2 and not called
