"""Blocks of steps → steps of the plan: techniques, choices, `maybe`, `repeat`, groups and orders, and their knobs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from optlang.analysis.declarations import Declarations
from optlang.analysis.definitions import Definition, DefinitionKind
from optlang.analysis.expressions import Expressions
from optlang.analysis.knobs import NEVER, Around, Knobs, Later, Made, always
from optlang.analysis.lower.calls import CallReader
from optlang.analysis.lower.choices import choice, label_of, order
from optlang.analysis.lower.factories import Factories
from optlang.analysis.lower.pipelines import expand
from optlang.analysis.lower.repeats import repeat
from optlang.analysis.modules.names import SORTS, Declared, Scope, duplicate, either, only, suggestion
from optlang.analysis.settings import absorb, settings_of
from optlang.analysis.symbols import Given, Namespace
from optlang.analysis.values import Values
from optlang.diagnostics import field_words
from optlang.diagnostics.field_words import RUNTIMES, STEPS
from optlang.diagnostics.model import Diagnostics, Span
from optlang.plan.expressions import KnobRef
from optlang.plan.model import (
    Apply,
    Group,
    Maybe,
    SetDomain,
    Step,
    Technique,
)
from optlang.syntax import tree

STEP = 20
"""How many parts of the budget a step costs: it takes about as long to read as so many names and numbers."""


@dataclass(slots=True, eq=False)
class Steps:
    """Reads blocks of steps. `used` are the techniques that were named."""

    knobs: Knobs
    declarations: Declarations
    folder: Path
    used: dict[str, Technique] = field(default_factory=dict)
    open: tuple[Declared, ...] = ()
    """The pipelines whose steps are being read, the outermost first."""

    @property
    def names(self) -> Namespace:
        """What can be named."""
        return self.knobs.names

    @property
    def scope(self) -> Scope:
        """What is declared and imported."""
        return self.names.scope

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.knobs.diagnostics

    def inside(self, pipeline: Declared, given: dict[str, Given], around: Around, at: Span) -> Steps:
        """What reads the steps of a pipeline applied at `at`: in the pipeline's scope, among the knobs of the study."""
        outer = self.knobs
        scope = self.declarations.scope_of(pipeline)
        names = Namespace(
            self.diagnostics, scope, outer.symbols, metrics=outer.names.metrics, params=given, under=around.path
        )
        values = Values(Expressions(names))
        knobs = replace(outer, values=values, applied=outer.applied or at, conditions=[], set_at={})
        knobs.models = Factories(CallReader(knobs, self.declarations, self.folder)).setting
        return Steps(knobs, self.declarations, self.folder, used=self.used, open=(*self.open, pipeline))

    def block(self, statements: tuple[tree.Statement, ...], around: Around) -> Later[tuple[Step, ...]]:
        """The steps of a block, each label once."""
        labels: dict[str, Span] = {}
        made = [self.statement(item, around, labels) for item in statements]

        def build() -> tuple[Step, ...]:
            return self._kept([make() for make in made if make is not None])

        return build

    def _kept(self, steps: list[Step | None]) -> tuple[Step, ...]:
        # What a pipeline does not do with the settings that it is given is no part of the study.
        never = NEVER if self.knobs.applied is not None else None
        return tuple(step for step in steps if step is not None and (never is None or step.when != never))

    def _claim(
        self, labels: dict[str, Span], name: tree.Name, around: Around, *, kind: DefinitionKind = "step",
        whole: Span | None = None,
    ) -> None:
        label = name.text
        if label in labels:
            duplicate(
                self.diagnostics, label, name.span, labels[label], f"give one a label of its own: `NAME = {label}`"
            )
        labels.setdefault(label, name.span)
        self.knobs.label(around.at(label), Definition(kind, label, name.span, whole), around)

    def statement(self, node: tree.Statement, around: Around, labels: dict[str, Span]) -> Made | None:
        """One statement among steps."""
        self.diagnostics.budget.spend(node.span, STEP)
        match node:
            case tree.Element():
                return self._element(node, around, labels)
            case tree.Fix():
                return self._fix(node, around, labels)
            case tree.Vary():
                return self._vary(node, around, labels)
            case tree.Maybe():
                return self._maybe(node, around, labels)
            case tree.Repeat():
                return self._repeat(node, around, labels)
            case tree.Guard():
                return self._guard(node, around, labels)
        raise AssertionError(node)

    # ---- one technique

    def _element(self, node: tree.Element, around: Around, labels: dict[str, Span]) -> Made | None:
        if not isinstance(node.value, tree.Path):
            self.no_step(node.value)
            return None
        return self._named(node.value.parts[-1], node.value, node.block, node.when, node.span, around, labels)

    def _fix(self, node: tree.Fix, around: Around, labels: dict[str, Span]) -> Made | None:
        if isinstance(node.value, tree.Path):
            return self._named(node.name, node.value, node.block, node.when, node.span, around, labels)
        if isinstance(node.value, tree.Block):
            self._claim(labels, node.name, around)
            return self._group(node.name.text, node.value, node.when, node.span, around)
        if isinstance(node.value, tree.Call):
            self.no_step(node.value)
            return None
        self.diagnostics.error(
            "E510", f"`{node.name.text}` is a setting, and a step is expected", node.span, "not a step",
            help="settings stand in the braces of their step: `static { samples = 3 }`",
        )
        return None

    def _named(
        self, label: tree.Name, path: tree.Path, block: tree.Block | None, when: tree.Expression | None, span: Span,
        around: Around, labels: dict[str, Span],
    ) -> Made | None:
        if path.text == "none":
            self.diagnostics.error(
                "E302", "`none` is a branch of a choice, and there is no choice here", path.span, "does nothing",
                help="did you mean `in`? `NAME in { none; … }` is a choice",
            )
            return None
        self._claim(labels, label, around, whole=path.span if label is path.parts[-1] else None)
        inner = self.names.unfold(path)
        if isinstance(inner, tree.Block) and block is None:
            return self._group(label.text, inner, when, span, around)
        declared = self.scope.find(path)
        if declared is not None and declared.sort == "pipeline":
            return self._pipeline(declared, label.text, block, when, span, path.span, around)
        guard = self.knobs.when(when, around)
        technique = self._technique(declared, path)
        if technique is None or declared is None:
            absorb(self.knobs, block, around)
            return None
        below = around.below(label.text, *([guard] if guard else []))
        called = f"`{technique.name.rpartition('.')[2]}`"
        settings = settings_of(self.knobs, called, technique.params, block, below, path.span, declared)

        def build() -> Step:
            return Apply(
                path=around.at(label.text),
                technique=technique.name,
                settings=settings(),
                when=guard() if guard else None,
                location=self.knobs.locate(span),
            )

        return build

    def _pipeline(
        self, declared: Declared, label: str, block: tree.Block | None, when: tree.Expression | None, span: Span,
        at: Span, around: Around,
    ) -> Made | None:
        guard = self.knobs.when(when, around)
        steps = expand(self, declared, block, around.below(label, *([guard] if guard else [])), at)
        if steps is None:
            absorb(self.knobs, block, around)
            return None
        return lambda: Group(
            path=around.at(label), steps=steps(), when=guard() if guard else None, location=self.knobs.locate(span)
        )

    def _technique(self, declared: Declared | None, path: tree.Path) -> Technique | None:
        """What a step applies; None where `path` names no technique, or one that is wrong."""
        if declared is not None and declared.sort == "technique":
            technique = self.declarations.technique(declared)
            if declared.incomplete:
                return None
            self.used[technique.name] = technique
            return technique
        if declared is not None:
            self.diagnostics.error(
                "E510", f"`{path.text}` is {SORTS[declared.sort]}, and a step is expected", path.span, "not a step",
                help="runtimes stand in the target" if declared.sort == "runtime" else "a step is a technique",
            )
        elif self.names.is_value(path):
            self.diagnostics.error("E510", f"`{path.text}` is a value, and a step is expected", path.span, "not a step")
        elif not self.scope.absorbs(path):
            self.scope.missed(path, self.scope.names("technique", "pipeline"))
            self.diagnostics.error(
                "E201", f"unknown technique `{path.text}`", path.span,
                "not declared in this study or the standard library", help=self._meant(path.text),
                fix=only(path.span, path.text, self.scope.names("technique", "pipeline")),
            )
        return None

    def _meant(self, word: str) -> str:
        """What an unknown technique was to be; some words name what a runtime does."""
        note = field_words.NOTES.get(field_words.plain(word))
        if note is not None:
            return note
        runtimes = field_words.meant(word, RUNTIMES)
        otherwise = "`optlang explain` lists all techniques"
        if runtimes:
            otherwise = f"did you mean {either(f'runtime = {name}' for name in runtimes)} in a target?"
        found = suggestion(word, self.scope.names("technique", "pipeline"), otherwise, STEPS)
        return found or otherwise

    def no_step(self, node: tree.Expression) -> None:
        """E510: an expression where a step belongs."""
        advice = "a step is a technique, with its settings in braces: `static { samples = 64 }`"
        if isinstance(node, tree.Call):
            advice = f"settings stand in braces: `{node.path.text} {{ … }}`"
        if isinstance(node, tree.Binary) and isinstance(node.left, tree.Path) and isinstance(node.right, tree.Path):
            advice = f"`-` subtracts: did you mean `{node.left.text}_{node.right.text}`?"
        self.diagnostics.error("E510", "a step is expected", node.span, "not a step", help=advice)

    # ---- several

    def _group(self, label: str, block: tree.Block, when: tree.Expression | None, span: Span, around: Around) -> Made:
        guard = self.knobs.when(when, around)
        steps = self.block(block.statements, around.below(label, *([guard] if guard else [])))
        return lambda: Group(
            path=around.at(label), steps=steps(), when=guard() if guard else None, location=self.knobs.locate(span)
        )

    def _guard(self, node: tree.Guard, around: Around, labels: dict[str, Span]) -> Made:
        guard = self.knobs.when(node.condition, around)
        assert guard is not None
        made = [self.statement(item, around.under(guard), labels) for item in node.block.statements]

        def build() -> Step:
            steps = self._kept([make() for make in made if make is not None])
            return Group(path="", steps=steps, when=guard(), location=self.knobs.locate(node.span))

        return build

    def _vary(self, node: tree.Vary, around: Around, labels: dict[str, Span]) -> Made | None:
        domain = self.names.unfold(node.domain)
        self._claim(labels, node.name, around)
        if isinstance(domain, tree.AnyOrder):
            return order(self, node, domain, around)
        if isinstance(domain, tree.Block):
            return choice(self, node, domain, around)
        if isinstance(domain, tree.Range | tree.AnyValue) or (
            isinstance(domain, tree.ListOf) and any(not isinstance(item, tree.Path) for item in domain.items)
        ):
            self.diagnostics.error(
                "E510", f"`{node.name.text}` is a setting, and a step is expected", node.span, "not a step",
                help="settings stand in the braces of their step: `static { samples in [64, 256] }`",
            )
        elif not (isinstance(domain, tree.Path) and self.scope.absorbs(domain)):
            self.diagnostics.error(
                "E302", "a choice lists its branches in braces", domain.span, "no branches",
                help=f"write `{node.name.text} in {{ …; … }}`, or fix it with `=`",
            )
        self.scope.break_name(node.name)
        return None

    def _maybe(self, node: tree.Maybe, around: Around, labels: dict[str, Span]) -> Made | None:
        inner = node.statement
        advice = {
            tree.Vary: "add `none` to the choice" if isinstance(inner, tree.Vary) else "",
            tree.Repeat: "count from 0",
            tree.Maybe: "one `maybe` is enough",
            tree.Guard: "put `maybe` before the steps in the block",
        }.get(type(inner))
        if isinstance(inner, tree.Fix) and not isinstance(inner.value, tree.Path | tree.Block):
            advice = "a fixed value is always there"
        if isinstance(inner, tree.Vary) and isinstance(self.names.unfold(inner.domain), tree.AnyOrder):
            advice = "put the order in a group: `maybe NAME = { … }`"
        if advice is not None:
            self.diagnostics.error("E505", "`maybe` cannot stand here", node.keyword, "in or out?", help=advice)
            return self.statement(inner, around, labels) if not isinstance(inner, tree.Maybe) else None
        assert isinstance(inner, tree.Fix | tree.Element)
        label = label_of(inner)
        if label is None:
            return self.statement(inner, around, labels)
        path = around.at(label)
        guard = self.knobs.when(inner.when, around)
        outer = around.under(guard) if guard else around
        name = inner.name.span if isinstance(inner, tree.Fix) else inner.value.span
        self.knobs.add(path, "maybe", SetDomain(values=(False, True)), "bool", name, outer)
        made = self.statement(replace(inner, when=None), outer.under(always(KnobRef(path=path))), labels)
        if made is None:
            return None
        make = made

        def build() -> Step | None:
            step = make()
            if step is None or around.fixed is not None:
                return None
            return Maybe(
                path=path, steps=(step,), when=guard() if guard else None, location=self.knobs.locate(node.span)
            )

        return build

    def _repeat(self, node: tree.Repeat, around: Around, labels: dict[str, Span]) -> Made | None:
        self._claim(labels, node.name, around, kind="repeat")
        return repeat(self, node, around)
