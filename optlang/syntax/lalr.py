"""Drives the parser's table over tokens, and recovers from what does not fit. Knows no rule's meaning."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optlang.diagnostics import Diagnostics, Span
from optlang.syntax import expected
from optlang.syntax.source import Source
from optlang.syntax.tokens import LINE_END, MOST, RESERVED, Token

END = "$END"
_OPENERS = frozenset({"LBRACE", "LPAR", "LSQB"})
_CLOSERS = frozenset({"RBRACE", "RPAR", "RSQB"})
# Tokens that may have been left out, in the order in which they are tried.
_LEFT_OUT = ("COMMA", "EQUAL", "IN", "COLON", LINE_END)
_SPELLING = {"COMMA": ",", "EQUAL": "=", "IN": "in", "COLON": ":", "COMPARE": "==", LINE_END: ";"}
# Tokens that are written for one another.
_CONFUSED = {
    "COLON": ("EQUAL", "IN"),
    "EQUAL": ("COLON", "IN", "COMPARE"),
    "COMPARE": ("EQUAL",),
    "COMMA": (LINE_END,),
    "DOT": ("COMMA",),
    LINE_END: ("COMMA",),
}
# How far a repair is tried out, in tokens, where the line does not end before.
_FAR = 60


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: the symbol that it makes, of how many, and its action (None: a value goes through, or several gather)."""

    origin: str
    size: int
    action: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """An LALR(1) table: in `states`, a number from 0 on is the state to go to, -1 - n reduces by rule n."""

    states: list[dict[str, int]]
    rules: list[Rule]
    keywords: dict[str, str]
    start: int
    end: int


class Several(list[Any]):
    """What a repetition in a rule has gathered; `owner` is that rule."""

    __slots__ = ("owner",)

    def __init__(self, owner: str, values: list[Any]) -> None:
        super().__init__(values)
        self.owner = owner


Action = Callable[[list[Any], Span], Any]


class Driver:
    """One parse: the stacks, and what was skipped on the way."""

    def __init__(
        self, table: Table, source: Source, tokens: list[Token], actions: dict[str, Action], diagnostics: Diagnostics
    ) -> None:
        self._table = table
        self._source = source
        self._tokens = tokens
        self._actions = [actions[rule.action] if rule.action else None for rule in table.rules]
        self._diagnostics = diagnostics
        self._states = [table.start]
        self._values: list[Any] = []
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.lost: set[str] = set()
        self.doubtful: list[Span] = []

    def run(self) -> Any:
        """The value of the start rule; what did not fit is reported, and left out where it cannot be mended."""
        tokens = self._tokens
        index = 0
        while index < len(tokens):
            index = index + 1 if self._feed(tokens[index]) else self._recover(index)
        return self._finish()

    def _kind(self, state: int, token: Token) -> str:
        """The terminal that `token` is in a state: a keyword only where that fits or where it is one everywhere."""
        kind = token.kind
        if kind == "NAME":
            keyword = self._table.keywords.get(token.text)
            if keyword is not None and (keyword in self._table.states[state] or token.text in RESERVED):
                return keyword
        return kind

    def _feed(self, token: Token, kind: str | None = None) -> bool:
        states, table = self._states, self._table
        kind = kind or self._kind(states[-1], token)
        # LALR reduces on tokens that then do not fit; an error has to be met with the stack as it was.
        if table.states[states[-1]].get(kind, -1) < 0 and not self._try(list(states), kind):
            return False
        while True:
            action = table.states[states[-1]][kind]
            if action >= 0:
                states.append(action)
                self._values.append(Token(kind, token.text, token.start, token.end) if kind != token.kind else token)
                self._starts.append(token.start)
                self._ends.append(token.end)
                return True
            self._reduce(-1 - action)

    def _reduce(self, number: int) -> None:
        rule = self._table.rules[number]
        size, states = rule.size, self._states
        action = self._actions[number]
        if action is None and size == 1:
            del states[-1]
        elif size == 0:
            end = len(self._source.text)
            assert action is not None
            self._values.append(action([], Span(self._source.file, end, end)))
            self._starts.append(end)
            self._ends.append(end)
        else:
            values = self._values[-size:]
            start, end = self._starts[-size], self._ends[-1]
            del states[-size:], self._values[-size:], self._starts[-size:], self._ends[-size:]
            self._values.append(self._made(rule, action, values, start, end))
            self._starts.append(start)
            self._ends.append(end)
        states.append(self._table.states[states[-1]][rule.origin])

    def _made(self, rule: Rule, action: Action | None, values: list[Any], start: int, end: int) -> Any:
        first = values[0]
        if action is None:
            # A repetition: its first item, or one more.
            if isinstance(first, Several) and first.owner == rule.origin:
                first.extend(values[1:])
                return first
            return Several(rule.origin, values)
        for value in values:
            if isinstance(value, Several):
                values = [item for value in values for item in (value if isinstance(value, Several) else (value,))]
                break
        return action(values, Span(self._source.file, start, end))

    def _finish(self) -> Any:
        table, states = self._table, self._states
        while True:
            action = table.states[states[-1]].get(END)
            assert action is not None, "a file may end wherever an item may begin"
            self._reduce(-1 - action)
            if states[-1] == table.end:
                return self._values[-1]

    # ---- recovery

    def _recover(self, index: int) -> int:
        """Report the token at `index`, mend what can be mended, and say where to go on."""
        if len(self._diagnostics.found) >= MOST:
            return self._give_up(index)
        token = self._tokens[index]
        previous = self._tokens[index - 1] if index else None
        fitting = self._fitting()
        slip = self._slip(index, fitting)
        # What was already told about as a character or a bracket is one mistake, not two.
        if not any(item.primary.span.start == token.start for item in self._diagnostics.found):
            joined, keywords = self._joined(index), self._table.keywords
            expected.report(self._source, token, previous, fitting, slip, joined, keywords, self._diagnostics)
        if slip is not None:
            wrong, keyword = slip
            if wrong is not token:
                self._pop()
            meant = next(word for word, kind in self._table.keywords.items() if kind == keyword)
            self._feed(Token("NAME", meant, wrong.start, wrong.end), keyword)
            return index + 1 if wrong is token else index
        if previous is not None and self._on_top(previous) and expected.is_split(previous, token):
            self._pop()
            whole = Token("QUANTITY", previous.text + token.text, previous.start, token.end)
            if self._feed(whole):
                return index + 1
        mended = self._mend(index, fitting)
        return mended if mended is not None else self._skip(index)

    def _doubt(self, index: int, end: int) -> None:
        """Note that the lines from the token at `index` to before `end` may have been meant otherwise than read."""
        source = self._source
        first = source.lines.at(self._tokens[index].start)[0]
        last = self._tokens[min(end, len(self._tokens) - 1)]
        self.doubtful.append(source.span(source.lines.start(first), max(last.start, self._tokens[index].end)))

    def _fitting(self) -> list[str]:
        """The terminals that fit here, in no order."""
        state = self._table.states[self._states[-1]]
        return [kind for kind in state if (kind.isupper() or kind == LINE_END) and self._try(list(self._states), kind)]

    def _try(self, states: list[int], kind: str) -> bool:
        """Whether a terminal fits the stack of states, which is changed."""
        table = self._table
        while True:
            action = table.states[states[-1]].get(kind)
            if action is None:
                return False
            if action >= 0:
                states.append(action)
                return True
            rule = table.rules[-1 - action]
            if rule.size:
                del states[-rule.size:]
            states.append(table.states[states[-1]][rule.origin])

    def _runs(self, states: list[int], index: int) -> bool:
        """Whether the tokens from `index` fit, to the end of the statement or of the line that opens its block.

        The stack of states is changed.
        """
        depth, before = 0, None
        for token in self._tokens[index : index + _FAR]:
            if before is not None and before.kind == "LBRACE" and "\n" in self._source.text[before.end : token.start]:
                return True
            before = token
            if not self._try(states, self._kind(states[-1], token)):
                return False
            if token.kind in _OPENERS:
                depth += 1
            elif token.kind in _CLOSERS:
                depth -= 1
                if depth < 0:
                    return True
            elif token.kind == LINE_END and depth == 0:
                return True
        return index + _FAR < len(self._tokens) or END in self._table.states[states[-1]]

    def _slip(self, index: int, fitting: list[str]) -> tuple[Token, str] | None:
        """A misspelt keyword, here or just before, with which the rest of the statement fits."""
        token = self._tokens[index]
        if token.kind == "NAME":
            for keyword in expected.keywords_like(token.text, self._table.keywords, fitting):
                states = list(self._states)
                if self._try(states, keyword) and self._runs(states, index + 1):
                    return token, keyword
        previous = self._tokens[index - 1] if index else None
        if previous is not None and previous.kind == "NAME" and self._on_top(previous):
            below = self._states[:-1]
            kinds = [kind for kind in self._table.states[below[-1]] if kind.isupper()]
            for keyword in expected.keywords_like(previous.text, self._table.keywords, kinds):
                states = list(below)
                if self._try(states, keyword) and self._runs(states, index):
                    return previous, keyword
        return None

    def _mend(self, index: int, fitting: list[str]) -> int | None:
        """Replace, insert or leave out one token, if the rest of the statement then fits; where to go on."""
        token = self._tokens[index]
        for kind in _CONFUSED.get(token.kind, ()):
            if kind in fitting and self._fits_with(kind, index + 1):
                self._feed(Token(kind, _SPELLING[kind], token.start, token.end), kind)
                return index + 1
        # A number or a text behind a name was probably to be its value; another name is probably the next one.
        value = token.kind in ("NUMBER", "QUANTITY", "STRING") and "EQUAL" in fitting
        for kind in ("EQUAL", *_LEFT_OUT) if value else _LEFT_OUT:
            if kind in fitting and self._fits_with(kind, index):
                self._doubt(index, index + 1)
                self._feed(Token(kind, _SPELLING[kind], token.start, token.start), kind)
                return index
        if token.kind not in _OPENERS | _CLOSERS and token.text != ";" and self._runs(list(self._states), index + 1):
            self._lose(index, index + 1)
            self._doubt(index, index + 1)
            return index + 1
        return None

    def _fits_with(self, kind: str, index: int) -> bool:
        states = list(self._states)
        return self._try(states, kind) and self._runs(states, index)

    def _skip(self, index: int) -> int:
        """Leave out the rest of the statement, and its beginning too where that says nothing by itself."""
        tokens = self._tokens
        at = self._statement_end(index)
        # Lines that are indented deeper belonged to a statement that has lost the brace that held them.
        indent = min(self._indent(index), self._usual_indent())
        while at + 1 < len(tokens) and tokens[at].kind == LINE_END and self._begins_deeper(at + 1, indent):
            at = self._statement_end(at + 1)
        self._lose(index, at)
        self._doubt(index, at)
        if at < len(tokens) and self._try(list(self._states), tokens[at].kind):
            return at
        start, closed = tokens[index].start, 0
        while closed or not self._at_boundary():
            # A block that is closed already but not yet reduced is no place to go on in.
            last = self._values[-1]
            if isinstance(last, Token):
                closed += (last.kind == "RBRACE") - (last.kind == "LBRACE")
            start = self._pop()
        begin = index
        while begin > 0 and tokens[begin - 1].start >= start:
            begin -= 1
        self._lose(begin, index)
        if at < len(tokens) and tokens[at].kind == LINE_END:
            return at + 1
        # Whatever stands here, going on with the same token from the same stack would never end.
        return at if at > index or begin < index else index + 1

    def _give_up(self, index: int) -> int:
        """Leave out the rest of the file, and the item that is being read."""
        token = self._tokens[index]
        span = self._source.span(token.start, token.end)
        self._diagnostics.error("E101", f"more than {MOST} mistakes", span, "nothing is read from here on")
        self._lose(0, len(self._tokens))
        while not self._at_boundary() or any(isinstance(v, Token) and v.kind == "LBRACE" for v in self._values):
            self._pop()
        return len(self._tokens)

    def _statement_end(self, index: int) -> int:
        """The line end that ends the statement around `index`, or the brace that ends its block, or the file's end."""
        depth = 0
        for at in range(index, len(self._tokens)):
            kind = self._tokens[at].kind
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
        number = source.lines.at(self._tokens[index].start)[0]
        line = source.lines.line(number)
        return len(line) - len(line.lstrip())

    def _usual_indent(self) -> int:
        """By how much the first statement of the innermost open block is indented; nothing at the level of the file."""
        closed = 0
        for value in reversed(self._values):
            if isinstance(value, Token) and value.kind == "RBRACE":
                closed += 1
            elif isinstance(value, Token) and value.kind == "LBRACE":
                if not closed:
                    first = bisect_right(self._tokens, value.start, key=lambda token: token.start)
                    return self._indent(first)
                closed -= 1
        return 0

    def _begins_deeper(self, index: int, indent: int) -> bool:
        token = self._tokens[index]
        return token.kind != "RBRACE" and self._indent(index) > indent and self._tokens[index - 1].text == "\n"

    def _at_boundary(self) -> bool:
        """Whether a statement, a member, a fact or an item may begin here."""
        last = self._values[-1] if self._values else None
        if isinstance(last, Several):
            return _gathers_statements(last.owner)
        if isinstance(last, Token):
            return last.kind in ("LBRACE", LINE_END) or (last.kind == "COMMA" and self._ends_statement())
        return last is None

    def _ends_statement(self) -> bool:
        """Whether the comma on top of the stack stands between statements, not in a list."""
        rules, row = self._table.rules, self._table.states[self._states[-1]]
        return any(_gathers_statements(rules[-1 - action].origin) for action in row.values() if action < 0)

    def _on_top(self, token: Token) -> bool:
        """Whether nothing was made of `token` yet."""
        return bool(self._values) and self._values[-1] is token

    def _pop(self) -> int:
        self._states.pop()
        self._values.pop()
        self._ends.pop()
        return self._starts.pop()

    def _lose(self, start: int, end: int) -> None:
        self.lost.update(token.text for token in self._tokens[start:end] if token.kind == "NAME")

    def _joined(self, index: int) -> Token | None:
        """The last token of the line before, where the line around `index` goes on with it outside all parentheses."""
        text, at = self._source.text, index
        while at and "\n" not in text[self._tokens[at - 1].end : self._tokens[at].start]:
            at -= 1
        if not at or self._tokens[at].kind == LINE_END:
            return None
        before = self._tokens[at - 1]
        return None if before.kind in _OPENERS | _CLOSERS | {LINE_END, "COMMA"} else before


def _gathers_statements(origin: str) -> bool:
    """Whether a symbol is the repetition inside a file, a study, a declaration or a block."""
    return origin.startswith(("__start_", "__study_", "__declaration_", "__block_"))
