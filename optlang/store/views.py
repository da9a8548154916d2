"""The SQL of the views that people query, made from the studies' plans and the metrics that were measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optlang.plan.metrics import ALIKE, MEDIAN, TEST, is_relative, short_name
from optlang.store.front_view import Goal, front_view

if TYPE_CHECKING:
    from optlang.plan.model import Knob, Metric, Objective, Plan

_FIXED = ("study", "run", "trial", "state", "reason", "origin", "seconds")
_NUMBERS = {"BIGINT", "DOUBLE"}
_VIEWS = ("front", "tradeoffs", "results", "timeline", "learning", "rungs", "devices")


def column_name(path: str, target: str | None = None) -> str:
    """The column of a knob or metric: dots become `_`; a target's name goes in front where there are several."""
    return (f"{target}." if target else "").replace(".", "_") + path.replace(".", "_")


@dataclass(slots=True)
class _Columns:
    """Columns of one view by name (ignoring case): their expressions by run, and their types."""

    names: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[tuple[str, str], list[str]]] = field(default_factory=dict)

    def add(self, run: str, name: str, expression: str, kind: str) -> None:
        key = name.lower()
        self.names.setdefault(key, name)
        self.parts.setdefault(key, {}).setdefault((expression, kind), []).append(run)

    def sql(self, everywhere: frozenset[str]) -> Iterator[str]:
        """One select item a column; those of `everywhere` are NULL of themselves in the runs that lack them."""
        for key, name in self.names.items():
            parts = self.parts[key]
            kinds = {kind for _, kind in parts}
            kind = kinds.pop() if len(kinds) == 1 else "DOUBLE" if kinds <= _NUMBERS else "VARCHAR"
            if len(parts) == 1 and key in everywhere:
                ((expression, own),) = parts
                yield f"{_cast(expression, own)} AS {quoted(name)}"
                continue
            cases = " ".join(
                f"WHEN t.run IN ({', '.join(map(quoted_text, runs))}) THEN {_cast(_cast(expression, own), kind)}"
                for (expression, own), runs in parts.items()
            )
            yield f"CASE {cases} END AS {quoted(name)}"


@dataclass(slots=True)
class _Wide:
    """Metrics side by side: one aggregate a metric, target and way to join several targets into one."""

    names: dict[tuple[str, str | None, str], str] = field(default_factory=dict)

    def add(self, metric: str, target: str | None, worst: str) -> str:
        return self.names.setdefault((metric, target, worst), f"m{len(self.names)}")

    def sql(self, ends: Collection[str] = ()) -> str:
        """The aggregates; of those in `ends` also the intervals of the value and of the ratio."""
        parts = []
        for (metric, target, worst), name in self.names.items():
            where = f"metric = {quoted_text(metric)}" + (f" AND target = {quoted_text(target)}" if target else "")
            parts.append(f", {worst}(got.value) FILTER ({where}) AS {name}")
            parts.append(f", min(got.ratio) FILTER ({where}) AS {name}_x")
            parts.append(f", arg_{worst}(got.baseline, got.value) FILTER ({where}) AS {name}_b")
            if name in ends:
                own = "{'low': got.low, 'high': got.high}"
                ratio = "{'ratio': got.ratio, 'low': got.ratio_low, 'high': got.ratio_high}"
                parts.append(f", arg_{worst}({own}, got.value) FILTER ({where}) AS {name}_i")
                parts.append(f", arg_min({ratio}, got.ratio) FILTER ({where}) AS {name}_r")
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class _Metric:
    """One metric of a study: its columns' names, and their expressions over the joined tables."""

    name: str
    kind: str
    value: str
    against: tuple[str, str] | None
    """The suffix of the column that compares with the baseline ("x" or "lost"), and the comparison."""
    baseline: str | None
    """The baseline's value in the same measurement; None where none holds it."""


def view_statements(
    runs: Sequence[tuple[str, str, Plan]],
    measured: Iterable[tuple[str, str, str, bool]],
    newest: Sequence[str],
    *,
    several: bool = False,
    shown: Collection[str] | None = None,
) -> list[str]:
    """The statements that make the views that `_VIEWS` lists.

    `runs` are (run, study, plan) in the order they were begun, `measured` the (run, target, metric) with measurements
    and whether any of them holds the baseline's value, `newest` the newest run of each study. The tables of `several`
    databases have their names in `runs.db`, and so have the views. These are of the runs `shown`, or of all.
    """
    runs = [item for item in runs if shown is None or item[0] in shown]
    chosen = "" if shown is None else f" WHERE r.run IN ({', '.join(map(quoted_text, shown)) or 'NULL'})"
    study = "r.db, r.study" if several else "r.study"
    there: dict[str, dict[tuple[str, str], bool]] = {}
    for run, target, metric, paired in measured:
        there.setdefault(run, {})[target, metric] = paired
    wide = _Wide()
    metrics = {run: _metrics(plan, there.get(run, {}), wide) for run, _, plan in runs}
    plans = {run: plan for run, _, plan in runs}
    return [
        *(f"DROP VIEW IF EXISTS {name}" for name in _VIEWS),
        _results(runs, metrics, wide, study, chosen),
        _front(plans, metrics, wide, newest),
        _tradeoffs(runs, metrics, wide, newest, study),
        f"CREATE VIEW timeline AS SELECT {study}, s.run, s.trial, s.path AS step, s.started, s.seconds, s.cached, "
        f"s.worker FROM steps s JOIN runs r ON r.run = s.run{chosen} "
        "ORDER BY s.started NULLS LAST, s.run, s.trial, s.position",
        f"CREATE VIEW learning AS SELECT {study}, c.run, c.trial, c.path AS step, s.technique, c.target, c.epoch, "
        "c.epochs, c.loss, c.metric, c.value, c.seconds, c.cached FROM curves c JOIN runs r ON r.run = c.run "
        "LEFT JOIN (SELECT run, trial, path, any_value(technique) AS technique FROM steps GROUP BY ALL) s "
        "ON s.run = c.run AND s.trial = c.trial AND s.path = c.path"
        f"{chosen} ORDER BY r.started, c.run, c.trial, c.path, c.target NULLS FIRST, c.seconds",
        _rungs(runs, study, chosen),
        f"CREATE VIEW devices AS SELECT {study}, s.run, s.session, s.started, d.key AS target, "
        "d.value->>'device' AS device, "
        "d.value->>'processor' AS processor, d.value->>'architecture' AS architecture, "
        "(d.value->>'cores')::INTEGER AS cores, (d.value->>'memory')::BIGINT AS memory, d.value->>'system' AS system, "
        "d.value->>'python' AS python, d.value->'packages' AS packages "
        f"FROM sessions s JOIN runs r ON r.run = s.run, json_each(s.machine, '$.devices') d{chosen} "
        "ORDER BY s.started, target",
    ]


def _metrics(
    plan: Plan, there: Mapping[tuple[str, str], bool], wide: _Wide
) -> dict[tuple[str | None, str], _Metric]:
    """The metrics of a run by target (None: the only one, or the worst of several) and name.

    `there` says of what was measured, by target and metric, whether the baseline's value came with it.
    """
    declared = {metric.name: metric.direction for metric in plan.metrics}
    declared |= {TEST + name: direction for name, direction in declared.items()}
    whole = {metric.name for metric in plan.metrics if metric.dimension in ("bytes", "count")}
    targets = [target.name for target in plan.targets]
    names = {metric for _, metric in there} | {ref.metric for ref in plan.metric_refs()}
    ordered = [name for name in declared if name in names] + sorted(names - declared.keys())
    pairs: list[tuple[str | None, str]] = [(None, name) for name in ordered]
    if len(targets) > 1:
        pairs += [(target, name) for target in targets for name in ordered if (target, name) in there]
    found = {}
    for target, name in pairs:
        direction = declared.get(name)
        column = wide.add(name, target, "min" if direction == "maximize" else "max")
        against = None
        if direction == "minimize":
            against = ("x", f"coalesce(w.{column}_x, nullif(b.{column}, 0) / nullif(w.{column}, 0))")
        elif direction == "maximize":
            against = ("lost", f"coalesce(w.{column}_b, b.{column}) - w.{column}")
        # Of several targets the worst ratio may be another's than the worst value: there is no one baseline to both.
        one = target is not None or len(targets) == 1
        paired = one and any(there.get((where, name)) for where in ([target] if target else targets))
        found[target, name] = _Metric(
            column_name(name, target), "BIGINT" if name in whole else "DOUBLE", f"w.{column}", against,
            f"w.{column}_b" if paired else None,
        )
    return found


def _latest(wide: _Wide, ends: Collection[str] = ()) -> str:
    """The latest measurement of each metric, side by side; with the intervals of those named in `ends`.

    Few trials are measured again: it is faster to leave out what was than to look for the latest of each. What a
    query does not use is not computed, so nothing is materialized.
    """
    return (
        "again AS NOT MATERIALIZED (SELECT run, trial, target, metric, max(pass) AS pass FROM measurements "
        "WHERE pass > 0 GROUP BY ALL), "
        "got AS NOT MATERIALIZED (SELECT m.* FROM measurements m ANTI JOIN again ON again.run = m.run "
        "AND again.trial = m.trial AND again.target = m.target AND again.metric = m.metric AND again.pass > m.pass), "
        f"wide AS NOT MATERIALIZED (SELECT run, trial{wide.sql(ends)} FROM got GROUP BY run, trial)"
    )


_JOINED = (
    "trials t JOIN runs r ON r.run = t.run "
    "LEFT JOIN wide w ON w.run = t.run AND w.trial = t.trial LEFT JOIN wide b ON b.run = t.run AND b.trial = 0"
)


def _results(
    runs: Sequence[tuple[str, str, Plan]],
    metrics: Mapping[str, Mapping[Any, _Metric]],
    wide: _Wide,
    study: str,
    chosen: str,
) -> str:
    columns = _Columns()
    for run, _, plan in runs:
        for knob in plan.knobs:
            columns.add(run, column_name(knob.column), _knob(knob), knob_type(knob))
    for run, found in metrics.items():
        for (target, name), metric in found.items():
            for called in _called(name, target):
                columns.add(run, called, metric.value, metric.kind)
    for run, found in metrics.items():
        for (target, name), metric in found.items():
            if metric.against is not None:
                suffix, expression = metric.against
                for called in _called(name, target):
                    columns.add(run, f"{called}_{suffix}", expression, "DOUBLE")
    for run, found in metrics.items():
        for (target, name), metric in found.items():
            if metric.baseline is not None:
                for called in _called(name, target):
                    columns.add(run, f"{called}_baseline", metric.baseline, metric.kind)
    for run, _, plan in runs:
        columns.add(run, "batch_dependent", _dependent(plan), "BOOLEAN")
    fixed = f"{study}, t.run, t.trial, t.state, t.reason, t.origin, t.seconds"
    items = "".join(f", {item}" for item in columns.sql(_everywhere(runs, columns)))
    return (
        f"CREATE VIEW results AS WITH {_latest(wide)} SELECT {fixed}{items} FROM {_JOINED}{chosen} "
        "ORDER BY r.started, t.run, t.trial"
    )


def _called(name: str, target: str | None) -> Iterator[str]:
    """The columns of a metric: by its alias where it has one, and by its own name."""
    yield from (column_name(item, target) for item in dict.fromkeys([short_name(name), name]))


def _dependent(plan: Plan) -> str:
    """Whether an answer depends on the other samples of its call, on any target; NULL where that is not known."""
    several = len(plan.targets) > 1
    names = [f"{target.name}.batch_dependent" if several else "batch_dependent" for target in plan.targets]
    each = ["(t.notes ->> " + quoted_text(f'$."{name}"') + ")::BOOLEAN" for name in names]
    return f"greatest({', '.join(each)})" if len(each) > 1 else each[0]


def _everywhere(runs: Sequence[tuple[str, str, Plan]], columns: _Columns) -> frozenset[str]:
    """The columns whose one expression gives NULL by itself where a run does not have them."""
    meant: dict[str, set[str]] = {}
    for _, _, plan in runs:
        for knob in plan.knobs:
            meant.setdefault(knob.path, set()).add(column_name(knob.column).lower())
    shared = {name for names in meant.values() if len(names) > 1 for name in names}
    return frozenset(key for key, parts in columns.parts.items() if len(parts) == 1 and key not in shared)


def knob_type(knob: Knob) -> str:
    """The SQL type of a knob's column: BIGINT, DOUBLE, BOOLEAN or VARCHAR."""
    domain = knob.domain
    if domain.kind == "int" or domain.kind == "float":
        return "BIGINT" if domain.kind == "int" else "DOUBLE"
    if domain.kind == "order":
        return "VARCHAR"
    values = domain.values
    if all(isinstance(value, bool) for value in values):
        return "BOOLEAN"
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        whole = all(isinstance(value, int) for value in values) and knob.dimension in ("count", "bytes", "number")
        return "BIGINT" if whole else "DOUBLE"
    return "VARCHAR"


def _knob(knob: Knob) -> str:
    path = quoted_text(f'$."{knob.path}"')
    if knob.domain.kind == "order":
        return f"array_to_string((t.point -> {path})::VARCHAR[], ', ')"
    return f"t.point ->> {path}"


def _front(
    plans: Mapping[str, Plan], metrics: Mapping[str, Mapping[Any, _Metric]], wide: _Wide, newest: Sequence[str]
) -> str:
    goals = {
        quoted_text(run): [_goal(plans[run], objective, metrics[run]) for objective in plans[run].objectives]
        for run in newest
    }
    columns = {
        found.value.removeprefix("w.") for run in newest for objective in plans[run].objectives
        if (found := metrics[run].get((objective.metric.target, objective.metric.metric))) is not None
    }
    return front_view(goals, _latest(wide, columns), _JOINED)


def _goal(plan: Plan, objective: Objective, metrics: Mapping[Any, _Metric]) -> Goal:
    name = objective.metric.metric
    found = metrics.get((objective.metric.target, name))
    if found is None:
        return Goal("NULL::DOUBLE", "NULL::DOUBLE", "NULL::DOUBLE")
    value = _value(name, found)
    low, high = _ends(next((metric for metric in plan.metrics if metric.name == name), None), found.value, value)
    return Goal(value if objective.direction == "maximize" else f"-{value}", low, high)


def _ends(metric: Metric | None, column: str, value: str) -> tuple[str, str]:
    """Within which values an objective's may lie, as `search.ties` has it."""
    ratio, own = f"{column}_r", f"{column}_i"
    if metric is not None and metric.direction == "maximize":
        compared = [f"{value} * {ratio}.{end} / {ratio}.ratio" for end in ("low", "high")]
    else:
        compared = [f"{value} * {ratio}.ratio / {ratio}.{end}" for end in ("high", "low")]
    if metric is not None and is_relative(metric.name):
        alone = [value, value]
    elif metric is not None and metric.judges:
        alone = [f"CASE WHEN {own}.low + {own}.high IS NULL THEN {value} ELSE {own}.{end} END" for end in _ENDS]
    else:
        factors = zip(_ENDS, (1 - ALIKE / 2, 1 + ALIKE / 2), strict=True)
        alone = [
            f"CASE WHEN {own}.low < {own}.high THEN {own}.{end} ELSE {value} * {factor!r} END"
            for end, factor in factors
        ]
    # `least` passes over what is NULL.
    there = f"{ratio}.low + {ratio}.high IS NOT NULL AND least({ratio}.ratio, {ratio}.low, {ratio}.high) > 0"
    both = ", ".join(f"CASE WHEN {there} THEN {a} ELSE {b} END" for a, b in zip(compared, alone, strict=True))
    return f"least({both})", f"greatest({both})"


_ENDS = ("low", "high")


def _value(name: str, metric: _Metric) -> str:
    """An objective's value as `search.objectives` has it."""
    own = metric.value
    if not is_relative(name):
        return own
    baseline = f"b.{own.removeprefix('w.')}"
    if name == "throughput":
        return f"coalesce({own}_x, {own} / nullif({baseline}, 0))"
    return f"(1 / nullif(coalesce({own}_x, {baseline} / nullif({own}, 0)), 0))"


def _rungs(runs: Sequence[tuple[str, str, Plan]], study: str, chosen: str) -> str:
    """Where trials paused, a row for each pause, with the metrics that they were compared by there."""
    columns = _Columns()
    for run, _, plan in runs:
        named = {ref.metric for ref in plan.metric_refs() if not ref.baseline}
        for metric in (item for item in plan.metrics if item.name in named and item.judges):
            each = [
                f"(p.scores -> {quoted_text(target.name)} ->> {quoted_text(metric.name)})::DOUBLE"
                for target in plan.targets
            ]
            worst = "least" if metric.direction == "maximize" else "greatest"
            columns.add(run, column_name(metric.name), f"{worst}({', '.join(each)})", "DOUBLE")
    scores = "".join(f", {item}" for item in columns.sql(frozenset(columns.names)))
    return (
        f"CREATE VIEW rungs AS SELECT {study}, p.run, p.trial, p.rung, p.epoch, p.epochs, t.state, "
        "t.state <> 'paused' OR p.rung < max(p.rung) OVER (PARTITION BY p.run, p.trial) AS went_on, "
        f"p.seconds{scores} FROM pauses p JOIN trials t ON t.run = p.run AND t.trial = p.trial "
        f"JOIN runs r ON r.run = p.run{chosen} ORDER BY r.started, p.run, p.rung, p.trial"
    )


def _tradeoffs(
    runs: Sequence[tuple[str, str, Plan]],
    metrics: Mapping[str, Mapping[Any, _Metric]],
    wide: _Wide,
    newest: Sequence[str],
    study: str,
) -> str:
    """Each technique alone; and against the float32 model in the same runtime, so that it is credited with its own."""
    plans = {run: plan for run, _, plan in runs}
    compared = _Columns()
    quality = _Columns()
    for run in newest:
        for name, column in (("size", "size_x"), ("size.compressed", "size_compressed_x"), (MEDIAN, "latency_x")):
            metric = metrics[run].get((None, name))
            compared.add(run, column, metric.against[1] if metric and metric.against else "NULL", "DOUBLE")
        first = _first_quality(plans[run], metrics[run])
        if first is not None and first.against is not None:
            quality.add(run, f"{first.name}_{first.against[0]}", first.against[1], "DOUBLE")
    if not quality.names:
        quality.add("", "accuracy_lost", "NULL", "DOUBLE")
    if not compared.names:
        for column in ("size_x", "size_compressed_x", "latency_x"):
            compared.add("", column, "NULL", "DOUBLE")
    items = ", ".join([*compared.sql(frozenset()), *quality.sql(frozenset())])
    kept = ", ".join(quoted(name) for name in quality.names.values())
    chosen = ", ".join(map(quoted_text, newest)) or "NULL"
    return (
        f"CREATE VIEW tradeoffs AS WITH {_latest(wide)}, "
        f"ladder AS MATERIALIZED (SELECT {study}, t.run, t.trial, t.runtime, "
        f"coalesce(t.alone, 'none') AS technique, {items} "
        f"FROM {_JOINED} WHERE t.run IN ({chosen}) AND (t.alone IS NOT NULL OR t.trial = 0)), "
        "bare AS (SELECT run, runtime, min_by(trial, trial = 0) AS trial, min_by(latency_x, trial = 0) AS latency_x "
        "FROM ladder WHERE technique = 'none' GROUP BY run, runtime) "
        f"SELECT {study.replace('r.', 'ladder.')}, ladder.technique, ladder.runtime, ladder.size_x, "
        "ladder.size_compressed_x, ladder.latency_x, "
        f"ladder.latency_x / nullif(bare.latency_x, 0) AS latency_same_runtime_x, {kept}, ladder.trial "
        "FROM ladder LEFT JOIN bare ON bare.run = ladder.run AND bare.runtime = ladder.runtime "
        "WHERE ladder.technique <> 'none' OR ladder.trial = bare.trial OR bare.trial IS NULL "
        "ORDER BY ladder.study, ladder.trial"
    )


def _first_quality(plan: Plan, metrics: Mapping[Any, _Metric]) -> _Metric | None:
    """What answers are judged by: their accuracy, else the first such metric that is a goal, or was measured."""
    judging = plan.judging
    goals = [objective.metric.metric for objective in plan.objectives]
    for name in ["accuracy", *goals, *judging]:
        if name in judging and (None, name) in metrics:
            return metrics[None, name]
    return None


def _cast(expression: str, kind: str) -> str:
    return f"({expression})::{kind}"


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text as SQL writes it."""
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
