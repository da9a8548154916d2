"""The language for Pygments, which Sphinx, MkDocs and `rich` colour code by; found by the names `optlang` and `opt`."""

from __future__ import annotations

import re
from typing import ClassVar

from pygments.lexer import RegexLexer, bygroups
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Whitespace

from optlang.editor import keywords


class OptlangLexer(RegexLexer):  # type: ignore[misc]  # Pygments has no types
    """Tokens by the words of the grammar; what the language has no sign for is an error token."""

    name = "optlang"
    aliases: ClassVar[list[str]] = ["optlang", "opt"]
    filenames: ClassVar[list[str]] = ["*.opt"]
    mimetypes: ClassVar[list[str]] = ["text/x-optlang"]
    url = "https://pypi.org/project/optlang-dsl/"
    flags = re.MULTILINE
    tokens: ClassVar = {
        "root": [
            (rf"^([ \t]*)({keywords.any_of(keywords.FIRST)}){keywords.BEFORE_A_NAME}",
             bygroups(Whitespace, Keyword.Declaration)),
            (rf"([{{;])([ \t]*)({keywords.any_of(keywords.FIRST)}){keywords.BEFORE_A_NAME}",
             bygroups(Punctuation, Whitespace, Keyword.Declaration)),
            (r"\s+", Whitespace),
            (r"#.*$", Comment.Single),
            (r'"', String.Double, "text"),
            (rf"({keywords.NUMBER})({keywords.UNIT})", bygroups(Number, Keyword.Type)),
            (rf"{keywords.NUMBER}(?![A-Za-z0-9_%])", Number),
            (keywords.reserved(keywords.CONSTANTS), Keyword.Constant),
            (keywords.reserved(keywords.LOGIC), Operator.Word),
            (keywords.reserved(keywords.FLOW), Keyword),
            (rf"(:)(\s*)({keywords.any_of(keywords.TYPE_NAMES)})", bygroups(Punctuation, Whitespace, Keyword.Type)),
            (rf"(?<=\s){keywords.any_of(keywords.INSIDE)}(?=\s+[A-Za-z_\"{{]|\s*$)(?!\s+in\b)", Keyword.Reserved),
            (rf"{keywords.NAME}(?=\()", Name.Function),
            (rf"{keywords.NAME}(?=\s*(?:=(?!=)|in\b))", Name.Attribute),
            (keywords.NAME, Name),
            (keywords.OPERATOR, Operator),
            (r"[{}()\[\],;:.]", Punctuation),
        ],
        "text": [
            (r'[^"\\\n]+', String.Double),
            (r'\\[nt"\\]', String.Escape),
            (r'"', String.Double, "#pop"),
            (r"$", String.Double, "#pop"),
        ],
    }
