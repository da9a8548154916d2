"""Whether some tokens would be a line of a block, tried on Lark's parser without building anything. Reports nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from lark import UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser
from lark.parsers.lalr_parser_state import ParserState

from optlang.syntax.tokens import LINE_END, RESERVED, Token, goes_on

# What brings the parser to where a line stands: at the level of the file, in a study, a declaration, a block (of steps,
# settings or values), in the arguments of a call, in a list. What has no line end after it may go on as it likes.
CONTEXTS: Mapping[str, tuple[str, ...]] = {
    "file": (),
    "study": ("STUDY", "NAME", "LBRACE"),
    "declaration": ("TECHNIQUE", "NAME", "LBRACE"),
    "block": ("STUDY", "NAME", "LBRACE", "STEPS", "LBRACE"),
    "changes": ("PARAMS", "NAME", "LBRACE", "WITH", "NAME", "LBRACE"),
    "call": ("STUDY", "NAME", "LBRACE", "LET", "NAME", "EQUAL", "NAME", "LPAR"),
    "list": ("STUDY", "NAME", "LBRACE", "LET", "NAME", "EQUAL", "LSQB"),
}


def takes(state: ParserState[Any], kind: str) -> bool:
    """Whether a terminal fits a state of the parser, which is changed."""
    try:
        state.feed_token(Token(kind, ""))
    except UnexpectedToken:
        return False
    return True


class Trials:
    """The grammar, to be asked about single lines."""

    def __init__(self, parser: InteractiveParser, keywords: Mapping[str, str]) -> None:
        state = parser.parser_state
        self._rows = state.parse_conf.states
        self._keywords = keywords
        self._begin = state
        self._dry = copy(state.parse_conf)
        self._dry.callbacks = {}

    def fits(self, contexts: Sequence[str], tokens: Sequence[Token], *, opens: bool) -> bool:
        """Whether `tokens` may be a line in one of these contexts; `opens` says that it leaves brackets open."""
        return any(self._fits(context, tokens, opens) for context in contexts)

    def _fits(self, context: str, tokens: Sequence[Token], opens: bool) -> bool:
        state = ParserState(self._dry, self._begin.lexer, list(self._begin.state_stack))
        for kind in CONTEXTS[context]:
            if not takes(state, kind):
                return False
        before = LINE_END
        for token in tokens:
            kind = self.kind(state, token)
            if kind == LINE_END and before in (LINE_END, "LBRACE"):
                continue
            if not takes(state, kind):
                return False
            before = kind
        if opens or context in ("call", "list") or not tokens or goes_on(tokens[-1]):
            return True
        return before == LINE_END or LINE_END in self._ends(state)

    def _ends(self, state: ParserState[Any]) -> set[str]:
        trial = ParserState(self._dry, self._begin.lexer, list(state.state_stack))
        return {LINE_END} if takes(trial, LINE_END) else set()

    def kind(self, state: ParserState[Any], token: Token) -> str:
        """The terminal that `token` is in a state: a keyword only where one fits or where it is always one."""
        if token.type == "NAME" and not token.is_name:
            keyword = self._keywords.get(token.value)
            if keyword is not None and (keyword in self._rows[state.position] or token.value in RESERVED):
                return keyword
        return token.type
