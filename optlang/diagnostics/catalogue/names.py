"""E2: names that mean nothing, too much, or something that cannot stand here."""

from __future__ import annotations

from optlang.diagnostics.catalogue.entry import Entry

ENTRIES = (
    Entry(
        "E201", "unknown name",
        "Nothing of this name is declared in the study, in what it imports, or in the standard library.",
        "a misspelt technique would otherwise be left out, and its results with it.",
        "steps { statc { samples = 64 } }",
        "steps { static { samples = 64 } }",
    ),
    Entry(
        "E202", "duplicate name",
        "A name is given twice in the same context: two settings of one block, two branches of a choice, two "
        "inputs, two studies of a file, a parameter of a declaration and one of a group that it uses. Both are "
        "labelled. "
        "Steps take their technique's name unless they are given one of their own.",
        "one of the two would silently win.",
        "steps { static { samples = 64; samples = 128 } }",
        "steps { static { samples in [64, 128] } }",
    ),
    Entry(
        "E203", "import not found",
        "The file or module that an import names does not exist. `import parts` reads `parts.opt` from the study's "
        'folder, `import python "models.py" as mine` a Python file from there or an installed module.',
        "everything that it was to bring would be unknown.",
        'optlang 1\nimport prats\n\nlet half = 50%',
        'optlang 1\nimport prune as p\n\nlet half = 50%',
    ),
    Entry(
        "E204", "a circle",
        "Files import one another in a circle, a pipeline applies itself, or a group of parameters uses itself. The "
        "label names the path round.",
        "none of the files could be read before the other; a pipeline that applies itself would never end.",
        'optlang 1\nimport main\n\nlet half = 50%',
        'optlang 1\n\nlet half = 50%',
    ),
    Entry(
        "E205", "unknown parameter",
        "A setting or an argument that what it is given to does not declare, or a fact that says nothing about what is "
        "declared. `optlang explain NAME` lists the parameters.",
        "an option that nobody reads changes nothing, and its author believes that it did.",
        "steps { static { sample = 64 } }",
        "steps { static { samples = 64 } }",
    ),
    Entry(
        "E206", "a knob or a metric where it is not allowed",
        "A search variable stands where a value must be fixed (the model, the data, the baseline, the "
        "sampler), or where "
        "a metric belongs; or a metric stands where a knob belongs. `forbid` speaks of knobs, `require` of metrics.",
        "the baseline is what all trials are compared with: it cannot be another in each of them.",
        "baseline { train { epochs in 1 .. 20 } }",
        "baseline { train { epochs = 20 } }",
    ),
    Entry(
        "E207", "refers to something later",
        "A `when` or a setting names a knob that is drawn after it. The order of the text is the order of the run.",
        "the value is not known yet when it is asked for.",
        "steps {\n  maybe finetune when precision == static\n  precision in { none; static }\n}",
        "steps {\n  precision in { none; static }\n  maybe dynamic when precision == none\n}",
    ),
    Entry(
        "W208", "never used",
        "An import, a `let` or an input of the study that nothing refers to.",
        "it is what a misspelt name elsewhere leaves behind, or what somebody believes to have an effect.",
        "input epochs: int in 1 .. 20 = 3\nsteps { maybe static }",
        "input count: int in 1 .. 512 = 64\nsteps { maybe static { samples = count } }",
    ),
)
