"""Settings under a condition: `percentile = 99.9 when calibrator == percentile`.

Where the condition is false, it is as if the statement were not there: the parameter is what it is declared to be
without one, and a knob is absent. The setting becomes an `If`, the condition a guard of its knob.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from optlang.analysis.definitions import Definition
from optlang.analysis.knobs import NEVER, Around, Guard, Knobs, Later, Once
from optlang.analysis.symbols import Given
from optlang.diagnostics.model import Label
from optlang.plan.expressions import Const, Expression, If, KnobRef
from optlang.plan.model import Computed, Fixed, Param, Searched, Setting
from optlang.syntax import tree

MODELS = ("model", "models")


class Conditions:
    """Reads the conditions of the settings in one block; `made` returns the one of a name that stands before."""

    def __init__(
        self, knobs: Knobs, declared: Mapping[str, Param], block: tree.Block | None, around: Around,
        definitions: Mapping[str, Definition], made: Callable[[str], Later[Setting | None] | None],
    ) -> None:
        self._knobs = knobs
        self._declared = declared
        self._around = around
        self._definitions = definitions
        self._made = made
        statements = block.statements if block is not None else ()
        self._spans = {
            item.name.text: item.name.span for item in reversed(statements) if isinstance(item, tree.Fix | tree.Vary)
        }

    def read(self, statement: tree.Fix | tree.Vary, param: Param) -> Guard | None:
        """The condition of a setting; None where it has none, or, with an error, where it can have none."""
        node = statement.when
        if node is None:
            return None
        if param.dimension in MODELS:
            self._knobs.diagnostics.error(
                "E302", f"`{param.name}` is a model, and has no condition of its own", node.span,
                "a model is made or not, with the step that it is for",
                help="put the step under the condition, or write it in two branches, with the model and without",
            )
            return None
        if param.required:
            self._knobs.diagnostics.error(
                "E205", f"`{param.name}` is needed always, and this sets it sometimes", node.span,
                "it has no default for where this is false",
                help="take the condition away, or put the step under it: `STEP { … } when CONDITION`",
            )
            return None
        asked: list[str] = []
        guard = self._knobs.when(node, self._around, dict(self._siblings(statement, node, asked)))
        assert guard is not None
        inner = guard

        def checked() -> Expression | None:
            expression = inner()
            # Siblings that are fixed decide it; where an input does, or a pipeline's user, it is no mistake.
            inputs = self._knobs.names.inputs.keys() & {item.text for item in tree.paths(node)}
            if expression == NEVER and asked and not inputs and self._knobs.applied is None:
                self._knobs.diagnostics.warn(
                    "W409", f"`{param.name}` is never set here", node.span, "this condition is never true",
                    labels=tuple(
                        Label(self._spans[name], "decides it") for name in dict.fromkeys(asked) if name in self._spans
                    ),
                    help="take the setting away, or change what it depends on",
                )
            return expression

        return Once(checked)

    def _siblings(
        self, statement: tree.Fix | tree.Vary, node: tree.Expression, asked: list[str]
    ) -> Iterator[tuple[str, Given]]:
        """The step's other settings: what stands before, what is not written, and an error for what comes later."""
        for name, param in self._declared.items():
            if name == statement.name.text or (param.required and name not in self._spans):
                continue

            before = self._made(name)

            def later(
                name: str = name, param: Param = param, before: Later[Setting | None] | None = before
            ) -> Setting | None:
                asked.append(name)
                if before is not None:
                    return before()
                if name not in self._spans:
                    return Fixed(value=param.default)
                self._knobs.diagnostics.error(
                    "E207", f"`{name}` comes later", node.span, "named here",
                    labels=(Label(self._spans[name], "set here"),),
                    help="a condition names what stands before it: change the order of the settings",
                )
                return None

            span = self._spans.get(name, statement.span)
            label = self._knobs.symbols.labels.get(self._around.at(name))
            yield name, Given(param, span, None, later, label or self._definitions.get(name))

    @staticmethod
    def under(made: Later[Setting | None], condition: Guard | None, param: Param) -> Later[Setting | None]:
        """The setting that is `made` where the condition holds, and the declared default where it does not."""
        if condition is None:
            return made

        def build() -> Setting | None:
            setting, when = made(), condition()
            if setting is None or when is None:
                return setting
            if when == NEVER:
                return Fixed(value=param.default)
            return Computed(
                expression=If(condition=when, then=value_of(setting), otherwise=Const(value=param.default)),
                dimension=param.dimension,
            )

        return build


def value_of(setting: Setting) -> Expression:
    """The value of a setting as an expression; a model has none."""
    match setting:
        case Fixed(value=value):
            return Const(value=value)
        case Searched(knob=path):
            return KnobRef(path=path)
        case Computed(expression=expression):
            return expression
    raise AssertionError(setting)

