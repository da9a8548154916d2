"""E4: sets of values that cannot be searched, and conditions that cannot be decided."""

from __future__ import annotations

from optlang.diagnostics.catalogue.entry import Entry

ENTRIES = (
    Entry(
        "E401", "empty or reversed range",
        "A range ends before it begins, or a set or list has nothing in it. Both ends of a range are included.",
        "there is no value that could be drawn.",
        "steps { static { samples in 512 .. 64 } }",
        "steps { static { samples in 64 .. 512 } }",
    ),
    Entry(
        "E402", "logarithm of nothing",
        "A range with `log` begins at zero or below.",
        "on a logarithmic scale zero is infinitely far away.",
        "steps { finetune { lr in 0.0 .. 0.1 log } }",
        "steps { finetune { lr in 1e-5 .. 0.1 log } }",
    ),
    Entry(
        "E403", "step that does not fit",
        "The step of a range is zero or negative, or does not lead from its beginning to its end.",
        "the end would look included, and never be drawn.",
        "steps { channels { ratio in 10% .. 45% step 10% } }",
        "steps { channels { ratio in 10% .. 40% step 10% } }",
    ),
    Entry(
        "E404", "mixed kinds",
        "The values of one domain are of different kinds: numbers and names, times and sizes.",
        "a knob is one column in the results, and a column has one type.",
        "let sizes = [64, 2ms]\nsteps { static { samples in sizes } }",
        "let sizes = [64, 128]\nsteps { static { samples in sizes } }",
    ),
    Entry(
        "E405", "repeated choice",
        "A value stands twice in a set or a list.",
        "it would be drawn twice as often, and counted as two points.",
        "steps { static { calibrator in {minmax, entropy, minmax} } }",
        "steps { static { calibrator in {minmax, entropy} } }",
    ),
    Entry(
        "E406", "not a subset of what is declared",
        "A setting searches or takes a value that the declaration of its parameter does not allow.",
        "the trial could only fail, after its model was trained.",
        "steps { static { calibrator in {minmax, mean} } }",
        "steps { static { calibrator in {minmax, entropy} } }",
    ),
    Entry(
        "E407", "default outside its domain",
        "The default of an input or a parameter is none of the values that it may take.",
        "leaving it out would set a value that cannot be written.",
        "input count: int in 64 .. 512 = 32\nsteps { static { samples = count } }",
        "input count: int in 64 .. 512 = 128\nsteps { static { samples = count } }",
    ),
    Entry(
        "E408", "circle",
        "Conditions or `let`s depend on one another in a circle.",
        "none of them can be decided first.",
        "let a = b + 1\nlet b = a + 1\nsteps { static { samples = a } }",
        "let a = b + 1\nlet b = 64\nsteps { static { samples = a } }",
    ),
    Entry(
        "W409", "condition never true",
        "A `when` or a `forbid` that no point of the space meets.",
        "what it guards never happens, and the study looks as if it did.",
        "steps {\n  precision in { none; static }\n  maybe finetune when precision == none and precision == static\n}",
        "steps {\n  precision in { none; static }\n  maybe dynamic when precision == none\n}",
    ),
    Entry(
        "E410", "computed setting never has an allowed value",
        "What a setting is computed from gives no value at any point of the space: it divides by zero, calculates with "
        "a knob that is absent there, or gives what the declaration of the parameter does not allow. The label shows "
        "the first such point.",
        "no point with this step could be tried.",
        "steps { repeat r in 1 .. 3 { magnitude { sparsity = 50% * (r - r) } } }",
        "steps { repeat r in 1 .. 3 { magnitude { sparsity = 50% * r.round / r } } }",
    ),
    Entry(
        "W411", "computed setting has no allowed value at some points",
        "The same at some points that no `forbid` rules out. The search refuses these points, each with the reason, "
        "and goes on with the others. Up to 100,000 combinations of the knobs involved are looked at; of a continuous "
        "knob both ends are.",
        "points that look as if they were in the space are not: you may have meant another formula.",
        "steps { repeat r in 1 .. 3 { magnitude { sparsity = 40% * r.round } } }",
        "steps { repeat r in 1 .. 2 { magnitude { sparsity = 40% * r.round } } }",
    ),
)
