"""What may be written where the cursor stands, with what its declaration says of it: the source of completion, of hover
and of going to a definition."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from optlang.analysis.declarations import STRENGTH, WORDS, Declarations
from optlang.analysis.definitions import KnobSymbol, Symbols, suffixes
from optlang.analysis.lower.calls import WEIGHTS_PARAMS
from optlang.analysis.lower.search_settings import SAMPLERS
from optlang.analysis.modules.names import Declared, PythonModule, Scope, Sort
from optlang.analysis.modules.python_files import Signature, inside, objects
from optlang.diagnostics.model import Span
from optlang.editor.context import Cursor
from optlang.editor.scopes import Slot, find, params_of
from optlang.plan.domains import show_domain, values_of
from optlang.plan.metrics import ALIASES
from optlang.plan.model import Param
from optlang.plan.units import SAID, TYPES, show
from optlang.syntax import tree

Sorted = Literal[
    "keyword", "step", "runtime", "model", "target", "module", "parameter", "value", "metric", "knob", "type",
]

_FILE = {
    "study": "what is searched, and what for", "import": "another file, or Python of this folder",
    "from": "names of another file", "technique": "a step of your own", "pipeline": "steps with parameters",
    "runtime": "a runtime of your own", "model": "a factory of models", "data": "a factory of data",
    "params": "parameters that several declarations share",
    "target": "where models run", "metric": "a metric of your own task", "let": "a name for a value or a domain",
    "optlang": "the edition of the language, on the first line",
}
_STUDY = {
    "input": "what `--set` may change", "let": "a name for a value or a domain", "metric": "a metric of your own task",
    "model": "the model that is made smaller and faster", "data": "what it is trained and judged on",
    "baseline": "how the reference model is made, once", "target": "where trials are measured",
    "steps": "what is searched", "forbid": "takes points from the space, by their knobs",
    "require": "makes trials infeasible, by their metrics", "minimize": "goals", "maximize": "goals",
    "search": "how many trials, how long, from which seed", "measure": "how latency is measured",
    "because": "the reason of the rule before",
}
_FACTS = {
    "param": "a parameter with its type, domain, default and help",
    "with": "the parameters of a group, as if they stood here", "calls": "the object that does it",
    "needs": "what it must be given", "takes": "the forms of model that it takes", "gives": "the form that it gives",
    "traits": "what is true of what it leaves", "after": "what it comes after",
    "excludes": "what it is never applied with",
    "performs": "the techniques that it carries out itself", "cost_depends_on": "what size and speed depend on",
    "recovered_by": "the training that follows it where it is tried alone",
    "stronger_with": "the parameters whose larger values change a model more",
    "milder_with": "the parameters whose larger values change a model less",
    "steps": "the steps of a pipeline",
}
_FACTS_OF = {
    "technique": (
        "param", "with", "calls", "needs", "takes", "gives", "traits", "after", "excludes", "cost_depends_on",
        "recovered_by", "stronger_with", "milder_with",
    ),
    "runtime": ("param", "with", "calls", "needs", "takes", "traits", "excludes", "performs"),
    "pipeline": ("param", "with", "steps"), "model": ("param", "with", "calls"), "data": ("param", "with", "calls"),
    "params": ("param", "with"),
}
_STEPS = {"maybe": "in or out", "repeat": "a block several times", "when": "only if a condition holds"}
_SEARCH = {"halving": "trainings pause, and the best of the trials go on: `halving { reduce = 3; first = 1 }`"}
_CONDITION = ("and", "or", "not", "in", "none", "true", "false", "because")
_OPERATORS = ("=", "in", "==", "!=", "<", ">", "<=", ">=", "..", "and", "or", "not", "+", "-", "*", "/", ",", "when")


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that may be written: its text, one line about it, the whole of what is known, where it is declared."""

    label: str
    sort: Sorted
    detail: str = ""
    help: str = ""
    span: Span | None = None
    known: Declared | None = None
    """The declaration whose parameters are still to be shown: reading all of them for a list would be slow."""


@dataclass(frozen=True, slots=True)
class Offers:
    """What a file offers: what can be named in it, and what is declared of that."""

    scope: Scope
    declarations: Declarations
    symbols: Sequence[Symbols]
    folder: Path

    def at(self, context: Cursor, slot: Slot) -> Iterator[Offer]:
        """All that may be written there; what is set already is among it."""
        words = context.words
        if context.dead:
            return
        owner = context.frames[0].head[1:2] if context.frames else []
        here = [part for part in self.symbols if [part.owner] == owner]
        if here and len(self.symbols) > len(here):
            # What another study or pipeline of the file names is not known here.
            yield from replace(self, symbols=here).at(context, slot)
            return
        if words and words[0] in ("import", "from"):
            yield from self._imports(words)
        elif slot.kind == "words":
            yield from self._values_of(slot.of)
        elif words and (words[0] in ("forbid", "require") or "when" in words):
            yield from self._condition(words, metrics=words[0] == "require")
        elif words and words[-1] == ":":
            yield from (Offer(name, "type", SAID[TYPES[name]]) for name in TYPES)
        else:
            yield from self._statement(words, slot, context.word)

    def _statement(self, words: Sequence[str], slot: Slot, typed: str) -> Iterator[Offer]:
        match slot.kind:
            case "file" | "study":
                yield from self._member(words, slot.kind, typed)
            case "declaration":
                yield from self._fact(words, slot)
            case "steps" | "choice":
                yield from self._steps(words, choice=slot.kind == "choice")
            case "runtimes":
                if not words or words[-1] == "=":
                    yield from self._declared("runtime", sort="runtime")
                elif words[-1] not in _OPERATORS:
                    yield Offer("when", "keyword", _STEPS["when"])
            case "values" if slot.param is not None:
                yield from self._of_param(slot.param, searched=True)
            case "call" if slot.declared is None:
                yield from self._arguments(slot, words)
            case "settings" | "call" | "target" | "search":
                yield from self._setting(words, slot)

    # ---- one part of a text each

    def _member(self, words: Sequence[str], kind: str, typed: str) -> Iterator[Offer]:
        if not words:
            yield from _keywords(_FILE if kind == "file" else _STUDY)
        elif words[0] in ("minimize", "maximize"):
            yield from self._metrics(baseline=False)
        elif words[0] in ("model", "data") and words[-1] == "=":
            yield from self._declared("model" if words[0] == "model" else "data", sort="model")
            yield from self._python(typed)
        elif words[0] == "target" and words[-1] == "=":
            yield from self._declared("target", sort="target")
        elif len(words) > 2 and words[-1] in ("=", "in", ".."):
            yield from self._names()

    def _fact(self, words: Sequence[str], slot: Slot) -> Iterator[Offer]:
        if not words:
            yield from _keywords({name: _FACTS[name] for name in _FACTS_OF[slot.section]})
        elif words[0] == "with" and words[-1] in ("with", ","):
            yield from self._declared("params", sort="parameter")
        elif words[0] in WORDS:
            yield from (Offer(name, "value", f"after `{words[0]}`") for name in WORDS[words[0]])
        elif words[0] in STRENGTH:
            yield from (_parameter(param, slot.span(param.name)) for param in slot.params if param.name not in words)
        elif words[0] in ("after", "excludes", "performs", "recovered_by"):
            yield from self._declared("technique", sort="step")
            if words[0] != "recovered_by":
                yield from (Offer(name, "module", "all techniques of the module") for name in self.scope.library)

    def _steps(self, words: Sequence[str], *, choice: bool) -> Iterator[Offer]:
        begins = not words or words[-1] in ("maybe", "=")
        if begins and (not words or words[0] != "repeat"):
            yield from self._declared("technique", "pipeline", "let", sort="step")
            yield from self._names()
            if not words:
                yield from _keywords(_STEPS)
            if choice:
                yield Offer("none", "value", "does nothing")
        elif words[-1] == "in" and words[0] != "repeat":
            yield Offer("any order", "keyword", "the steps in an order that is searched")
            yield from self._names()
        elif words[-1] in ("=", "in", ".."):
            yield from self._names()
        elif words[-1] not in _OPERATORS:
            yield Offer("when", "keyword", _STEPS["when"])

    def _setting(self, words: Sequence[str], slot: Slot) -> Iterator[Offer]:
        param = slot.find(words[0]) if words else None
        if not words:
            yield from (_parameter(param, slot.span(param.name)) for param in slot.params)
            yield from _keywords(_SEARCH if slot.section == "search" else {})
        elif param is None:
            return
        elif words[-1] not in _OPERATORS:
            if len(words) == 1:
                yield from (Offer(sign, "keyword", text) for sign, text in (("=", "fixes"), ("in", "searches")))
        elif param.name == "runtime" and slot.kind == "target":
            yield from self._declared("runtime", sort="runtime")
        elif param.name == "workers" and slot.section == "search":
            yield from _keywords({"ray": "the machines of a Ray cluster: `workers = ray { cpus = 4; gpus = 1 }`"})
            yield from self._of_param(param, searched=False)
        elif param.name == "sampler" and slot.kind == "search":
            yield from (Offer(name, "value", param.help) for name in SAMPLERS)
        elif param.name == "device" and slot.kind == "target":
            yield from self._of_param(param, searched=False)
            yield Offer('ssh("user@host")', "value", "another machine, which ssh connects to")
            yield Offer('adb("SERIAL")', "value", "an Android phone, which adb lists")
        elif param.dimension in ("model", "models"):
            yield from self._declared("model", sort="model")
            yield from self._of_param(param, searched=False)
        else:
            yield from self._of_param(param, searched=words[-1] == "in")

    def _imports(self, words: Sequence[str]) -> Iterator[Offer]:
        if words[0] == "from" and "import" in words:
            found = self.scope.module_of(words[1])
            yield from (self._offer(item, item.name, "value") for item in found.declared.values()) if found else ()
        elif len(words) == 1:
            files = sorted(self.folder.glob("*.opt"))
            yield from (Offer(file.stem, "module", file.name, span=Span(file.as_posix(), 0, 0)) for file in files)
            for module in self.scope.library.values():
                yield Offer(module.name, "module", "standard library", span=Span(module.file, 0, 0))
            if words[0] == "import":
                yield Offer("python", "keyword", "a Python file of this folder, or an installed module")

    def _condition(self, words: Sequence[str], *, metrics: bool) -> Iterator[Offer]:
        if len(words) > 2 and words[-1] in ("==", "!=") and words[-2].replace(".", "").isidentifier():
            yield from self._values_of(words[-2])
        yield from (Offer(word, "keyword") for word in _CONDITION)
        yield from self._names()
        if metrics:
            yield from self._metrics(baseline=True)
        else:
            yield from (knob_offer(knob, path) for part in self.symbols for path, knob in _shortest(part))

    # ---- what is named

    def _declared(self, *sorts: Sort, sort: Sorted) -> Iterator[Offer]:
        for name in dict.fromkeys(self.scope.names(*sorts)):
            declared = find(self.scope, name)
            if declared is not None and declared.sort in sorts:
                yield self._offer(declared, name, sort)

    def _offer(self, declared: Declared, name: str, sort: Sorted) -> Offer:
        node = declared.node
        text = getattr(node, "help", None)
        detail = text.value if text is not None else declared.sort
        span = node.path.span if isinstance(node, tree.Metric) else node.name.span
        return Offer(name, sort, detail, span=span, known=declared)

    def _python(self, typed: str) -> Iterator[Offer]:
        for alias, module in self.scope.python.items():
            yield Offer(alias, "module", f'Python: "{module.calls}"', span=module.source.span)
            if typed.startswith(f"{alias}."):
                for name, signature in _objects(module).items():
                    given = ", ".join(signature.arguments) if signature is not None else "…"
                    span = self._defined(module, name)
                    yield Offer(f"{alias}.{name}", "model", f"({given})", f'of "{module.calls}"', span)

    def _defined(self, module: PythonModule, name: str) -> Span:
        """Where a module of the user's defines a name; where it is imported, of an installed one."""
        found = re.search(rf"^[ \t]*(?:async )?(?:def|class)[ \t]+({name})\b", module.text or "", re.MULTILINE)
        file = inside(self.folder, module.calls)
        if found is None or file is None or not file.is_file():
            return module.source.span
        return Span(file.as_posix(), *found.span(1))

    def _arguments(self, slot: Slot, words: Sequence[str]) -> Iterator[Offer]:
        alias, _, name = slot.of.partition(".")
        module = self.scope.python.get(alias)
        signature = _objects(module).get(name) if module is not None else None
        if words:
            yield from self._names() if words[-1] in _OPERATORS else ()
        elif signature is not None and module is not None:
            for argument in signature.arguments:
                if argument not in slot.written:
                    yield Offer(argument, "parameter", f"an argument of {name}", span=self._defined(module, name))
            for param in WEIGHTS_PARAMS if "weights" in slot.written else WEIGHTS_PARAMS[:1]:
                if param.name not in slot.written:
                    yield Offer(param.name, "parameter", param.help)

    def _names(self) -> Iterator[Offer]:
        for part in self.symbols:
            for name, definition in part.names.items():
                yield Offer(name, "value", "a name of this file", span=definition.span)
            for definition in part.labels.values():
                if definition.kind == "repeat" and definition.span.file == part.file:
                    text = "the number of the round, from 1"
                    yield Offer(f"{definition.name}.round", "knob", text, span=definition.span)
        yield from self._declared("let", sort="value")

    def _metrics(self, *, baseline: bool) -> Iterator[Offer]:
        found = {alias: Offer(alias, "metric", name) for alias, name in ALIASES.items()}
        for module in (*self.scope.library.values(), self.scope.own):
            for item in module.declared.values():
                if item.sort == "metric":
                    found[item.name] = self._offer(item, item.name, "metric")
        labels = (item for part in self.symbols for item in part.labels.values())
        targets = {item.name: item for item in labels if item.kind == "target"}
        yield from found.values()
        if len(targets) > 1:
            for target, label in targets.items():
                yield Offer(target, "target", "a target", span=label.span)
                yield from (
                    Offer(f"{target}.{name}", "metric", f"{item.detail}, on {target}", span=item.span)
                    for name, item in found.items()
                )
        if baseline:
            yield from (
                Offer(f"baseline.{name}", "metric", f"{item.detail}, of the reference model", span=item.span)
                for name, item in found.items()
            )

    def _values_of(self, path: str) -> Iterator[Offer]:
        for part in self.symbols:
            found = part.named(path)
            options = values_of(found[0].domain) if len(found) == 1 and found[0].dimension == "name" else None
            for value in options or ():
                label = part.labels.get(f"{found[0].path}.{value}")
                span = label.span if label is not None else None
                yield Offer(str(value), "value", f"of {found[0].path}", found[0].help, span)

    def _of_param(self, param: Param, *, searched: bool) -> Iterator[Offer]:
        if searched:
            yield Offer("any", "keyword", f"all that is declared: {_domain(param)}")
        options = values_of(param.domain) if param.dimension in ("name", "bool") and param.domain is not None else None
        default = show(param.default, param.dimension) if not param.required else None
        shown = [show(value, param.dimension) for value in options or ()]
        if default is not None and default not in shown:
            shown.append(default)
        for text in shown:
            yield Offer(text, "value", "the default" if text == default else f"of `{param.name}`", param.help)
        yield from self._names()

    def whole(self, offer: Offer) -> str:
        """All that is known of an offer, in Markdown."""
        lines = [f"**{offer.label}**" + (f": {offer.detail}" if offer.detail else "")]
        if offer.help:
            lines += ["", offer.help]
        if offer.known is not None:
            params = params_of(offer.known, self.declarations)
            lines += ["", *(f"- `{signature(param)}` {param.help}" for param in params)] if params else []
            node = offer.known.node
            clauses = [fact for fact in getattr(node, "facts", ()) if isinstance(fact, tree.Clause)]
            for clause in clauses:
                lines += ["", f"{clause.keyword} {', '.join(path.text for path in clause.paths)}"]
        return "\n".join(lines)


def signature(param: Param) -> str:
    """A parameter as it is declared: `ratio: ratio in 1% .. 95% = 50%`."""
    spelled = next(name for name, dimension in TYPES.items() if dimension == param.dimension)
    domain = f" in {_domain(param)}" if param.domain is not None and param.dimension != "bool" else ""
    default = f" = {show(param.default, param.dimension)}" if not param.required else ""
    return f"{param.name}: {spelled}{domain}{default}"


def _objects(module: PythonModule) -> dict[str, Signature | None]:
    """What a Python file defines; nothing where it cannot be read, which checking says."""
    try:
        return objects(module.text or "")
    except SyntaxError:
        return {}


def _domain(param: Param) -> str:
    return show_domain(param.domain, param.dimension) if param.domain is not None else SAID[param.dimension]


def _parameter(param: Param, span: Span | None) -> Offer:
    return Offer(param.name, "parameter", signature(param), param.help, span)


def _keywords(text: dict[str, str]) -> Iterator[Offer]:
    return (Offer(word, "keyword", text) for word, text in text.items())


def _shortest(symbols: Symbols) -> Iterator[tuple[str, KnobSymbol]]:
    """The knobs by the shortest ending of their paths that is theirs alone, and by their whole paths."""
    for knob in symbols.knobs:
        tails = suffixes(knob.path)
        shortest = next(tail for tail in tails if symbols.named(tail) == [knob] or tail == knob.path)
        yield from ((tail, knob) for tail in dict.fromkeys((shortest, knob.path)))


def knob_offer(knob: KnobSymbol, path: str) -> Offer:
    """A knob, written as `path`."""
    text = f"in {show_domain(knob.domain, knob.dimension)}" + (f": {knob.help}" if knob.help else "")
    return Offer(path, "knob", f"knob {knob.path}", "" if knob.broken else text, knob.span)
