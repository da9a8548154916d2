"""Several things that wait, carried out at the same time."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from optlang.run.waits import Waits, alone, together


class Last(Exception):  # noqa: N818 - a stop, not a fault
    pass


def done(value: int = 0) -> Future[int]:
    future: Future[int] = Future()
    future.set_result(value)
    return future


def counts(name: str, turns: int, seen: list[str], error: Exception | None = None) -> Waits[str]:
    try:
        for turn in range(turns):
            seen.append(f"{name}{turn}")
            yield done()
        if error is not None:
            raise error
    finally:
        seen.append(f"{name} over")
    return name


def test_they_take_turns_and_the_results_come_in_their_order() -> None:
    seen: list[str] = []
    assert together([counts("a", 1, seen), counts("b", 3, seen)], Last) == ["a", "b"]
    assert seen == ["a0", "b0", "a over", "b1", "b2", "b over"]


def test_a_stop_is_raised_when_all_are_over() -> None:
    seen: list[str] = []
    with pytest.raises(Last):
        together([counts("a", 1, seen, Last()), counts("b", 3, seen)], Last)
    assert seen[-2:] == ["b2", "b over"]


def test_any_other_exception_ends_the_others_where_they_are() -> None:
    seen: list[str] = []
    with pytest.raises(ValueError, match="wrong"):
        together([counts("a", 1, seen, ValueError("wrong")), counts("b", 3, seen)], Last)
    assert seen == ["a0", "b0", "a over", "b over"]


def test_alone_nothing_else_goes_on() -> None:
    seen: list[str] = []
    assert alone(counts("a", 2, seen)) == "a"
    assert seen == ["a0", "a1", "a over"]
