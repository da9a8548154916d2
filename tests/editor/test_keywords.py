"""What editors colour by: every word and unit of the language is known, and every shipped file is coloured whole."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, String, Token

from optlang.editor import keywords
from optlang.editor.lexer import OptlangLexer
from optlang.plan.units import UNITS
from optlang.syntax import parse
from optlang.syntax.source import Source
from tools import textmate

ROOT = Path(__file__).parents[2]
FOLDERS = ("studies", "stdlib", "benchmarks/curves", "benchmarks/tradeoffs", "tests/fixtures/ok")
SHIPPED = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.opt"))
EXTENSION = ROOT / "editors" / "vscode"


def colored(text: str) -> Iterator[tuple[int, str, str]]:
    """Offset, scope and text of what the TextMate grammar finds, as an editor goes: a line at a time, the earliest."""
    patterns = textmate.grammar()["patterns"]
    offset = 0
    for line in text.split("\n"):
        at = 0
        while at < len(line):
            found = [(match.start(), index) for index, pattern in enumerate(patterns)
                     if (match := re.compile(pattern.get("match") or pattern["begin"]).search(line, at))]
            if not found:
                break
            _, index = min(found)
            pattern = patterns[index]
            match = re.compile(pattern.get("match") or pattern["begin"]).search(line, at)
            assert match is not None
            end = match.end()
            if "begin" in pattern:
                inner = re.compile("|".join(item["match"] for item in pattern["patterns"]))
                while (closing := re.compile(pattern["end"]).search(line, end)) is not None:
                    escape = inner.search(line, end)
                    if escape is None or escape.start() >= closing.start():
                        end = closing.end()
                        break
                    end = escape.end()
            space = len(match[0]) - len(match[0].lstrip(" :"))
            yield offset + match.start() + space, pattern.get("name", "storage.type"), line[match.start() + space : end]
            at = max(end, at + 1)
        offset += len(line) + 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_coloured_as_the_grammar_reads_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    scopes = {start: (scope, part) for start, scope, part in colored(text)}
    assert not [found for found in scopes.values() if found[0].startswith("invalid")]
    pygments = {start: (kind, part) for start, kind, part in OptlangLexer().get_tokens_unprocessed(text)}
    assert not [found for found in pygments.values() if found[0] is Error]
    for token in parse.lexed(Source("t", text)):
        if token.type == "STRING":
            assert scopes[token.start_pos] == ("string.quoted.double.optlang", token.value)
            assert pygments[token.start_pos][0] in String
        elif token.type in ("NUMBER", "QUANTITY"):
            assert scopes[token.start_pos][0].startswith("constant.numeric")
            assert scopes[token.start_pos][1] == token.value
            assert pygments[token.start_pos][0] in Number
        elif token.type == "NAME":
            assert scopes[token.start_pos][1] == pygments[token.start_pos][1] == token.value
    for line in re.finditer(r"^#.*$", text, re.MULTILINE):
        assert scopes[line.start()] == ("comment.line.number-sign.optlang", line[0])
        assert pygments[line.start()][0] in Comment


def test_every_word_of_the_grammar_has_its_kind() -> None:
    known = {*keywords.CONSTANTS, *keywords.LOGIC, *keywords.FLOW, *keywords.INSIDE, *keywords.FIRST}
    assert parse.keywords() | {"none"} == known
    for word in keywords.FIRST:
        line = f"  {word} thing {{"
        assert next(colored(line))[1].startswith("keyword"), word
        assert (2, Keyword.Declaration, word) in list(OptlangLexer().get_tokens_unprocessed(line)), word
        assert next(colored(f"  {word} = 3"))[1] == "variable.parameter.optlang", word
        assert (2, Name.Attribute, word) in list(OptlangLexer().get_tokens_unprocessed(f"  {word} = 3")), word


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_is_coloured_and_no_other(unit: str) -> None:
    assert [part for _, scope, part in colored(f"x = 2.5{unit}") if scope == "constant.numeric.quantity.optlang"]
    assert (7, Keyword.Type, unit) in list(OptlangLexer().get_tokens_unprocessed(f"x = 2.5{unit}"))
    assert any(scope.startswith("invalid") for _, scope, _ in colored(f"x = 2{unit}q"))
    assert Error in {kind for _, kind, _ in OptlangLexer().get_tokens_unprocessed(f"x = 2{unit}q")}


def test_signs_of_other_languages_are_errors() -> None:
    for text in ("a && b", "a ! b", "x = 'y'"):
        assert any(scope.startswith("invalid") for _, scope, _ in colored(text))
        assert Error in {kind for _, kind, _ in OptlangLexer().get_tokens_unprocessed(text)}


def test_all_text_comes_back() -> None:
    text = (ROOT / "studies" / "digits.opt").read_text()
    assert "".join(part for _, part in OptlangLexer().get_tokens(text)) == text
    assert Operator.Word in Token.Operator


def test_the_grammar_files_are_fresh() -> None:
    for place in (ROOT / "grammar" / textmate.NAME, EXTENSION / "syntaxes" / textmate.NAME):
        assert place in textmate.places()
        assert place.read_text(encoding="utf-8") == textmate.text()


def test_pygments_finds_the_lexer_by_the_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pygments.lexers"] == {
        "optlang": f"{OptlangLexer.__module__}:{OptlangLexer.__name__}"
    }


def test_the_extension_has_what_packaging_demands() -> None:
    package = json.loads((EXTENSION / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", package["name"])
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", package["publisher"])
    assert package["version"] == project["version"]
    assert package["license"] == project["license"]
    assert re.fullmatch(r"\^\d+\.\d+\.\d+", package["engines"]["vscode"])
    language, grammar = package["contributes"]["languages"][0], package["contributes"]["grammars"][0]
    assert grammar["language"] == language["id"]
    assert grammar["scopeName"] == textmate.grammar()["scopeName"]
    for name in (language["configuration"], grammar["path"], "README.md", "LICENSE"):
        assert (EXTENSION / name).is_file()
    json.loads((EXTENSION / language["configuration"]).read_text())


def test_a_reserved_word_that_names_an_argument_is_coloured_as_one() -> None:
    found = [(scope, part) for _, scope, part in colored("data d = own.data(repeat = false, step = 3, a == true)")]
    assert ("variable.parameter.optlang", "repeat") in found
    assert ("variable.parameter.optlang", "step") in found
    assert ("constant.language.optlang", "true") in found
    tokens = [(kind, part) for kind, part in OptlangLexer().get_tokens("own.data(repeat = false)")]
    assert (Keyword, "repeat") not in tokens
    assert (Keyword.Constant, "false") in tokens
