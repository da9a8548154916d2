"""The parts of a plan in words: knobs, steps and targets with what the study sets or searches, and expressions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from optlang.analysis.lower.targets import PARAMS
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
    Param,
    Plan,
    Repeat,
    Searched,
    SetDomain,
    Setting,
    Step,
    Target,
)
from optlang.plan.quantities import counted
from optlang.plan.units import show
from optlang.space.compatibility import label_of


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


class Words:
    """Writes the parts of one plan, with its knobs by their columns."""

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
                params = self._plan.technique(technique).params
                yield StepLine(depth, said + self._settings(step.settings, step.path, params) + when)
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
                    times = f"{show_domain(knob.domain, knob.dimension)} times"
                else:
                    times = counted(count, "time")
                yield StepLine(depth, f"{label}: {times}" + when)
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
        own: dict[str, Setting] = {
            "device": Fixed(value=target.place), "threads": target.threads, "batch": target.batch,
            "dynamic": Fixed(value=target.dynamic), "shape": Fixed(value=target.shape),
        }
        if target.remote is not None:
            own["reconnect"] = Fixed(value=target.remote.reconnect)
        yield StepLine(0, target.name + self._settings(own, target.name, PARAMS))
        for use in target.runtimes:
            name = use.runtime.rpartition(".")[2]
            said = name if name == use.label else f"{use.label} = {name}"
            when = self.when(target.knob, use.label, "   ") if target.knob is not None else ""
            params = self._plan.runtime(use.runtime).params
            yield StepLine(1, said + self._settings(use.settings, use.path, params) + when)

    def _settings(self, settings: Mapping[str, Setting], at: str, params: Iterable[Param]) -> str:
        """The settings that the study searches, or fixes to another value than the declared default."""
        declared = {param.name: param for param in params}
        parts = []
        for name, setting in settings.items():
            if isinstance(setting, Fixed) and setting.value == declared[name].default:
                continue
            sign = "in" if isinstance(setting, Searched) else "="
            said = self.searched_when(setting, f"{at}.{name}") or self._handed_on(setting, at)
            dimension = declared[name].dimension
            parts.append(f"{name} in {said}" if said else f"{name} {sign} {self._setting(setting, dimension)}")
        return f" {{ {'; '.join(parts)} }}" if parts else ""

    def searched_when(self, setting: Setting, path: str) -> str:
        """`DOMAIN when …, else …` for a setting that is the knob at `path` under a condition, else nothing."""
        match setting:
            case Computed(expression=If(condition=condition, then=KnobRef(path=knob), otherwise=rest)) if knob == path:
                domain = show_domain(self._knobs[path].domain, setting.dimension)
                return f"{domain} when {self.say(condition)}, else {self._say(rest, setting.dimension)}"
        return ""

    def _handed_on(self, setting: Setting, at: str) -> str:
        """What is searched where a pipeline hands on a parameter to a conditional setting of the step at `at`."""
        match setting:
            case Computed(expression=KnobRef(path=knob)) if at.startswith(f"{knob.rpartition('.')[0]}."):
                return show_domain(self._knobs[knob].domain, setting.dimension)
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
        """What a setting is computed from; the values of one under a condition have its unit."""
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
        if use.weights_key is not None:
            parts.append(f'weights_key = "{use.weights_key}"')
        if not use.weights_strict:
            parts.append("weights_strict = false")
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
