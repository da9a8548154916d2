"""A plan in words, as data and as plain text: what is searched, what is ruled out, what a trial consists of.

Counts no points (the space does) and measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from optlang.plan.domains import show_domain
from optlang.plan.expressions import Binary, Const, Expression, If, In, KnobRef, MetricRef, RoundRef, Unary, Value
from optlang.plan.model import (
    Apply,
    Choice,
    Computed,
    Dimension,
    Fixed,
    Group,
    Knob,
    Maybe,
    Models,
    ModelUse,
    Order,
    Plan,
    Repeat,
    Rule,
    Searched,
    SetDomain,
    Setting,
    Step,
    Target,
)
from optlang.plan.units import show
from optlang.space.compatibility import label_of
from optlang.space.cost import Effort, Span, effort


class Counted(Protocol):
    """How many points a space has (at most, unless `exact`), and the columns of its continuous knobs."""

    @property
    def points(self) -> int: ...

    @property
    def exact(self) -> bool: ...

    @property
    def continuous(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class KnobLine:
    """One knob: its column, its full path, what it may be, and when it is there ("" always)."""

    column: str
    path: str
    domain: str
    condition: str
    help: str


@dataclass(frozen=True, slots=True)
class StepLine:
    """One line of the pipeline, `depth` levels in; settings that are searched name their knob."""

    depth: int
    text: str


@dataclass(frozen=True, slots=True)
class Description:
    """All that `optlang plan` says of a study."""

    study: str
    title: str
    inputs: tuple[tuple[str, str, str], ...]
    knobs: tuple[KnobLine, ...]
    baseline: tuple[StepLine, ...]
    pipeline: tuple[StepLine, ...]
    targets: tuple[StepLine, ...]
    points: int
    exact: bool
    continuous: tuple[str, ...]
    impossible: tuple[tuple[str, tuple[str, ...]], ...]
    forbids: tuple[str, ...]
    requires: tuple[str, ...]
    goals: tuple[str, ...]
    trial: tuple[str, ...]
    run: str
    search: str


def describe(plan: Plan, size: Counted, ladder: int) -> Description:
    """The plan in words; `size` is what its space was counted to be, `ladder` how many trials of one technique a run
    begins with."""
    words = Words(plan)
    return Description(
        study=plan.study,
        title=plan.title,
        inputs=tuple(
            (
                item.name,
                show(item.value, item.dimension),
                show_domain(item.domain, item.dimension) if item.domain else "",
            )
            for item in plan.inputs
        ),
        knobs=tuple(words.knob(knob) for knob in plan.knobs),
        baseline=tuple(words.steps(plan.baseline, 0)),
        pipeline=tuple(words.steps(plan.steps, 0)),
        targets=tuple(line for target in plan.targets for line in words.target(target)),
        points=size.points,
        exact=size.exact,
        continuous=tuple(size.continuous),
        impossible=words.impossible(),
        forbids=tuple(_rule(rule) for rule in plan.forbids),
        requires=tuple(_rule(rule) for rule in plan.requires),
        goals=tuple(f"{item.direction} {words.metric(item.metric)}" for item in plan.objectives),
        trial=_trial(plan),
        run=_run(plan, ladder),
        search=_search(plan),
    )


def _rule(rule: Rule) -> str:
    text = " ".join(rule.text.split())
    return f"{text}, because {rule.because}" if rule.because else text


def _trial(plan: Plan) -> tuple[str, ...]:
    made = effort(plan, plan.steps)
    lines = [f"{_counted(made.steps, 'technique')}, {_counted(made.epochs, 'epoch')} of training"]
    on_each = "" if len(plan.targets) == 1 else f"on each of {len(plan.targets)} targets "
    rounds = _plural(plan.measure.rounds, "round")
    lines.append(f"{on_each}one build, one measurement of {rounds} beside the baseline")
    lines.append("what a step makes is kept: a trial that begins as one before it goes on from there")
    if plan.baseline:
        first: Effort = effort(plan, plan.baseline)
        lines.append(f"before the first trial, once: the baseline, {_counted(first.epochs, 'epoch')} of training")
    return tuple(lines)


def _run(plan: Plan, ladder: int) -> str:
    alone = f"{_plural(ladder, 'trial')} of one technique alone (fewer where a runtime cannot run here), then "
    return f"the baseline, then {alone if ladder else ''}{_plural(plan.search.trials, 'searched trial')}"


def _plural(count: float, noun: str) -> str:
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def _counted(span: Span, noun: str) -> str:
    if span.high == inf:
        return f"{span.low:,.0f} or more {noun}s"
    if span.low == span.high:
        return _plural(span.low, noun)
    return f"{span.low:,.0f} to {_plural(span.high, noun)}"


def _search(plan: Plan) -> str:
    search = plan.search
    settings = ", ".join(f"{name} = {show(value, 'plain')}" for name, value in search.sampler.settings.items())
    sampler = f"sampler {search.sampler.name}" + (f" ({settings})" if settings else "")
    parts = [sampler, _plural(search.trials, "searched trial")]
    if search.timeout is not None:
        parts.append(f"at most {show(search.timeout, 'time')}")
    parts += [f"at most {show(search.trial_timeout, 'time')} a trial", f"seed {search.seed}"]
    if not search.ladder:
        parts.append("without the ladder")
    return ", ".join(parts)


class Words:
    """Says the parts of one plan, with its knobs by their columns."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._knobs: Mapping[str, Knob] = {knob.path: knob for knob in plan.knobs}
        self._metrics: Mapping[str, Dimension] = {metric.name: metric.dimension for metric in plan.metrics}

    def knob(self, knob: Knob) -> KnobLine:
        condition = self.say(knob.condition) if knob.condition is not None else ""
        return KnobLine(knob.column, knob.path, self.domain(knob), condition, knob.help)

    def domain(self, knob: Knob) -> str:
        """What the knob may be, with the conditions of branches that are there only sometimes."""
        if not knob.only or not isinstance(knob.domain, SetDomain):
            return show_domain(knob.domain, knob.dimension)
        return "{" + ", ".join(f"{label}{self.when(knob.path, str(label))}" for label in knob.domain.values) + "}"

    def when(self, path: str, label: str, room: str = " ") -> str:
        """` when …` for a branch of the knob at `path` that is there only sometimes, else nothing."""
        condition = self._knobs[path].only.get(label)
        return f"{room}when {self.say(condition)}" if condition is not None else ""

    def metric(self, ref: MetricRef) -> str:
        return ".".join(part for part in ("baseline" if ref.baseline else "", ref.target or "", ref.metric) if part)

    def impossible(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The reasons, each with the combinations that it rules out."""
        found: dict[str, list[str]] = {}
        for item in self._plan.impossible:
            parts = [f"{self._knobs[path].column} = {self._shown(path, value)}" for path, value in item.values.items()]
            found.setdefault(item.reason, []).append(", ".join(parts))
        return tuple((reason, tuple(cells)) for reason, cells in found.items())

    def _shown(self, path: str, value: Value) -> str:
        if isinstance(value, tuple):
            return " → ".join(str(item) for item in value)
        return show(value, self._knobs[path].dimension)

    # ---- the pipeline

    def steps(self, steps: tuple[Step, ...], depth: int) -> Iterable[StepLine]:
        for step in steps:
            yield from self._step(step, depth)

    def _step(self, step: Step, depth: int) -> Iterable[StepLine]:
        when = f"   when {self.say(step.when)}" if step.when is not None else ""
        label = label_of(step.path)
        match step:
            case Apply(technique=technique):
                name = technique.rpartition(".")[2]
                said = name if label == name else f"{label} = {name}"
                yield StepLine(depth, said + self._settings(step, technique) + when)
            case Choice(branches=branches):
                yield StepLine(depth, f"{label}: one of" + when)
                for branch in branches:
                    first, *more = self._branch(branch.name, branch.steps, depth + 1)
                    yield StepLine(first.depth, first.text + self.when(step.path, branch.name, "   "))
                    yield from more
            case Maybe(steps=inner):
                lines = list(self.steps(inner, depth))
                yield StepLine(depth, "maybe " + lines[0].text + when)
                yield from lines[1:]
            case Repeat(count=count, steps=inner):
                if count is None:
                    knob = self._knobs[step.counter]
                    times = show_domain(knob.domain, knob.dimension)
                else:
                    times = str(count)
                yield StepLine(depth, f"{label}: {times} times" + when)
                yield from self.steps(inner, depth + 1)
            case Group(path="", steps=inner, when=None):
                yield from self.steps(inner, depth)
            case Group(path="", steps=inner):
                yield StepLine(depth, when.strip())
                yield from self.steps(inner, depth + 1)
            case Group(steps=inner):
                yield StepLine(depth, f"{label}:" + when)
                yield from self.steps(inner, depth + 1)
            case Order(members=members):
                yield StepLine(depth, f"{label}: in any order" + when)
                for member in members:
                    yield from self.steps(member.steps, depth + 1)

    def _branch(self, name: str, steps: tuple[Step, ...], depth: int) -> Iterable[StepLine]:
        if not steps:
            yield StepLine(depth, name)
            return
        if len(steps) == 1 and label_of(steps[0].path) == name:
            yield from self._step(steps[0], depth)
            return
        yield StepLine(depth, f"{name}:")
        yield from self.steps(steps, depth + 1)

    def target(self, target: Target) -> Iterable[StepLine]:
        threads, batch = (self._setting(item, "count") for item in (target.threads, target.batch))
        yield StepLine(0, f"{target.name}: device {target.device}, threads {threads}, batch {batch}")
        for use in target.runtimes:
            name = use.runtime.rpartition(".")[2]
            said = name if name == use.label else f"{use.label} = {name}"
            params = {param.name: param for param in self._plan.runtime(use.runtime).params}
            # Runtimes have many settings, and a study is about few of them: the rest are as declared.
            told = {
                key: setting for key, setting in use.settings.items()
                if not isinstance(setting, Fixed) or setting.value != params[key].default
            }
            when = self.when(target.knob, use.label, "   ") if target.knob is not None else ""
            dimensions = {key: param.dimension for key, param in params.items()}
            yield StepLine(1, said + self._said(told, use.path, dimensions) + when)

    def _settings(self, step: Apply, technique: str) -> str:
        dimensions = {param.name: param.dimension for param in self._plan.technique(technique).params}
        return self._said(step.settings, step.path, dimensions)

    def _said(self, settings: Mapping[str, Setting], at: str, dimensions: Mapping[str, Dimension]) -> str:
        parts = []
        for name, setting in settings.items():
            if setting.when is not None and isinstance(setting, Fixed):
                continue
            if isinstance(setting, Fixed) and setting.value in ((), None):
                continue
            sign = "in" if isinstance(setting, Searched) else "="
            said = self.searched_when(setting, f"{at}.{name}")
            parts.append(f"{name} in {said}" if said else f"{name} {sign} {self._setting(setting, dimensions[name])}")
        return f" {{ {'; '.join(parts)} }}" if parts else ""

    def searched_when(self, setting: Setting, path: str) -> str:
        """`DOMAIN when …, else …` for a setting that is the knob at `path` under a condition, else nothing."""
        match setting:
            case Computed(expression=If(condition=condition, then=KnobRef(path=knob), otherwise=rest)) if knob == path:
                domain = show_domain(self._knobs[path].domain, setting.dimension)
                return f"{domain} when {self.say(condition)}, else {self._say(rest, setting.dimension)}"
        return ""

    def _setting(self, setting: Setting, dimension: Dimension) -> str:
        match setting:
            case Fixed(value=value):
                return show(value, dimension)
            case Searched(knob=path):
                return show_domain(self._knobs[path].domain, dimension)
            case Models(models=models, several=several):
                said = ", ".join(map(self._model, models))
                return f"[{said}]" if several else said
        return self.computed(setting)

    def computed(self, setting: Computed) -> str:
        """What a setting follows from; the values of one under a condition have its unit."""
        dimension = setting.dimension if isinstance(setting.expression, If) else "plain"
        return self._say(setting.expression, dimension)

    def _model(self, use: ModelUse) -> str:
        parts = []
        for name, item in use.arguments.items():
            sign = "in" if isinstance(item, Searched) else "="
            dimension: Dimension = "number"
            if isinstance(item, Searched):
                dimension = self._knobs[item.knob].dimension
            elif isinstance(item, Fixed) and isinstance(item.value, str):
                dimension = "string"
            parts.append(f"{name} {sign} {self._setting(item, dimension)}")
        if use.weights is not None:
            parts.append(f'weights = "{use.weights}"')
        return f"{use.name}({', '.join(parts)})"

    # ---- expressions

    def say(self, expression: Expression) -> str:
        """The expression as it could be written, knobs by their columns and quantities with their units."""
        return self._say(expression, "plain")

    def _say(self, expression: Expression, dimension: Dimension | str) -> str:
        match expression:
            case Const(value=value):
                return show(value, dimension)  # type: ignore[arg-type]
            case KnobRef(path=path):
                return self._knobs[path].column if path in self._knobs else path
            case RoundRef(path=path, which=which):
                return f"{label_of(path)}.round" if which == "round" else label_of(path)
            case MetricRef():
                return self.metric(expression)
            case Unary(operator=operator, operand=operand):
                return f"{operator}{' ' if operator == 'not' else ''}{self._wrapped(operand, dimension)}"
            case In(value=value, options=options):
                inner = self._dimension(value)
                listed = ", ".join(show(option, inner) for option in options)  # type: ignore[arg-type]
                return f"{self._wrapped(value, inner)} in {{{listed}}}"
            case Binary(operator=operator, left=left, right=right):
                inner = dimension
                if operator in ("==", "!=", "<", "<=", ">", ">="):
                    inner = next((item for item in map(self._dimension, (left, right)) if item != "plain"), "plain")
                if operator in ("and", "or", "+") and isinstance(left, Binary) and left.operator == operator:
                    return f"{self._say(left, inner)} {operator} {self._wrapped(right, inner)}"
                return f"{self._wrapped(left, inner)} {operator} {self._wrapped(right, inner)}"
            case If(condition=condition, then=then, otherwise=otherwise):
                first, rest = (self._wrapped(item, dimension) for item in (then, otherwise))
                return f"{first} when {self.say(condition)}, else {rest}"
        raise AssertionError(expression)

    def _wrapped(self, expression: Expression, dimension: Dimension | str) -> str:
        text = self._say(expression, dimension)
        loose = isinstance(expression, If) or (
            isinstance(expression, Binary) and expression.operator in ("and", "or", "+", "-")
        )
        return f"({text})" if loose else text

    def _dimension(self, expression: Expression) -> str:
        match expression:
            case KnobRef(path=path) if path in self._knobs:
                return self._knobs[path].dimension
            case MetricRef(metric=metric):
                return self._metrics.get(metric, "plain")
            case Binary(operator="+" | "-", left=left, right=right):
                return next((item for item in map(self._dimension, (left, right)) if item != "plain"), "plain")
        return "plain"


# ---- as text


def text(description: Description) -> str:
    """The description as plain text, made for a terminal of 100 columns."""
    lines = [f"study {description.study}" + (f": {description.title}" if description.title else ""), ""]
    if description.inputs:
        lines += _section("inputs", _table([
            (f"{name} = {value}", domain) for name, value, domain in description.inputs
        ]))
    knobs = [
        (item.column, item.domain, f"when {item.condition}" if item.condition else "") for item in description.knobs
    ]
    lines += _section(f"knobs ({len(knobs)})", _table(knobs) or ["none: there is one point"])
    if description.baseline:
        lines += _section("baseline, once", [_indented(item) for item in description.baseline])
    lines += _section("pipeline", [_indented(item) for item in description.pipeline] or ["nothing"])
    lines += _section("target", [_indented(item) for item in description.targets])
    lines += _section("space", _points(description))
    ruled = [line for reason, cells in description.impossible[:REASONS] for line in _reason(reason, cells)]
    if ruled:
        more = len(description.impossible) - REASONS
        ruled += [f"and {more:,} more reasons; `optlang plan --json` lists all"] if more > 0 else []
        lines += _section("cannot go together", ruled)
    for title, items in (
        ("forbidden", description.forbids), ("required", description.requires), ("goals", description.goals),
        ("a trial", description.trial), ("a run", (description.run,)), ("search", (description.search,)),
    ):
        if items:
            lines += _section(title, items)
    return "\n".join(lines).rstrip() + "\n"


REASONS = 50
"""How many reasons why something cannot go together are written out."""


def _points(description: Description) -> list[str]:
    count = f"{'' if description.exact else 'at most '}{_plural(description.points, 'point')}"
    if not description.continuous:
        return [count]
    knobs = " and ".join(description.continuous)
    verb = "is" if len(description.continuous) == 1 else "are"
    return [f"{count} of the finite knobs; {knobs} {verb} continuous"]


def _reason(reason: str, cells: tuple[str, ...], limit: int = 6) -> list[str]:
    more = [f"  and {len(cells) - limit} more"] if len(cells) > limit else []
    return [f"{reason}:"] + [f"  {cell}" for cell in cells[:limit]] + more


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines), ""]


def _indented(line: StepLine) -> str:
    return "  " * line.depth + line.text


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
