"""The settings of a technique, a runtime or a section: values, knobs and defaults for declared parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optlang.analysis.conditions import MODELS, Conditions, value_of
from optlang.analysis.definitions import Definition
from optlang.analysis.knobs import NEVER, Around, Guard, Knobs, Later, Once
from optlang.analysis.modules.names import Declared, Scope, definitions_of, duplicate, listed, only, suggestion
from optlang.analysis.symbols import Allowed
from optlang.diagnostics import field_words
from optlang.diagnostics.field_words import SETTINGS
from optlang.diagnostics.model import Span
from optlang.diagnostics.suggest import closest
from optlang.plan.expressions import Binary, Const, Environment, Expression, In, KnobRef, Unary, evaluate, references
from optlang.plan.model import Fixed, Models, Param, Searched, Setting
from optlang.syntax import tree

UNSEARCHED = {
    "names": 'fix it with `=`: `["head", "*.norm"]`',
    "string": "fix it with `=`: one text",
    "model": "fix it with `=`, and search its arguments: `NAME = FACTORY(width in [8, 16])`",
    "models": "fix it with `=`, and search the models' arguments: `NAME = [FACTORY(width in [8, 16]), …]`",
}


def settings_of(
    knobs: Knobs, called: str, params: tuple[Param, ...], block: tree.Block | None, around: Around, at: Span,
    declared: Declared | None = None,
) -> Later[dict[str, Setting]]:
    """The settings in `block` for the declared parameters, with the defaults of those that are not there.

    A setting whose parameter is declared `when` something else has a value, is there only then. Messages call the thing
    that has them `called`, `declared` its declaration.
    """
    definitions = definitions_of(declared) if declared is not None and block is not None else {}
    reader = _Settings(knobs, called, params, around, at, definitions)
    reader.read(block)
    return reader.build


@dataclass(frozen=True, slots=True)
class _Written:
    """A setting of the text, at `span`; `broken` where its name is no parameter's, and was probably to be this one."""

    span: Span
    made: Later[Setting | None]
    broken: bool = False


class _Settings:
    """The settings of one block."""

    def __init__(
        self, knobs: Knobs, called: str, params: tuple[Param, ...], around: Around, at: Span,
        definitions: Mapping[str, Definition],
    ) -> None:
        self._knobs = knobs
        self._called = called
        self._params = {param.name: param for param in params}
        self._around = around
        self._at = at
        self._definitions = definitions
        self._written: dict[str, _Written] = {}
        self._whole = True
        self._resolved: Once[dict[str, Setting]] = Once(self._resolve)

    def read(self, block: tree.Block | None) -> None:
        """The first pass: enters the knobs."""
        before: tree.Statement | None = None
        conditions = Conditions(self._knobs, self._params, block, self._around, self._definitions, self._made)
        for statement in block.statements if block is not None else ():
            loose = isinstance(before, tree.Vary) and _is_number(before.domain) and isinstance(statement, tree.Element)
            before = statement
            if loose and isinstance(statement, tree.Element) and _is_number(statement.value):
                # `ratio in 10%, 20%`: the domain without its braces is reported already.
                continue
            if not isinstance(statement, tree.Fix | tree.Vary):
                self._whole = False
                self._no_setting(statement)
                continue
            name = statement.name
            first = self._written.get(name.text)
            if first is not None and not first.broken:
                advice = "keep one of them"
                if statement.when is not None:
                    advice = "two values on two conditions are two branches: write the step once in each"
                duplicate(self._knobs.diagnostics, name.text, name.span, first.span, advice)
                continue
            param = self._params.get(name.text)
            if param is None:
                self._whole = False
                self._no_parameter(statement)
                continue
            if name.text in self._definitions:
                self._knobs.symbols.table.refer(name.span, self._definitions[name.text])
            self._written[name.text] = _Written(name.span, self._setting(statement, param, conditions))

    def _made(self, name: str) -> Later[Setting | None] | None:
        """The setting of this name that stands before."""
        known = self._written.get(name)
        return known.made if known is not None else None

    def _no_setting(self, statement: tree.Statement) -> None:
        known = f"settings are {listed(self._params)}: `NAME = value` or `NAME in {{…}}`"
        self._knobs.diagnostics.error(
            "E302", f"a setting of {self._called} is expected", statement.span, "not a setting",
            help=known if self._params else "it has none",
        )

    def _no_parameter(self, statement: tree.Fix | tree.Vary) -> None:
        """E205, and what the name was probably to be counts as set."""
        name, declared = statement.name, self._params
        scope = self._knobs.names.scope
        scope.break_name(name)
        scope.table.refer(name.span, None)
        self._knobs.postpone(statement, self._allowed("a setting"))
        for meant in (closest(name.text, declared), *field_words.meant(name.text, SETTINGS, declared)):
            if meant is not None:
                scope.break_name(tree.Name(name.span, meant))
                self._written.setdefault(meant, _Written(name.span, _nothing, broken=True))
        self._knobs.diagnostics.error(
            "E205", f"{self._called} has no parameter `{name.text}`", name.span, "not declared",
            fix=only(name.span, name.text, declared),
            help=suggestion(
                name.text, declared, f"it has {listed(declared)}" if declared else "it has none", SETTINGS
            ),
        )

    def _allowed(self, called: str) -> Allowed:
        return Allowed(called, knobs=self._around.fixed is None, rounds=self._around.rounds)

    def _setting(self, statement: tree.Fix | tree.Vary, param: Param, conditions: Conditions) -> Later[Setting | None]:
        guards: list[Guard] = []
        if param.when is not None:
            guards.append(Once(lambda: holds_when(param, self._resolved())))
        condition = conditions.read(statement, param)
        if isinstance(statement, tree.Vary):
            guards += [condition] if condition is not None else []
            made = self._searched(statement, param, guards)
            return conditions.under(made, condition, param) if made is not None else _nothing
        if param.dimension in MODELS:
            assert self._knobs.models is not None
            self._label(statement.name)
            return self._knobs.models(statement, param, self._around, tuple(guards))
        if self._knobs.applied is None:
            self._knobs.set_at.setdefault(self._around.at(param.name), statement.value.span)
        return Once(conditions.under(self._fixed(statement, param), condition, param))

    def _fixed(self, statement: tree.Fix, param: Param) -> Later[Setting | None]:
        if statement.block is not None:
            self._knobs.diagnostics.error(
                "E302", f"`{param.name}` is a value without settings", statement.block.span, "settings of what?",
                help="take the braces away",
            )
        allowed = self._allowed("here" if self._around.fixed is not None else f"`{param.name}`")
        return lambda: self._knobs.values.setting(statement.value, param, allowed, statement.keyword)

    def _searched(
        self, statement: tree.Vary, param: Param, guards: list[Guard]
    ) -> Later[Setting | None] | None:
        name, path = statement.name, self._around.at(param.name)
        if param.dimension in UNSEARCHED and param.domain is None:
            self._knobs.diagnostics.error(
                "E302", f"`{name.text}` cannot be searched", statement.span, "a knob", help=UNSEARCHED[param.dimension],
            )
            return None
        domain = self._knobs.domain(statement.domain, param, statement.keyword)
        self._label(name)
        added = self._knobs.add(path, "value", domain, param, name.span, self._around, *guards)
        return (lambda: Searched(knob=path)) if added else None

    def _label(self, name: tree.Name) -> None:
        """Enter the name of a setting that is a knob or holds some: a pipeline's parameter gives it, or the text."""
        definition = self._definitions.get(name.text)
        if definition is None or definition.fixed:
            definition = Definition("setting", name.text, name.span, fixed=True)
        self._knobs.label(self._around.at(name.text), definition, self._around)

    # ---- when all knobs are known

    def _resolve(self) -> dict[str, Setting]:
        """What is written and the defaults, conditions of parameters aside."""
        found: dict[str, Setting] = {}
        for param in self._params.values():
            written = self._written.get(param.name)
            setting = written.made() if written is not None else None
            if setting is not None:
                found[param.name] = setting
            elif not param.required and (written is None or written.broken):
                found[param.name] = Fixed(value=param.default)
            elif written is None:
                self._knobs.diagnostics.error(
                    "E205", f"{self._called} needs `{param.name}`", self._at, "not set", help=f"add `{param.name} = …`"
                )
        return found

    def build(self) -> dict[str, Setting]:
        """The settings, each with the condition on which it counts."""
        found = self._resolved()
        kept: dict[str, Setting] = {}
        for name, setting in found.items():
            param = self._params[name]
            when = holds_when(param, found) if param.when is not None else None
            if when is None:
                kept[name] = setting
            elif when == NEVER:
                self._never_used(param, found)
            else:
                kept[name] = setting.model_copy(update={"when": when})
        return kept

    def _never_used(self, param: Param, found: Mapping[str, Setting]) -> None:
        written = self._written.get(param.name)
        # What it depends on may be what could not be read.
        sure = self._whole and param.when is not None and all(name in found for name in _named(param.when))
        if written is not None and self._knobs.applied is None and sure:
            self._knobs.diagnostics.warn(
                "W409", f"`{param.name}` is never used here", written.span, "its condition is never true",
                help="take it away, or change what it depends on",
            )


def holds_when(param: Param, settings: dict[str, Setting]) -> Expression | None:
    """When a parameter counts, given its siblings' settings: None always, `false` never, else a condition."""
    if param.when is None:
        return None
    condition = _substituted(param.when, settings)
    if any(True for _ in references(condition)):
        return condition
    return None if evaluate(condition, Environment()) else NEVER


def _named(expression: Expression) -> set[str]:
    return {item.path for item in references(expression) if isinstance(item, KnobRef)}


def _is_number(node: tree.Domain) -> bool:
    return isinstance(node, tree.Number) or (isinstance(node, tree.Unary) and isinstance(node.operand, tree.Number))


def _substituted(expression: Expression, settings: dict[str, Setting]) -> Expression:
    match expression:
        case KnobRef(path=name):
            setting = settings.get(name)
            if isinstance(setting, Models):
                return Const(value="a model")
            return value_of(setting) if setting is not None else Const(value=None)
        case Unary(operand=operand):
            return expression.model_copy(update={"operand": _substituted(operand, settings)})
        case Binary(left=left, right=right):
            return expression.model_copy(
                update={"left": _substituted(left, settings), "right": _substituted(right, settings)}
            )
        case In(value=value):
            return expression.model_copy(update={"value": _substituted(value, settings)})
    return expression


def _nothing() -> None:
    return None


def absorb(knobs: Knobs, block: tree.Block | None, around: Around) -> None:
    """Take the settings of something unknown for broken definitions: what names them is not reported again."""
    if block is None:
        return
    knobs.postpone(block, Allowed("a setting", knobs=True, rounds=around.rounds))
    _break_names(knobs.names.scope, block)


def _break_names(scope: Scope, block: tree.Block) -> None:
    for statement in block.statements:
        if isinstance(statement, tree.Vary | tree.Fix):
            scope.break_name(statement.name)
            inner = statement.domain if isinstance(statement, tree.Vary) else statement.value
            if isinstance(inner, tree.Block):
                _break_names(scope, inner)
