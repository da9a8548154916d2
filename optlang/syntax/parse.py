"""Text to tree. The parser's table is made by Lark from grammar/optlang.lark, ships as data, and needs no Lark to run.

`python -m optlang.syntax.parse` writes the table again after the grammar has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from optlang import resources
from optlang.diagnostics import Diagnostic, Diagnostics, Span
from optlang.syntax import build, lalr, tokens, tree
from optlang.syntax.source import Source, decode

EDITION = 1
_OWN = frozenset({"E101", "E102", "E103", "E104", "E105"})
TABLE = Path(__file__).with_name("table.json")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file says, as far as it can be read.

    `file` is None where nothing can be said about the rest (not UTF-8, too large, too deep, another edition).
    `diagnostics` holds the problems found; where it has errors, parts of the text are not in the tree. `lost` are the
    words that stand in those parts: whoever looks for names should not call them unknown, nor anything missing that
    they may have said. `doubtful` are the lines that were mended by a guess: what looks wrong in them besides may
    be right in what was meant.
    """

    source: Source
    file: tree.File | None
    diagnostics: Diagnostics
    lost: frozenset[str] = frozenset()
    doubtful: tuple[Span, ...] = ()

    def sound(self, found: Iterable[Diagnostic]) -> list[Diagnostic]:
        """The problems without those that are echoes of a mistake in the syntax, so that each is told once."""
        return [item for item in found if item.code in _OWN or not self._is_echo(item)]

    def _is_echo(self, item: Diagnostic) -> bool:
        place = item.primary.span
        if item.code == "E107" and place.file == self.source.file and self.diagnostics.failed:
            return True
        return any(doubt.file == place.file and doubt.start <= place.start < doubt.end for doubt in self.doubtful)


def parse_file(path: Path, shown: str | None = None) -> Parsed:
    """Parse the file at `path`, called `shown` in messages; raises OSError where it cannot be read."""
    return parse_bytes(shown if shown is not None else str(path), path.read_bytes())


def parse_bytes(file: str, data: bytes) -> Parsed:
    """Parse what a file holds; bytes that are no text are E105."""
    diagnostics = Diagnostics()
    source = decode(file, data, diagnostics)
    return Parsed(source, None, diagnostics) if diagnostics.failed else parse(source, diagnostics)


def parse(source: Source, diagnostics: Diagnostics | None = None) -> Parsed:
    """Parse a text; never raises for what stands in it. Codes: E101 to E105."""
    diagnostics = diagnostics if diagnostics is not None else Diagnostics()
    table, scanner = _ready()
    strange = Diagnostics()
    found = scanner.scan(source, strange)
    if not _edition(source, found, diagnostics):
        return Parsed(source, None, diagnostics)
    diagnostics.found += strange.found
    found, stray = tokens.matched(source, found, diagnostics)
    if any(item.code == "E105" for item in diagnostics.found):
        return Parsed(source, None, diagnostics)
    found = tokens.statements(source, found, diagnostics)
    driver = lalr.Driver(table, source, found, build.Builder(source, diagnostics).actions(), diagnostics)
    try:
        file: tree.File = driver.run()
    except build.TooDeepError as error:
        diagnostics.error(
            "E105", f"this nests more than {build.DEEPEST} levels deep", error.span,
            help="give the inner parts names with `let`",
        )
        return Parsed(source, None, diagnostics)
    for token in stray:
        # A bracket too many is often what a mistake before it left behind.
        if not any(item.severity == "error" and item.primary.span.start < token.start for item in diagnostics.found):
            span = source.span(token.start, token.end)
            diagnostics.error("E101", f"unexpected `{token.text}`", span, "nothing is open here that it could close")
    return Parsed(source, file, diagnostics, frozenset(driver.lost), tuple(driver.doubtful))


def _edition(source: Source, found: list[tokens.Token], diagnostics: Diagnostics) -> bool:
    """Check `optlang 1`; False where the rest is written in a language that is not known here."""
    words = list(islice((token for token in found if token.kind != tokens.LINE_END), 2))
    first = words[0] if words else None
    if first is None or first.text != "optlang":
        end = first.end if first is not None else 0
        diagnostics.error(
            "E104", "the file names no edition of the language", source.span(first.start if first else 0, end),
            f"`optlang {EDITION}` stands before this" if first else "the file is empty",
            help=f"write `optlang {EDITION}` on the first line",
        )
        return True
    number = words[1] if len(words) > 1 else first
    if number.kind in ("NUMBER", "QUANTITY") and number.text != str(EDITION):
        diagnostics.error(
            "E104", f"edition `{number.text}` of the language is not known", source.span(number.start, number.end),
            f"this version of optlang reads edition {EDITION}",
            help=f"write `optlang {EDITION}`, or install the version of optlang that the file was written for",
        )
        return False
    return True


# ---- the table


@cache
def _ready() -> tuple[lalr.Table, tokens.Scanner]:
    grammar = (resources.grammar() / "optlang.lark").read_text(encoding="utf-8")
    try:
        data = json.loads(TABLE.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        # Absent or damaged: the grammar says the same, in a third of a second.
        data = {}
    if data.get("grammar") != _hash(grammar):
        data = make_table(grammar)
    rules = [lalr.Rule(*rule) for rule in data["rules"]]
    table = lalr.Table(data["states"], rules, data["keywords"], data["start"], data["end"])
    return table, tokens.Scanner(data["terminals"], data["ignored"])


def _hash(grammar: str) -> str:
    return hashlib.sha256(grammar.replace("\r\n", "\n").encode()).hexdigest()


def make_table(grammar: str, *, strict: bool = False) -> dict[str, Any]:
    """The LALR(1) table of a grammar in Lark's notation, as JSON; `strict` refuses conflicts and needs interegular."""
    import lark
    from lark.parsers.lalr_analysis import Shift

    parser = lark.Lark(grammar, parser="lalr", strict=strict, maybe_placeholders=False)
    built = parser.parser.parser._parse_table
    numbers = {rule: index for index, rule in enumerate(parser.rules)}
    # Lark numbers states in an order that differs from run to run; ours follows from the grammar alone.
    order, states = {built.start_states["start"]: 0}, []
    for state in (queue := [built.start_states["start"]]):
        row: dict[str, int] = {}
        for symbol, (action, target) in sorted(built.states[state].items()):
            if action is Shift:
                if target not in order:
                    order[target] = len(order)
                    queue.append(target)
                row[symbol] = order[target]
            else:
                row[symbol] = -1 - numbers[target]
        states.append(row)
    ordered = sorted(
        parser.terminals, key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name)
    )
    words = {t.pattern.value: t.name for t in ordered if t.pattern.type == "str" and t.pattern.value.isalpha()}
    return {
        "about": "made from grammar/optlang.lark by `python -m optlang.syntax.parse`; do not edit",
        "grammar": _hash(grammar),
        "lark": lark.__version__,
        "start": 0,
        "end": order[built.end_states["start"]],
        "terminals": [[t.name, t.pattern.to_regexp()] for t in ordered if t.name not in words.values()],
        "ignored": sorted(parser.ignore_tokens),
        "keywords": dict(sorted(words.items())),
        "rules": [[rule.origin.name, len(rule.expansion), _action(rule)] for rule in parser.rules],
        "states": states,
    }


def _action(rule: Any) -> str | None:
    """The action of one of Lark's rules: none where its name begins with an underscore."""
    name: str = rule.origin.name
    return None if name.startswith("_") else rule.alias or name


def _write() -> None:
    grammar = (resources.grammar() / "optlang.lark").read_text(encoding="utf-8")
    TABLE.write_text(json.dumps(make_table(grammar), separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
