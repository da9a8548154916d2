"""Spellings of other languages are answered with what is written here, and fixed where nothing else can be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.cli.check import fix_file

STEPS, GOAL = "steps { maybe static }", "minimize size"
_WHEN = "a condition stands behind `when`: `when CONDITION { … }`, or `STEP when CONDITION`"
_REPEAT = "steps are repeated by `repeat NAME = 3 { … }`, and `repeat NAME in 1 .. 3 { … }` searches how often"
CASES = [
    ("steps { a in {none; static}; if a == none { finetune } }", _WHEN,
     "steps { a in {none; static}; when a == none { finetune } }"),
    ("steps { a in {none; static}; finetune if a == none }", _WHEN,
     "steps { a in {none; static}; finetune when a == none }"),
    ("steps { for i in 1 .. 3 { channels; finetune } }", _REPEAT, None),
    ("steps { while true { channels } }", _REPEAT, None),
    ("steps { repeat 3 { channels; finetune } }", "a repetition has a name: `repeat NAME = 3 { … }`", None),
    ("steps { repeat in 1 .. 3 { channels } }", "a repetition has a name: `repeat NAME in 1 .. 3 { … }`", None),
    ("steps { repeat 1 .. 3 { channels } }", "a repetition has a name: `repeat NAME in 1 .. 3 { … }`", None),
    ("steps: { maybe static }", "write `steps { … }`, without `:`", "steps { maybe static }"),
    ("steps = { maybe static }", "write `steps { … }`, without `=`", "steps { maybe static }"),
    ("steps:{ maybe static }", "write `steps { … }`, without `:`", "steps { maybe static }"),
    ("minimize: size", "write `minimize size`, without `:`", "minimize size"),
    ("maximize=accuracy", "write `maximize accuracy`, without `=`", "maximize accuracy"),
    ("minimize(size)", "metrics follow without brackets: `minimize latency, size`", None),
    ("require: accuracy >= 3%", "write `require accuracy >= 3%`, without `:`", "require accuracy >= 3%"),
    ("search: { trials = 3 }", "write `search { … }`, without `:`", "search { trials = 3 }"),
    ("metric: f1", "write `metric NAME: ratio maximize`", None),
    ("require accuracy drop <= 1%", "a loss is a comparison with the baseline: `accuracy >= baseline.accuracy - 1%`",
     None),
    ("require drop accuracy <= 1%", "a loss is a comparison with the baseline: `accuracy >= baseline.accuracy - 1%`",
     None),
    ("require accuracy within 1%", "a loss is a comparison with the baseline: `accuracy >= baseline.accuracy - 1%`",
     None),
    ("require size <= 50% of baseline", "a share of the baseline is a product: `0.5 * baseline.size`", None),
    ("require size at most 2MB", "`<=` is at most, `>=` at least", None),
]


@pytest.mark.parametrize(("written", "expected", "right"), CASES, ids=[case[0] for case in CASES])
def test_a_habit_is_answered_with_what_is_written_here(
    written: str, expected: str, right: str | None, tmp_path: Path
) -> None:
    members = ["model net = zoo.digits_cnn()", "data seen = zoo.digits()", "target here { runtime = onnxruntime }"]
    members += [text for text in (STEPS, GOAL) if text.split()[0] not in written]
    path = tmp_path / "main.opt"
    path.write_text("optlang 1\n\nstudy small {\n  " + "\n  ".join([*members, written]) + "\n}\n", encoding="utf-8")
    first = load(path).diagnostics[0]
    assert (first.code, first.help) == ("E101", expected)
    assert (first.fix is not None) == (right is not None)
    if right is not None:
        assert fix_file(path) == 1
        assert f"\n  {right}\n" in path.read_text(encoding="utf-8")
        assert not load(path).failed
