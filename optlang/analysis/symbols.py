"""What a name in an expression stands for: inputs, lets, knobs, rounds and metrics, and what is said where it is none.

Knows no values and no kinds: what an expression is worth is analysis/expressions.py's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Self, TypeAlias

from optlang.analysis.modules.names import Scope, either, listed, only, suggestion
from optlang.diagnostics import field_words
from optlang.diagnostics.field_words import METRICS
from optlang.diagnostics.model import Diagnostics, Label, Span
from optlang.diagnostics.suggest import closest
from optlang.plan.expressions import MetricRef, RoundRef
from optlang.plan.metrics import ALIASES, full_name
from optlang.plan.model import Dimension, Domain, Fixed, Metric, Param, Setting
from optlang.plan.units import Constant
from optlang.syntax import tree

Role: TypeAlias = Literal["value", "choice", "maybe", "repeat", "order", "runtime"]


@dataclass(slots=True, eq=False)
class Draft:
    """A knob before all of the text is read; `index` is its place among the study's knobs."""

    path: str
    role: Role
    domain: Domain
    dimension: Dimension
    span: Span
    index: int
    help: str = ""
    inner: bool = False
    """Whether it stands in a pipeline's own steps."""
    doubtful: bool = False
    """Whether something is wrong with its values, so that others may have been meant."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an expression stands: what it may name, and what the place is called in a message.

    `rounds` are the paths of the `repeat`s around; only knobs before number `before` may be named there.
    """

    said: str
    knobs: bool = False
    metrics: bool = False
    rounds: tuple[str, ...] = ()
    before: int | None = None


FIXED = Place("here")
_METRIC = Place("a metric", metrics=True)


@dataclass(slots=True, eq=False)
class Named:
    """The value of an input, known before anything else is read."""

    constant: Constant
    dimension: Dimension
    bare: Span | None = None
    """Where the value stands, if it is a number that was written without a unit."""


@dataclass(slots=True, eq=False)
class Given:
    """A parameter of a pipeline with what the study gives for it; `fixed` where that is known before the knobs are."""

    param: Param
    span: Span
    fixed: Fixed | None
    later: Callable[[], Setting | None]

    def setting(self) -> Setting | None:
        """What it comes to; None where that is wrong."""
        return self.fixed if self.fixed is not None else self.later()


@dataclass(slots=True, eq=False)
class Lookup:
    """Finds what names stand for in one scope."""

    diagnostics: Diagnostics
    scope: Scope
    inputs: dict[str, Named] = field(default_factory=dict)
    lets: dict[str, tree.Let] = field(default_factory=dict)
    knobs: list[Draft] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    doubled: int = 0
    """How many names came twice: for each, one that is not known may be what the second was to be called."""
    params: dict[str, Given] = field(default_factory=dict)
    """The parameters of the pipeline whose steps are read."""
    under: str = ""
    """The path of that pipeline's label: its steps name no knob outside."""
    used: set[str] = field(default_factory=set)
    _open: list[str] = field(default_factory=list)
    _by_label: dict[str, list[Draft]] = field(default_factory=dict)
    _entered: int = 0

    def beside(self, siblings: dict[str, Given]) -> Self:
        """The same names, and before them those of `siblings`: the other settings of one step."""
        return replace(self, params={**self.params, **siblings}, _open=[], _by_label={}, _entered=0)

    def let(self, path: tree.Path) -> tree.Domain | None:
        """What a `let` of the study or of a module stands for."""
        if path.text in self.lets:
            self.used.add(path.text)
            return self.lets[path.text].value
        found = self.scope.find(path)
        if found is not None and isinstance(found.node, tree.Let):
            return found.node.value
        return None

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
            value = self.let(node)
            if value is None:
                break
            node = value
        return node

    def knob(self, path: tree.Path, place: Place, *, quiet: bool = False) -> Draft | None:
        """The knob with the full path `path`, or the only one whose path ends so; E202 where several do."""
        parts = [part.text for part in path.parts]
        text = path.text
        ending = f".{text}"
        matches = [knob for knob in self._labeled(parts[-1]) if knob.path == text or knob.path.endswith(ending)]
        if self.under:
            matches = [knob for knob in matches if knob.path.startswith(f"{self.under}.")]
        whole = [knob for knob in matches if knob.path == path.text]
        matches = whole or matches
        if len(matches) > 1 and not quiet:
            self.diagnostics.error(
                "E202",
                f"`{path.text}` could be any of {len(matches)} knobs",
                path.span,
                "say which",
                help="write " + " or ".join(f"`{knob.path}`" for knob in matches),
            )
        if len(matches) != 1:
            return None
        if place.before is not None and matches[0].index >= place.before and not quiet:
            self.diagnostics.error(
                "E207",
                f"`{path.text}` comes later",
                path.span,
                "not decided yet here",
                labels=(Label(matches[0].span, "decided here"),),
                help="a condition may name only what stands before it: move this, or turn the condition round",
            )
            return None
        return matches[0]

    def _labeled(self, label: str) -> list[Draft]:
        # The knobs only grow: those that came since the last time are entered now.
        for knob in self.knobs[self._entered :]:
            self._by_label.setdefault(knob.path.rpartition(".")[2], []).append(knob)
        self._entered = len(self.knobs)
        return self._by_label.get(label, [])

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

    def _round(self, path: tree.Path, place: Place) -> RoundRef | None:
        parts = [part.text for part in path.parts]
        which: Literal["round", "rounds"] = "rounds"
        if len(parts) > 1 and parts[-1] == "round":
            parts, which = parts[:-1], "round"
        for around in reversed(place.rounds):
            if around.split(".")[-len(parts) :] == parts:
                return RoundRef(path=around, which=which)
        return None

    def _misplaced(self, node: tree.Path, found: str, wanted: str, place: Place) -> None:
        advice = {
            "a knob": "`require` and goals speak of metrics, `forbid` and `when` of knobs"
            if place.metrics
            else "everything here is fixed: search it among the steps or in the target",
            "a metric": "`forbid` and `when` are decided before anything runs; what is measured belongs in `require`",
        }[found]
        self.diagnostics.error(
            "E206", f"`{node.text}` is {found}, and {place.said} needs {wanted}", node.span, found, help=advice
        )

    def silent(self, path: tree.Path) -> bool:
        """Whether something was already said about what `path` names."""
        return self.scope.silent(path)

    def _unknown(self, node: tree.Path, place: Place) -> None:
        if self.silent(node):
            return
        options = [*self.params, *self.inputs, *self.lets, *self.scope.names("let")]
        if place.knobs:
            options += [suffix for knob in self.knobs for suffix in suffixes(knob.path)]
        if place.metrics:
            options += [*self.metrics, *ALIASES]
            if len(self.targets) > 1:
                options += [f"{target}.{name}" for target in self.targets for name in (*self.metrics, *ALIASES)]
            options += [f"baseline.{name}" for name in options]
        if self._excused(node, place, options):
            return
        self.scope.missed(node.text, options)
        if place.metrics:
            self._no_metric(node, options)
            return
        self.diagnostics.error(
            "E201",
            f"unknown name `{node.text}`",
            node.span,
            "nothing here has this name",
            help=suggestion(node.text, options, self._known_names(place)),
            fix=only(node.span, node.text, options),
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

    def _excused(self, node: tree.Path, place: Place, options: list[str]) -> bool:
        first = node.parts[0].text
        several = len(node.parts) > 1
        near = closest(first, self.targets if several else options)
        if not self.doubled or near is not None or (several and not place.metrics):
            return False
        self.doubled -= 1
        self.scope.unknown.add(first)
        return True

    def _known_names(self, place: Place) -> str:
        if place.metrics:
            return f"metrics are {listed(['latency', *self.metrics], 30)}"
        if place.knobs and self.knobs:
            return f"knobs are {listed(knob.path for knob in self.knobs)}"
        return "a text stands in double quotes"


def suffixes(path: str) -> list[str]:
    """All endings of a path at its dots, the shortest first."""
    parts = path.split(".")
    return [".".join(parts[index:]) for index in range(len(parts) - 1, -1, -1)]


def _declaration(name: str) -> str:
    """How a metric of the user's own is declared; an error is better when it is less."""
    less = re.search(r"loss|err|mse|mae|mape|wer|cer|ppl|perplexity|dist", name.lower())
    return f"metric {name}: {'float minimize' if less else 'ratio maximize'}"
