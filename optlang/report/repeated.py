"""A stored trial against the same trial carried out again: which figures are the same, and which differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optlang.interfaces import JSON, Measurement
from optlang.plan.metrics import ALIKE, BUILT, MEDIAN, full_name, is_relative, validated
from optlang.plan.model import Plan
from optlang.store.projection import was_interrupted
from optlang.store.reader import Reader

MACHINE = {"processor": "processor", "cores": "cores", "python": "Python", "system": "system"}
"""What of a machine can change a last digit, and its name in a message."""

COMPILED = frozenset({"tensorrt", "mlpackage", "pt2", "pte", "tflite"})
"""The formats whose files a compiler writes, with names of its own making or with kernels that it chose by timing them:
two builds of one network may differ in bytes, and in the last digits of answers."""

Verdict = Literal["same", "within the intervals", "differs", "not compared"]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kept:
    """One target's artifact: its bytes, the hash of its files, and the format."""

    bytes: int
    sha256: str
    format: str


@dataclass(frozen=True, slots=True)
class TrialFigures:
    """A trial as a database has it.

    `point` is None outside the space. `measurements` are the newest by target and metric, `artifacts` by target;
    `keys` are those of the results of its steps, the baseline's own first, by path. `machine` and `versions` are those
    of its session.
    """

    number: int
    origin: str
    alone: str | None
    runtime: str
    point: Mapping[str, JSON] | None
    state: str
    reason: str | None
    measurements: Mapping[Key, Measurement]
    artifacts: Mapping[str, Kept]
    keys: Mapping[str, str]
    machine: Mapping[str, JSON]
    versions: Mapping[str, JSON]

    @property
    def interrupted(self) -> bool:
        """Whether it failed only because its run was stopped."""
        return was_interrupted(self.state, self.reason)

    @property
    def failed(self) -> bool:
        """Whether it failed by itself."""
        return self.state == "failed" and not self.interrupted


def load_trial(reader: Reader, run: str, trial: int) -> TrialFigures:
    """A trial of a run; the caller has checked that there is such a one."""
    row = reader.query("SELECT * FROM trials WHERE run = ? AND trial = ?", [run, trial]).dicts()[0]
    session = reader.query("SELECT machine, versions FROM sessions WHERE session = ?", [row["session"]]).rows
    machine, versions = session[0] if session else (None, None)
    figures = reader.query(
        "SELECT metric, value, unit, n, low, high, target, ratio, ratio_low, ratio_high, baseline FROM measurements "
        "WHERE run = ? AND trial = ? "
        "QUALIFY row_number() OVER (PARTITION BY target, metric ORDER BY pass DESC) = 1 ORDER BY target, metric",
        [run, trial],
    ).dicts()
    artifacts = reader.query(
        "SELECT target, bytes, sha256, format FROM artifacts WHERE run = ? AND trial = ? ORDER BY target", [run, trial]
    ).rows
    keys = reader.query(
        "SELECT path, key FROM steps WHERE run = ? AND trial IN (0, ?) AND key IS NOT NULL ORDER BY trial, position",
        [run, trial],
    ).rows
    return TrialFigures(
        trial, row["origin"], row["alone"], row["runtime"] or "", _read(row["point"]) if row["in_space"] else None,
        row["state"], row["reason"], {(item["target"], item["metric"]): Measurement(**item) for item in figures},
        {target: Kept(*kept) for target, *kept in artifacts}, dict(keys), _read(machine), _read(versions),
    )


def _read(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text or "{}") or {}
    return found


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure then and now; `paired` says that what counts is the ratio to the baseline next to it.

    A figure that is no number (what became of the trial, the hash of its files) stands in `texts`.
    """

    name: str
    verdict: Verdict
    stored: Measurement | None = None
    again: Measurement | None = None
    paired: bool = False
    texts: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Repeated:
    """All figures of a trial then and now, and what differs between the two in what they were made with."""

    trial: int
    rows: tuple[Compared, ...]
    changes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether no figure differs by more than it may."""
        return all(row.verdict != "differs" for row in self.rows)


def compare(plan: Plan, stored: TrialFigures, again: TrialFigures) -> Repeated:
    """The same trial of `plan`, as it is stored and as it was carried out again.

    What is counted is the same or differs. So is what judges the answers, where the machine and the versions are the
    same; else, and for what a compiler built, it may be as far off as the stored interval says. Times are compared by
    the ratio to the baseline next to them: they agree where the two intervals overlap.
    """
    changes = (*differing_versions(stored, again), *differing_machines(stored, again))
    alike = not changes
    figures = (_compared(plan, key, stored, again, alike=alike) for key in _keys(plan, stored, again))
    rows = (
        *_ends(stored, again), *_files(plan, stored, again, alike=alike), *(row for row in figures if row is not None),
    )
    return Repeated(stored.number, rows, (*changes, *_other_inputs(stored, again, alike=alike)))


def differing_versions(stored: TrialFigures, again: TrialFigures) -> list[str]:
    """The libraries that have another version now than then, each in words."""
    return [
        f"{name} {stored.versions.get(name, 'was not installed')} then, {again.versions.get(name, 'not installed')} now"
        for name in dict.fromkeys((*stored.versions, *again.versions))
        if stored.versions.get(name) != again.versions.get(name)
    ]


def differing_machines(stored: TrialFigures, again: TrialFigures) -> list[str]:
    """What differs between the two machines, in words."""
    return [
        f"{said} {stored.machine.get(name)} then, {again.machine.get(name)} now" for name, said in MACHINE.items()
        if stored.machine.get(name) != again.machine.get(name)
    ]


def _other_inputs(stored: TrialFigures, again: TrialFigures, *, alike: bool) -> Iterator[str]:
    """The first step that is computed from something else now; newer libraries alone explain that."""
    for path, key in stored.keys.items() if alike else ():
        if again.keys.get(path, key) != key:
            yield (
                f"{path} is computed from something else now than then: the model, its weights, the data, the Python "
                "next to the study or the code of optlang has changed"
            )
            return


def _ends(stored: TrialFigures, again: TrialFigures) -> Iterator[Compared]:
    """How the trial ended, where one of the two failed: requirements are met or missed by the figures below."""
    if not stored.failed and again.state != "failed":
        return
    texts = _end(stored), _end(again)
    yield Compared("end", "same" if texts[0] == texts[1] else "differs", texts=texts)


def _end(trial: TrialFigures) -> str:
    return f"failed: {trial.reason}" if trial.state == "failed" else "measured"


def _files(plan: Plan, stored: TrialFigures, again: TrialFigures, *, alike: bool) -> Iterator[Compared]:
    for target, kept in stored.artifacts.items():
        found = again.artifacts.get(target)
        if found is None:
            continue  # it failed, which has a row of its own
        exact = alike and kept.format not in COMPILED
        verdict: Verdict = "same" if kept.sha256 == found.sha256 else "differs" if exact else "not compared"
        yield Compared(_named(plan, target, "files"), verdict, texts=(kept.sha256[:12], found.sha256[:12]))


def _keys(plan: Plan, stored: TrialFigures, again: TrialFigures) -> list[Key]:
    """The figures to compare: what is counted, then what judges answers, then times; in the plan's order of metrics."""
    order = {metric.name: number for number, metric in enumerate(plan.metrics)}

    def rank(key: Key) -> tuple[str, bool, bool, int, str]:
        metric = validated(key[1])
        return key[0], metric not in BUILT, is_relative(metric), order.get(metric, len(order)), key[1]

    # A trial that ended early or failed then has no figures: those of now are compared with nothing.
    return sorted(stored.measurements, key=rank) if again.measurements else []


def _compared(
    plan: Plan, key: Key, stored: TrialFigures, again: TrialFigures, *, alike: bool
) -> Compared | None:
    target, name = key
    then, now = stored.measurements[key], again.measurements.get(key)
    metric = next((metric for metric in plan.metrics if metric.name == validated(name)), None)
    shown = _named(plan, target, name)
    compiled = target in stored.artifacts and stored.artifacts[target].format in COMPILED
    if name in BUILT:
        return Compared(shown, _counted(then, now, exact=not compiled), then, now)
    if metric is not None and metric.judges:
        return Compared(shown, _judged(then, now, exact=alike and not compiled), then, now)
    wanted = {MEDIAN, *(full_name(ref.metric) for ref in plan.metric_refs())}
    if name not in wanted or then.ratio is None or not is_relative(name):
        return None
    return Compared(shown, _overlap(then, now), then, now, paired=True)


def _counted(then: Measurement, now: Measurement | None, *, exact: bool) -> Verdict:
    """Of what a compiler writes, the bytes are one network's within `ALIKE`."""
    if now is not None and now.value == then.value:
        return "same"
    if now is None or exact or then.unit != "B" or abs(now.value - then.value) > ALIKE * then.value:
        return "differs"
    return "within the intervals"


def _judged(then: Measurement, now: Measurement | None, *, exact: bool) -> Verdict:
    if now is not None and now.value == then.value:
        return "same"
    if now is None or exact or not then.low <= now.value <= then.high:
        return "differs"
    return "within the intervals"


def _overlap(then: Measurement, now: Measurement | None) -> Verdict:
    """Whether the two ratios to the baseline may be one."""
    if now is None or now.ratio is None or None in (then.ratio_low, then.ratio_high, now.ratio_low, now.ratio_high):
        return "not compared"
    assert then.ratio_low is not None
    assert then.ratio_high is not None
    assert now.ratio_low is not None
    assert now.ratio_high is not None
    apart = then.ratio_low > now.ratio_high or now.ratio_low > then.ratio_high
    return "differs" if apart else "within the intervals"


def _named(plan: Plan, target: str, name: str) -> str:
    return name if len(plan.targets) < 2 else f"{target}.{name}"


def differing(rows: Sequence[Compared]) -> list[str]:
    """The names of the figures that differ."""
    return [row.name for row in rows if row.verdict == "differs"]
