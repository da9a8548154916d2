"""What a run knows of its trials so far: which effects are known, what the sampler learns, which are in the front."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optlang.interfaces import JSON, Artifact, ArtifactFile, Measurement
from optlang.plan.metrics import TEST
from optlang.plan.model import Plan
from optlang.run.events import Comparison
from optlang.run.job import OUTSIDE, Result
from optlang.run.standing import Standing, is_timed
from optlang.search import early, objectives
from optlang.search.ablation import AblationTrial, baseline_recipe
from optlang.search.bare_runtimes import Bare
from optlang.search.early import Verdict
from optlang.search.hopeless import Alone, Hopeless, hopeless
from optlang.search.objectives import Key, Violation
from optlang.search.observation import value_of
from optlang.search.sampler import Observation
from optlang.search.shortfall import Shortfall
from optlang.space.recipe import Applied, Point, Recipe, resolve
from optlang.space.space import Space
from optlang.store.artifacts import artifact_folder
from optlang.store.projection import PAUSED, was_interrupted
from optlang.store.writer import TrialRow

NEAR = 4
"""How many trials that are within one interval of the front are measured again with it."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Where a trial paused: at a rung (see `search.halving`), after so many of its epochs, with its metrics there.

    `measured` is what is known of it that trainings leave as it is.
    """

    rung: int
    epoch: int
    epochs: int
    step: str
    scores: Mapping[str, Mapping[str, float]]
    measured: tuple[Measurement, ...]

    @property
    def known(self) -> tuple[Measurement, ...]:
        """All that is known of the trial there."""
        scores = (
            Measurement(metric, value, "", 1, value, value, target)
            for target, found in self.scores.items() for metric, value in found.items()
        )
        return (*self.measured, *scores)


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial that is over or paused. `recipe` is None only for a ladder trial of an earlier session outside the
    space."""

    number: int
    origin: str
    state: str
    reason: str | None
    error: str | None
    point: Point | None
    alone: str | None
    runtime: str
    recipe: Recipe | None
    steps: tuple[Applied, ...]
    measurements: tuple[Measurement, ...]
    violations: tuple[Violation, ...]
    artifacts: Mapping[str, Artifact]
    """By target."""
    sampler_state: Mapping[str, JSON]
    passes: int
    """How often it was timed."""
    pauses: tuple[Pause, ...] = ()
    """Where it paused, in their order."""
    outside: bool = False
    """Whether it failed by something outside, as a device that was away."""

    @property
    def interrupted(self) -> bool:
        """Whether it failed only because the run was stopped."""
        return was_interrupted(self.state, self.reason)

    @property
    def void(self) -> bool:
        """Whether it says nothing of its settings: the run was stopped, or something outside failed."""
        return self.interrupted or self.outside

    @property
    def early(self) -> bool:
        """Whether it ended before it was measured, since what was known of it decided."""
        return self.state == "stopped" or (self.state == "infeasible" and not self.measurements)


class History:
    """The trials of one run."""

    def __init__(
        self, plan: Plan, space: Space, rows: Iterable[TrialRow], home: Path, unavailable: Collection[str] = ()
    ) -> None:
        self._plan, self._space, self._home, self._unavailable = plan, space, home, unavailable
        # A runtime may be missing today that was there when a trial ran: the trial is still one of the study's.
        self._whole = Space(plan)
        self._trials: dict[int, TrialRecord] = {}
        self._measured: dict[int, tuple[TrialRecord, dict[Key, Measurement]]] = {}
        self._stood: Standing | None = None
        """Of the trials in it; None where it must be made again."""
        self._searched: set[int] = set()
        self._alone: set[tuple[str | None, str]] = set()
        self.known: set[str] = set()
        """The effects of the trials that need not run again; the sampler reads it."""
        for row in rows:
            self._keep(self._read(row))

    def add(
        self, number: int, recipe: Recipe, origin: str, point: Point | None, alone: str | None, result: Result,
        state: Mapping[str, JSON], pauses: tuple[Pause, ...] = (),
    ) -> TrialRecord:
        """Judge a result: complete, infeasible, stopped, failed, or paused at the last of `pauses`."""
        violations: list[Violation] = []
        verdict: str
        reason: str | None
        error: str | None
        if result.ended is not None:
            ended = result.ended
            verdict, reason, error, violations = ended.state, ended.reason, None, list(ended.violations)
        elif result.paused is not None:
            verdict, reason, error = PAUSED, paused_at(pauses[-1]), None
        elif result.failure is not None:
            verdict, reason, error = "failed", result.failure.reason, result.failure.text or None
        else:
            measured = objectives.by_metric(self._plan, result.measurements)
            reference = measured if origin == "baseline" else self.reference
            # Requirements are relative to the baseline: it stays in the front even where it misses them.
            violations = [] if origin == "baseline" else objectives.broken(self._plan, measured, reference)
            verdict, reason, error = ("infeasible" if violations else "complete"), _missed(violations), None
            absent = objectives.absent(self._plan, measured, reference)
            if absent:
                left_out = result.notes.get(f"{absent}.uncounted")
                why = f": {', '.join(map(str, left_out))}" if isinstance(left_out, list | tuple) else ""
                violations, verdict, reason = [], "failed", f"{absent} is a goal and was not measured{why}"
        record = TrialRecord(
            number, origin, verdict, reason, error, point, alone, recipe.label, recipe, recipe.steps,
            result.measurements, tuple(violations), result.artifacts, state, int(is_timed(result.measurements)),
            pauses, outside=OUTSIDE in result.notes,
        )
        self._keep(record)
        return record

    def paused_again(self, record: TrialRecord) -> None:
        """A paused trial went on, and was interrupted: it is as it was."""
        self._keep(record)

    def left(self, number: int, reason: str) -> None:
        """Why a paused trial was not taken on when the search ended."""
        self._trials[number] = replace(self._trials[number], reason=reason)

    def rebuilt(self, number: int, artifacts: Mapping[str, Artifact]) -> None:
        """A trial's artifacts were built again."""
        self._trials[number] = replace(self._trials[number], artifacts=artifacts)

    @property
    def records(self) -> list[TrialRecord]:
        """All trials, by their numbers."""
        return [self._trials[number] for number in sorted(self._trials)]

    def measured_again(self, number: int, measurements: Sequence[Measurement]) -> TrialRecord:
        """Newer measurements of a trial: they take the place of the older ones of the same metric, and requirements are
        judged by them."""
        self._stood = None
        record = self._trials[number]
        merged = {(item.target, item.metric): item for item in (*record.measurements, *measurements)}
        passes = record.passes + is_timed(measurements)
        record = replace(record, measurements=tuple(merged.values()), passes=passes)
        if record.origin != "baseline" and record.state in ("complete", "infeasible"):
            violations = objectives.broken(self._plan, self.measured(record), self.reference)
            record = replace(
                record, state="infeasible" if violations else "complete", reason=_missed(violations),
                violations=tuple(violations),
            )
        self._trials[number] = record
        return record

    def measured(self, record: TrialRecord) -> dict[Key, Measurement]:
        """A trial's measurements by target and metric."""
        held = self._measured.get(record.number)
        if held is None or held[0] is not record:
            held = self._measured[record.number] = (record, objectives.by_metric(self._plan, record.measurements))
        return held[1]

    def comparisons(self, record: TrialRecord) -> dict[str, Comparison]:
        """A trial's measurements against the baseline's, by metric (with its target where it is one of several)."""
        return {
            metric if target is None else f"{target}.{metric}": self._comparison(record, (target, metric), item)
            for (target, metric), item in self.measured(record).items()
        }

    def _comparison(self, record: TrialRecord, key: Key, item: Measurement) -> Comparison:
        """Against the baseline's value of the same measurement where it holds one, else against the stored one."""
        if record.origin == "baseline":
            return Comparison(item.value, item.unit)
        stored = self.reference.get(key)
        reference = item.baseline if item.baseline is not None else stored.value if stored is not None else None
        metric = next((metric for metric in self._plan.metrics if metric.name == item.metric), None)
        times = lost = None
        if metric is not None and reference is not None:
            times, lost = metric.against(item.value, reference, item.ratio)
        # The worst ratio of several targets may be another's than the worst value: no one baseline belongs to both.
        mixed = times is not None and key[0] is None and len(self._plan.targets) > 1
        return Comparison(item.value, item.unit, times, lost, None if mixed else item.baseline)

    @property
    def missed_by_baseline(self) -> str | None:
        """The requirements that the baseline itself does not meet, with value and limit; None where it meets all."""
        measured = self.reference
        return _missed(objectives.broken(self._plan, measured, measured)) if measured else None

    def trial(self, number: int) -> TrialRecord:
        """The trial with this number."""
        return self._trials[number]

    @property
    def baseline(self) -> TrialRecord | None:
        """The reference, None as long as it is not measured."""
        records = (record for record in self._trials.values() if record.origin == "baseline")
        return next((record for record in records if record.state == "complete"), None)

    @property
    def searched(self) -> int:
        """How many searched trials there are; those that say nothing of their settings are not counted."""
        return len(self._searched)

    @property
    def met(self) -> bool:
        """Whether a trial other than the baseline met all requirements."""
        return any(record.state == "complete" for record in self._candidates())

    @property
    def worked(self) -> bool:
        """Whether a trial other than the baseline could be measured at all."""
        return any(record.state != "failed" for record in self._candidates())

    def has(self, ablation: AblationTrial) -> bool:
        """Whether this trial of the ladder was carried out already."""
        return ablation.recipe.effect in self.known or (ablation.alone, ablation.recipe.label) in self._alone

    def hopeless(self) -> list[Hopeless]:
        """What the ladder has shown to be hopeless, of the techniques that the plan still has."""
        baseline = self.reference
        names = {technique.name for technique in self._plan.techniques}
        return hopeless(self._plan, (
            Alone(
                record.number, record.alone or "none", record.steps if record.alone else (), record.runtime,
                objectives.excesses(self._plan, self.measured(record), baseline), record.reason or "",
            )
            for record in self._trials.values()
            if record.origin in ("baseline", "ladder") and record.state != "failed"
            and {step.technique for step in record.steps if record.alone} <= names
        ))

    def bare(self) -> list[Bare]:
        """What was measured of the baseline, and of each runtime without any step."""
        found: list[Bare] = []
        for record in self._trials.values():
            measured = self.measured(record)
            alone = record.alone == "none" or self._is_baseline(record.number)
            if alone and objectives.absent(self._plan, measured, self.reference) is None:
                values = objectives.objective_values(self._plan, measured, self.reference)
                missed = objectives.excesses(self._plan, measured, self.reference)
                found.append(Bare(record.number, record.runtime, values, missed))
        return found

    def observations(self) -> dict[int, Observation]:
        """What the sampler learns from the trials, by their numbers, in the order of these."""
        return {
            record.number: found for record in self.records if (found := self.observation(record)) is not None
        }

    def observation(self, record: TrialRecord) -> Observation | None:
        """What the sampler learns from a trial; None where it lies outside the space, was interrupted, failed by
        something outside, or is paused."""
        if record.point is None or record.void or record.state == PAUSED:
            return None
        if record.state == "failed":
            # It would fail again: reported as pruned and infeasible it keeps the sampler away (as failed it would not).
            return Observation(record.point, None, [1.0], record.sampler_state)
        if record.early:
            # Of a trial that was not measured the sampler learns how far it misses, or that it is not to be looked for.
            missed = [max((item.by for item in record.violations), default=1.0)]
            return Observation(record.point, None, missed, record.sampler_state)
        measured = self.measured(record)
        constraints = objectives.constraints(self._plan, measured, self.reference)
        values = objectives.objective_values(self._plan, measured, self.reference)
        return Observation(record.point, values, constraints, record.sampler_state)

    def deciding(self) -> frozenset[str]:
        """The metrics that can decide a trial before its training."""
        return early.wanted(self._plan, self.rivals())

    def decided(self, untrained: Iterable[Measurement]) -> Verdict | None:
        """How a trial ends of which its metrics without a training are known; None where the training decides."""
        known = objectives.by_metric(self._plan, map(early.bounded, untrained))
        return early.decided(self._plan, known, self.reference, self.rivals())

    @property
    def reference(self) -> dict[Key, Measurement]:
        """What was measured of the baseline, by target and metric; nothing before it was."""
        baseline = self.baseline
        return {} if baseline is None else self.measured(baseline)

    def rivals(self) -> dict[int, tuple[float, ...]]:
        """The losses of the trials that no other dominates, by their numbers."""
        return self._standing().rivals

    def members(self) -> list[int]:
        """The baseline and the complete trials of the space that no other dominates."""
        members = self._standing().members
        baseline = self.baseline
        return members if baseline is None or baseline.number in members else [baseline.number, *members]

    def front(self) -> list[int]:
        """The baseline and the other members, each that stands for its ties once; see `search.ties`."""
        kept = set(self._standing().kept)
        return [number for number in self.members() if number in kept or self._is_baseline(number)]

    def ties(self) -> dict[int, int]:
        """The trials within noise of a member of the front in every goal, with the member that stands for them."""
        return self._standing().ties

    def tied_with(self, number: int) -> int | None:
        """The member of the front that stands for this trial, as in `ties`; None where there is none."""
        return self._standing().tied_with(number)

    def near(self, limit: int) -> list[int]:
        """Trials outside the front that would be in it, and meet the requirements, at the good end of their latency's
        interval, nearest first: measuring again may bring them in."""
        return self._standing().near(limit)

    def _standing(self) -> Standing:
        """How the trials stand to each other."""
        if self._stood is None:
            self._stood = Standing(self._plan, self.reference)
            for record in self._trials.values():
                self._stand(self._stood, record)
        return self._stood

    def _stand(self, standing: Standing, record: TrialRecord) -> None:
        """Add a trial where it can be in the front, or come near it."""
        if record.origin == "baseline":
            if record.state == "complete":
                standing.add_baseline(record.number, self.measured(record))
        elif record.point is not None and record.state in ("complete", "infeasible") and not record.early:
            standing.add(record.number, self.measured(record), complete=record.state == "complete")

    def front_is_settled(self) -> bool:
        """Whether all of the front but the baseline was measured again, as far as it can be run here; ties aside."""
        return all(self._trials[number].passes > 1 for number in self.front() if number != 0 and self.timed(number))

    def is_settled(self) -> bool:
        """Whether the front was measured again, and scored on the test data where there are any."""
        return self.front_is_settled() and not (self.tested and self.untested())

    def untested(self) -> list[int]:
        """The front's members, the baseline among them, without a figure on the test data; none where none ran here."""
        return [
            number for number in self.front() if self.timed(number)
            and not any(item.metric.startswith(TEST) for item in self._trials[number].measurements)
        ]

    @property
    def tested(self) -> bool:
        """Whether the data are known to have a test part."""
        baseline = self.baseline
        return baseline is not None and any(item.metric.startswith(TEST) for item in baseline.measurements)

    def timed(self, number: int) -> bool:
        """Whether the trial's artifacts ran on this machine, on any target."""
        return is_timed(self._trials[number].measurements)

    def _is_baseline(self, number: int) -> bool:
        return self._trials[number].origin == "baseline"

    def _candidates(self) -> list[TrialRecord]:
        return [record for record in self._trials.values() if record.origin != "baseline" and record.point is not None]

    def _keep(self, record: TrialRecord) -> None:
        if record.origin == "baseline" or record.number in self._trials:
            self._stood = None
        self._trials[record.number] = record
        if self._stood is not None:
            self._stand(self._stood, record)
        if not record.void:
            self._alone.add((record.alone, record.runtime))
        self._searched.discard(record.number)
        if record.origin == "sampler" and not record.void:
            self._searched.add(record.number)
        # What lies outside the space cannot be drawn, and a later session does not know its recipe.
        drawable = record.point is not None or record.origin == "baseline"
        if drawable and record.recipe is not None and not record.void:
            self.known.add(record.recipe.effect)

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
            tuple(map(_applied, row.steps)),
            row.measurements, tuple(map(_violation, row.violations)),
            {str(item["target"]): _artifact(item, self._home) for item in row.artifacts}, row.sampler_state or {},
            row.passes, tuple(map(_pause, row.pauses)), OUTSIDE in row.notes,
        )

    def _space_has(self, point: Point) -> bool:
        return self._whole.contains(point)


def _missed(violations: Sequence[Violation]) -> str | None:
    """In one line which requirements were missed, and by how much."""
    return "; ".join(item.said for item in violations) or None


def _applied(row: Mapping[str, Any]) -> Applied:
    return Applied(row["path"], row["technique"], row["settings"] or {})


def _violation(row: Mapping[str, Any]) -> Violation:
    missed = tuple(Shortfall(**item) for item in row.get("missed", ()))
    return Violation(row["text"], float(row["by"]), row.get("said", ""), missed)


def paused_at(pause: Pause) -> str:
    """Where a trial paused, in words."""
    return f"after epoch {pause.epoch} of {pause.epochs}"


def _pause(row: Mapping[str, Any]) -> Pause:
    measured = tuple(Measurement(**item) for item in row["measured"] or ())
    return Pause(row["rung"], row["epoch"], row["epochs"], row["step"], row["scores"] or {}, measured)


def _artifact(row: Mapping[str, Any], home: Path) -> Artifact:
    return Artifact(
        artifact_folder(row["path"], [home]), row["format"], tuple(ArtifactFile(**file) for file in row["files"]),
        tuple(row["inputs"] or ()), tuple(row["outputs"] or ()), row["about"] or {},
    )
