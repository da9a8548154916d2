"""Which brackets of a text that does not add up are missing, and which are too many: the layout is the evidence.

A line is left with as many open brackets as the next one is indented for. Where that is not so, the slip is in that
line, and the one bracket is looked for with which it is a line of the language. A block whose end or beginning is
missing is known by the indentation of its lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optlang.diagnostics.model import MOST, Diagnostics, Fix, Label, Span
from optlang.syntax.repairs import CLOSER, CLOSERS, OPENER, SIGN, Repair, adds_up, partner, repairs, unlikely
from optlang.syntax.source import Source
from optlang.syntax.tokens import LINE_END, Token, goes_on
from optlang.syntax.trials import Trials

DEEPEST = 50
"""How many brackets may be open at once."""

# How many repairs of one line are tried, and of how many lines.
_TRIED = 60
_LINES = 40
_HEADS = {"study": "study", "target": "block"} | dict.fromkeys(
    ("technique", "pipeline", "runtime", "model", "data", "params"), "declaration"
)


@dataclass(slots=True)
class Matched:
    """The tokens with every bracket matched. `stray` are closing ones that nothing opened, and that are left out.

    In the lines of `reported` a bracket was put in or taken away, and that is reported.
    """

    tokens: list[Token]
    stray: list[Token] = field(default_factory=list)
    reported: list[Span] = field(default_factory=list)


def matched(source: Source, tokens: list[Token], trials: Trials, diagnostics: Diagnostics) -> Matched:
    """Match the brackets; one that has no partner is E102 at its opener, or E101 where an opener is missing."""
    opened: list[Token] = []
    for token in tokens:
        if token.type in CLOSER:
            opened.append(token)
            if len(opened) > DEEPEST:
                diagnostics.error(
                    "E105", f"more than {DEEPEST} brackets are open at once",
                    source.span(token.start_pos, token.end_pos),
                    help="give the inner parts names, with `let` or as a `pipeline`",
                )
                return Matched([])
        elif token.type in CLOSERS and (not opened or CLOSER[opened.pop().type] != token.type):
            break
    else:
        if not opened:
            return Matched(tokens)
    return _Matching(source, tokens, trials, diagnostics).run()


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that has tokens: by how much it is indented, and its tokens without the line end."""

    indent: int
    tokens: tuple[Token, ...]

    @property
    def first(self) -> Token:
        return self.tokens[0]

    @property
    def last(self) -> Token:
        return self.tokens[-1]


@dataclass(frozen=True, slots=True)
class _Open:
    """A bracket that is open: its token, the line it stands on, and how that is indented."""

    token: Token
    line: int
    indent: int

    @property
    def closer(self) -> str:
        return CLOSER[self.token.type]


class _Matching:
    """Goes through the lines of a file whose brackets do not match."""

    def __init__(self, source: Source, tokens: list[Token], trials: Trials, diagnostics: Diagnostics) -> None:
        self._source = source
        self._trials = trials
        self._diagnostics = diagnostics
        self._lines: list[_Line] = []
        self._ends: list[list[Token]] = []
        for token in tokens:
            if token.type == LINE_END and token.value != ";":
                if self._ends:
                    self._ends[-1].append(token)
            elif not self._ends or self._ends[-1]:
                self._lines.append(_Line(source.lines.at(token.start_pos)[1] - 1, (token,)))
                self._ends.append([])
            else:
                line = self._lines[-1]
                self._lines[-1] = _Line(line.indent, (*line.tokens, token))
        self._laid_out = self._is_laid_out()
        self._opened: list[_Open] = []
        self._out: list[Token] = []
        # Where in `_out` the tokens of each line end.
        self._marks: list[int] = []
        self._repairs = 0
        self._matched = Matched(self._out)

    def run(self) -> Matched:
        for number, line in enumerate(self._lines):
            if self._laid_out:
                self._line(number, line)
            else:
                self._swallow(line.tokens)
            self._marks.append(len(self._out))
            self._out += self._ends[number]
        while self._opened:
            self._close(None, reported=self._laid_out or len(self._opened) == 1)
        if not self._laid_out:
            # Nothing says where the bracket belongs, and so nothing else can be judged.
            del self._matched.stray[1:]
            self._matched.reported.append(self._source.span(0, len(self._source.text)))
        return self._matched

    def _is_laid_out(self) -> bool:
        """Whether what stands in a block is indented, and its end is not, as a rule."""
        pairs = list(zip(self._lines, self._lines[1:], strict=False))
        inner = [
            after.indent > before.indent
            for before, after in pairs if before.last.type in CLOSER and after.first.type not in CLOSERS
        ]
        ends = [
            before.indent > after.indent
            for before, after in pairs if after.first.type in CLOSERS and before.last.type not in CLOSER
        ]
        return sum(inner) >= 0.8 * len(inner) and sum(ends) >= 0.8 * len(ends)

    # ---- one line

    def _line(self, number: int, line: _Line) -> None:
        tokens = list(line.tokens)
        while self._opened and not self._may_hold(line):
            self._close(line.first)
        if line.first.type in CLOSERS and not self._leading(number, line):
            # It is too many, or has got an opener that stands above.
            tokens = tokens[1:]
        begun = len(line.tokens) - len(tokens)
        rest = tokens
        if not begun and line.first.type in CLOSERS:
            self._out.append(tokens[0])
            opener: _Open | None = self._opened.pop()
            rest = tokens[1:]
        else:
            opener = None
        wrong = self._wrong(number, line, rest)
        if not wrong:
            self._take(number, line, rest)
            return
        self._repair(number, line, rest, opener)

    def _may_hold(self, line: _Line) -> bool:
        """Whether the innermost open bracket may still be open where a line begins."""
        top = self._opened[-1]
        return line.indent > top.indent or (line.indent == top.indent and line.first.type in CLOSERS)

    def _leading(self, number: int, line: _Line) -> bool:
        """Whether the closing bracket at the beginning of a line closes the innermost open one."""
        token, top = line.first, self._opened[-1] if self._opened else None
        if top is not None and top.indent == line.indent:
            if top.closer == token.type:
                return True
            self._exchanged(top, token)
            return False
        after = self._lines[number + 1] if number + 1 < len(self._lines) else None
        if top is not None and top.closer == token.type and (after is None or after.indent <= top.indent):
            own = after is not None and after.indent == top.indent and after.first.type == top.closer
            outer = len(self._opened) > 1 and self._opened[-2].indent == top.indent
            if not own or outer:
                # It stands deeper than its opener's line, and closes it all the same.
                return True
        head = self._head(number, line)
        if head is None:
            self._matched.stray.append(token)
        else:
            self._open_above(head, token)
        return False

    def _head(self, number: int, line: _Line) -> int | None:
        """The line above whose block the line at `number` ends, where nothing has opened it."""
        at = number - 1
        while at >= 0 and self._lines[at].indent > line.indent:
            at -= 1
        if at < 0 or at == number - 1 or self._lines[at].indent != line.indent:
            return None
        kind = OPENER[line.first.type]
        head = (*self._lines[at].tokens, Token(kind, SIGN[kind]))
        return at if self._trials.fits(self._contexts(), head, opens=True) else None

    def _open_above(self, head: int, closer: Token) -> None:
        """Put the opener that is missing at the end of a line, and take the closer that ends its block."""
        last = self._lines[head].last
        kind = OPENER[closer.type]
        mark = self._marks[head]
        self._out.insert(mark, Token.at(kind, SIGN[kind], last.end_pos, last.end_pos))
        self._marks = [end + (number >= head) for number, end in enumerate(self._marks)]
        self._out.append(closer)
        place = self._source.span(last.end_pos, last.end_pos)
        self._report_missing(kind, place, "end of the line", closer)
        self._doubt(head)

    def _wrong(self, number: int, line: _Line, tokens: Sequence[Token]) -> bool:
        """Whether the brackets of a line do not leave what the next line is indented for."""
        after = self._lines[number + 1] if number + 1 < len(self._lines) else None
        stack, kept = list(self._opened), len(self._opened)
        for token, following in zip(tokens, [*tokens, None][1:], strict=True):
            if token.type in CLOSER:
                if token.type == "LBRACE" and following is not None and following.type == "LBRACE":
                    return True
                stack.append(_Open(token, number, line.indent))
            elif token.type in CLOSERS:
                if not stack or stack[-1].closer != token.type:
                    return True
                top = stack.pop()
                if len(stack) < kept:
                    kept = len(stack)
                    if not self._ends_here(top, stack, after):
                        return True
        if len(stack) == kept or after is None:
            return len(stack) > kept
        return after.indent <= line.indent and not (
            after.indent == line.indent and after.first.type == stack[-1].closer
        )

    @staticmethod
    def _ends_here(top: _Open, outer: Sequence[_Open], after: _Line | None) -> bool:
        """Whether a bracket of an earlier line may be closed inside a line, by what the line after it looks like."""
        if after is None:
            return True
        if after.indent > top.indent:
            return False
        own = after.indent == top.indent and after.first.type == top.closer
        return not own or bool(outer and outer[-1].indent == top.indent)

    def _take(self, number: int, line: _Line, tokens: Sequence[Token]) -> None:
        for token in tokens:
            if token.type in CLOSER:
                self._opened.append(_Open(token, number, line.indent))
            elif token.type in CLOSERS:
                self._opened.pop()
            self._out.append(token)

    # ---- a line with a slip

    def _repair(self, number: int, line: _Line, tokens: Sequence[Token], closed: _Open | None) -> None:
        """Find the one bracket with which the line is right, and report it."""
        after = self._lines[number + 1] if number + 1 < len(self._lines) else None
        opens = bool(tokens) and tokens[-1].type in CLOSER and after is not None and after.indent > line.indent
        self._repairs += 1
        found = self._found(number, tokens, closed, opens) if self._repairs <= _LINES else []
        if found:
            repair = found[0]
            self._report(repair, tokens, sure=len(found) == 1)
            self._take(number, line, repair.applied(tokens))
        else:
            self._swallow(tokens, only_own=True, opens=opens, number=number, indent=line.indent)
        self._doubt(number)

    def _found(
        self, number: int, tokens: Sequence[Token], closed: _Open | None, opens: bool
    ) -> list[Repair]:
        """The repairs with which the tokens are a line, the likeliest first."""
        contexts = self._contexts()
        before: list[Token] = []
        if closed is not None:
            below = "study" if contexts == ("study",) else "file" if contexts == ("file",) else "block"
            blocks = {"file": "STUDY NAME LBRACE RBRACE", "study": "STEPS LBRACE RBRACE"}
            before = [Token(kind, "") for kind in blocks.get(below, "NAME EQUAL NAME LBRACE RBRACE").split()]
            if closed.token.type != "LBRACE":
                before = [Token(kind, "") for kind in ("NAME", "EQUAL", "NAME", "LPAR", "RPAR")]
        elif number and goes_on(self._lines[number - 1].last):
            before = list(self._lines[number - 1].tokens)
        balanced = [repair for repair in repairs(tokens) if adds_up(repair.applied(tokens), opens)]
        balanced.sort(key=lambda repair: unlikely(self._source.text, tokens, repair))
        found: dict[tuple[str, ...], Repair] = {}
        for repair in balanced[:_TRIED]:
            repaired = repair.applied(tokens)
            kinds = tuple(token.type for token in repaired)
            if kinds not in found and (not repaired or self._trials.fits(contexts, [*before, *repaired], opens=opens)):
                found[kinds] = repair
        return list(found.values())

    def _contexts(self) -> tuple[str, ...]:
        """What a line may be, by the brackets around it."""
        if not self._opened:
            return ("file",)
        top = self._opened[-1]
        if top.token.type != "LBRACE":
            return ("call",) if top.token.type == "LPAR" else ("list",)
        head = self._lines[top.line].first.value
        if len(self._opened) > 1:
            return ("changes",) if head == "with" else ("block",)
        return (_HEADS[head],) if head in _HEADS else ("study", "declaration", "block")

    def _swallow(
        self, tokens: Sequence[Token], *, only_own: bool = False, opens: bool = False, number: int = 0, indent: int = 0
    ) -> None:
        """Take the tokens as they are: what closes nothing is stray, what is left open closes where it must."""
        kept = len(self._opened) if only_own else 0
        for token in tokens:
            if token.type in CLOSER:
                self._opened.append(_Open(token, number, indent))
            elif token.type in CLOSERS:
                if token.type not in [item.closer for item in self._opened[kept:]]:
                    self._matched.stray.append(token)
                    continue
                while self._opened[-1].closer != token.type:
                    self._close(token)
                self._opened.pop()
            elif token.value == ";" and not only_own:
                self._end_lists(tokens, token)
            self._out.append(token)
        if only_own:
            while len(self._opened) > kept + opens:
                self._close(None)

    def _end_lists(self, tokens: Sequence[Token], semicolon: Token) -> None:
        """Close the parentheses and lists that are open at a `;`: it ends a statement."""
        while self._opened and self._opened[-1].token.type != "LBRACE":
            self._close(semicolon)

    def _close(self, before: Token | None, *, reported: bool = True) -> None:
        """Put what closes the innermost bracket before the line ends that stand before a token, and report it."""
        opener = self._opened.pop().token
        at = len(self._out)
        if before is not None:
            while at and self._out[at - 1].type == LINE_END and self._out[at - 1].value == "\n":
                at -= 1
        place = self._out[at - 1].end_pos
        kind = CLOSER[opener.type]
        self._out.insert(at, Token.at(kind, SIGN[kind], place, place))
        if reported:
            self._report_open(opener, place)

    # ---- reports

    def _report(self, repair: Repair, tokens: Sequence[Token], *, sure: bool) -> None:
        removed, put, text = repair.removed, repair.put, self._source.text
        if put is None:
            assert removed is not None
            fix = Fix(self._source.span(removed.start_pos, removed.end_pos), "")
            if removed.type in CLOSERS:
                self._stray(removed, fix if sure else None)
            else:
                self._report_open(removed, None, fix if sure else None)
            return
        if removed is not None:
            self._report_exchanged(partner(repair.applied(tokens), repair.at), removed, put.value, sure=sure)
            return
        if put.type in CLOSERS:
            opener = partner(repair.applied(tokens), repair.at)
            at = put.start_pos
            fix = Fix(self._source.span(at, at), put.value)
            self._report_open(opener, at, fix if sure else None)
            return
        following = tokens[repair.at] if repair.at < len(tokens) else None
        repaired = repair.applied(tokens)
        closer = partner(repaired, repair.at)
        place = self._source.span(tokens[-1].end_pos, tokens[-1].end_pos)
        if following is not None:
            place = self._source.span(following.start_pos, following.end_pos)
        at = place.start
        space = " " if following is not None and put.type == "LBRACE" and text[closer.start_pos - 1] == " " else ""
        fix = Fix(self._source.span(at, at), put.value + space)
        what = f"`{following.value}`" if following is not None else "end of the line"
        self._report_missing(put.type, place, what, closer, fix if sure else None)

    def _full(self, at: int) -> bool:
        """Whether nothing is to be reported: there is too much, or a text that is not closed has taken a bracket."""
        line = self._source.lines.at(at)[0]
        return len(self._diagnostics.found) >= MOST or any(
            item.code == "E103" and self._source.lines.at(item.primary.span.start)[0] == line
            and item.primary.span.start > at
            for item in self._diagnostics.found
        )

    def _report_open(self, opener: Token, place: int | None, fix: Fix | None = None) -> None:
        if self._full(opener.start_pos):
            return
        labels: tuple[Label, ...] = ()
        if place is not None:
            sign = SIGN[CLOSER[opener.type]]
            labels = (Label(self._source.span(max(place - 1, 0), place), f"`{sign}` is missing after this"),)
        self._diagnostics.error(
            "E102", f"this `{opener.value}` is not closed", self._source.span(opener.start_pos, opener.end_pos),
            "opened here", labels=labels, fix=fix,
            help=None if place is not None else f"one `{opener.value}` is too many: take it away",
        )

    def _report_missing(self, kind: str, place: Span, what: str, closer: Token, fix: Fix | None = None) -> None:
        if self._full(place.start):
            return
        sign = SIGN[kind]
        where = "" if what == "end of the line" else " before this"
        closes = Label(self._source.span(closer.start_pos, closer.end_pos), "it would close this")
        self._diagnostics.error(
            "E101", f"unexpected {what}", place, f"expected `{sign}`{where}", labels=(closes,), fix=fix
        )

    def _stray(self, token: Token, fix: Fix | None = None) -> None:
        if self._full(token.start_pos):
            return
        self._diagnostics.error(
            "E101", f"unexpected `{token.value}`", self._source.span(token.start_pos, token.end_pos),
            "nothing is open here that it could close", fix=fix,
        )

    def _exchanged(self, top: _Open, token: Token) -> None:
        """Take a closing bracket for the one that is due."""
        self._opened.pop()
        sign = SIGN[top.closer]
        self._out.append(Token.at(top.closer, sign, token.start_pos, token.end_pos))
        self._report_exchanged(top.token, token, sign, sure=True)

    def _report_exchanged(self, opener: Token, token: Token, sign: str, *, sure: bool) -> None:
        if self._full(token.start_pos):
            return
        span = self._source.span(token.start_pos, token.end_pos)
        opened = Label(self._source.span(opener.start_pos, opener.end_pos), "opened here")
        self._diagnostics.error(
            "E101", f"unexpected `{token.value}`", span, f"expected `{sign}`", labels=(opened,),
            fix=Fix(span, sign) if sure else None,
        )

    def _doubt(self, number: int) -> None:
        line = self._lines[number]
        self._matched.reported.append(self._source.span(line.first.start_pos, line.last.end_pos))
