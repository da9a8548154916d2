"""The TextMate grammar, which VS Code, Sublime Text, TextMate and GitHub colour the language by.

`python -m tools.textmate` writes it again after the language's words have changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optlang import resources
from optlang.editor import keywords

NAME = "optlang.tmLanguage.json"


def grammar() -> dict[str, Any]:
    """The grammar as JSON, see https://macromates.com/manual/en/language_grammars; the patterns are tried in order."""
    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "comment": "made from the language by `python -m tools.textmate`; do not edit",
        "name": "optlang",
        "scopeName": "source.optlang",
        "fileTypes": ["opt"],
        "patterns": [
            {"name": "comment.line.number-sign.optlang", "match": "#.*$"},
            {
                "name": "string.quoted.double.optlang", "begin": '"', "end": '"|$',
                "patterns": [
                    {"name": "constant.character.escape.optlang", "match": r'\\[nt"\\]'},
                    {"name": "invalid.illegal.escape.optlang", "match": r"\\."},
                ],
            },
            {"name": "constant.numeric.quantity.optlang",
             "match": f"(?<![A-Za-z0-9_]){keywords.NUMBER}({keywords.UNIT})",
             "captures": {"1": {"name": "keyword.other.unit.optlang"}}},
            {"name": "constant.numeric.optlang", "match": f"(?<![A-Za-z0-9_]){keywords.NUMBER}(?![A-Za-z0-9_%])"},
            {"name": "invalid.illegal.unit.optlang", "match": f"(?<![A-Za-z0-9_]){keywords.NUMBER}[A-Za-z0-9_%]+"},
            _words("constant.language.optlang", keywords.CONSTANTS),
            _words("keyword.operator.logical.optlang", keywords.LOGIC),
            _words("keyword.control.optlang", keywords.FLOW),
            {"name": "keyword.declaration.optlang",
             "match": rf"(?:^|(?<=[{{;]))(\s*)({keywords.any_of(keywords.FIRST)}){keywords.BEFORE_A_NAME}"},
            {"match": rf":\s*({keywords.any_of(keywords.TYPE_NAMES)})",
             "captures": {"1": {"name": "storage.type.optlang"}}},
            {"name": "keyword.other.optlang",
             "match": rf"(?<=\s){keywords.any_of(keywords.INSIDE)}(?=\s+[A-Za-z_\"{{]|\s*$)(?!\s+in\b)"},
            {"name": "entity.name.function.optlang", "match": rf"\b{keywords.NAME}(?=\()"},
            {"name": "variable.parameter.optlang", "match": rf"\b{keywords.NAME}(?=\s*(?:=(?!=)|in\b))"},
            {"name": "variable.other.optlang", "match": rf"\b{keywords.NAME}"},
            {"name": "keyword.operator.optlang", "match": keywords.OPERATOR},
            {"name": "punctuation.optlang", "match": r"[{}()\[\],;:.]"},
            {"name": "invalid.illegal.optlang", "match": r"\S"},
        ],
    }


def _words(scope: str, some: tuple[str, ...]) -> dict[str, str]:
    return {"name": scope, "match": keywords.reserved(some)}


def text() -> str:
    """The grammar's file."""
    return json.dumps(grammar(), indent=2) + "\n"


def places() -> list[Path]:
    """Where the grammar is: next to the language's, and in a checkout in the extension for VS Code too."""
    found = [resources.grammar() / NAME]
    extension = resources.grammar().parent / "editors" / "vscode" / "syntaxes"
    return [*found, extension / NAME] if extension.is_dir() else found


if __name__ == "__main__":
    for place in places():
        place.write_text(text(), encoding="utf-8")
