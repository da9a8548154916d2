"""The settings of a technique, a runtime or a section: values, knobs and defaults for declared parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from optlang.analysis.conditions import MODELS, Conditions, worth
from optlang.analysis.knobs import Around, Guard, Knobs, Later, Once
from optlang.analysis.modules.names import Scope, duplicate, listed, only, suggestion
from optlang.analysis.symbols import FIXED, Place
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
    knobs: Knobs, said: str, params: tuple[Param, ...], block: tree.Block | None, around: Around, at: Span
) -> Later[dict[str, Setting]]:
    """The settings in `block` for the declared parameters, with the defaults of those that are not there.

    A setting whose parameter is declared `when` something else has a value, is there only then.
    """
    resolver, diagnostics = knobs.resolver, knobs.diagnostics
    declared = {param.name: param for param in params}
    written: dict[str, tuple[Span, Later[Setting | None]]] = {}
    misspelt: set[str] = set()
    conditions = Conditions(knobs, declared, block, around, written)
    unread = False
    before: tree.Statement | None = None

    for statement in block.statements if block is not None else ():
        loose = isinstance(before, tree.Vary) and _is_number(before.domain) and isinstance(statement, tree.Element)
        before = statement
        if loose and isinstance(statement, tree.Element) and _is_number(statement.value):
            # `ratio in 10%, 20%`: the domain without its braces is told of already.
            continue
        if not isinstance(statement, tree.Fix | tree.Vary):
            unread = True
            diagnostics.error(
                "E302",
                f"a setting of {said} is expected",
                statement.span,
                "not a setting",
                help=f"settings are {listed(declared)}: `NAME = value` or `NAME in {{…}}`"
                if declared
                else "it has none",
            )
            continue
        name = statement.name
        if name.text in written:
            advice = "keep one of them"
            if statement.when is not None:
                advice = "two values on two conditions are two branches: write the step once in each"
            duplicate(diagnostics, name.text, name.span, written[name.text][0], advice)
            continue
        param = declared.get(name.text)
        if param is None:
            unread = True
            resolver.scope.unknown.add(name.text)
            for meant in (closest(name.text, declared), *field_words.meant(name.text, SETTINGS, declared)):
                if meant is not None:
                    resolver.scope.unknown.add(meant)
                    misspelt.add(meant)
            diagnostics.error(
                "E205",
                f"{said} has no parameter `{name.text}`",
                name.span,
                "not declared",
                fix=only(name.span, name.text, declared),
                help=suggestion(
                    name.text, declared, f"it has {listed(declared)}" if declared else "it has none", SETTINGS
                ),
            )
            continue
        guards: list[Guard] = []
        if param.when is not None:
            guards.append(Once(lambda param=param: holds_when(param, build_siblings())))  # type: ignore[misc]
        condition = conditions.read(statement, param)
        if isinstance(statement, tree.Fix) and param.dimension in MODELS:
            assert knobs.models is not None
            written[name.text] = (name.span, knobs.models(statement, param, around, tuple(guards)))
            continue
        if isinstance(statement, tree.Fix):
            made = _fixed(knobs, statement, param, around)
            if knobs.applied is None:
                knobs.values.setdefault(around.at(name.text), statement.value.span)
            written[name.text] = (name.span, Once(conditions.under(made, condition, param)))
            continue
        if param.dimension in UNSEARCHED and param.domain is None:
            diagnostics.error(
                "E302",
                f"`{name.text}` cannot be searched",
                statement.span,
                "a knob",
                help=UNSEARCHED[param.dimension],
            )
            written[name.text] = (name.span, _nothing)
            continue
        path = around.at(name.text)
        domain = resolver.domain(statement.domain, param, sign=statement.keyword)
        if domain is None:
            resolver.scope.unknown.add(name.text)
            written[name.text] = (name.span, _nothing)
            continue
        guards += [condition] if condition is not None else []
        added = knobs.add(path, "value", domain, param.dimension, name.span, around, param.help, *guards)
        written[name.text] = (name.span, conditions.under(_searched(path), condition, param) if added else _nothing)

    def resolve() -> dict[str, Setting]:
        found: dict[str, Setting] = {}
        for param in params:
            if param.name in written:
                setting = written[param.name][1]()
                if setting is not None:
                    found[param.name] = setting
            elif not param.required:
                found[param.name] = Fixed(value=param.default)
            elif param.name not in misspelt:
                diagnostics.error(
                    "E205",
                    f"{said} needs `{param.name}`",
                    at,
                    "not set",
                    help=f"add `{param.name} = …`",
                )
        return found

    build_siblings: Once[dict[str, Setting]] = Once(resolve)

    def build() -> dict[str, Setting]:
        found = build_siblings()
        kept: dict[str, Setting] = {}
        for param in params:
            setting = found.get(param.name)
            if setting is None:
                continue
            if param.when is not None:
                when = holds_when(param, found)
                if when == Const(value=False):
                    # What it depends on may be what could not be read.
                    sure = not unread and all(name in found for name in _named(param.when))
                    if param.name in written and knobs.applied is None and sure:
                        diagnostics.warn(
                            "W409",
                            f"`{param.name}` is never used here",
                            written[param.name][0],
                            "its condition is never true",
                            help="take it away, or change what it depends on",
                        )
                    continue
                setting = setting.model_copy(update={"when": when})
            kept[param.name] = setting
        return kept

    return build


def holds_when(param: Param, settings: dict[str, Setting]) -> Expression | None:
    """When a parameter counts, given its siblings' settings: None always, `false` never, else a condition."""
    if param.when is None:
        return None
    condition = _substituted(param.when, settings)
    if any(True for _ in references(condition)):
        return condition
    return None if evaluate(condition, Environment()) else Const(value=False)


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
            return worth(setting) if setting is not None else Const(value=None)
        case Unary(operand=operand):
            return expression.model_copy(update={"operand": _substituted(operand, settings)})
        case Binary(left=left, right=right):
            return expression.model_copy(
                update={"left": _substituted(left, settings), "right": _substituted(right, settings)}
            )
        case In(value=value):
            return expression.model_copy(update={"value": _substituted(value, settings)})
    return expression


def _fixed(knobs: Knobs, statement: tree.Fix, param: Param, around: Around) -> Later[Setting | None]:
    resolver = knobs.resolver
    place = FIXED if around.fixed is not None else Place(f"`{param.name}`", knobs=True, rounds=around.rounds)
    if around.fixed is not None and around.rounds:
        place = replace(place, rounds=around.rounds)
    if statement.block is not None:
        knobs.diagnostics.error(
            "E302",
            f"`{param.name}` is a value without settings",
            statement.block.span,
            "settings of what?",
            help="take the braces away",
        )
    return lambda: resolver.setting(statement.value, param, place, statement.keyword)


def _searched(path: str) -> Callable[[], Setting | None]:
    return lambda: Searched(knob=path)


def _nothing() -> Setting | None:
    return None


def poison(scope: Scope, block: tree.Block | None) -> None:
    """Remember the settings of something unknown, so that whoever names them is not told a second time.

    What they name counts as used.
    """
    for statement in block.statements if block is not None else ():
        if not isinstance(statement, tree.Vary | tree.Fix):
            continue
        scope.unknown.add(statement.name.text)
        inner = statement.domain if isinstance(statement, tree.Vary) else statement.value
        if isinstance(inner, tree.Block):
            poison(scope, inner)
        if isinstance(inner, tree.Path):
            scope.used |= {inner.parts[0].text, inner.text}
