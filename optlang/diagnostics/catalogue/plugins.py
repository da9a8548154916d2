"""E7: Python objects that declarations and studies name."""

from __future__ import annotations

from optlang.diagnostics.catalogue.entry import Entry

ENTRIES = (
    Entry(
        "E701", "no such object",
        "The file or module that `calls` or a factory names has no object of this name. It was looked for in the text: "
        "checking a study runs none of your code.",
        "the first trial would fail, after the baseline was trained.",
        'technique mine {\n  calls "textwrap:prune"\n  takes module\n  gives module\n}',
        'technique mine {\n  calls "textwrap:fill"\n  takes module\n  gives module\n}',
    ),
    Entry(
        "E702", "no such argument",
        "The Python function that is named takes no argument of this name.",
        "the call would fail in a worker, far from the line that is wrong.",
        'optlang 1\nimport python "textwrap" as mine\n\n'
        "study small {\n  model net  = mine.wrap(widht = 8)\n  data  seen = zoo.digits()\n"
        "  target here { device = cpu; runtime = onnxruntime }\n  steps { maybe static }\n  maximize accuracy\n}",
        "model net = zoo.digits_cnn(width = 8)",
    ),
    Entry(
        "E703", "outside the study's folder",
        "A Python file lies outside the folder of the study that names it. Only files of the study's folder and "
        "installed modules are read.",
        "a study that is passed on must be complete, and must not depend on other files of "
        "its author's disk.",
        'optlang 1\nimport python "../models.py" as mine\n\nlet half = 50%',
        'optlang 1\nimport python "json" as mine\n\nlet half = 50%',
    ),
    Entry(
        "E704", "claimed twice",
        "Two installed distributions bring a module of the same name.",
        "which of the two is used would depend on the order in which they were installed.",
        "import widgets          # brought by `widgets-a` and by `widgets-b`",
        "import widgets          # after one of them was uninstalled",
    ),
)
