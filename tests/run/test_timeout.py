"""A run that its time ends, and what the next one does: with trials that take as long as they are said to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run import test_study as small

pytestmark = pytest.mark.slow
study = small.study


def test_a_time_alone_ends_the_search_and_the_next_session_goes_on(study: small.Study, tmp_path: Path) -> None:
    path = study(steps="parts.nap { number in 1 .. 1000; tenths = 5 }")
    path.write_text(path.read_text().replace("trials = 4; ", "timeout = 1s; ladder = false; "))
    first = small.optlang(tmp_path, "run", "small.opt", "--progress", "plain")
    assert "small: trials to search, after the baseline, for 1.00 s" in first.stderr
    assert "time is up" in first.stderr
    before = len(small.trials(tmp_path))
    assert before >= 1
    # One trial a session starts however long it is, and nothing but the time ends this search.
    again = small.optlang(tmp_path, "run", "small.opt", "--progress", "plain")
    assert "for another 1.00 s; 1 are done" in again.stderr or before > 1
    assert "the same command goes on, with as much time again" in again.stderr
    assert len(small.trials(tmp_path)) > before
