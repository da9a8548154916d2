"""Pipelines: steps with parameters, declared in a module and applied like a technique.

An application is expanded where it stands: the pipeline's steps are read in the scope of the module that declares it,
with its parameters for names, and become a group under the application's label.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from optlang.analysis.conditions import MODELS
from optlang.analysis.expressions import Expressions
from optlang.analysis.knobs import Around, Later, Once
from optlang.analysis.lower.choices import label_of
from optlang.analysis.lower.reader import StepReader
from optlang.analysis.modules.names import Declared, definitions_of, duplicate
from optlang.analysis.parameters import example_of
from optlang.analysis.settings import settings_of
from optlang.analysis.symbols import Given
from optlang.analysis.values import Values
from optlang.diagnostics.model import Diagnostics, Label, Span, TooMuchError
from optlang.plan.model import Fixed, Param, Setting, Step
from optlang.syntax import tree

DEEPEST = 16
"""How deep pipelines may apply one another: each level is read within the one around it."""


def expand(
    reader: StepReader, declared: Declared, block: tree.Block | None, around: Around, at: Span
) -> Later[tuple[Step, ...]] | None:
    """The steps of a pipeline that is applied at `at` with the settings in `block`; `around` is below its label."""
    if declared in reader.open:
        chain = [*reader.open[reader.open.index(declared) :], declared]
        for item in chain:
            reader.declarations.give_up(item)
        reader.diagnostics.error(
            "E204", f"the pipeline `{declared.name}` applies itself", at, " → ".join(item.name for item in chain),
            help="a pipeline is steps one after another: `repeat` is what does them again",
        )
        return None
    if len(reader.open) >= DEEPEST:
        raise TooMuchError(
            f"pipelines apply one another more than {DEEPEST} levels deep", at, "one level too many",
            "write the inner steps where they are applied",
        )
    pipeline = reader.declarations.pipeline(declared)
    if pipeline is None or declared.incomplete:
        return None
    settings = Once(settings_of(reader.knobs, f"`{declared.name}`", pipeline.params, block, around, at, declared))
    statements = block.statements if block is not None else ()
    written = {item.name.text: item for item in statements if isinstance(item, tree.Fix) and item.when is None}
    # What is searched, or set under a condition, is not known before the knobs are.
    named = {item.name.text for item in statements if isinstance(item, tree.Fix | tree.Vary)} - written.keys()
    definitions = definitions_of(declared)
    given: dict[str, Given] = {}
    for param in pipeline.params:
        default = None if param.required else Fixed(value=param.default)
        fixed = None
        if param.name in written:
            fixed = _settled(reader.knobs.values, written[param.name], param)
        elif param.name not in named:
            fixed = default
        passed = partial(_passed, settings, param.name, default)
        given[param.name] = Given(param, at, fixed, passed, definitions.get(param.name))
    inner = reader.inside(declared, given, around, at)
    # What is wrong with a pipeline as it is applied is reported at its steps, with the study's step next to it.
    whole, applied = declared.node.span, Label(at, "applied here")
    with reader.diagnostics.showing(applied, whole):
        made = inner.block(pipeline.steps.block.statements, replace(around, rounds=()))

    def build() -> tuple[Step, ...]:
        settings()
        with reader.diagnostics.showing(applied, whole):
            return made()

    return build


def check(reader: StepReader, declared: Declared) -> None:
    """Find what is wrong in the declaration of a pipeline: its steps are read with the defaults of its parameters."""
    if declared.incomplete:
        return
    before = len(reader.diagnostics.found)
    pipeline = reader.declarations.pipeline(declared)
    if pipeline is not None:
        _clashes(declared, pipeline.params, pipeline.steps, reader.diagnostics)
        at, around = pipeline.steps.keyword, Around(path=declared.name)
        names = reader.knobs.symbols.names
        names |= definitions_of(declared)
        given = {
            item.name: Given(item, at, Fixed(value=example_of(item)), _no, names[item.name]) for item in pipeline.params
        }
        reader.inside(declared, given, around, at).block(pipeline.steps.block.statements, around)()
        reader.knobs.read_rest()
    if any(item.severity == "error" for item in reader.diagnostics.found[before:]):
        reader.declarations.give_up(declared)


def _clashes(declared: Declared, params: tuple[Param, ...], steps: tree.Section, diagnostics: Diagnostics) -> None:
    """E202: a knob of the steps that would have the path of a parameter."""
    first = {member.node.name.text: member.at for member in declared.members}
    for item in steps.block.statements:
        label = label_of(item)
        if label not in {param.name for param in params} or not isinstance(item, tree.Vary | tree.Maybe | tree.Repeat):
            continue
        counted = isinstance(item, tree.Repeat) and isinstance(item.count, tree.Path) and item.count.text == label
        if not counted:
            duplicate(diagnostics, label, item.span, first[label], "give the step, or the parameter, another name")


def _settled(values: Values, written: tree.Fix, param: Param) -> Fixed | None:
    """The value of a setting where that is known before the knobs are; what is wrong with it is reported later."""
    params = values.names.params
    later = (name.text for name in tree.paths(written.value) if name.text in params and params[name.text].fixed is None)
    if param.dimension in MODELS or next(later, None) is not None:
        return None
    ignored = Diagnostics(budget=values.diagnostics.budget)
    return Values(Expressions(replace(values.names, diagnostics=ignored))).constant(written.value, param)


def _passed(settings: Once[dict[str, Setting]], name: str, default: Fixed | None) -> Setting | None:
    """What the application sets a parameter to, or its default."""
    return settings().get(name, default)


def _no() -> None:
    return None


