"""`param` and `input` → parameters: their types, domains and defaults."""

from __future__ import annotations

from optlang.analysis.domains import Domains
from optlang.analysis.modules.names import DeclaredParam, listed, only
from optlang.analysis.values import Values
from optlang.diagnostics.model import Diagnostics, Label
from optlang.diagnostics.suggest import closest
from optlang.plan.domains import contains, show_domain, values_of
from optlang.plan.expressions import Value
from optlang.plan.model import Dimension, Domain, FloatDomain, IntDomain, Param, SetDomain
from optlang.plan.units import SAID, TYPES
from optlang.syntax import tree

_EXAMPLES: dict[Dimension, Value] = {
    "count": 1, "ratio": 0.5, "number": 1.0, "time": 1.0, "bytes": 1, "bool": True, "names": (), "name": "name",
    "string": "text",
}


def declare(values: Values, node: tree.Param | tree.Input) -> Param | None:
    """The type, domain, default and help of a `param` or an `input`."""
    dimension = TYPES.get(node.type.text)
    if dimension is None:
        meant = closest(node.type.text, TYPES)
        values.diagnostics.error(
            "E201", f"unknown type `{node.type.text}`", node.type.span,
            help=f"did you mean `{meant}`?" if meant else f"types are {listed(TYPES, 20)}",
            fix=only(node.type.span, node.type.text, TYPES),
        )
        return None
    help_text = node.help.value if node.help else ""
    bare = Param(name=node.name.text, dimension=dimension, domain=None, required=True, help=help_text)
    if dimension in ("model", "models") and isinstance(node, tree.Param):
        return _declared_model(values, node, bare)
    domain: Domain | None = SetDomain(values=(False, True)) if dimension == "bool" else None
    if node.domain is not None:
        domain = Domains(values).read(node.domain, bare)
        if domain is None:
            return None
    return _defaulted(values, node, bare.model_copy(update={"domain": domain}))


def changed(values: Values, param: Param, member: DeclaredParam) -> Param | None:
    """The parameter of a group with what a declaration changes of it; its domain may only become narrower."""
    node, change = member.node, member.change
    assert change is not None
    bare = param.model_copy(update={"default": None, "required": True, "help": node.help.value if node.help else ""})
    if param.dimension in ("model", "models"):
        return _declared_model(values, node, bare, "say nothing of it here, or change its help")
    domain = param.domain if change.domain is None else Domains(values).read(change.domain, param)
    if change.domain is not None and domain is None:
        return None
    bare = bare.model_copy(update={"domain": domain})
    if change.default is not None:
        return _defaulted(values, node, bare)
    if node.default is not None and domain is not None and not contains(domain, param.default):
        values.diagnostics.error(
            "E407", f"the default of `{param.name}` is outside its domain",
            node.domain.span if node.domain is not None else node.span,
            "does not have the default of the group", labels=(Label(node.default.span, "the default"),),
            help=f"give it a default that is allowed: `{param.name} in … = …`",
        )
    return bare.model_copy(update={"default": param.default, "required": param.required})


def _defaulted(values: Values, node: tree.Param | tree.Input, bare: Param) -> Param:
    """The parameter with the default that the text gives it; E407 where that is outside its domain."""
    domain = bare.domain
    if node.default is None:
        return bare
    written: tree.Domain = node.default
    if bare.dimension == "name":
        # A word is a value, unless a `let` has that name.
        written = values.names.unfold(written)
    open_param = bare if isinstance(written, tree.String) else bare.model_copy(update={"domain": None})
    default = values.constant(written, open_param)
    if default is not None and (domain is None or contains(domain, default.value)):
        return bare.model_copy(update={"default": default.value, "required": False})
    if default is not None and domain is not None:
        _outside(values.diagnostics, bare.name, node, domain)
    # What uses it is not missing, though its value is wrong: that is reported here alone.
    return bare.model_copy(update={"default": example_of(bare), "required": False})


def _declared_model(values: Values, node: tree.Param, bare: Param, advice: str | None = None) -> Param | None:
    # Which model is never declared: none at all is the only default.
    wrong = node.domain or node.default
    if wrong is None or (node.domain is None and isinstance(wrong, tree.Path) and wrong.text == "none"):
        return bare.model_copy(update={"required": node.default is None})
    values.diagnostics.error(
        "E302", f"`{bare.name}` is {SAID[bare.dimension]}, which a study names", wrong.span, "declared nowhere",
        help=advice or f"write `param {bare.name}: {node.type.text} = none`, or no default where it must be given",
    )
    return None


def _outside(diagnostics: Diagnostics, name: str, node: tree.Param | tree.Input, domain: Domain) -> None:
    assert node.default is not None
    assert node.domain is not None
    diagnostics.error(
        "E407", f"the default of `{name}` is outside its domain", node.default.span,
        f"not in {show_domain(domain, TYPES[node.type.text])}", labels=(Label(node.domain.span, "what is allowed"),),
        help="choose a default that is allowed, or allow more",
    )


def example_of(param: Param) -> Value:
    """A value that a parameter may have: its default where it has one."""
    if not param.required:
        return param.default
    if isinstance(param.domain, FloatDomain | IntDomain):
        # No round is a count that a step cannot be read with.
        return param.domain.low if param.domain.low > 0 else param.domain.high
    values = values_of(param.domain) if param.domain is not None else None
    return values[0] if values else _EXAMPLES.get(param.dimension)
