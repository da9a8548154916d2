"""What shows a run on stderr while it goes on: a live picture, or lines."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from optlang.cli.exits import colored
from optlang.cli.options import Progress

if TYPE_CHECKING:
    from optlang.plan.model import Plan
    from optlang.run.events import TrialStarted


def watcher_of(study: Plan, progress: Progress | None) -> Any:
    """What shows a run of the study, as `progress` says; None: redrawn in place in a terminal, else in lines."""
    from rich.console import Console

    from optlang.report.front import columns
    from optlang.report.progress import LiveProgress, PlainProgress
    from optlang.report.trial_text import describe

    def words(trial: TrialStarted) -> str:
        return describe(study, trial.number, trial.point, trial.runtime, trial.steps)

    def shown(there: Collection[str]) -> Sequence[str]:
        return columns(study, there)

    if progress is Progress.rich or (progress is None and colored(sys.stderr)):
        return LiveProgress(Console(stderr=True, highlight=False), words, shown)
    return PlainProgress(sys.stderr, words, shown)
