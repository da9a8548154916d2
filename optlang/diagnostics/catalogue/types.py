"""E3: values of the wrong kind or unit."""

from __future__ import annotations

from optlang.diagnostics.catalogue.entry import Entry

ENTRIES = (
    Entry(
        "E301", "dimension mismatch",
        "Values of different dimensions are compared, added or subtracted: a time with bytes, a size with a ratio. `%` "
        "is a ratio, so a tenth less of a size is written `0.9 * baseline.size`.",
        "2 ms and 2 MB are both 2, and a comparison of the two would be decided.",
        "require size <= baseline.size - 10%",
        "require size <= 0.9 * baseline.size",
    ),
    Entry(
        "E302", "type mismatch",
        "A value of another type than what is asked for: a text for a number, a number for a name; a set or a range "
        "after `=`, which fixes one value; a list of values after `in` without its brackets.",
        "`=` fixes and `in` searches: the reader of a study counts its knobs by that.",
        "steps { static { samples = [64, 128] } }",
        "steps { static { samples in [64, 128] } }",
    ),
    Entry(
        "E303", "unknown unit",
        "A number carries a unit that the language does not know. Times are `ns us ms s min h d`, sizes `B kB MB GB TB "
        "KiB MiB GiB TiB`, and `%` is a ratio. Units depend on case.",
        "`2m` may be two minutes, two metres or two million.",
        "require latency <= 2msec",
        "require latency <= 2ms",
    ),
    Entry(
        "E304", "override outside the input's domain",
        "`--set` gives an input a value that its declaration does not allow, or of another type.",
        "the author of the study states for which values it makes sense.",
        "input width: int in 8 .. 64 = 32          # optlang run FILE --set width=128\n"
        "model net = zoo.digits_cnn(width = width)",
        "input width: int in 8 .. 64 = 32          # optlang run FILE --set width=48\n"
        "model net = zoo.digits_cnn(width = width)",
    ),
)
