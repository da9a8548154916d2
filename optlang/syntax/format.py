"""The one layout of a file: spaces, columns, line breaks. Keeps the words, their order and the comments.

What the author decides: where a blank line stands, whether a block that fits on a line stands on one (a line end behind
its opening brace keeps it open), parentheses, and the spelling of numbers and texts. All else is decided here:

- two spaces a level, lines of at most 120 characters, one statement a line in a block that is open;
- sets of values are tight and have commas, `{a, b}`; blocks of steps and settings have room, `{ a; b }`;
- `=` and `in` of neighbouring lines form a column, and so do comments at their ends: a study is read by its columns.
  Declarations (`input`, `param`, `metric`) form none: they end in prose, and columns would push that out of sight;
- what is too long breaks from the outside to the inside: blocks first, then parentheses, then behind `and` and `or`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from optlang.diagnostics.model import Span
from optlang.syntax import tree
from optlang.syntax.layout import MARK, WIDTH, Doc, Fill, Group, Hard, Indent, Line, Pad, Prose, Trail, flat, lines_of
from optlang.syntax.parse import Parsed, lexed, parse
from optlang.syntax.source import Source
from optlang.syntax.tokens import LINE_END, Token

_CLOSER = {"{": "}", "(": ")", "[": "]"}
_CONTINUED = 4
"""How much deeper a statement goes on than it begins."""

_LOGIC = frozenset({"and", "or"})
_OPERATORS = frozenset({"+", "-", "*", "/", "==", "!=", "<=", ">=", "<", ">"})
_COMPARE = frozenset({"==", "!=", "<=", ">=", "<", ">"})
_NO_COLUMN = frozenset({"not", "in", "and", "or"})
_TOLD = frozenset({"input", "param", "metric"})
_GLUED = re.compile(r"#(?=\w)")


def format_text(parsed: Parsed) -> str:
    """The text of a file in its one layout, with the line ends that its first line has.

    `parsed` must be without errors. Formatting what was formatted changes nothing. Raises ValueError where the layout
    would say something else than the text, which is checked each time: a file is never changed for the worse.
    """
    source = parsed.source
    assert parsed.file is not None
    assert not parsed.diagnostics.failed
    facts = _Facts.of(parsed.file)
    file = _Reader(source, facts).file()
    lines = _aligned(lines_of(_Writer(facts).file(file)))
    text = "\n".join(lines).strip("\n") + "\n"
    again = parse(Source(source.file, text))
    if again.diagnostics.found or not _same(parsed.file, again.file):
        raise ValueError(f"{source.file}: the layout would change what the file says")
    ends = source.text.find("\n")
    return text.replace("\n", "\r\n") if ends > 0 and source.text[ends - 1] == "\r" else text


def _same(left: Any, right: Any) -> bool:
    """Whether two trees say the same, wherever it stands."""
    if isinstance(left, Span) or isinstance(right, Span):
        # A sign between spaces has a span, another one has none.
        return isinstance(left, Span | None) and isinstance(right, Span | None)
    if isinstance(left, tuple):
        return isinstance(right, tuple) and len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, tree.Node):
        names = [item.name for item in dataclasses.fields(left)]
        return type(left) is type(right) and all(_same(getattr(left, name), getattr(right, name)) for name in names)
    return bool(left == right)


# ---- what the tree knows of a bracket or a sign


@dataclass(slots=True)
class _Facts:
    """By offset: parentheses that hold a call's arguments, signs of negative numbers, braces of blocks and of sets, and
    what a declaration changes of the parameters of a group."""

    calls: set[int] = field(default_factory=set)
    negative: set[int] = field(default_factory=set)
    blocks: set[int] = field(default_factory=set)
    sets: set[int] = field(default_factory=set)
    changes: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, file: tree.File) -> _Facts:
        facts = cls()
        stack: list[tree.Node] = [file]
        while stack:
            node = stack.pop()
            match node:
                case tree.Call():
                    facts.calls.add(node.path.span.end)
                case tree.Unary(operator="-"):
                    facts.negative.add(node.span.start)
                case tree.Block() | tree.Changes():
                    facts.blocks.add(node.span.start)
                case tree.Member(options=tree.Block(span=span)) | tree.Let(value=tree.Block(span=span)):
                    facts.sets.add(span.start)
                case tree.Vary(domain=tree.Block(span=span)) | tree.Input(domain=tree.Block(span=span)):
                    facts.sets.add(span.start)
                case tree.Change():
                    facts.changes.add(node.span.start)
                    if isinstance(node.domain, tree.Block):
                        facts.sets.add(node.domain.span.start)
                case tree.Param(domain=tree.Block(span=span)) | tree.Repeat(count=tree.Block(span=span)):
                    facts.sets.add(span.start)
            stack.extend(_children(node))
        return facts


def _children(node: tree.Node) -> Iterator[tree.Node]:
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if isinstance(value, tree.Node):
            yield value
        elif isinstance(value, tuple):
            yield from (part for part in value if isinstance(part, tree.Node))


# ---- from tokens to brackets, statements and their comments


@dataclass(slots=True)
class _Comment:
    """A comment; `own` where it has its line for itself, `blank` where an empty line is before that."""

    text: str
    own: bool
    blank: bool


@dataclass(slots=True)
class _Word:
    """A token, and the comments right before it inside its statement."""

    text: str
    start: int
    end: int
    comments: tuple[_Comment, ...] = ()


@dataclass(slots=True)
class _Bracket:
    """What stands between two brackets: statements or arguments; `open` where a line ends behind the first one."""

    opener: _Word
    entries: list[_Entry] = field(default_factory=list)
    head: _Comment | None = None
    dangling: tuple[_Comment, ...] = ()
    open: bool = False

    @property
    def comments(self) -> tuple[_Comment, ...]:
        return self.opener.comments


@dataclass(slots=True)
class _Entry:
    """A statement or an argument, with the comments before it and at its end, and the sign that ends it."""

    lead: tuple[_Comment, ...]
    blank: bool
    items: list[_Word | _Bracket]
    sign: str = ""
    trail: list[_Comment] = field(default_factory=list)


@dataclass(slots=True)
class _Gap:
    """What stands between two tokens, apart from spaces."""

    comments: tuple[_Comment, ...]
    lines: int
    blank: bool


class _Reader:
    """Reads the tokens of a text that has no mistakes."""

    def __init__(self, source: Source, facts: _Facts) -> None:
        self._source = source
        self._facts = facts
        self._tokens = lexed(source)
        self._index = 0
        self._end = 0

    def file(self) -> _Bracket:
        """The whole file as if it stood between brackets."""
        whole = _Bracket(_Word("", 0, 0), open=True)
        self._entries(whole, commas=False)
        return whole

    def _peek(self) -> Token | None:
        return self._tokens[self._index] if self._index < len(self._tokens) else None

    def _gap(self, fresh: bool) -> _Gap:
        """What stands before the next token; `fresh` where the text before it ended its line."""
        token = self._peek()
        text = self._source.text[self._end : token.start_pos if token is not None else len(self._source.text)]
        comments: list[_Comment] = []
        own, lines, blank = fresh, 0, False
        for part in re.findall(r"#[^\n]*|\n", text):
            if part == "\n":
                blank = blank or own
                own = True
                lines += 1
            else:
                words = _GLUED.sub("# ", part.rstrip(), count=1) if _GLUED.match(part) else part.rstrip()
                comments.append(_Comment(words, own, blank))
                own = blank = False
        return _Gap(tuple(comments), lines, blank)

    def _take(self, comments: tuple[_Comment, ...] = ()) -> _Word:
        token = self._tokens[self._index]
        self._index += 1
        self._end = token.end_pos
        return _Word(token.value, token.start_pos, token.end_pos, comments)

    def _entries(self, bracket: _Bracket, *, commas: bool) -> None:
        """Read what stands up to the closing bracket or the end of the file; `commas` part the entries too."""
        closer = _CLOSER.get(bracket.opener.text, "")
        fresh = not closer
        while True:
            gap = self._gap(fresh)
            comments = gap.comments
            if comments and not comments[0].own:
                if bracket.entries:
                    bracket.entries[-1].trail.append(comments[0])
                else:
                    bracket.head = comments[0]
                comments = comments[1:]
            if not bracket.entries and gap.lines:
                bracket.open = True
            token = self._peek()
            if token is None or token.value == closer:
                bracket.dangling = comments
                return
            if token.type == LINE_END:
                # A line end of its own, behind a comma or another one: it parts nothing.
                fresh = self._take().text != ";"
                continue
            entry = _Entry(comments, gap.blank, [])
            bracket.entries.append(entry)
            fresh = self._statement(entry, closer, commas)

    def _statement(self, entry: _Entry, closer: str, commas: bool) -> bool:
        """Read a statement or an argument with the sign that ends it; True where its line ends too."""
        comments = entry.lead[:0]
        while True:
            token = self._peek()
            if token is None or token.value == closer:
                # What comes next are comments before the closing bracket.
                return False
            gap = self._gap(False)
            if token.type == LINE_END:
                entry.trail += gap.comments
                entry.sign = self._take().text
                return entry.sign != ";"
            if token.type == "COMMA" and commas:
                entry.trail += gap.comments
                entry.sign = self._take().text
                return False
            comments = gap.comments if entry.items else ()
            word = self._take(comments)
            if word.text in _CLOSER:
                bracket = _Bracket(word)
                self._entries(bracket, commas=word.text != "{" or word.start in self._facts.blocks)
                self._take()
                entry.items.append(bracket)
            else:
                entry.items.append(word)


# ---- from statements to a document


class _Writer:
    """Makes the document; nesting is counted to know which lines can stand in columns."""

    def __init__(self, facts: _Facts) -> None:
        self._facts = facts

    def file(self, whole: _Bracket) -> Doc:
        return self._lines(whole, 0, [])[1]

    # ---- brackets

    def _bracket(self, bracket: _Bracket, depth: int) -> Doc:
        if bracket.opener.text != "{":
            return self._listed(bracket, depth)
        if bracket.opener.start in self._facts.sets and self._is_set(bracket):
            return self._listed(bracket, depth)
        if not bracket.entries and bracket.head is None and not bracket.dangling:
            return "{}"
        pads: list[Pad] = []
        forced, body = self._lines(bracket, depth + 2, pads)
        edge = Line() if not forced else Hard()
        head: Doc = [Trail(bracket.head.text)] if bracket.head is not None else []
        return Group(["{", head, Indent([edge, body]), edge, "}"], broken=forced, pads=tuple(pads))

    def _is_set(self, bracket: _Bracket) -> bool:
        """Whether values stand between the braces, with commas."""
        plain = not any(self._is_step(item) for entry in bracket.entries for item in entry.items)
        if not plain or not bracket.entries:
            return plain and not bracket.open
        *others, last = bracket.entries
        commas = all(entry.sign == "," for entry in others) and last.sign in ("", ",", "\n")
        return commas and (bool(others) or last.sign == "," or not bracket.open)

    def _is_step(self, item: _Word | _Bracket) -> bool:
        """Whether a statement with this in it is no plain value."""
        if isinstance(item, _Word):
            return item.text in ("when", "=", "maybe", "repeat")
        return item.opener.text == "{" and item.opener.start not in self._facts.sets

    def _listed(self, bracket: _Bracket, depth: int) -> Doc:
        """Arguments, lists and sets: with commas, and nothing inside the brackets on one line."""
        opener, closer = bracket.opener.text, _CLOSER[bracket.opener.text]
        if not bracket.entries and bracket.head is None and not bracket.dangling:
            return opener + closer
        parts: list[Doc] = []
        for index, entry in enumerate(bracket.entries):
            comma = "," if index + 1 < len(bracket.entries) else ""
            parts.append([self._items(entry.items, depth + 2, {}), comma])
        noted = bracket.head is not None or bool(bracket.dangling) or any(
            entry.lead or entry.trail for entry in bracket.entries
        )
        if not noted:
            simple = all(len(entry.items) <= 2 for entry in bracket.entries)
            inner: Doc = Fill(tuple(parts), 0) if simple and opener != "(" else _joined(parts, Line())
            doc: Doc = [opener, Indent([Line(""), inner]), Line(""), closer]
            return Group(doc, broken=flat(doc) is None)
        rows: list[Doc] = []
        for part, entry in zip(parts, bracket.entries, strict=True):
            rows += [[Hard(), comment.text] for comment in entry.lead]
            rows += [Hard(), part]
            rows += _trails(entry.trail)
        rows += [[Hard(), comment.text] for comment in bracket.dangling]
        head: Doc = [Trail(bracket.head.text)] if bracket.head is not None else []
        return Group([opener, head, Indent(rows), Hard(), closer], broken=True)

    def _lines(self, bracket: _Bracket, depth: int, pads: list[Pad]) -> tuple[bool, Doc]:
        """The statements between two braces, or of a file: whether each must have its line, and the document."""
        entries = bracket.entries
        top = not bracket.opener.text
        block = bracket.opener.start in self._facts.blocks and not top
        forced = bracket.open or not block or bracket.head is not None or bool(bracket.dangling)
        forced = forced or any(entry.lead or entry.trail for entry in entries)
        columns = [dict.fromkeys(_column(entry, block)) for entry in entries]
        made = [{index: Pad() for index in column} for column in columns]
        prose = [self._ends_in_prose(entry, depth, bracket.open) for entry in entries]
        forced = forced or any(prose)
        docs = [
            self._statement(entry, depth, pad, prose=long)
            for entry, pad, long in zip(entries, made, prose, strict=True)
        ]
        texts = [flat(doc) for doc in docs]
        single = [text is not None and depth + len(text) <= WIDTH for text in texts]
        self._align(entries, made, texts, single, depth)
        pads.extend(pad for row in made for pad in row.values())
        if forced:
            for pad in pads:
                pad.active = True
        forced = forced or any(text is None for text in texts)
        out: list[Doc] = []
        for index, (entry, doc) in enumerate(zip(entries, docs, strict=True)):
            if index:
                apart = top and ((index == 1 and _is_edition(entries[0])) or not (single[index] and single[index - 1]))
                lead_blank = entry.lead[0].blank if entry.lead else entry.blank
                blank = (lead_blank or apart) and not _is_reason(entry)
                before = entries[index - 1]
                # A line that began with a minus would go on with the one before.
                comma = "," if block and _begins(entry) == "-" and not before.trail else ""
                out.append(Hard(blank) if forced else Line("; ", comma))
                if forced and comma:
                    out.insert(len(out) - 1, ",")
            for at, comment in enumerate(entry.lead):
                following = entry.lead[at + 1].blank if at + 1 < len(entry.lead) else entry.blank
                out += [comment.text, Hard(following)]
            reason = _is_reason(entry)
            out.append(Indent([Hard(), doc]) if reason and index else doc)
            if reason and index:
                del out[-2]
            out += _trails(entry.trail)
        for at, comment in enumerate(bracket.dangling):
            out += [Hard(comment.blank) if at or entries else [], comment.text]
        return forced, out

    # ---- statements

    def _ends_in_prose(self, entry: _Entry, depth: int, is_open: bool) -> bool:
        """Whether a statement ends in a help text that may be as long as it is."""
        first, last = entry.items[0], entry.items[-1]
        if not _text(last).startswith('"') or last.comments:
            return False
        if _text(first) in _TOLD:
            return True
        if not isinstance(first, _Word) or first.start not in self._facts.changes:
            return False
        line = flat(self._items(entry.items, depth, {}))
        return is_open or line is None or depth + len(line) > WIDTH

    def _statement(self, entry: _Entry, depth: int, pads: dict[int, Pad], *, prose: bool) -> Doc:
        items = entry.items
        if prose:
            return [self._items(items[:-1], depth, pads), " ", Prose(_text(items[-1]))]
        at = next((index for index, item in enumerate(items) if index and _text(item) == "because"), None)
        if at is None or _text(items[0]) not in ("forbid", "require") or at + 2 != len(items):
            return self._items(items, depth, pads)
        # The reason goes to a line of its own where the whole is too long for one.
        return Group([self._items(items[:at], depth, pads), Indent([Line(), self._items(items[at:], depth, {})])])

    def _items(self, items: Sequence[_Word | _Bracket], depth: int, pads: dict[int, Pad]) -> Doc:
        """Words and brackets in a row, with what may end a line between them."""
        texts = [_text(item) for item in items]
        if any(text in _LOGIC for text in texts):
            breaks = [text in _LOGIC for text in texts]
        else:
            breaks = [self._is_operator(item) for item in items]
        chunks: list[list[Doc]] = [[]]
        deep = [True]
        for index, item in enumerate(items):
            before = items[index - 1] if index else None
            begins = before is not None and (breaks[index - 1] or _text(before) == ",")
            if begins and not item.comments:
                chunks.append([])
                deep.append(True)
            elif before is not None:
                chunks[-1].append(self._space(before, item))
            if index in pads:
                chunks[-1].append(pads[index])
            for comment in item.comments:
                chunks[-1] += [Indent(Indent(Hard())) if comment.own else [], comment.text if comment.own
                               else Trail(comment.text)]
            if item.comments:
                chunks[-1].append(Indent(Indent(Hard())))
            if isinstance(item, _Bracket):
                chunks[-1].append(self._bracket(item, depth))
                deep[-1] = deep[-1] and item.opener.text != "{"
            else:
                chunks[-1].append(item.text)
        return Fill(tuple(chunks), _CONTINUED, tuple(deep)) if len(chunks) > 1 else chunks[0]

    def _is_operator(self, item: _Word | _Bracket) -> bool:
        return isinstance(item, _Word) and item.text in _OPERATORS and item.start not in self._facts.negative

    def _space(self, before: _Word | _Bracket, item: _Word | _Bracket) -> str:
        left, right = _text(before), _text(item)
        negative = isinstance(before, _Word) and before.start in self._facts.negative
        if right in (",", ":", ".") or left == "." or negative:
            return ""
        return "" if isinstance(item, _Bracket) and right == "(" and _end(before) in self._facts.calls else " "

    def _align(
        self, entries: Sequence[_Entry], made: Sequence[dict[int, Pad]], texts: Sequence[str | None],
        single: Sequence[bool], depth: int,
    ) -> None:
        """Give neighbouring statements of one kind, each on its line, their columns."""
        start = 0
        while start < len(entries):
            end = start + 1
            kind = _kind(entries[start]) if made[start] and single[start] else None
            while (
                kind is not None and end < len(entries) and single[end] and made[end]
                and _kind(entries[end]) == kind and not _parted(entries[end])
            ):
                end += 1
            if kind is not None and end - start > 1:
                _set_columns(entries[start:end], made[start:end], texts[start:end], depth)
            start = end


def _set_columns(
    entries: Sequence[_Entry], made: Sequence[dict[int, Pad]], texts: Sequence[str | None], depth: int
) -> None:
    """Set the pads of a run of statements, unless a line would then be too long."""
    rows = [list(row.items()) for row in made]
    totals = [depth + len(text or "") for text in texts]
    widths: list[list[int]] = [[] for _ in rows]
    for column in range(min(map(len, rows))):
        lengths = [_length(entry, row[column - 1][0] if column else 0, row[column][0])
                   for entry, row in zip(entries, rows, strict=True)]
        for index, length in enumerate(lengths):
            widths[index].append(max(lengths) - length)
    if any(total + sum(width) > WIDTH for total, width in zip(totals, widths, strict=True)):
        return
    for row, width in zip(rows, widths, strict=True):
        for (_, pad), spaces in zip(row, width, strict=False):
            pad.width = spaces


def _length(entry: _Entry, start: int, end: int) -> int:
    """How long the words from `start` to before `end` are; no sign that is set apart is among them but dots."""
    words = [_text(item) for item in entry.items[start:end]]
    return sum(map(len, words)) + sum(
        1 for left, right in pairwise(words) if "." not in (left, right) and right != ":"
    )


def _column(entry: _Entry, block: bool) -> tuple[int, ...]:
    """The indexes of the words of a statement that stand in columns."""
    texts = [_text(item) for item in entry.items]
    if any(item.comments for item in entry.items):
        return ()
    if block:
        return (1,) if len(texts) > 2 and texts[1] in ("=", "in") else ()
    if texts[0] in ("model", "data") and len(texts) > 3 and texts[2] == "=":
        return (1, 2)
    if texts[0] == "let" and len(texts) > 3:
        return (2,)
    if texts[0] == "require" and not any(text in _NO_COLUMN for text in texts):
        found = [index for index, text in enumerate(texts) if text in _COMPARE]
        simple = len(found) == 1 and all(isinstance(item, _Word) and (item.text == "." or item.text.isidentifier())
                                         for item in entry.items[: found[0]])
        return (found[0],) if simple else ()
    return ()


def _kind(entry: _Entry) -> str:
    first = _text(entry.items[0])
    return first if first in ("let", "require") and _text(entry.items[1]) != "=" else "fix"


def _parted(entry: _Entry) -> bool:
    return entry.blank or any(comment.blank for comment in entry.lead)


def _text(item: _Word | _Bracket) -> str:
    return item.text if isinstance(item, _Word) else item.opener.text


def _end(item: _Word | _Bracket) -> int:
    return item.end if isinstance(item, _Word) else -1


def _begins(entry: _Entry) -> str:
    return _text(entry.items[0])


def _is_edition(entry: _Entry) -> bool:
    return _begins(entry) == "optlang" and len(entry.items) == 2


def _is_reason(entry: _Entry) -> bool:
    """Whether a reason stands on its own line, below its rule."""
    return _begins(entry) == "because" and len(entry.items) == 2 and _text(entry.items[1]).startswith('"')


def _joined(parts: Sequence[Doc], between: Doc) -> Doc:
    out: list[Doc] = []
    for index, part in enumerate(parts):
        out += [between, part] if index else [part]
    return out


def _trails(comments: Sequence[_Comment]) -> list[Doc]:
    """Comments behind a statement: the first at the end of its line, any further ones below."""
    return [Trail(comment.text) if not index else [Hard(), comment.text] for index, comment in enumerate(comments)]


# ---- comments at the ends of lines


def _aligned(lines: Sequence[str]) -> list[str]:
    """The lines with their comments two spaces behind the text, of neighbours in one column unless that is too far."""
    out: list[str] = []
    run: list[tuple[str, str]] = []
    for line in [*lines, ""]:
        text, mark, comment = line.partition(MARK)
        if mark:
            run.append((text.rstrip(), comment))
            continue
        column = max((len(code) for code, _ in run), default=0)
        near = all(column + 2 + len(words) <= WIDTH for _, words in run)
        out += [f"{code:<{column if near else 0}}  {words}" for code, words in run]
        run = []
        out.append(line)
    return out[:-1]
