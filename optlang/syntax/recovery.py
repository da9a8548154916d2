"""Feeds tokens to Lark's parser, and recovers from what does not fit.

Lark's own `on_error` stops at the token that does not fit; what is missing before it, or where the parser can go on
behind it, is looked for here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from lark import Tree
from lark.parsers.lalr_analysis import Shift
from lark.parsers.lalr_interactive_parser import InteractiveParser
from lark.parsers.lalr_parser_state import ParserState

from optlang.diagnostics.model import MOST, Diagnostics, Fix, Span
from optlang.syntax import expected
from optlang.syntax.build import begin
from optlang.syntax.source import Source
from optlang.syntax.tokens import LINE_END, RESERVED, Token, spaced
from optlang.syntax.trials import takes

END = "$END"
_OPENERS = frozenset({"LBRACE", "LPAR", "LSQB"})
_CLOSERS = frozenset({"RBRACE", "RPAR", "RSQB"})
# Tokens that may have been left out, in the order in which they are tried.
_LEFT_OUT = ("COMMA", "EQUAL", "IN", "COLON", LINE_END)
_SPELLING = {"COMMA": ",", "EQUAL": "=", "IN": "in", "COLON": ":", "COMPARE": "==", "RANGE": "..", LINE_END: ";"}
# Tokens that are written for one another.
_CONFUSED = {
    "COLON": ("EQUAL", "IN"),
    "EQUAL": ("COLON", "IN", "COMPARE"),
    "COMPARE": ("EQUAL",),
    "COMMA": (LINE_END,),
    "DOT": ("COMMA",),
    LINE_END: ("COMMA",),
}
# What betrays that the sign before the last value was meant as another: both terminals, and what is reported.
_MEANT = {
    "step": ("MINUS", "RANGE", "a range is written `10% .. 30% step 10%`"),
    "log": ("MINUS", "RANGE", "a range is written `1e-4 .. 1e-2 log`"),
    "..": ("EQUAL", "IN", "`=` fixes one value, `in` searches"),
}
# How far a repair is tried out, in tokens, where the line does not end before.
_FAR = 60


class Driver:
    """One parse: Lark's parser, which the tokens are fed to, and what was skipped."""

    def __init__(
        self, parser: InteractiveParser, keywords: Mapping[str, str], source: Source, tokens: list[Token],
        reported: Sequence[Span], diagnostics: Diagnostics,
    ) -> None:
        self._parser = parser
        self._state = parser.parser_state
        self._rows = self._state.parse_conf.states
        # Tries build nothing.
        self._dry = copy(self._state.parse_conf)
        self._dry.callbacks = {}
        self._keywords = keywords
        self._source = source
        self._tokens = tokens
        self._diagnostics = diagnostics
        # Where a bracket was put in or taken away, what does not fit is the same mistake.
        self._reported = reported
        self.lost: set[str] = {
            token.value for token in tokens if token.type == "NAME" and self._is_told(token.start_pos)
        } if reported else set()
        self.doubtful: list[Span] = list(reported)

    def run(self) -> Any:
        """The value of the start rule; what did not fit is reported, and left out where it cannot be repaired."""
        tokens = self._tokens
        index = 0
        while index < len(tokens):
            index = index + 1 if self._feed(tokens[index]) else self._recover(index)
        # A file may end wherever an item may begin.
        return self._parser.feed_eof()

    def _kind(self, state: ParserState[Any], token: Token) -> str:
        """The terminal that `token` is in a state: a keyword only where one fits or where it is always one."""
        if token.type == "NAME" and not token.is_name:
            keyword = self._keywords.get(token.value)
            if keyword is not None and (keyword in self._rows[state.position] or token.value in RESERVED):
                return keyword
        return token.type

    def _feed(self, token: Token, kind: str | None = None) -> bool:
        kind = kind or self._kind(self._state, token)
        # Lark reduces on tokens that then do not fit; an error has to be met with the stack as it was.
        action, _ = self._rows[self._state.position].get(kind, (None, None))
        if action is not Shift and not self._shifts(kind):
            return False
        self._parser.feed_token(token if kind == token.type else token.as_a(kind))
        return True

    def _shifts(self, kind: str) -> bool:
        """Whether the parser shifts `kind` after the reductions it brings about; `takes` costs three times as much."""
        stack = list(self._state.state_stack)
        while True:
            action, argument = self._rows[stack[-1]].get(kind, (None, None))
            if action is None or action is Shift:
                return action is not None
            del stack[len(stack) - len(argument.expansion) :]
            stack.append(self._rows[stack[-1]][argument.origin.name][1])

    def _trial(self) -> ParserState[Any]:
        """A copy of the parser's state to try tokens on; it has no values."""
        return ParserState(self._dry, self._state.lexer, list(self._state.state_stack))

    # ---- recovery

    def _recover(self, index: int) -> int:
        """Report the token at `index`, repair it where possible, and return where to go on."""
        if len(self._diagnostics.found) >= MOST:
            return self._give_up(index)
        token = self._tokens[index]
        previous = self._tokens[index - 1] if index else None
        if self._resigned(index):
            return index
        fitting = self._parser.accepts()
        slip = self._slip(index, fitting)
        # What was already reported as a character or a bracket is one mistake, not two.
        if not self._is_told(token.start_pos) and not any(
            item.primary.span.start == token.start_pos for item in self._diagnostics.found
        ):
            joined, keywords = self._joined(index), self._keywords
            fix = self._fix(index, previous, fitting)
            expected.report(self._source, token, previous, fitting, slip, joined, keywords, self._diagnostics, fix)
        if slip is not None:
            wrong, keyword = slip
            if wrong is not token:
                self._pop()
            meant = next(word for word, kind in self._keywords.items() if kind == keyword)
            self._feed(Token.at("NAME", meant, wrong.start_pos, wrong.end_pos), keyword)
            return index + 1 if wrong is token else index
        if previous is not None and self._on_top(previous) and expected.is_split(previous, token):
            self._pop()
            whole = Token.at("QUANTITY", previous.value + token.value, previous.start_pos, token.end_pos)
            if self._feed(whole):
                return index + 1
        repaired = self._repair(index, fitting)
        return repaired if repaired is not None else self._skip(index)

    def _is_told(self, at: int) -> bool:
        return any(span.start <= at <= span.end for span in self._reported)

    def _resigned(self, index: int) -> bool:
        """Whether the sign before the value that the token at `index` follows was meant as another: it is repaired."""
        values = self._state.value_stack
        sign, meant, advice = _MEANT.get(self._tokens[index].value, ("", "", ""))
        if len(values) < 2 or not isinstance(values[-2], Token) or values[-2].type != sign:
            return False
        wrong, value = values[-2:]
        if not isinstance(value, Token):
            return False
        trial = self._trial()
        del trial.state_stack[-2:]
        if not all(takes(trial, kind) for kind in (meant, value.type)) or not self._runs(trial, index):
            return False
        span, spelling = self._source.span(wrong.start_pos, wrong.end_pos), _SPELLING[meant]
        fix = Fix(span, spaced(spelling, self._source.text, span.start, span.end))
        label = f"expected `{spelling}`"
        self._diagnostics.error("E101", f"unexpected `{wrong.value}`", span, label, help=advice, fix=fix)
        self._pop()
        self._pop()
        self._feed(Token.at(meant, spelling, span.start, span.end), meant)
        return self._feed(value)

    def _doubt(self, index: int, end: int) -> None:
        """Note that the lines from the token at `index` to before `end` may have been meant otherwise than read."""
        source = self._source
        first = source.lines.at(self._tokens[index].start_pos)[0]
        last = self._tokens[min(end, len(self._tokens) - 1)]
        self.doubtful.append(source.span(source.lines.start(first), max(last.start_pos, self._tokens[index].end_pos)))

    def _runs(self, trial: ParserState[Any], index: int) -> bool:
        """Whether the tokens from `index` fit, to the end of the statement or of the line that opens its block.

        The trial is changed.
        """
        depth, before = 0, None
        for token in self._tokens[index : index + _FAR]:
            if before is not None and before.type == "LBRACE" and self._parted(before, token):
                return True
            before = token
            if not takes(trial, self._kind(trial, token)):
                return False
            if token.type in _OPENERS:
                depth += 1
            elif token.type in _CLOSERS:
                depth -= 1
                if depth < 0:
                    return True
            elif token.type == LINE_END and depth == 0:
                return True
        return index + _FAR < len(self._tokens) or END in self._rows[trial.position]

    def _slip(self, index: int, fitting: set[str]) -> tuple[Token, str] | None:
        """A misspelt keyword, here or just before, with which the rest of the statement fits."""
        token = self._tokens[index]
        if token.type == "NAME":
            for keyword in expected.keywords_like(token.value, self._keywords, fitting):
                if self._fits_with(keyword, index + 1):
                    return token, keyword
        previous = self._tokens[index - 1] if index else None
        if previous is not None and previous.type == "NAME" and self._on_top(previous):
            kinds = [kind for kind in self._rows[self._state.state_stack[-2]] if kind.isupper()]
            for keyword in expected.keywords_like(previous.value, self._keywords, kinds):
                below = self._trial()
                below.state_stack.pop()
                if takes(below, keyword) and self._runs(below, index):
                    return previous, keyword
        return None

    def _fix(self, index: int, previous: Token | None, fitting: set[str]) -> Fix | None:
        """What was surely meant: a sign that is written for another, or a unit that stands apart from its number."""
        token, text = self._tokens[index], self._source.text
        if previous is not None and expected.is_split(previous, token):
            between = text[previous.end_pos : token.start_pos]
            return Fix(self._source.span(previous.end_pos, token.start_pos), "") if not between.strip(" \t") else None
        kinds = [kind for kind in _CONFUSED.get(token.type, ()) if kind in fitting and self._fits_with(kind, index + 1)]
        if token.type not in ("COLON", "EQUAL", "COMPARE") or not kinds:
            return None
        # Where a value follows, `:` stands for `=`; `in` would need a domain.
        start, end = token.start_pos, token.end_pos
        return Fix(self._source.span(start, end), spaced(_SPELLING[kinds[0]], text, start, end))

    def _repair(self, index: int, fitting: set[str]) -> int | None:
        """Replace, insert or leave out one token, if the rest of the statement then fits; where to go on."""
        token = self._tokens[index]
        for kind in _CONFUSED.get(token.type, ()):
            if kind in fitting and self._fits_with(kind, index + 1):
                self._feed(Token.at(kind, _SPELLING[kind], token.start_pos, token.end_pos), kind)
                return index + 1
        # A number or a text behind a name was probably to be its value; another name is probably the next one.
        value = token.type in ("NUMBER", "QUANTITY", "STRING") and "EQUAL" in fitting
        for kind in ("EQUAL", *_LEFT_OUT) if value else _LEFT_OUT:
            if kind in fitting and self._fits_with(kind, index):
                self._doubt(index, index + 1)
                self._feed(Token.at(kind, _SPELLING[kind], token.start_pos, token.start_pos), kind)
                return index
        if token.type not in _OPENERS | _CLOSERS and token.value != ";" and self._runs(self._trial(), index + 1):
            self._lose(index, index + 1)
            self._doubt(index, index + 1)
            return index + 1
        return None

    def _fits_with(self, kind: str, index: int) -> bool:
        trial = self._trial()
        return takes(trial, kind) and self._runs(trial, index)

    def _skip(self, index: int) -> int:
        """Leave out the rest of the statement, and its beginning too where that says nothing by itself."""
        tokens = self._tokens
        at = self._statement_end(index)
        # Lines that are indented deeper belonged to a statement that has lost the brace that held them.
        indent = min(self._indent(index), self._usual_indent())
        while at + 1 < len(tokens) and tokens[at].type == LINE_END and self._begins_deeper(at + 1, indent):
            at = self._statement_end(at + 1)
        self._lose(index, at)
        self._doubt(index, at)
        if at < len(tokens) and self._shifts(tokens[at].type):
            return at
        start, closed = tokens[index].start_pos, 0
        while closed or not self._at_boundary():
            # A block that is closed already but not yet reduced cannot be continued in.
            last = self._state.value_stack[-1]
            if isinstance(last, Token):
                closed += (last.type == "RBRACE") - (last.type == "LBRACE")
            start = self._pop()
        begin = index
        while begin > 0 and tokens[begin - 1].start_pos >= start:
            begin -= 1
        self._lose(begin, index)
        if at < len(tokens) and tokens[at].type == LINE_END:
            return at + 1
        # Whatever stands here, going on with the same token from the same stack would never end.
        return at if at > index or begin < index else index + 1

    def _give_up(self, index: int) -> int:
        """Leave out the rest of the file, and the item that is being read."""
        token = self._tokens[index]
        span = self._source.span(token.start_pos, token.end_pos)
        self._diagnostics.error("E101", f"more than {MOST} mistakes", span, "nothing is read from here on")
        self._lose(0, len(self._tokens))
        values = self._state.value_stack
        while not self._at_boundary() or any(isinstance(value, Token) and value.type == "LBRACE" for value in values):
            self._pop()
        return len(self._tokens)

    def _statement_end(self, index: int) -> int:
        """The line end that ends the statement around `index`, or the brace that ends its block, or the file's end."""
        depth = 0
        for at in range(index, len(self._tokens)):
            kind = self._tokens[at].type
            if kind in _OPENERS:
                depth += 1
            elif kind in _CLOSERS:
                if depth == 0 and kind == "RBRACE":
                    return at
                depth = max(depth - 1, 0)
            elif kind == LINE_END and depth == 0:
                return at
        return len(self._tokens)

    def _indent(self, index: int) -> int:
        """By how much the line is indented on which the token at `index` stands; for a line end, the line it ends."""
        source = self._source
        number = source.lines.at(self._tokens[index].start_pos)[0]
        line = source.lines.line(number)
        return len(line) - len(line.lstrip())

    def _usual_indent(self) -> int:
        """By how much the first statement of the innermost open block is indented; nothing at the level of the file."""
        closed = 0
        for value in reversed(self._state.value_stack):
            if isinstance(value, Token) and value.type == "RBRACE":
                closed += 1
            elif isinstance(value, Token) and value.type == "LBRACE":
                if not closed:
                    first = bisect_right(self._tokens, value.start_pos, key=lambda token: token.start_pos)
                    return self._indent(first)
                closed -= 1
        return 0

    def _begins_deeper(self, index: int, indent: int) -> bool:
        token = self._tokens[index]
        return token.type != "RBRACE" and self._indent(index) > indent and self._tokens[index - 1].value == "\n"

    def _at_boundary(self) -> bool:
        """Whether a statement, a member, a fact or an item may begin here."""
        last = self._state.value_stack[-1] if self._state.value_stack else None
        if isinstance(last, Tree):
            return _gathers_statements(last.data)
        if isinstance(last, Token):
            return last.type in ("LBRACE", LINE_END) or (last.type == "COMMA" and self._ends_statement())
        return last is None

    def _ends_statement(self) -> bool:
        """Whether the comma on top of the stack stands between statements, not in a list."""
        row = self._rows[self._state.position].values()
        return any(_gathers_statements(rule.origin.name) for action, rule in row if action is not Shift)

    def _on_top(self, token: Token) -> bool:
        """Whether nothing was made of `token` yet."""
        return bool(self._state.value_stack) and self._state.value_stack[-1] is token

    def _pop(self) -> int:
        """Take the top off the parser's stack; where the text begins that it was made of."""
        self._state.state_stack.pop()
        return begin(self._state.value_stack.pop())

    def _lose(self, start: int, end: int) -> None:
        self.lost.update(token.value for token in self._tokens[start:end] if token.type == "NAME")

    def _parted(self, token: Token, following: Token) -> bool:
        """Whether a line ends between two tokens."""
        return "\n" in self._source.text[token.end_pos : following.start_pos]

    def _joined(self, index: int) -> Token | None:
        """The last token of the line before, where the line around `index` goes on with it outside all parentheses."""
        at = index
        while at and not self._parted(self._tokens[at - 1], self._tokens[at]):
            at -= 1
        if not at or self._tokens[at].type == LINE_END:
            return None
        before = self._tokens[at - 1]
        return None if before.type in _OPENERS | _CLOSERS | {LINE_END, "COMMA"} else before


def _gathers_statements(origin: str) -> bool:
    """Whether a symbol is the repetition inside a file, a study, a declaration or a block."""
    return origin.startswith(("__start_", "__study_", "__declaration_", "__block_", "__changes_"))
