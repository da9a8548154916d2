"""Which part of a study the cursor stands in, and what may be set there: from brackets to declarations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optlang.analysis.declarations import Declarations
from optlang.analysis.lower.calls import WEIGHTS
from optlang.analysis.lower.search_settings import HALVING, MEASURE, RAY, SAMPLERS, SEARCH
from optlang.analysis.lower.targets import PARAMS
from optlang.analysis.modules.names import Declared, Scope
from optlang.diagnostics.model import Span
from optlang.editor.context import Cursor, Frame
from optlang.plan.model import Param
from optlang.syntax import tree

Kind = Literal[
    "file", "study", "declaration", "steps", "choice", "settings", "call", "values", "target", "runtimes", "search",
    "words", "unknown",
]
RUNTIME = Param(name="runtime", dimension="name", domain=None, required=True, help="what runs the model")
SAMPLER = Param(name="sampler", dimension="name", domain=None, default="auto", help="how points are drawn")
UNKNOWN: Kind = "unknown"


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of a text, by what may stand in it.

    `params` are what can be set, `declared` is what declares them, and `written` what is set there already. In a set of
    values `param` is whose values they are. `words` is the set of a condition's `x in {…}`, where `of` is the `x`; of a
    `call` of what nothing declares it is the name.
    """

    kind: Kind
    params: tuple[Param, ...] = ()
    declared: Declared | None = None
    param: Param | None = None
    of: str = ""
    section: str = ""
    written: frozenset[str] = frozenset()

    def span(self, name: str) -> Span | None:
        """Where the parameter of this name is declared; None where that is in no text."""
        members = self.declared.members if self.declared is not None else ()
        return next((member.node.name.span for member in members if member.node.name.text == name), None)

    def find(self, name: str) -> Param | None:
        """What can be set here under this name."""
        return next((param for param in self.params if param.name == name), None)


def slot_of(context: Cursor, scope: Scope, declarations: Declarations) -> Slot:
    """The slot that the cursor stands in."""
    slot = Slot("file")
    for frame in context.frames:
        slot = replace(_inside(slot, frame, scope, declarations), written=frozenset(frame.written))
    return slot


def find(scope: Scope, name: str) -> Declared | None:
    """What a name, with its module's or without, stands for."""
    nowhere = Span(scope.own.file, 0, 0)
    return scope.find(tree.Path(nowhere, tuple(tree.Name(nowhere, part) for part in name.split("."))))


def params_of(declared: Declared, declarations: Declarations) -> tuple[Param, ...]:
    """What can be set of a declared thing."""
    match declared.sort:
        case "technique":
            return declarations.technique(declared).params
        case "runtime":
            return declarations.runtime(declared).params
        case "model" | "data":
            return declarations.maker(declared).params
        case "params":
            return declarations.group(declared)
        case "pipeline":
            pipeline = declarations.pipeline(declared)
            return pipeline.params if pipeline is not None else ()
    return ()


def _inside(slot: Slot, frame: Frame, scope: Scope, declarations: Declarations) -> Slot:
    head = frame.head
    if not head:
        return Slot(slot.kind if frame.opener == "(" else UNKNOWN)
    condition = _condition(head, frame.opener)
    if condition is not None:
        return condition
    if frame.opener == "(" and head[-1].replace(".", "").isidentifier():
        return _settable("call", head[-1], scope, declarations)
    match slot.kind:
        case "file" | "study":
            return _member(head, slot.kind, scope, declarations)
        case "declaration":
            if head[0] == "with":
                return _settable("settings", head[-1], scope, declarations)
            return Slot("steps") if head[0] == "steps" else Slot(UNKNOWN)
        case "steps" | "choice":
            # The branches of a choice may stand behind a condition that several have.
            return Slot(slot.kind) if head[0] == "when" else _step(head, scope, declarations)
        case "settings" | "call" | "values":
            param = slot.find(head[0]) or slot.param
            return Slot("values", param=param, declared=slot.declared) if param is not None else Slot(UNKNOWN)
        case "target" | "runtimes":
            return _target(slot, head, scope, declarations)
        case "search":
            if head[:2] == ["sampler", "="] and len(head) == 3:
                return Slot("settings", SAMPLERS.get(head[2], ()))
            if head == ["workers", "=", "ray"]:
                return Slot("settings", RAY)
            if head == ["halving"]:
                return Slot("settings", HALVING)
    return Slot(UNKNOWN)


def _condition(head: Sequence[str], opener: str) -> Slot | None:
    """The set of `x in {a, b}` in a condition; None elsewhere."""
    inside = "when" in head or head[0] in ("forbid", "require")
    return Slot("words", of=head[-2]) if inside and opener in "{[" and len(head) > 2 and head[-1] == "in" else None


def _member(head: Sequence[str], kind: Kind, scope: Scope, declarations: Declarations) -> Slot:
    if kind == "file" and head[0] == "technique" and len(head) > 1 and find(scope, head[1]) is not None:
        # Its own parameters are named in it: what makes it change a model more, or less.
        return replace(_settable("declaration", head[1], scope, declarations), section="technique")
    if kind == "file" and head[0] in ("study", "technique", "pipeline", "runtime", "model", "data", "params"):
        return Slot("study") if head[0] == "study" else Slot("declaration", section=head[0])
    if head[0] in ("steps", "baseline", "let"):
        return Slot("steps")
    if head[0] == "target":
        return Slot("target", (*PARAMS, RUNTIME))
    if head[0] == "search":
        return Slot("search", (SAMPLER, *SEARCH), section="search")
    return Slot("search", MEASURE, section="measure") if head[0] == "measure" else Slot(UNKNOWN)


def _step(head: Sequence[str], scope: Scope, declarations: Declarations) -> Slot:
    words = list(head[1:] if head[0] == "maybe" else head)
    words = words[: words.index("when")] if "when" in words[1:] else words
    if not words or words[0] in ("repeat", "when") or words[-1] in ("=", "order"):
        return Slot("steps")
    return Slot("choice") if words[-1] == "in" else _settable("settings", words[-1], scope, declarations)


def _target(slot: Slot, head: Sequence[str], scope: Scope, declarations: Declarations) -> Slot:
    if slot.kind == "runtimes" and head[0] == "when":
        return slot
    if slot.kind == "runtimes" or (head[0] == "runtime" and len(head) > 2):
        return _settable("settings", head[-1], scope, declarations)
    if head[0] == "runtime":
        return Slot("runtimes")
    param = slot.find(head[0])
    return Slot("values", param=param) if param is not None else Slot(UNKNOWN)


def _settable(kind: Kind, name: str, scope: Scope, declarations: Declarations) -> Slot:
    declared = find(scope, name)
    if declared is None:
        return Slot(kind, of=name) if kind == "call" else Slot(UNKNOWN)
    given = (WEIGHTS,) if declared.sort == "model" else ()
    return Slot(kind, (*params_of(declared, declarations), *given), declared)
