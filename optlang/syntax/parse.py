"""Text to tree, by Lark's parser for grammar/optlang.lark. What Lark saves of that parser ships as data.

`python -m optlang.syntax.parse` writes the table again after the grammar has changed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import lark
from lark import Lark, Tree
from lark.grammar import Rule
from lark.lexer import TerminalDef
from lark.parse_tree_builder import ParseTreeBuilder

from optlang import resources
from optlang.diagnostics.model import Diagnostic, Diagnostics, Fix, Span, TooMuchError
from optlang.syntax import brackets, build, recovery, tokens, tree, trials
from optlang.syntax.source import Source, decode, read

EDITION = 1
_OWN = frozenset({"E101", "E102", "E103", "E104", "E105"})
_GUESSED = frozenset({"`&", "`|"})
TABLE = resources.data("optlang.syntax", "table.json")
_MAKING = frozenset({"edit_terminals", "postlex", "strict"})


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file says, as far as it can be read.

    `file` is None where the rest cannot be read (not UTF-8, too large, too deep, another edition).
    `diagnostics` holds the problems found; where it has errors, parts of the text are not in the tree. `lost` are the
    words that stand in those parts: a reader of names should not call them unknown, nor anything missing that
    they may have said. `doubtful` are the lines that were repaired by a guess: whatever else looks wrong in them may
    be right in what was meant.
    """

    source: Source
    file: tree.File | None
    diagnostics: Diagnostics
    lost: frozenset[str] = frozenset()
    doubtful: tuple[Span, ...] = ()

    def unless_echo(self, item: Diagnostic) -> Diagnostic | None:
        """The problem; None where it is an echo of a mistake in the syntax, which is reported already."""
        span = item.primary.span
        missing = item.code == "E107" and span.file == self.source.file and self.diagnostics.failed
        doubts = any(doubt.file == span.file and doubt.start <= span.start < doubt.end for doubt in self.doubtful)
        return None if missing or (doubts and item.code not in _OWN) else item


def parse_file(path: Path, shown: str | None = None) -> Parsed:
    """Parse the file at `path`, called `shown` in messages; raises OSError where it cannot be read."""
    return parse_bytes(shown if shown is not None else str(path), read(path))


def parse_bytes(file: str, data: bytes) -> Parsed:
    """Parse what a file holds; bytes that are no text are E105."""
    diagnostics = Diagnostics()
    source = decode(file, data, diagnostics)
    return Parsed(source, None, diagnostics) if diagnostics.failed else parse(source, diagnostics)


def parse(source: Source, diagnostics: Diagnostics | None = None) -> Parsed:
    """Parse a text; never raises for what stands in it. Codes: E101 to E105."""
    diagnostics = diagnostics if diagnostics is not None else Diagnostics()
    language = _ready()
    parser = language.lark.parse_interactive(source.text)
    strange = Diagnostics()
    try:
        found = tokens.repaired(parser.lexer_thread.lex(parser.parser_state), source, strange)
    except TooMuchError as error:
        diagnostics.found += [*strange.found, error.problem]
        return Parsed(source, None, diagnostics)
    if not _edition(source, found, diagnostics):
        return Parsed(source, None, diagnostics)
    diagnostics.found += strange.found
    found = tokens.named(found)
    match = brackets.matched(source, found, trials.Trials(parser, language.keywords), diagnostics)
    if any(item.code == "E105" for item in diagnostics.found):
        return Parsed(source, None, diagnostics)
    found = tokens.statements(source, match.tokens, diagnostics)
    actions = build.Builder(source, diagnostics).actions()
    parser.parser_state.parse_conf.callbacks = language.trees.create_callback(actions)
    driver = recovery.Driver(parser, language.keywords, source, found, match.reported, diagnostics)
    try:
        file: tree.File = driver.run()
    except build.TooDeepError as error:
        diagnostics.error(
            "E105", f"this nests more than {build.DEEPEST} levels deep", error.span,
            help="give the inner parts names with `let`",
        )
        return Parsed(source, None, diagnostics)
    for token in match.stray:
        span = source.span(token.start_pos, token.end_pos)
        if not _left_behind(source, token, diagnostics):
            diagnostics.error("E101", f"unexpected `{token.value}`", span, "nothing is open here that it could close")
    # One `&` may have been any sign.
    signs = [item.primary.span for item in strange.found if item.message[-3:-1] in _GUESSED]
    driver.doubtful += [_line_of(source, span) for span in signs]
    return Parsed(source, file, diagnostics, frozenset(driver.lost), tuple(driver.doubtful))


def _left_behind(source: Source, token: tokens.Token, diagnostics: Diagnostics) -> bool:
    """Whether a bracket too many is what a mistake left: one on its line, or among those that it would have closed."""
    line, column = source.lines.at(token.start_pos)
    first = line
    if not source.lines.line(line)[: column - 1].strip():
        # The lines above that are indented deeper, and the one that would have opened the block.
        while first > 1 and _indent(source, first) >= (column - 1 if first == line else column):
            first -= 1
    start = source.lines.start(first)
    return any(start <= item.primary.span.start < token.start_pos for item in diagnostics.found)


def _indent(source: Source, line: int) -> int:
    text = source.lines.line(line)
    return len(text) - len(text.lstrip()) if text.strip() else len(source.text)


def _line_of(source: Source, span: Span) -> Span:
    line = source.lines.at(span.start)[0]
    return source.span(source.lines.start(line), source.lines.start(line) + len(source.lines.line(line)))


def keywords() -> frozenset[str]:
    """All words that the grammar gives a meaning somewhere."""
    return frozenset(_ready().keywords)


def lexed(source: Source) -> list[tokens.Token]:
    """The tokens of a text that has no mistakes, with those line ends that end a statement; comments are in between."""
    parser = _ready().lark.parse_interactive(source.text)
    ignored = Diagnostics()
    found = tokens.repaired(parser.lexer_thread.lex(parser.parser_state), source, ignored)
    return tokens.statements(source, tokens.named(found), ignored)


def _edition(source: Source, found: list[tokens.Token], diagnostics: Diagnostics) -> bool:
    """Check `optlang 1`; False where the rest is written in a language that is not known here."""
    words = list(islice((token for token in found if token.type != tokens.LINE_END), 2))
    first = words[0] if words else None
    if first is None or first.value != "optlang":
        end = first.end_pos if first is not None else 0
        diagnostics.error(
            "E104", "the file names no edition of the language", source.span(first.start_pos if first else 0, end),
            f"`optlang {EDITION}` stands before this" if first else "the file is empty",
            help=f"write `optlang {EDITION}` on the first line",
            fix=Fix(source.span(0, 0), f"optlang {EDITION}\n\n") if first else None,
        )
        return True
    number = words[1] if len(words) > 1 else first
    if number.type in ("NUMBER", "QUANTITY") and number.value != str(EDITION):
        diagnostics.error(
            "E104", f"edition `{number.value}` of the language is not known",
            source.span(number.start_pos, number.end_pos), f"this version of optlang reads edition {EDITION}",
            help=f"write `optlang {EDITION}`, or install the version of optlang that the file was written for",
        )
        return False
    return True


# ---- Lark's parser


@dataclass(frozen=True, slots=True)
class _Language:
    """Lark's parser for the grammar, what calls the builder's methods, and the terminals of words that are keywords."""

    lark: Lark
    trees: ParseTreeBuilder
    keywords: dict[str, str]


@cache
def _ready() -> _Language:
    grammar = (resources.grammar() / "optlang.lark").read_text(encoding="utf-8")
    try:
        table = json.loads(TABLE.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        # Absent or damaged: the grammar says the same, in a third of a second.
        table = {}
    if (table.get("grammar"), table.get("lark")) != (_hash(grammar), lark.__version__):
        table = make_table(grammar)
    return _loaded(table)


def _loaded(table: dict[str, Any]) -> _Language:
    parser = Lark.load(_numbered({"data": table["data"], "memo": table["memo"]}))
    keywords = {terminal.pattern.value: terminal.name for terminal in parser.terminals if _is_word(terminal)}
    return _Language(parser, ParseTreeBuilder(parser.rules, Tree), dict(sorted(keywords.items())))


def _numbered(value: Any) -> Any:
    """What Lark has saved, with the numbers for keys that JSON has made texts of."""
    if isinstance(value, dict):
        return {int(key) if str(key).isdecimal() else key: _numbered(item) for key, item in value.items()}
    return value


def _hash(grammar: str) -> str:
    return hashlib.sha256(grammar.replace("\r\n", "\n").encode()).hexdigest()


def _is_word(terminal: TerminalDef) -> bool:
    return terminal.pattern.type == "str" and terminal.pattern.value.isidentifier()


def _yield_to_names(terminal: TerminalDef) -> None:
    """A word is a keyword only where one fits, which the parser knows and the lexer does not."""
    if _is_word(terminal):
        terminal.priority = -1


class _Strays:
    """Has Lark's lexer keep the terminals that no rule has."""

    always_accept = tokens.STRAYS
    process = staticmethod(iter)


def make_table(grammar: str, *, strict: bool = False) -> dict[str, Any]:
    """What Lark saves of its parser for a grammar, as JSON; `strict` refuses conflicts and needs interegular."""
    made = Lark(
        grammar, parser="lalr", lexer="basic", strict=strict, keep_all_tokens=True, maybe_placeholders=False,
        edit_terminals=_yield_to_names, postlex=_Strays(),
    )
    data, memo = made.memo_serialize([TerminalDef, Rule])
    # What are functions is of use only while the table is made.
    data["options"] = {name: value for name, value in data["options"].items() if name not in _MAKING}
    return {
        "about": "made from grammar/optlang.lark by `python -m optlang.syntax.parse`; do not edit",
        "grammar": _hash(grammar),
        "lark": lark.__version__,
        "data": data,
        "memo": memo,
    }


def _write() -> None:
    grammar = (resources.grammar() / "optlang.lark").read_text(encoding="utf-8")
    TABLE.write_text(json.dumps(make_table(grammar), separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
