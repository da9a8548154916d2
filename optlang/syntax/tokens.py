"""What Lark's lexer leaves to do: strange characters, which line ends count."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import lark

from optlang.diagnostics.model import MOST, Diagnostics, Fix, TooMuchError
from optlang.syntax.source import Source

RESERVED = frozenset(["when", "maybe", "repeat", "any", "true", "false", "and", "or", "not", "in", "log", "step"])
"""Words with a meaning of their own wherever they stand: they name nothing but arguments of a call."""

MOST_TOKENS = 100_000
"""How many words, signs and line ends a file may have: some ten thousand lines, which are read in about a second."""

LINE_END = "_NL"
_CLOSER = {"LBRACE": "RBRACE", "LPAR": "RPAR", "LSQB": "RSQB"}
_CLOSERS = frozenset(_CLOSER.values())
# A line end after one of these does not end the statement.
_GOES_ON = frozenset({"COMMA", "COMPARE", "PLUS", "MINUS", "STAR", "SLASH", "EQUAL", "RANGE"})
_GOES_ON_WORDS = frozenset({"and", "or", "not", "in", "when"})
_HAS_REASON = frozenset({"because", "forbid", "require"})
# Before a parenthesis these call nothing.
_BEFORE_A_GROUP = RESERVED | {"forbid", "require"}
# What no line may begin with: it belongs to the end of the line before.
_NEVER_FIRST = frozenset({"COMMA", "COMPARE", "PLUS", "STAR", "SLASH", "EQUAL", "RANGE", "DOT", "COLON", "LBRACE"})
_NEVER_FIRST_WORDS = frozenset({"and", "or", "in"})

_LOGIC = {"&": ("and", "NAME"), "|": ("or", "NAME"), "!": ("not", "NAME")}

STRAYS = ("OPEN_TEXT", "QUOTED_TEXT", "STRANGE_WORD", "LOGIC", "STRANGE")
"""The terminals of the grammar that no rule has: what they match is reported, and replaced by a token."""


class Token(lark.Token):
    """One of Lark's tokens, whose position is known; words are NAME until the parser knows better."""

    start_pos: int
    end_pos: int
    is_name = False
    """Whether it names an argument or stands after a dot: no word is a keyword there."""

    @classmethod
    def at(cls, kind: str, text: str, start: int, end: int) -> Token:
        """A token that stands for `text` from `start` to before `end`."""
        return cls(kind, text, start, end_pos=end)

    def as_a(self, kind: str) -> Token:
        """The same token as another terminal."""
        return self.at(kind, self.value, self.start_pos, self.end_pos)


def repaired(lexed: Iterable[lark.Token], source: Source, diagnostics: Diagnostics) -> list[Token]:
    """All tokens; a character or string that is none is E103, and replaced by the most likely token.

    Raises TooMuchError where there are more than can be read in a moment.
    """
    tokens: list[Token] = []
    for count, found in enumerate(lexed):
        if count == MOST_TOKENS:
            at = found.start_pos or 0
            raise TooMuchError(
                f"the file has more than {MOST_TOKENS:,} words and signs", source.span(at, at),
                "nothing is read from here on", "split it: `import` reads what stands in another file",
            )
        if len(diagnostics.found) >= MOST:
            at = found.start_pos or 0
            raise TooMuchError(f"more than {MOST} mistakes", source.span(at, at), "nothing is read from here on")
        token = Token.new_borrow_pos(found.type, found.value, found)
        if token.type not in STRAYS:
            tokens.append(token)
        else:
            _repair(token, source, tokens, diagnostics)
    return tokens


def _repair(token: Token, source: Source, tokens: list[Token], diagnostics: Diagnostics) -> None:
    kind, text, start, end = token.type, token.value, token.start_pos, token.end_pos
    span = source.span(start, end)
    before = tokens[-1] if tokens else None
    if kind == "OPEN_TEXT":
        # The opening brace of a block is probably not meant to be a part of the text.
        body = text.rstrip()
        body = body[:-1].rstrip() if body.endswith("{") and before is not None and before.type == "NAME" else body
        end = start + len(body)
        label = 'no `"` before the end of the line'
        diagnostics.error("E103", "this text is not closed", source.span(start, end), label)
        tokens.append(Token.at("STRING", f'{body}"', start, end))
        if body != text.rstrip():
            brace = start + text.rindex("{")
            tokens.append(Token.at("LBRACE", "{", brace, brace + 1))
    elif kind == "QUOTED_TEXT":
        inner = text[1:-1].replace("\\", "\\\\").replace('"', '\\"')
        text = f'"{inner}"'
        fix = Fix(span, text)
        diagnostics.error("E103", "texts stand between double quotes", span, help=f"write `{text}`", fix=fix)
        tokens.append(Token.at("STRING", text, start, end))
    elif kind == "STRANGE_WORD":
        if before is not None and before.end_pos == start and before.type in ("NAME", "NUMBER", "QUANTITY"):
            start, text = before.start_pos, before.value + text
            tokens.pop()
        diagnostics.error(
            "E103", f"`{text}` is not a name", source.span(start, end),
            "names are made of the letters A to Z and a to z, digits and `_`, and begin with no digit",
        )
        tokens.append(Token.at("NAME", text, start, end))
    elif kind == "LOGIC":
        word, terminal = _LOGIC[text[0]]
        diagnostics.error("E103", f"unexpected character `{text}`", span, help=f"did you mean `{word}`?",
                          fix=Fix(span, spaced(word, source.text, start, end)))
        tokens.append(Token.at(terminal, word, start, end))
    elif text == "'":
        diagnostics.error("E103", "texts stand between double quotes", span, "and this one is not closed")
    else:
        shown = f"`{text}`" if text.isprintable() else f"U+{ord(text):04X}"
        advice = None
        if text == "%" and before is not None and before.type == "NUMBER":
            advice = f"a unit follows its number without a space: `{before.value}%`"
        elif text == ".":
            advice = "a range is written `1 .. 3`, a number `0.5`"
        joined = None
        if advice is not None and text == "%" and before is not None:
            joined = Fix(source.span(before.end_pos, start), "")
        diagnostics.error(
            "E103", f"unexpected character {shown}", span, "nothing is written with it", help=advice, fix=joined
        )
        if advice is not None and text == "%":
            assert before is not None
            tokens[-1] = Token.at("QUANTITY", f"{before.value}%", before.start_pos, end)


def named(tokens: list[Token]) -> list[Token]:
    """The same tokens; words of the language that name an argument of a call, or follow the dot of a path, are names.

    What the user's own Python calls its arguments is not the language's business.
    """
    opened: list[bool] = []
    previous: Token | None = None
    words = [token for token in tokens if token.type != LINE_END]
    for index, token in enumerate(words):
        if token.type in _CLOSER:
            called = previous is not None and previous.type == "NAME" and previous.value not in _BEFORE_A_GROUP
            opened.append(token.type == "LPAR" and called)
        elif token.type in _CLOSERS:
            del opened[-1:]
        elif token.value in RESERVED and previous is not None:
            begins = bool(opened) and opened[-1] and previous.type in ("LPAR", "COMMA")
            following = words[index + 1] if begins and index + 1 < len(words) else None
            given = following is not None and (following.type == "EQUAL" or following.value == "in")
            token.is_name = given
        previous = token
    # A dot at the end of a line belongs to no path: the next line's first word is what it always is.
    for before, token in pairwise(tokens):
        if before.type == "DOT" and token.value in RESERVED:
            token.is_name = True
    return tokens


def spaced(word: str, text: str, start: int, end: int) -> str:
    """A word or sign for what stands from `start` to `end`, with spaces where a word would grow into its neighbours."""
    if not word.isalpha():
        return word
    before = " " if start and not text[start - 1].isspace() else ""
    return before + word + (" " if end < len(text) and not text[end].isspace() else "")


def goes_on(token: Token) -> bool:
    """Whether a line end after this token does not end the statement."""
    return token.type in _GOES_ON or (token.type == "NAME" and token.value in _GOES_ON_WORDS)


def statements(source: Source, tokens: list[Token], diagnostics: Diagnostics) -> list[Token]:
    """The tokens with only those line ends that end a statement, and one at the end of the file."""
    kept: list[Token] = []
    opened: list[str] = []
    previous, word, opening = LINE_END, "", ""
    for index, token in enumerate(tokens):
        kind = token.type
        if kind == LINE_END:
            if previous in (LINE_END, "LBRACE"):
                continue
            if token.value == "\n":
                if opened and opened[-1] != "LBRACE":
                    continue
                if goes_on(kept[-1]):
                    continue
                if previous == "NAME" and word == "because" and opening in _HAS_REASON:
                    continue
                if _wrongly_first(source, tokens, index, len(opened), diagnostics):
                    continue
        elif kind in _CLOSER:
            opened.append(kind)
        elif kind in _CLOSERS:
            opened.pop()
        if previous in (LINE_END, "LBRACE"):
            opening = token.value
        kept.append(token)
        previous, word = kind, token.value
    if kept and previous != LINE_END:
        end = kept[-1].end_pos
        kept.append(Token.at(LINE_END, "", end, end))
    return kept


def _wrongly_first(
    source: Source, tokens: list[Token], index: int, depth: int, diagnostics: Diagnostics
) -> bool:
    """Whether the line after the line end at `index` begins with what belongs to the end of the line before (E101)."""
    while index < len(tokens) and tokens[index].type == LINE_END:
        index += 1
    if index == len(tokens):
        return False
    token = tokens[index]
    never = token.type in _NEVER_FIRST or (token.type == "NAME" and token.value in _NEVER_FIRST_WORDS)
    # A negative number may be a value of a set, but no member of a study.
    if not never and not (token.type == "MINUS" and depth == 1):
        return False
    place = "on the line of its statement" if token.type == "LBRACE" else "at the end of the line before"
    if len(diagnostics.found) >= MOST:
        return True
    span = source.span(token.start_pos, token.end_pos)
    diagnostics.error("E101", f"no line begins with `{token.value}`", span, f"it stands {place}")
    return True
