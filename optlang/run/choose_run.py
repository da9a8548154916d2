"""Which run of a study a session goes on with, or that it begins another, and why."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from optlang.diagnostics.command_line import command
from optlang.interfaces import OptlangError
from optlang.plan.model import Plan
from optlang.store.plans import read_plan
from optlang.store.writer import RunRow, Writer

FIXED = ("model", "data", "baseline", "targets")
"""What the baseline of a run was made of: where one of these is another, its trials cannot be compared with it."""


def choose_run(store: Writer, plan: Plan, mode: str, join: str | None = None) -> tuple[str, list[str]]:
    """The run to write to, and what to say about the choice.

    A run whose baseline never came to its end holds nothing to go on with: another begins, and finds in the cache what
    was done. OptlangError where `--continue` or `--join` has nothing to join, or what its trials are compared with has
    changed.
    """
    runs = store.resumable(plan.study)
    inputs = {item.name: item.value for item in plan.inputs}
    same = store.find(plan.study, plan.meaning, inputs, plan.search.seed)
    if join is not None:
        return _joined(plan, _run(store, plan.study, join, runs))
    if mode == "new" or (not runs and mode == "auto"):
        return uuid.uuid4().hex[:12], []
    if mode == "continue":
        if not runs:
            raise OptlangError(
                f"there is no run of `{plan.study}` to continue in {store.db.name}", help="leave --continue out"
            )
        return _joined(plan, runs[-1])
    if same is not None:
        return same.run, []
    last = runs[-1]
    before = read_plan(last.plan)
    if before is None:
        return uuid.uuid4().hex[:12], [f"a new run, since another version of optlang stored the last one, {last.run}"]
    changed = _changed(before, plan)
    fixed = [name for name in changed if name in FIXED]
    if not changed:
        notes = []
    elif fixed:
        notes = [
            f"a new run, since {_listed(changed)} changed from the last one: its baseline does not hold any more, so "
            f"the two stay apart (`{_all_of(store, last.run)}` shows its trials)"
        ]
    else:
        notes = [
            f"a new run, since {_listed(changed)} changed from the last one (to go on with that one instead, add "
            f"--join {last.run})"
        ]
    return uuid.uuid4().hex[:12], notes


def _run(store: Writer, study: str, wanted: str, runs: Sequence[RunRow]) -> RunRow:
    for row in runs:
        if row.run == wanted:
            return row
    there = ", ".join(row.run for row in runs)
    raise OptlangError(
        f"there is no run {wanted} of `{study}` with a baseline in {store.db.name}",
        help=f"its runs, oldest first, are {there}" if there else "it has none: leave --join out",
    )


def _joined(plan: Plan, run: RunRow) -> tuple[str, list[str]]:
    before = read_plan(run.plan)
    if before is None:
        raise OptlangError(
            f"run {run.run} cannot go on: another version of optlang stored it, in a form that this one cannot read",
            help="run without --continue or --join: that begins a new run and keeps the old one",
        )
    changed = _changed(before, plan)
    fixed = [name for name in changed if name in FIXED]
    if fixed:
        raise OptlangError(
            f"the old run cannot go on: its baseline no longer holds, since {_listed(fixed)} changed",
            help="run without --continue or --join: that begins a new run and keeps the old one",
        )
    return run.run, [f"joining run {run.run} although {_listed(changed)} changed"] if changed else []


def _all_of(store: Writer, run: str) -> str:
    return command("sql", f"FROM results WHERE run = '{run}'", "--all-runs", db=store.db)


def _changed(old: Plan, plan: Plan) -> list[str]:
    """The parts of a study that differ."""
    before, after = old.comparable(), plan.comparable()
    names = {"knobs": "steps", "techniques": "the library's techniques", "runtimes": "the library's runtimes"}
    return list(dict.fromkeys(names.get(key, key) for key in after if after[key] != before[key]))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
