"""The command `run`: searches a study, or continues it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from optlang.cli.check import plan_of
from optlang.cli.exits import INTERRUPTED, WRONG, usage
from optlang.cli.options import (
    DEFAULT_DB,
    Continue,
    Db,
    Home,
    Join,
    Ladder,
    New,
    Seed,
    Sets,
    Shown,
    StudyFile,
    Timeout,
    Trials,
    Workers,
)
from optlang.cli.watcher import watcher_of

if TYPE_CHECKING:
    from optlang.plan.model import Plan
    from optlang.run.scheduler import Outcome


def run(
    file: StudyFile, set_: Sets = None, trials: Trials = None, timeout: Timeout = None, seed: Seed = None,
    db: Db = DEFAULT_DB, progress: Shown = None, ladder: Ladder = None, continue_: Continue = False,
    join: Join = None, new: New = False, home: Home = None, workers: Workers = None,
) -> int:
    """Search a study, or continue it; ends with the best trade-offs and the next command to type."""
    from optlang.measure import signals
    from optlang.run.study import Options
    from optlang.run.study import run as run_study

    if continue_ + new + (join is not None) > 1:
        raise usage("--continue, --join and --new exclude each other", "keep one of them")
    limit = _seconds(timeout)
    study, text = plan_of(file, set_)
    options = Options(
        trials=trials, timeout=limit, seed=seed, ladder=ladder, home=home, workers=workers,
        mode="continue" if continue_ else "new" if new else "auto", join=join,
    )
    with signals.raised():
        watcher = watcher_of(study, progress)
        try:
            outcome = run_study(study, text, file, db, options, watcher)
        finally:
            watcher.close()
        return _ending(study, outcome, db, new)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    from optlang.plan.units import amount

    seconds = amount(text, "time")
    if seconds is None:
        raise usage(f"--timeout {text}: that is no time", "write it as in a study: 90s, 10min, 2h")
    return seconds


def _ending(study: Plan, outcome: Outcome, db: Path, new: bool) -> int:
    from optlang.cli.results import show_front, show_tradeoffs
    from optlang.store.reader import connect

    with connect([db]) as reader:
        (show_tradeoffs if outcome.why == "ladder" else show_front)(reader, study.study, db)
    again = "the same command without --new" if new else "the same command"
    if outcome.why == "interrupted":
        sys.stderr.write(f"interrupted: all that was finished is kept, and {again} goes on\n")
        return INTERRUPTED
    if outcome.why == "timeout":
        limit = "`timeout` in search { }, or --timeout"
        sys.stderr.write(f"time is up ({limit}): {again} goes on, with as much time again\n")
    if outcome.why == "ladder":
        return 0
    return 0 if outcome.met else WRONG
