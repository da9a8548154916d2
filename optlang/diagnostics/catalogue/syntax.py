"""E1: what stands in a file is not the language."""

from __future__ import annotations

from optlang.diagnostics.catalogue.entry import Entry

ENTRIES = (
    Entry(
        "E101", "unexpected token",
        "A word or a sign stands where the language does not allow it. The label says what would fit there, and the "
        "help what was probably meant.",
        "an ambiguous file would be searched with one of its two meanings, and nobody would know which.",
        "minimise latency, size",
        "minimize latency, size",
    ),
    Entry(
        "E102", "unclosed bracket",
        "A `{`, `(` or `[` is opened and never closed, or written twice. The label at the opener says which; the "
        "second one where the indentation suggests that it should have been closed. Where the opening bracket itself "
        "is missing, it is E101 where it belongs.",
        "everything that follows would belong to what is still open.",
        "baseline { train { epochs = 20 }\n\nmaximize accuracy",
        "baseline { train { epochs = 20 } }\n\nmaximize accuracy",
    ),
    Entry(
        "E103", "bad character or text",
        "A character that the language does not use, a text that is not closed before its line ends, single quotes, or "
        "a backslash before a letter that means nothing. Texts stand between double quotes on one line.",
        "`&&` and `'…'` mean something in other languages; here they would be guessed at.",
        "require accuracy >= 97% because 'the customer counts'",
        'require accuracy >= 97% because "the customer counts"',
    ),
    Entry(
        "E104", "edition missing or unknown",
        "The first statement of a file names the edition of the language that it is written in: `optlang 1`. Comments "
        "may stand before it.",
        "a later edition may give a word another meaning; with its edition in it, a study means tomorrow what it means "
        "today.",
        'optlang 2\n\nlet menu = [8, 16]',
        'optlang 1\n\nlet menu = [8, 16]',
    ),
    Entry(
        "E105", "not text, too large or too deep",
        "The file is not UTF-8, holds a character that hides what is read, has more than a mebibyte, 100,000 words and "
        "signs, or 20,000 characters in a line, opens more than 50 brackets inside one another, nests more than 100 "
        "operators in one expression, or says more than can be read once its names and pipelines are written out.",
        "such a file is a mistake, or an attempt to exhaust the parser.",
        "forbid " + "(" * 51 + "static" + ")" * 51,
        "forbid static",
    ),
    Entry(
        "E106", "not in this version",
        "The language has this, and this version of optlang does not do it yet. The help says what to write meanwhile.",
        "it is reported before anything runs, and nothing is left out silently.",
        "target here { device = mps; runtime = eager }",
        "target here { device = cpu; runtime = eager }",
    ),
    Entry(
        "E107", "something is missing",
        "A study needs a model, data, a target and steps; a declaration needs `calls`, a pipeline `steps`; an "
        "input without a default needs a value.",
        "nothing could replace it without guessing.",
        "study small {\n  model net  = zoo.digits_cnn()\n  data  seen = zoo.digits()\n"
        "  target here { device = cpu; runtime = onnxruntime }\n"
        "  maximize accuracy\n}",
        "study small {\n  model net  = zoo.digits_cnn()\n  data  seen = zoo.digits()\n"
        "  target here { device = cpu; runtime = onnxruntime }\n"
        "  steps { maybe static }\n  maximize accuracy\n}",
    ),
)
