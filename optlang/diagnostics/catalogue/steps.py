"""E5: steps that cannot be taken, or not in this order."""

from __future__ import annotations

from optlang.diagnostics.catalogue.entry import Entry


def _own(facts: str, steps: str) -> str:
    """A file with a technique of its own, `mine`, and a study that uses it."""
    return (
        f'technique mine {{\n  calls "optlang.techniques.training.train:train"\n  {facts}\n}}\n\nstudy small {{\n'
        "  model net  = zoo.digits_cnn()\n  data  seen = zoo.digits()\n"
        f"  target here {{ runtime = onnxruntime }}\n  steps {{ {steps} }}\n  maximize accuracy\n}}"
    )


ENTRIES = (
    Entry(
        "E501", "missing need",
        "A technique or runtime needs what the study does not give it: training or calibration data, a GPU.",
        "every trial with it would fail.",
        _own("needs gpu", "maybe mine"),
        _own("needs training", "maybe mine"),
    ),
    Entry(
        "E502", "wrong order",
        "A step stands before one that its declaration says it comes after. The order of the text is the order of the "
        "run.",
        "what is quantized first and pruned then is no longer quantized.",
        "steps {\n  static\n  channels { ratio = 50% }\n}",
        "steps {\n  channels { ratio = 50% }\n  static\n}",
    ),
    Entry(
        "E503", "excluded pair",
        "Two techniques that exclude each other are always applied together.",
        "the second would undo the first, or fail on what it left.",
        "steps {\n  dynamic\n  static\n}",
        "steps { precision in { dynamic; static } }",
    ),
    Entry(
        "E504", "never available here",
        "A step, a branch or a runtime can never be taken on the targets of this study: no runtime of theirs takes the "
        "form of model that it gives, the runtime takes inputs of one size and the target has `dynamic`, or a goal or "
        "a requirement is on `sparsity`, of which there is no figure where the runtime carries out the step itself.",
        "a branch that no trial can take looks like a choice and is none.",
        "target here { device = cpu; runtime = torchscript }\nsteps { static }",
        "target here { device = cpu; runtime = onnxruntime }\nsteps { static }",
    ),
    Entry(
        "E505", "no choice",
        "A choice with one branch, or with two that are equal; or `maybe` before what is a choice already (a choice, a "
        "`repeat`, another `maybe`, a `when`): add a branch `none`, or count from 0.",
        "a knob with one value is no knob, and one that can be left out twice is counted twice.",
        "steps { precision in { static } }",
        "steps { precision in { none; static } }",
    ),
    Entry(
        "E506", "a step after the model has its final form",
        "A step stands after one that gives an artifact, which only its runtime can run.",
        "there is no model left that it could change.",
        _own("takes module, artifact; gives artifact", "maybe mine; channels").replace("onnxruntime", "eager"),
        _own("takes module; gives module", "maybe mine; channels").replace("onnxruntime", "eager"),
    ),
    Entry(
        "E507", "bad repeat count",
        "A `repeat` is fixed to 0, is negative, or counts in something else than whole numbers.",
        "a block that is fixed to 0 rounds is never there.",
        "steps { repeat rounds = 0 { channels { ratio = 20% } } }",
        "steps { repeat rounds in 0 .. 3 { channels { ratio = 20% } } }",
    ),
    Entry(
        "E508", "form mismatch",
        "A step takes another form of model than the step before it gives: `module` (trainable), `graph`, `onnx` or "
        "`artifact`.",
        "a technique that trains cannot work on an exported file.",
        _own("takes graph; gives onnx", "channels; mine"),
        _own("takes module; gives onnx", "channels; mine"),
    ),
    Entry(
        "W509", "wins no time here",
        "The step works on this target and never makes it faster: float16 on a CPU ran 57 times slower than float32.",
        "trials are spent on what is known to lose, unless bytes are all that counts.",
        _own("traits float16", "maybe mine"),
        _own("traits bfloat16", "maybe mine"),
    ),
    Entry(
        "E510", "not a step",
        "Something among the steps that is none: a number, a text, a call with parentheses, a setting.",
        "settings stand in braces behind their technique, so that they can be fixed with `=` and searched with `in`.",
        "steps { static(samples = 64) }",
        "steps { static { samples = 64 } }",
    ),
    Entry(
        "W511", "replays nothing here",
        "torch.compile's mode `reduce_overhead` is asked for on a target without a GPU. It replays calls from CUDA "
        "graphs; on a processor torch compiles as in the mode `default`.",
        "it looks like a choice between two modes, and both are one there.",
        "target here { runtime = inductor { mode = reduce_overhead } }\nsteps { maybe fold }",
        "target here { runtime = inductor { mode = max_autotune } }\nsteps { maybe fold }",
    ),
)
