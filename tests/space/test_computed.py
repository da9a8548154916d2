"""What `check` says of computed settings is what trying every point of the space finds."""

from __future__ import annotations

import itertools
import operator
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.space.combinations import ruled_out
from optlang.space.space import Space

Known: TypeAlias = dict[str, Any]

STUDY = """optlang 1

study sample {{
  model net  = zoo.digits_cnn(width = 8)
  data  seen = zoo.digits()
  target here {{ runtime = eager }}
  steps {{
    repeat r in 0 .. 3 {{ channels {{ ratio in [10%, 30%]; round_to = 1 }} }}
    maybe tune = finetune {{ epochs in [1, 2, 4] }}
    way in {{ none; short = train {{ epochs in [2, 3] }}; long = train {{ epochs = 9 }} }}
    {tested}
  }}
  {rule}
  minimize latency
}}
"""
NUMBERS = ("r", "tune.epochs", "short.epochs", "3", "1")
OPERATORS: dict[str, Callable[[int, int], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv
}
RULES: dict[str, Callable[[Known], bool]] = {
    "": lambda at: False,
    "forbid r == 0": lambda at: at["r"] == 0,
    "forbid not tune": lambda at: at["tune.epochs"] is None,
    "forbid way != short": lambda at: at["short.epochs"] is None,
    "forbid r == 2 and tune": lambda at: at["r"] == 2 and at["tune.epochs"] is not None,
    "forbid tune and way == long\n  forbid not tune and r < 2": lambda at: (
        at["r"] < 2 if at["tune.epochs"] is None else at["long"]
    ),
}
WHENS: dict[str, Callable[[Known], bool]] = {
    "": lambda at: True,
    " when tune": lambda at: at["tune.epochs"] is not None,
    " when r >= 1": lambda at: at["r"] >= 1,
    " when way == short": lambda at: at["short.epochs"] is not None,
}


def known() -> Iterator[Known]:
    """What every point of the study has, listed by hand."""
    ways: tuple[tuple[int | None, bool], ...] = ((None, False), (2, False), (3, False), (None, True))
    for r, tune, (short, long) in itertools.product(range(4), (None, 1, 2, 4), ways):
        yield {"r": r, "tune.epochs": tune, "short.epochs": short, "long": long, "3": 3, "1": 1}


def has_value(at: Known, a: str, sign: str, b: str) -> bool:
    """Whether a count from 1 to 10,000 comes out."""
    if at[a] is None or at[b] is None or (sign == "/" and at[b] == 0):
        return False
    return 1 <= round(OPERATORS[sign](at[a], at[b])) <= 10_000


EVERY = itertools.product(NUMBERS, OPERATORS, NUMBERS, RULES, WHENS)
CASES = [case for case in EVERY if not {case[0], case[2]} <= {"1", "3"}]


@pytest.mark.parametrize("seed", range(60))
def test_what_check_says_is_what_trying_every_point_finds(seed: int, tmp_path: Path) -> None:
    a, sign, b, rule, when = random.Random(seed).choice(CASES)
    used = [has_value(at, a, sign, b) for at in known() if not RULES[rule](at) and WHENS[when](at)]
    due = set() if all(used) else {"W411"} if any(used) else {"E410"}
    path = tmp_path / "sample.opt"
    path.write_text(STUDY.format(tested=f"last = finetune {{ epochs = {a} {sign} {b} }}{when}", rule=rule))
    assert {item.code for item in load(path).diagnostics} & {"E410", "W411"} == due


def test_never_is_said_where_no_point_has_a_value(tmp_path: Path) -> None:
    for tested, rule, codes in (
        ("last = finetune { epochs = 4 / (r - 2) }", "forbid r != 2", {"E410"}),
        ("last = finetune { epochs = 4 / (r - 2) }", "forbid r <= 2", set()),
        ("last = finetune { epochs = 4 / (r - 2) }", "forbid r < 2", {"W411"}),
        ("last = finetune { epochs = tune.epochs + 1 }", "forbid tune", {"E410"}),
        ("last = finetune { epochs = tune.epochs + 1 }", "forbid not tune", set()),
        ("last = finetune { epochs = tune.epochs + 1 } when tune", "", set()),
        ("last = finetune { epochs = 5 - tune.epochs } when tune", "", set()),
        ("last = finetune { epochs = 4 - tune.epochs } when tune", "", {"W411"}),
        # Two steps of which one is absent wherever the other is there.
        ("last = finetune { epochs = tune.epochs } when not tune", "", {"E410"}),
    ):
        path = tmp_path / "sample.opt"
        path.write_text(STUDY.format(tested=tested, rule=rule), encoding="utf-8")
        found = {item.code for item in load(path).diagnostics} & {"E410", "W411"}
        assert found == codes, (tested, rule)


def test_other_rules_that_leave_no_such_point_are_seen(tmp_path: Path) -> None:
    # r = 0 is left by neither: the first rule takes it where tune is out, the second where it is in.
    rule = "forbid r == 0 and tune\n  forbid r == 0 and not tune"
    path = tmp_path / "sample.opt"
    path.write_text(STUDY.format(tested="last = finetune { epochs = 6 / r }", rule=rule), encoding="utf-8")
    assert not load(path).diagnostics


@pytest.mark.parametrize(("lr", "codes"), [
    ("thin.ratio / 10", set()), ("1e-3 / thin.ratio", set()), ("1e-3 * (thin.ratio - 10%)", {"W411"}),
    ("10 * thin.ratio / (thin.ratio - 10%)", {"W411"}),
])
def test_both_ends_of_a_continuous_knob_are_tried(lr: str, codes: set[str], tmp_path: Path) -> None:
    path = tmp_path / "sample.opt"
    tested = f"thin = channels {{ ratio in 10% .. 90% }}; last = finetune {{ lr = {lr} }}"
    path.write_text(STUDY.format(tested=tested, rule=""), encoding="utf-8")
    assert {item.code for item in load(path).diagnostics} == codes


def test_models_and_the_baseline_are_looked_at(tmp_path: Path) -> None:
    text = STUDY.format(tested="teach = distill { student = zoo.digits_cnn(width = 8 / r) }", rule="")
    baseline = "  baseline { repeat b = 2 { train { epochs = 4 / (b.round - 1) } } }\n"
    text = text.replace("  steps {\n", f"{baseline}  steps {{\n", 1)
    path = tmp_path / "sample.opt"
    path.write_text(text, encoding="utf-8")
    found = {item.primary.text for item in load(path).diagnostics}
    assert found == {"with round 1 of 2 of `b` it divides by zero", "with `r = 0` it divides by zero"}


def test_too_many_combinations_are_left_to_the_draw(plan_of: Callable[..., Plan]) -> None:
    many = "; ".join(f"maybe m{i} = finetune {{ epochs = {i + 1} }}" for i in range(20))
    every = " and ".join(f"m{i}" for i in range(20))
    last = f"last = finetune {{ epochs = 4 / r }} when {every}"
    plan = plan_of(f"steps {{ repeat r in 0 .. 2 {{ magnitude }}; {many}; {last} }}")
    point = {knob.path: True for knob in plan.knobs} | {"r": 0, "here.runtime": "eager"}
    assert not ruled_out(point, plan.impossible)
    assert Space(plan).forbidden(point) == "`last.epochs` divides by zero: it is `4 / r`"
