"""Writes the grammar as a page to be read: Lark's notation as EBNF, without what is for the parser alone."""

from __future__ import annotations

import re

from optlang import resources

_MADE = "<!-- Made by `python -m tools.reference docs`: do not edit. -->"
_INTRODUCTION = """\
[The language](../language.md): grammar. Made from [optlang.lark](../../grammar/optlang.lark), which the parser reads.

`"word"` stands as it is written; `x?` is there or not, `x*` many times or none, `x | y` one of the two. `END` is a line
end or `;`. A word in quotes is a keyword only where it fits; elsewhere it is a NAME like any other, apart from those
that [name nothing](files.md#names). [Where line ends do not count](files.md#comments-and-where-a-statement-ends).
"""
_TERMINALS = ("NAME", "NUMBER", "QUANTITY", "STRING", "COMPARE")


def grammar_page() -> str:
    """`docs/language/grammar.md`: all rules in the order of the grammar, under the headings that its comments give."""
    text = (resources.grammar() / "optlang.lark").read_text(encoding="utf-8")
    lines = ["# Grammar", "", _MADE, "", _INTRODUCTION]
    for title, rules in _parts(text):
        lines += [f"## {title[0].upper()}{title[1:]}", "", "```text", *rules, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _parts(text: str) -> list[tuple[str, list[str]]]:
    """The grammar's parts: heading and rules, each with its alternatives on lines of their own."""
    parts: list[tuple[str, list[str]]] = [("a file", [])]
    for line in text.partition("OPEN_TEXT")[0].splitlines():
        if line.startswith("// ---- "):
            parts.append((line.removeprefix("// ---- ").partition(":")[0], []))
        elif line.strip() and not line.startswith(("//", "%")):
            parts[-1][1].extend(_written(line))
    return [(title, rules) for title, rules in parts if rules]


def _written(line: str) -> list[str]:
    """One line of the grammar as EBNF; none for terminals that only the lexer needs."""
    name = re.match(r"[?_]?(\w+)(?:\.-?\d+)?:", line)
    if name is None:
        return [f"{'':12} {_body(line.strip())}"]
    if name[0].startswith("_NL") or (name[1].isupper() and name[1] not in _TERMINALS):
        return []
    body = line[name.end() :].strip()
    return [f"{name[1]:12} = {body.strip('/') if body.startswith('/') else _body(body)}"]


def _body(text: str) -> str:
    """The right side of a rule: what may be absent as `?`, no names of nodes, no marks of inlined rules."""
    pieces = re.split(r'("[^"]*")', text.partition(" ->")[0].rstrip())
    for index in range(0, len(pieces), 2):
        piece = re.sub(r"\b_NL\b", "END", pieces[index])
        piece = re.sub(r"\bRANGE\b", '".."', piece)
        piece = re.sub(r"(?<![\w])_([a-z])", r"\1", piece)
        pieces[index] = piece.replace("[", "(").replace("]", ")?")
    return re.sub(r"\((\w+)\)\?", r"\1?", "".join(pieces))
