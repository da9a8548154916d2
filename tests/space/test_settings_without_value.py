"""What a setting is computed from may give nothing at a point: such points are refused with the reason, not tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from optlang.plan.model import Plan
from optlang.space.recipe import NoValueError, resolve
from optlang.space.space import Space

Make = Callable[..., Plan]


def study(plan_of: Make, sparsity: str, rest: str = "") -> Plan:
    return plan_of(
        f"steps {{ repeat r in 1 .. 3 {{ magnitude {{ sparsity = {sparsity} }} }} }}\n{rest}",
        target="target here { runtime = eager }",
    )


def test_a_value_outside_what_is_declared(plan_of: Make) -> None:
    plan = study(plan_of, "40% * r.round")
    space = Space(plan)
    assert list(space.points()) == [{"r": 1}, {"r": 2}]
    reason = "`r[3].magnitude.sparsity` is 120%, and 1% .. 99% is allowed: it is `0.4 * r.round`"
    assert space.forbidden({"r": 3}) == reason
    assert not space.contains({"r": 3})
    with pytest.raises(NoValueError, match=r"r\[3\]\.magnitude"):
        resolve(plan, {"r": 3})


def test_a_division_by_zero(plan_of: Make) -> None:
    space = Space(study(plan_of, "10% / (3 - r.round)"))
    assert space.forbidden({"r": 3}) == (
        "`r[3].magnitude.sparsity` divides by zero: it is `0.1 / (3 - r.round)`"
    )


def test_a_forbid_that_divides_by_zero(plan_of: Make) -> None:
    space = Space(study(plan_of, "10%", "forbid 1 / (r - 2) > 5"))
    assert space.forbidden({"r": 2}) == "`(1 / (r - 2)) > 5` divides by zero"
    assert list(space.points()) == [{"r": 1}, {"r": 3}]


def test_fractions_are_not_taken_to_the_letter(plan_of: Make) -> None:
    # 0.33 * 3 is 0.9900000000000001.
    assert len(list(Space(study(plan_of, "33% * r.round")).points())) == 3


def test_a_when_that_divides_by_zero_does_not_hold(plan_of: Make) -> None:
    space = Space(plan_of(
        "steps { repeat r in 0 .. 3 { finetune { epochs = 1 } }; maybe two_four when 1 / (r - 2) > 0 }",
        target="target here { runtime = eager }",
    ))
    assert space.size().points == 5
    assert [point for point in space.points() if "two_four" in point] == [
        {"r": 3, "two_four": False}, {"r": 3, "two_four": True},
    ]


def test_an_absent_knob_is_no_number(plan_of: Make) -> None:
    space = Space(plan_of(
        "steps { maybe first = finetune { epochs in [2, 4] }; last = finetune { epochs = epochs + 1 } }",
        target="target here { runtime = eager }",
    ))
    assert list(space.points()) == [{"first": True, "first.epochs": 2}, {"first": True, "first.epochs": 4}]
    assert space.forbidden({"first": False}) == "`last.epochs` has no value: it is `first.epochs + 1`"


def test_what_a_target_or_a_model_is_computed_from(plan_of: Make) -> None:
    space = Space(plan_of(
        "steps { repeat r in 1 .. 2 { distill { student = zoo.digits_cnn(width = 8 / (r - 1)) } } }",
        target="target here { batch in [1, 2]; threads = 2 - batch; runtime = eager }",
    ))
    assert list(space.points()) == [{"here.batch": 1, "r": 2}]
    outside = "`here.threads` is 0, and 1 .. 1024 is allowed: it is `2 - here.batch`"
    assert space.forbidden({"here.batch": 2, "r": 2}) == outside
    divides = "`r[1].distill.student.width` divides by zero: it is `8 / (r - 1)`"
    assert space.forbidden({"here.batch": 1, "r": 1}) == divides
