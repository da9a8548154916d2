"""The space: drawn, counted and narrowed as a person would do it by hand."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from optlang.plan.domains import every_value
from optlang.plan.model import Domain, Knob, Plan
from optlang.space.recipe import Point, resolve
from optlang.space.space import Exhausted, Space

Make = Callable[..., Plan]

DIGITS = """
steps {
  repeat rounds in 0 .. 2 {
    prune = channels { ratio in 10% .. 30% step 10%; scope in {layer, global} }
    finetune
  }
  precision in { none; dynamic; static { calibrator in {minmax, entropy}; samples in [64, 128] } }
}
forbid precision == dynamic and rounds >= 2 because "it costs more than it wins"
"""


# Of these torchscript alone runs nothing but modules.
RUNTIMES = "target here { runtime in { torchscript; onnxruntime; openvino } }"


def every_point(space: Space) -> Iterator[Point]:
    """All points, by drawing with every sequence of choices there is."""
    prefixes: list[list[int]] = [[]]
    while prefixes:
        prefix = prefixes.pop()
        counts: list[int] = []

        def ask(knob: Knob, domain: Domain, prefix: list[int] = prefix, counts: list[int] = counts) -> object:
            values = list(every_value(domain))
            counts.append(len(values))
            position = len(counts) - 1
            return values[prefix[position] if position < len(prefix) else 0]

        yield space.draw(ask)  # type: ignore[arg-type]
        for position in range(len(prefix), len(counts)):
            taken = prefix + [0] * (position - len(prefix))
            prefixes += [[*taken, choice] for choice in range(1, counts[position])]


def test_size_is_what_counting_one_by_one_gives(plan_of: Make) -> None:
    plan = plan_of(DIGITS, target=RUNTIMES)
    space = Space(plan)
    points = [point for point in every_point(space) if space.forbidden(point) is None]
    size = space.size()
    assert size.exact
    assert size.points == len(points) == len({tuple(point.items()) for point in points})
    # rounds: 1 + 2·(3·2) = 13 ways; torchscript runs no ONNX file: 13; the other two: 13·(1 + 4) + 7 with dynamic
    assert size.points == 13 + 2 * (13 * 5 + 7)
    assert size.continuous == ()


def test_a_continuous_knob_is_named_and_not_counted(plan_of: Make) -> None:
    plan = plan_of("steps { finetune { lr in 1e-4 .. 1e-2 log; epochs in 1 .. 3 } }")
    size = Space(plan).size()
    assert size.points == 9
    assert size.continuous == ("lr",)


def test_impossible_cells_are_never_offered(plan_of: Make) -> None:
    plan = plan_of(DIGITS, target=RUNTIMES)
    assert plan.impossible
    for point in every_point(Space(plan)):
        assert not (point["here.runtime"] == "torchscript" and point["precision"] != "none")


def test_a_runtime_that_is_missing_leaves_the_space(plan_of: Make) -> None:
    space = Space(plan_of(DIGITS, target=RUNTIMES), {"here.runtime.openvino": "not installed"})
    assert {point["here.runtime"] for point in every_point(space)} == {"torchscript", "onnxruntime"}
    assert space.size().points == 13 + (13 * 5 + 7)


def test_nothing_left_is_said(plan_of: Make) -> None:
    plan = plan_of(DIGITS, target=RUNTIMES)
    names = ("torchscript", "onnxruntime", "openvino")
    space = Space(plan, {f"here.runtime.{name}": "not installed" for name in names})
    with pytest.raises(Exhausted):
        space.draw(lambda knob, domain: next(every_value(domain)))


def test_forbidden_says_the_authors_reason(plan_of: Make) -> None:
    space = Space(plan_of(DIGITS, target=RUNTIMES))
    point = next(p for p in every_point(space) if p["precision"] == "dynamic" and p["rounds"] == 2)
    reason = space.forbidden(point)
    assert reason is not None
    assert "it costs more than it wins" in reason


def test_percent_steps_are_exact(plan_of: Make) -> None:
    plan = plan_of("""
        steps { channels { ratio in 10% .. 80% step 10% } }
        forbid ratio == 30% or ratio == 70% because "left out"
    """)
    space = Space(plan)
    allowed = [point["channels.ratio"] for point in every_point(space) if space.forbidden(point) is None]
    assert sorted(allowed) == sorted([0.1, 0.2, 0.4, 0.5, 0.6, 0.8] * 3)


def test_contains_knows_its_own_points_only(plan_of: Make) -> None:
    space = Space(plan_of(DIGITS, target=RUNTIMES))
    points = list(every_point(space))
    assert all(space.contains(point) == (space.forbidden(point) is None) for point in points)
    point = dict(points[-1])
    assert not space.contains({**point, "rounds": 7})
    assert not space.contains({**point, "unheard": 1})
    assert not space.contains(dict(itertools.islice(point.items(), len(point) - 1)))


def test_order_knob_permutes_the_steps(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          shrink in any order {
            maybe channels { ratio = 30% }
            maybe finetune { epochs = 1 }
          }
        }
    """)
    space = Space(plan)
    effects = {}
    for point in every_point(space):
        recipe = resolve(plan, point)
        effects.setdefault(recipe.effect, []).append([step.technique for step in recipe.steps])
    # Both orders of one step alone are one effect: nothing, either one, and the two orders of both, on each runtime.
    assert len(effects) == 5 * 3
    assert space.size().points == 8 * 3


BRANCHES = """
steps {
  repeat rounds in 0 .. 2 {
    channels { ratio in [10%, 20%] }
    extra in { none when rounds == 1; train { epochs in [1, 2] } when rounds >= 2; finetune }
  }
  more in { long = finetune when ratio == 10%; short = train when rounds == 0 }
  precision in { none; when rounds >= 1 { static { samples in [64, 256] }; dynamic when rounds < 2 } }
}
"""
SOMETIMES = "target here { threads in [1, 2]; runtime in { onnxruntime; openvino when threads == 2; torchscript } }"


def test_a_branch_is_there_only_where_its_condition_holds(plan_of: Make) -> None:
    plan = plan_of(BRANCHES, target=SOMETIMES)
    space = Space(plan)
    points = list(every_point(space))
    taken = {(point["rounds"], point["precision"]) for point in points}
    assert taken == {(0, "none"), (1, "none"), (1, "static"), (1, "dynamic"), (2, "none"), (2, "static")}
    assert {(point["here.threads"], point["here.runtime"]) for point in points if point["precision"] == "static"} == {
        (1, "onnxruntime"), (2, "onnxruntime"), (2, "openvino")
    }
    # With a ratio of 20% `more` has no branch: that is seen before, and never drawn.
    assert all(point.get("rounds.channels.ratio", 0.1) == 0.1 for point in points)
    assert all(space.forbidden(point) is None for point in points)
    # With 0, 1, 2 rounds there are 1, 2, 3 ways on 5 places; with static in 2 sizes and dynamic on 3 of them.
    assert space.size().exact
    assert space.size().points == len(points) == (1 + 2 + 3) * 5 + (2 * (2 + 1) + 3 * 2) * 3


def test_a_point_with_a_branch_that_is_not_there_is_none(plan_of: Make) -> None:
    plan = plan_of(BRANCHES, target=SOMETIMES)
    space = Space(plan)
    point = next(dict(p) for p in every_point(space) if p["rounds"] == 0 and p["here.threads"] == 1)
    assert space.contains(point)
    wrong = {**point, "here.runtime": "openvino"}
    assert not space.contains(wrong)
    assert space.forbidden(wrong) == "runtime is openvino only where here.threads == 2"


def test_a_continuous_knob_may_leave_a_choice_without_branches(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          finetune { lr in 1e-4 .. 1e-2 log }
          precision in { static when lr >= 1e-3; dynamic when lr >= 2e-3 }
        }
    """, target="target here { runtime = onnxruntime }")
    space = Space(plan)
    assert not space.size().exact
    for lr, left in ((5e-4, set()), (1.5e-3, {"static"}), (3e-3, {"static", "dynamic"})):
        points = [
            {"finetune.lr": lr, "precision": label} for label in ("static", "dynamic")
        ]
        assert {str(point["precision"]) for point in points if space.forbidden(point) is None} == left
        drawn = space.draw(lambda knob, domain, lr=lr: lr if knob.column == "lr" else next(every_value(domain)))
        assert (space.forbidden(drawn) is None) is bool(left)


def test_branches_that_an_input_takes_away(plan_of: Make) -> None:
    members = """
        input quick: bool = false "no quantization"
        steps { precision in { none; static when not quick; dynamic when not quick } }
    """
    target = "target here { runtime = onnxruntime }"
    assert Space(plan_of(members, target=target)).size().points == 3
    assert Space(plan_of(members, target=target, overrides={"quick": "true"})).size().points == 1


def test_a_when_block_in_an_order_takes_its_steps_away(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          repeat rounds in 0 .. 1 { channels }
          polish in any order { finetune; when rounds >= 1 { train; long = train { epochs = 20 } } }
        }
    """, target="target here { runtime = onnxruntime }")
    space = Space(plan)
    effects: dict[int, set[str]] = {0: set(), 1: set()}
    for point in every_point(space):
        rounds = point["rounds"]
        assert isinstance(rounds, int)
        recipe = resolve(plan, point)
        assert len(recipe.steps) == (1 if rounds == 0 else 4)
        effects[rounds].add(recipe.effect)
    # Orders that differ in steps that are not there have one effect, and are run once.
    assert {rounds: len(found) for rounds, found in effects.items()} == {0: 1, 1: 6}


def test_many_choices_are_drawn_without_a_clash_and_not_counted(plan_of: Make) -> None:
    steps = "; ".join(f"maybe m{i} = {('static', 'finetune')[i % 2]}" for i in range(240))
    space = Space(plan_of(f"steps {{ {steps} }}", target="target here { runtime = onnxruntime }"))
    assert not space.size().exact
    generator = random.Random(5)
    point = space.draw(lambda knob, domain: generator.choice(list(every_value(domain))))
    assert space.forbidden(point) is None
    # What is quantized is not trained again.
    taken = [i for i in range(240) if point[f"m{i}"]]
    assert max((i for i in taken if i % 2), default=-1) < min((i for i in taken if not i % 2), default=240)
    assert taken


def test_what_forbids_rule_out_is_counted_exactly(plan_of: Make) -> None:
    # 2^14 points; each forbid takes the pairs (m, m + 1) away: no two neighbours, a Fibonacci number.
    steps = "; ".join(f"maybe m{i} = finetune" for i in range(14))
    forbids = "\n".join(f"forbid m{i} and m{i + 1}" for i in range(13))
    plan = plan_of(f"steps {{ {steps} }}\n{forbids}", target="target here { runtime = onnxruntime }")
    space = Space(plan)
    size = space.size()
    assert size.exact
    assert size.points == 987
    assert len(list(space.points())) == 987
