"""What a name in an expression stands for: inputs, lets, parameters, knobs, rounds and metrics; and what is reported
where it is none.

Each lookup enters its reference into the symbol table, which the editor asks too. Kinds of values are expressions.py's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from optlang.analysis.definitions import Definition, KnobSymbol, Symbols, suffixes
from optlang.analysis.modules.names import Scope, either, listed, only, suggestion
from optlang.diagnostics import field_words
from optlang.diagnostics.field_words import METRICS
from optlang.diagnostics.model import Diagnostics, Label, Span
from optlang.diagnostics.suggest import closest
from optlang.plan.expressions import MetricRef, RoundRef
from optlang.plan.metrics import ALIASES, TEST, full_name
from optlang.plan.model import Dimension, Fixed, Metric, Param, Setting
from optlang.plan.units import Constant
from optlang.syntax import tree


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an expression may name where it stands, and how a message calls that.

    `rounds` are the paths of the `repeat`s around; only knobs before number `before` may be named there.
    """

    called: str
    knobs: bool = False
    metrics: bool = False
    rounds: tuple[str, ...] = ()
    before: int | None = None
    knobs_called: str = "knobs"


FIXED = Allowed("here")
_METRIC = Allowed("a metric", metrics=True)


@dataclass(slots=True, eq=False)
class InputValue:
    """The value of an input, known before anything else is read."""

    constant: Constant
    dimension: Dimension
    bare: Span | None = None
    """Where the value stands, if it is a number that was written without a unit."""


@dataclass(slots=True, eq=False)
class Given:
    """A parameter with its setting; `fixed` where that is known before the knobs are."""

    param: Param
    span: Span
    fixed: Fixed | None
    later: Callable[[], Setting | None]
    definition: Definition | None = None

    def setting(self) -> Setting | None:
        """The setting; None where it is wrong."""
        return self.fixed if self.fixed is not None else self.later()


Found: TypeAlias = "Given | InputValue | tree.Let | RoundRef | MetricRef | KnobSymbol | Definition"
"""What a name stands for; a `Definition` is broken, and the caller reports nothing."""


@dataclass(slots=True, eq=False)
class Namespace:
    """All that expressions in one scope can name."""

    diagnostics: Diagnostics
    scope: Scope
    symbols: Symbols
    inputs: dict[str, InputValue] = field(default_factory=dict)
    lets: dict[str, tree.Let] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    params: dict[str, Given] = field(default_factory=dict)
    """The parameters of the pipeline whose steps are read."""
    under: str = ""
    """The path of that pipeline's label: its steps name no knob outside."""

    def with_siblings(self, siblings: dict[str, Given]) -> Namespace:
        """The same names, and before them those of `siblings`: the other settings of one step."""
        return replace(self, params={**self.params, **siblings})

    # ---- lookups

    def is_value(self, path: tree.Path) -> bool:
        """Whether `path` is a parameter, an input or a `let`: known whatever the knobs are."""
        return path.text in self.params or path.text in self.inputs or self.peek(path) is not None

    def peek(self, path: tree.Path) -> tree.Let | None:
        """The `let` of the study or of a module that `path` would name; enters no reference."""
        own = self.lets.get(path.text)
        if own is not None:
            return own
        found = self.scope.lookup(path)
        return found.node if found is not None and isinstance(found.node, tree.Let) else None

    def let(self, path: tree.Path) -> tree.Let | None:
        """The `let` that `path` names."""
        found = self.peek(path)
        if found is not None and path.text in self.lets:
            self.symbols.table.refer(path.span, self.symbols.names.get(path.text))
        elif found is not None:
            self.scope.find(path)
        return found

    def unfold(self, node: tree.Domain) -> tree.Domain:
        """`node`, or what the `let` that it names stands for, as far as that goes; a circle stays what it is."""
        seen: set[str] = set()
        while (
            isinstance(node, tree.Path)
            and node.text not in seen
            and node.text not in self.inputs
            and node.text not in self.params
        ):
            seen.add(node.text)
            found = self.let(node)
            if found is None:
                break
            node = found.value
        return node

    def find(self, path: tree.Path, allowed: Allowed) -> Found | None:
        """What `path` names, None where nothing. Codes: E202 where it is ambiguous, E207 where too early."""
        given = self.params.get(path.text)
        if given is not None:
            self.symbols.table.refer(path.span, given.definition)
            return given
        named = self.inputs.get(path.text)
        if named is not None:
            self.symbols.table.refer(path.span, self.symbols.names.get(path.text))
            return named
        let = self.let(path)
        if let is not None:
            return let
        found = self._round(path, allowed)
        if found is not None:
            return found
        metric = self.metric(path) if allowed.metrics else None
        if metric is not None:
            self._refer_metric(path, metric)
            return metric
        knob = self._knob(path, allowed)
        if knob is None and self.scope.absorbs(path):
            return self._absorbed(path)
        return knob or self.metric(path)

    def quietly(self, node: tree.Node | None, allowed: Allowed) -> None:
        """Enter the references of what is not read, since what it belongs to is wrong."""
        for path in tree.paths(node) if node is not None else ():
            knobs = self.symbols.named(path.text, self.under)
            if not self.is_value(path) and self._round(path, allowed) is None and len(knobs) == 1:
                self.refer_knob(path, knobs[0])
            elif self.is_value(path):
                self.find(path, allowed)
            elif self.scope.absorbs(path):
                self._absorbed(path)
            else:
                self.symbols.table.refer(path.span, None)

    def only_knob(self, path: tree.Path) -> KnobSymbol | None:
        """The one knob that `path` would name; enters no reference."""
        found = self.symbols.named(path.text, self.under)
        return found[0] if len(found) == 1 else None

    def _knob(self, path: tree.Path, allowed: Allowed) -> KnobSymbol | Definition | None:
        """The knob with the full path `path`, or the only one whose path ends so."""
        matches = self.symbols.named(path.text, self.under)
        if len(matches) > 1:
            self.diagnostics.error(
                "E202", f"`{path.text}` could be any of {len(matches)} knobs", path.span, "say which",
                help="write " + " or ".join(f"`{knob.path}`" for knob in matches),
            )
            return self._broken(path)
        if not matches:
            return None
        self.refer_knob(path, matches[0])
        if allowed.before is not None and matches[0].index >= allowed.before:
            self.diagnostics.error(
                "E207", f"`{path.text}` comes later", path.span, "not decided yet here",
                labels=(Label(matches[0].span, "decided here"),),
                help="a condition may name only what stands before it: move this, or turn the condition round",
            )
            return self._broken(path)
        return matches[0]

    def _absorbed(self, path: tree.Path) -> Definition:
        """What could not be read, and `path` names."""
        for part, start in zip(path.parts, _starts(path.text), strict=True):
            self.symbols.table.refer(part.span, self.scope.broken.get(part.text) or self.symbols.labels.get(start))
        return next(self.scope.broken[part.text] for part in path.parts if part.text in self.scope.broken)

    def _broken(self, path: tree.Path) -> Definition:
        return Definition("word", path.text, path.span, broken=True)

    def refer_knob(self, path: tree.Path, knob: KnobSymbol) -> None:
        """Enter that the parts of `path` name the knob and what it stands in."""
        self._refer_parts(path.parts, knob.path)

    def _refer_parts(self, parts: tuple[tree.Name, ...], path: str) -> None:
        for part, start in zip(reversed(parts), _starts(path)[::-1], strict=False):
            self.symbols.table.refer(part.span, self.symbols.labels.get(start))

    def refer_value(self, path: tree.Path, knob: KnobSymbol) -> None:
        """Enter that `path` names one of the branches of a knob."""
        definition = self.symbols.labels.get(f"{knob.path}.{path.text}")
        if definition is not None:
            self.symbols.table.refer(path.span, definition)

    def metric(self, path: tree.Path) -> MetricRef | None:
        """The metric that `path` names, `baseline.` and the target's name before it allowed."""
        parts = [part.text for part in path.parts]
        baseline = len(parts) > 1 and parts[0] == "baseline"
        if baseline:
            parts = parts[1:]
        target: str | None = None
        if len(parts) > 1 and parts[0] in self.targets:
            # Of the only target a metric has one name, with its target or without.
            target = parts[0] if len(self.targets) > 1 else None
            parts = parts[1:]
        name = full_name(".".join(parts))
        return MetricRef(metric=name, target=target, baseline=baseline) if name in self.metrics else None

    def _refer_metric(self, path: tree.Path, metric: MetricRef) -> None:
        rest = path.parts[1:] if metric.baseline else path.parts
        if len(rest) > 1 and rest[0].text in self.targets:
            self.symbols.table.refer(rest[0].span, self.symbols.labels.get(rest[0].text))
            rest = rest[1:]
        span = Span(path.span.file, rest[0].span.start, rest[-1].span.end)
        self.symbols.table.refer(span, self.symbols.metrics.get(metric.metric))

    def _round(self, path: tree.Path, allowed: Allowed) -> RoundRef | None:
        parts = path.parts
        which: Literal["round", "rounds"] = "rounds"
        if len(parts) > 1 and parts[-1].text == "round":
            parts, which = parts[:-1], "round"
        words = [part.text for part in parts]
        for around in reversed(allowed.rounds):
            if around.split(".")[-len(parts) :] == words:
                self._refer_parts(parts, around)
                return RoundRef(path=around, which=which)
        return None

    # ---- what is reported

    def misplaced(self, node: tree.Path, found: str, wanted: str, allowed: Allowed) -> None:
        """E206: a name of something else than is allowed here."""
        advice = {
            "a knob": "`require` and goals speak of metrics, `forbid` and `when` of knobs"
            if allowed.metrics
            else "everything here is fixed: search it among the steps or in the target",
            "a metric": "`forbid` and `when` are decided before anything runs; what is measured belongs in `require`",
        }[found]
        self.diagnostics.error(
            "E206", f"`{node.text}` is {found}, and {allowed.called} needs {wanted}", node.span, found, help=advice
        )

    def unknown(self, node: tree.Path, allowed: Allowed) -> None:
        """E201 or E602: a name that means nothing here."""
        options = [*self.params, *self.inputs, *self.lets, *self.scope.names("let")]
        if allowed.knobs:
            options += [suffix for knob in self.symbols.knobs for suffix in suffixes(knob.path)]
        if allowed.metrics:
            options += [*self.metrics, *ALIASES]
            if len(self.targets) > 1:
                options += [f"{target}.{name}" for target in self.targets for name in (*self.metrics, *ALIASES)]
            options += [f"baseline.{name}" for name in options]
        if self._excused(node, allowed, options):
            return
        self.scope.missed(node, options)
        if allowed.metrics:
            self._no_metric(node, options)
            return
        self.diagnostics.error(
            "E201", f"unknown name `{node.text}`", node.span, "nothing here has this name",
            help=suggestion(node.text, options, self._known_names(allowed)), fix=only(node.span, node.text, options),
        )

    def _no_metric(self, node: tree.Path, options: list[str]) -> None:
        """E602: a metric that nothing declares, with how the user's own are declared."""
        text, fix = node.text, only(node.span, node.text, options)
        before, name = self._parted(text)
        if not name:
            self.diagnostics.error(
                "E602", f"`{text}` is no metric by itself", node.span, "which of its metrics?",
                help=f"write `{text}.METRIC`: `{text}.accuracy`, `{text}.latency`",
            )
            return
        if name.startswith(TEST):
            self.diagnostics.error(
                "E602", f"`{text}` is measured after the search, which sees nothing of the test data", node.span,
                "cannot be a goal or a requirement", help=f"write `{before}{name.removeprefix(TEST)}`",
            )
            return
        answers = field_words.meant(name, METRICS) if fix is None else ()
        near = suggestion(text, options)
        if answers:
            near = f"did you mean {either(before + item if ' ' not in item else item for item in answers)}?"
        advice = near or self._known_names(_METRIC)
        if fix is None and not answers and "." not in name:
            advice += f"{' A metric' if near else '; one'} that your task returns is declared: `{_declaration(name)}`"
        self.diagnostics.error(
            "E602", f"unknown metric `{text}`", node.span, "nothing here has this name", help=advice, fix=fix
        )

    def _parted(self, text: str) -> tuple[str, str]:
        """What stands before the metric's own name (`baseline.`, `phone.`), and that name."""
        parts = text.split(".")
        count = next((at for at, part in enumerate(parts) if part not in ("baseline", *self.targets)), len(parts))
        return "".join(f"{part}." for part in parts[:count]), ".".join(parts[count:])

    def _excused(self, node: tree.Path, allowed: Allowed, options: list[str]) -> bool:
        """Whether the name is taken for that of a definition whose own name is another's."""
        first = node.parts[0].text
        several = len(node.parts) > 1
        near = closest(first, self.targets if several else options)
        if not self.symbols.nameless or near is not None or (several and not allowed.metrics):
            return False
        self.symbols.nameless -= 1
        self.scope.break_name(node.parts[0])
        return True

    def _known_names(self, allowed: Allowed) -> str:
        if allowed.metrics:
            return f"metrics are {listed([*ALIASES, *self.metrics], 30)}"
        if allowed.knobs and self.symbols.knobs:
            return f"{allowed.knobs_called} are {listed(knob.path for knob in self.symbols.knobs)}"
        return "a text stands in double quotes"


def _starts(path: str) -> list[str]:
    """All beginnings of a path at its dots, the shortest first."""
    parts = path.split(".")
    return [".".join(parts[: index + 1]) for index in range(len(parts))]


def _declaration(name: str) -> str:
    """How a metric of the user's own is declared; an error is better when it is less."""
    less = re.search(r"loss|err|mse|mae|mape|wer|cer|ppl|perplexity|dist", name.lower())
    return f"metric {name}: {'float minimize' if less else 'ratio maximize'}"
