"""What a run knows of its trials so far: which effects are known, what the sampler is told, who is in the front."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optlang.diagnostics.command_line import command
from optlang.interfaces import JSON, Artifact, ArtifactFile, Measurement, OptlangError
from optlang.plan.metrics import MEDIAN
from optlang.plan.model import Plan
from optlang.run.job import Result
from optlang.search import objectives, pareto
from optlang.search.ablation import AblationTrial, baseline_recipe
from optlang.search.objectives import Key, Violation
from optlang.search.observation import value_of
from optlang.search.sampler import Observation
from optlang.search.shortfall import Shortfall
from optlang.space.recipe import Point, Recipe, resolve
from optlang.space.space import Space
from optlang.store.artifacts import artifact_folder
from optlang.store.plans import read_plan
from optlang.store.writer import RunRow, TrialRow, Writer

INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial that is over. `recipe` is None only for a ladder trial of an earlier session outside the space."""

    number: int
    origin: str
    state: str
    reason: str | None
    error: str | None
    point: Point | None
    alone: str | None
    runtime: str
    recipe: Recipe | None
    measurements: tuple[Measurement, ...]
    violations: tuple[Violation, ...]
    artifacts: Mapping[str, Artifact]
    """By target."""
    sampler_state: Mapping[str, JSON]
    passes: int

    @property
    def interrupted(self) -> bool:
        """Whether it failed only because somebody stopped it."""
        return self.state == "failed" and self.reason == INTERRUPTED


class History:
    """The trials of one run."""

    def __init__(
        self, plan: Plan, space: Space, rows: Iterable[TrialRow], home: Path, unavailable: Collection[str] = ()
    ) -> None:
        self._plan, self._space, self._home, self._unavailable = plan, space, home, unavailable
        self._trials: dict[int, TrialRecord] = {}
        self._measured: dict[int, tuple[TrialRecord, dict[Key, Measurement]]] = {}
        self.known: set[str] = set()
        """The effects of the trials that need not run again; the sampler looks into it."""
        for row in rows:
            self._keep(self._read(row))

    def add(
        self, number: int, recipe: Recipe, origin: str, point: Point | None, alone: str | None, result: Result,
        state: Mapping[str, JSON],
    ) -> TrialRecord:
        """Judge a result: complete, infeasible or failed."""
        violations: list[Violation] = []
        verdict: str
        reason: str | None
        error: str | None
        if result.failure is not None:
            verdict, reason, error = "failed", result.failure.reason, result.failure.text or None
        else:
            measured = objectives.by_metric(self._plan, result.measurements)
            reference = measured if origin == "baseline" else self._baseline_measured()
            # The baseline is what requirements are relative to: it stays in the front whatever they say.
            violations = [] if origin == "baseline" else objectives.broken(self._plan, measured, reference)
            verdict, reason, error = ("infeasible" if violations else "complete"), _missed(violations), None
            absent = objectives.absent(self._plan, measured, reference)
            if absent:
                left_out = result.notes.get(f"{absent}.uncounted")
                why = f": {', '.join(map(str, left_out))}" if isinstance(left_out, list | tuple) else ""
                violations, verdict, reason = [], "failed", f"{absent} is a goal and was not measured{why}"
        done = TrialRecord(
            number, origin, verdict, reason, error, point, alone, recipe.label, recipe, result.measurements,
            tuple(violations), result.artifacts, state, 1 if result.measurements else 0,
        )
        self._keep(done)
        return done

    def measured_again(self, number: int, measurements: Sequence[Measurement]) -> None:
        """Newer measurements of a trial: they take the place of the older ones of the same metric."""
        done = self._trials[number]
        merged = {(item.target, item.metric): item for item in (*done.measurements, *measurements)}
        self._trials[number] = replace(done, measurements=tuple(merged.values()), passes=done.passes + 1)

    def measured(self, done: TrialRecord) -> dict[Key, Measurement]:
        """A trial's measurements by target and metric."""
        held = self._measured.get(done.number)
        if held is None or held[0] is not done:
            held = self._measured[done.number] = (done, objectives.by_metric(self._plan, done.measurements))
        return held[1]

    def trial(self, number: int) -> TrialRecord:
        """The trial with this number."""
        return self._trials[number]

    @property
    def baseline(self) -> TrialRecord | None:
        """The reference, None as long as it is not measured."""
        found = (done for done in self._trials.values() if done.origin == "baseline" and done.state == "complete")
        return next(found, None)

    @property
    def searched(self) -> int:
        """How many trials the sampler's budget has paid for: those that were interrupted are not among them."""
        return sum(done.origin == "sampler" and not done.interrupted for done in self._trials.values())

    @property
    def met(self) -> bool:
        """Whether a trial other than the baseline met all requirements."""
        return any(done.state == "complete" for done in self._candidates())

    @property
    def worked(self) -> bool:
        """Whether a trial other than the baseline could be measured at all."""
        return any(done.state != "failed" for done in self._candidates())

    def climbed(self, rung: AblationTrial) -> bool:
        """Whether this trial of the ladder was there already."""
        return rung.recipe.effect in self.known or any(
            done.alone == rung.alone and done.runtime == rung.recipe.label and not done.interrupted
            for done in self._trials.values()
        )

    def told(self) -> list[Observation]:
        """What the sampler is to know, in the order in which it happened."""
        return [told for done in self._trials.values() if (told := self.tell(done)) is not None]

    def tell(self, done: TrialRecord) -> Observation | None:
        """What the sampler is to know of a trial; None where it lies outside the space or says nothing."""
        if done.point is None or done.interrupted:
            return None
        if done.state == "failed":
            # It would fail again: told as pruned and broken, it keeps the sampler away (told as failed it would not).
            return Observation(done.point, None, [1.0], done.sampler_state)
        measured = self.measured(done)
        constraints = objectives.constraints(self._plan, measured, self._baseline_measured())
        values = objectives.objective_values(self._plan, measured, self._baseline_measured())
        return Observation(done.point, values, constraints, done.sampler_state)

    def front(self) -> list[int]:
        """The baseline and the complete trials of the space that no other dominates."""
        members = pareto.front(self._losses())
        baseline = self.baseline
        return members if baseline is None or baseline.number in members else [baseline.number, *members]

    def near(self, limit: int) -> list[int]:
        """Trials outside the front that would be in it at the good end of their latency's interval, nearest first."""
        members = set(self.front())
        losses = self._losses()
        found = []
        for number in losses:
            if number in members or number == 0:
                continue
            optimistic = self._losses_of({
                name: replace(item, ratio=item.ratio_high) if item.ratio_high is not None else item
                for name, item in self.measured(self._trials[number]).items()
            })
            if not any(pareto.dominates(losses[member], optimistic) for member in members):
                gap = sum(abs(a - b) / (abs(a) or 1.0) for a, b in zip(losses[number], optimistic, strict=True))
                found.append((gap, number))
        return [number for _, number in sorted(found)[:limit]]

    def front_is_settled(self) -> bool:
        """Whether all of the front but the baseline was measured again, as far as it can be run here."""
        return all(self._trials[number].passes > 1 for number in self.front() if number != 0 and self.timed(number))

    def timed(self, number: int) -> bool:
        """Whether the trial's artifacts ran on this machine, on any target."""
        return any(item.metric == MEDIAN for item in self._trials[number].measurements)

    def _losses(self) -> dict[int, tuple[float, ...]]:
        return {
            done.number: self._losses_of(self.measured(done))
            for done in self._trials.values()
            if done.state == "complete" and (done.point is not None or done.origin == "baseline")
        }

    def _losses_of(self, measured: Mapping[Key, Measurement]) -> tuple[float, ...]:
        values = objectives.objective_values(self._plan, measured, self._baseline_measured())
        return pareto.losses(self._plan, values)

    def _candidates(self) -> list[TrialRecord]:
        return [done for done in self._trials.values() if done.origin != "baseline" and done.point is not None]

    def _baseline_measured(self) -> dict[Key, Measurement]:
        baseline = self.baseline
        return {} if baseline is None else self.measured(baseline)

    def _keep(self, done: TrialRecord) -> None:
        self._trials[done.number] = done
        if done.recipe is not None and not done.interrupted:
            self.known.add(done.recipe.effect)

    def _read(self, row: TrialRow) -> TrialRecord:
        point: Point | None = {path: value_of(value) for path, value in row.point.items()} if row.in_space else None
        recipe: Recipe | None = None
        if row.origin == "baseline":
            recipe = baseline_recipe(self._plan, self._unavailable)
        if point is not None and not self._space_has(point):
            point = None
        if recipe is None and point is not None:
            recipe = resolve(self._plan, point)
        return TrialRecord(
            row.trial, row.origin, row.state, row.reason, row.error, point, row.alone, row.runtime or "", recipe,
            row.measurements, tuple(map(_violation, row.violations)),
            {str(item["target"]): _artifact(item, self._home) for item in row.artifacts}, row.sampler_state or {},
            row.passes,
        )

    def _space_has(self, point: Point) -> bool:
        # A runtime may be missing today that was there when the trial ran: the trial is still one of the study's.
        return Space(self._plan).contains(point)


def _missed(violations: Sequence[Violation]) -> str | None:
    """In one line which requirements were missed, and by how much."""
    return "; ".join(item.said for item in violations) or None


def _violation(row: Mapping[str, Any]) -> Violation:
    missed = tuple(Shortfall(**item) for item in row.get("missed", ()))
    return Violation(row["text"], float(row["by"]), row.get("said", ""), missed)


def _artifact(row: Mapping[str, Any], home: Path) -> Artifact:
    return Artifact(
        artifact_folder(row["path"], [home]), row["format"], tuple(ArtifactFile(**file) for file in row["files"]),
        tuple(row["inputs"] or ()), tuple(row["outputs"] or ()), row["about"] or {},
    )


FIXED = ("model", "data", "baseline", "targets")
"""What the baseline of a run was made of: where one of these is another, its trials cannot be compared with it."""


def choose_run(store: Writer, plan: Plan, mode: str, join: str | None = None) -> tuple[str, list[str]]:
    """The run to write to, and what to say about the choice.

    A run whose baseline never came to its end holds nothing to go on with: another begins, and finds in the cache what
    was done. OptlangError where `--continue` or `--join` has nothing to join, or what its trials are compared with has
    changed.
    """
    runs = store.begun(plan.study)
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
    return command("sql", f"FROM results WHERE run = '{run}'", db=store.db)


def _changed(old: Plan, plan: Plan) -> list[str]:
    """The parts of a study that differ."""
    before, after = old.comparable(), plan.comparable()
    names = {"knobs": "steps", "techniques": "the library's techniques", "runtimes": "the library's runtimes"}
    return list(dict.fromkeys(names.get(key, key) for key in after if after[key] != before[key]))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
