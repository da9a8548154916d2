"""What must hold of a whole study: small independent checks, each of which adds what it finds to the diagnostics.

The check of a code lies in the file that the catalogue of errors has for it: E5 in steps.py, E6 in goals.py.
"""

from __future__ import annotations

from collections.abc import Callable

from optlang.analysis.checks import domains, goals, names, requirements, steps
from optlang.analysis.lower.study import ReadStudy

CHECKS: tuple[Callable[[ReadStudy], None], ...] = (
    goals.has_objective,
    goals.goals_agree,
    goals.few_objectives,
    goals.few_for_processes,
    goals.grid_ends,
    names.names_are_used,
    steps.can_be_taken,
    goals.something_left,
    domains.conditions_hold_somewhere,
    requirements.requirements_decide,
    domains.computed_settings_have_values,
    goals.enough_points,
    steps.can_win,
    steps.can_replay,
)


def check(study: ReadStudy) -> None:
    """Run all checks."""
    for one in CHECKS:
        one(study)
