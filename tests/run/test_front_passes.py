"""The front is measured again, all of it in one cycle, until it holds; what it holds as is given, not timed."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from optlang.interfaces import Measurement, TargetSpec
from optlang.run.front_passes import PASSES, passes
from optlang.run.job import Failure, FrontJob

HERE = TargetSpec("here")


class Standing:
    """A history whose front after each measurement is given."""

    def __init__(self, fronts: Sequence[Sequence[int]], near: Sequence[int] = ()) -> None:
        self.fronts, self.turn, self._near = fronts, 0, near

    def front(self) -> list[int]:
        return [0, *self.fronts[min(self.turn, len(self.fronts) - 1)]]

    def members(self) -> list[int]:
        return self.front()

    def near(self, limit: int) -> list[int]:
        return list(self._near[:limit])

    def timed(self, number: int) -> bool:
        return number != 13

    def front_is_settled(self) -> bool:
        return False


def carried_out(
    history: Standing, failing: int | None = None, time_for: Callable[[Sequence[int]], bool] = lambda _: True
) -> tuple[list[list[int]], list[str]]:
    """The trials of each pass, and what was said."""
    cycles: list[list[int]] = []
    said: list[str] = []

    def run(task: Any, job: FrontJob, timeout: float | None) -> Any:
        if len(cycles) == failing:
            return Failure("a process died", "")
        cycles.append(sorted(job.members))
        timed = Measurement("latency.p50", 1.0, "s", 1, 1.0, 1.0, "here")
        return dict.fromkeys((0, *job.members), (timed,))

    member = {"here": SimpleNamespace(target=HERE)}
    jobs: Any = SimpleNamespace(members=lambda _: member, reference=lambda _: object(), front_effort=lambda *_: None)
    dispatcher: Any = SimpleNamespace(load=lambda: None, run=run)
    workload: Any = None
    for found in passes(history, jobs, dispatcher, workload, said.append, time_for):  # type: ignore[arg-type]
        assert set(found) == {0, *cycles[-1]}
        history.turn += 1
    return cycles, said


def test_a_front_that_holds_is_measured_once_with_what_is_near() -> None:
    cycles, said = carried_out(Standing([(4, 2), (2,)], near=(7,)))
    assert cycles == [[2, 4, 7]]
    assert said == ["measuring the 3 best again, side by side with the baseline"]


def test_ties_are_measured_with_the_others_and_make_no_further_pass() -> None:
    class Twin(Standing):
        def members(self) -> list[int]:
            return [*self.front(), 20 + self.turn]

    cycles, said = carried_out(Twin([(4, 2)]))
    assert cycles == [[2, 4, 20]]
    assert len(said) == 1


def test_a_newcomer_has_the_whole_front_measured_in_one_cycle() -> None:
    cycles, said = carried_out(Standing([(4, 2), (2, 9), (9, 2)]))
    assert cycles == [[2, 4], [2, 9]], "no row compares with the seconds of another cycle"
    again = "measuring the 2 best again, side by side with the baseline"
    assert said[1] == f"the front has changed (pass 2 of at most {PASSES}): {again}"


def test_a_front_that_does_not_hold_says_so_after_the_last_pass() -> None:
    cycles, said = carried_out(Standing([(1,), (2,), (3,), (3, 8)]))
    assert cycles == [[1], [2], [3]]
    assert said[-1] == (
        "the front has changed in each of 3 passes: 8 came into it in the last one, measured next to the baseline and "
        "not next to the others"
    )


def test_what_cannot_run_here_is_left_as_it_is() -> None:
    assert carried_out(Standing([(13,)])) == ([], [])


def test_measuring_that_fails_ends_the_passes() -> None:
    cycles, said = carried_out(Standing([(1,), (1, 2)]), failing=1)
    assert cycles == [[1]]
    assert said[-1] == "the front could not be measured again: a process died"


def test_a_front_that_changes_when_the_time_is_up_stays_as_it_is_and_that_is_said() -> None:
    asked: list[Sequence[int]] = []
    cycles, said = carried_out(Standing([(4,), (2,), (2,)]), time_for=lambda trials: bool(asked.append(trials)))
    assert (cycles, asked) == ([[4]], [[2]]), "the first pass is not asked for: its time was kept free"
    assert "the time is up before it could be measured again" in said[-1]
