"""E6: what is asked of the search cannot be asked so."""

from __future__ import annotations

from optlang.diagnostics.catalogue.entry import Entry

ENTRIES = (
    Entry(
        "E601", "no objective",
        "A study has no `minimize` and no `maximize`.",
        "without an objective any trial is as good as any other.",
        "study small {\n  model net  = zoo.digits_cnn()\n  data  seen = zoo.digits()\n"
        "  target here { device = cpu; runtime = onnxruntime }\n  steps { maybe static }\n}",
        "study small {\n  model net  = zoo.digits_cnn()\n  data  seen = zoo.digits()\n"
        "  target here { device = cpu; runtime = onnxruntime }\n  steps { maybe static }\n  minimize size\n"
        "  maximize accuracy\n}",
    ),
    Entry(
        "E602", "unknown metric",
        "A goal or a `require` names a metric that neither the library nor the study declares. A metric that the task "
        "of your own data returns is declared with `metric NAME: TYPE maximize`.",
        "there would be nothing to compare.",
        "maximize acuracy",
        "maximize accuracy",
    ),
    Entry(
        "E603", "contradictory goals",
        "One metric is both minimized and maximized, or named twice, or asked to be where another `require` "
        "forbids it.",
        "no trial could be better than another, or none could be good enough.",
        "minimize size\nmaximize size",
        "minimize size\nmaximize accuracy",
    ),
    Entry(
        "E604", "nothing left",
        "The `forbid`s, together with what the declared facts rule out, leave no point of the space.",
        "the search would refuse every draw.",
        "steps { maybe static }\nforbid static or not static",
        "steps { maybe static }\nforbid not static",
    ),
    Entry(
        "E605", "not for this sampler",
        "No sampler can take this study's objectives or knobs, or the one it names cannot: none takes more than six "
        "objectives, `gp` four, or an order of more than seven steps; a grid tries every point, so it needs knobs that "
        "are not continuous, and at most 10,000 points.",
        "a grid without an end would be a search in the order of the grid; and with more than six objectives "
        "nearly every trial is on the front.",
        "minimize size, size.compressed, latency, loss, parameters, macs\nmaximize accuracy",
        "minimize size, latency\nmaximize accuracy\nrequire macs <= 2000000",
    ),
    Entry(
        "W606", "more trials than points",
        "The space is finite and has fewer points than `trials` asks for.",
        "the search ends when it has tried them all; the timetable was made for more.",
        "steps { maybe static }\nsearch { trials = 4000 }",
        "steps { maybe static { samples in 1 .. 65536 } }\nsearch { trials = 40 }",
    ),
    Entry(
        "E607", "requirement that cannot be met",
        "A `require` compares a metric with what it can never be: a ratio lies between 0% and 100%, what is measured "
        "is never negative. 95 without a unit is 9500%.",
        "the whole search would run, and every trial would miss it.",
        "require accuracy >= 95",
        "require accuracy >= 95%",
    ),
    Entry(
        "W608", "requirement that is always met",
        "A `require`, or a part of one, is met whatever is measured; or a part of an `or` never is.",
        "it looks like a limit, and limits nothing.",
        "require sparsity >= 0%",
        "require sparsity >= 30%",
    ),
    Entry(
        "W609", "trials that never pause",
        "`halving` is asked for, and no trial can pause: no step trains for more epochs than `first`, or no goal and "
        "no requirement says how good answers are, by which trials that paused would be compared.",
        "the search carries every trial out whole, as if `halving` were not there.",
        "steps { maybe static }\nmaximize accuracy\nsearch { trials = 3; halving }",
        "steps { channels; finetune { epochs = 9 } }\nmaximize accuracy\nsearch { trials = 1; halving }",
    ),
)
