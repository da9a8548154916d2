"""`target` → where trials are measured: device, threads, batch and runtimes, with their knobs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from optlang.analysis.declarations import Declarations
from optlang.analysis.definitions import Definition, DefinitionKind
from optlang.analysis.knobs import Around, Knobs, Later, always
from optlang.analysis.lower import axes, devices
from optlang.analysis.lower.choices import branches_of, given
from optlang.analysis.modules.names import SORTS, Declared, Scope, duplicate, either, listed, only, suggestion
from optlang.analysis.settings import absorb, settings_of
from optlang.diagnostics import field_words
from optlang.diagnostics.field_words import RUNTIMES, STEPS
from optlang.diagnostics.model import Diagnostics, Label, Span
from optlang.diagnostics.suggest import closest
from optlang.interfaces import RemoteDevice
from optlang.plan.expressions import Binary, Const, KnobRef
from optlang.plan.model import Fixed, Param, Runtime, RuntimeUse, SetDomain, Setting, Target
from optlang.space.computed import COUNTS
from optlang.syntax import tree

PARAMS = (
    Param(
        name="device", dimension="name", domain=SetDomain(values=("cpu", "cuda", "browser")), default="cpu",
        help="where it runs",
    ),
    *COUNTS,
    *axes.PARAMS,
    devices.RECONNECT,
)
DEVICES = {
    "gpu": "an NVIDIA GPU is `device = cuda`",
    "mps": "`device = cpu` is measured on a Mac too",
    "android": 'a phone is `device = adb("SERIAL")` with the runtime executorch; or let this machine stand in for it: '
    "`device = cpu` with executorch or litert",
    "ios": "let this machine stand in for the phone: `device = cpu` with the runtime coreml or executorch",
    "npu": "`device = cpu` is what this version measures on",
    "xpu": "`device = cpu` is what this version measures on",
}
"""Devices that are not measured on, with what to do: they are not taken for misspelled ones."""


@dataclass(frozen=True, slots=True)
class _Branch:
    """A runtime among several; `name` is where its label stands."""

    name: tree.Name
    value: tree.Path
    settings: tree.Block | None
    conditions: tuple[tree.Expression, ...]


@dataclass(slots=True, eq=False)
class Targets:
    """Reads targets. `used` are the runtimes that were named."""

    knobs: Knobs
    declarations: Declarations
    used: dict[str, Runtime] = field(default_factory=dict)

    @property
    def scope(self) -> Scope:
        """What is declared and imported."""
        return self.knobs.names.scope

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.knobs.diagnostics

    def read(self, node: tree.Target) -> Later[Target | None]:
        """The target, with what it takes over from a declared one."""
        self.knobs.label(node.name.text, Definition("target", node.name.text, node.name.span), Around())
        around = Around(path=node.name.text)
        runtime, plain, elsewhere = self._parted(self._statements(node, ()), around)
        where = node.block.span if node.block is not None else node.span
        first = [
            item
            for item in plain
            if runtime is None or item.span.start < runtime.span.start or item.span.file != runtime.span.file
        ]
        rest = [item for item in plain if item not in first]
        # Knobs come in the order of the text: what stands before the runtime, the runtime, and the rest.
        before = settings_of(self.knobs, "a target", PARAMS, tree.Block(where, tuple(first)), around, where)
        runtimes = self._runtimes(node, runtime, around)
        after = settings_of(self.knobs, "a target", PARAMS, tree.Block(where, tuple(rest)), around, where)
        named = {item.name.text for item in rest if isinstance(item, tree.Fix | tree.Vary)}

        def build() -> Target | None:
            settings: dict[str, Setting] = {
                **before(),
                **{key: value for key, value in after().items() if key in named},
            }
            uses = tuple(use for use in (make() for make in runtimes) if use is not None)
            if not uses or any(param.name not in settings for param in PARAMS):
                return None
            device = settings["device"]
            assert isinstance(device, Fixed)
            remote = elsewhere() if elsewhere is not None else None
            if elsewhere is not None and remote is None:
                return None
            patience = devices.reconnect(settings["reconnect"], _written(plain, "reconnect"), remote, self.diagnostics)
            dynamic, shape = (self._axes(settings[param.name], plain, param.name) for param in axes.PARAMS)
            return Target(
                name=node.name.text,
                device=str(device.value),
                threads=settings["threads"],
                batch=settings["batch"],
                runtimes=uses,
                knob=around.at("runtime") if isinstance(runtime, tree.Vary) else None,
                dynamic=dynamic,
                shape=shape,
                remote=replace(remote, reconnect=patience) if remote is not None else None,
            )

        return build

    def _axes(self, setting: Setting, statements: list[tree.Statement], name: str) -> tuple[str, ...]:
        """The texts of `dynamic` or `shape`, checked where they are written."""
        value = setting.value if isinstance(setting, Fixed) and isinstance(setting.value, tuple) else ()
        texts = tuple(map(str, value))
        for item in statements:
            if isinstance(item, tree.Fix) and item.name.text == name:
                axes.check_axes(item, texts, self.diagnostics)
        return texts

    def _parted(
        self, statements: list[tree.Statement], around: Around
    ) -> tuple[tree.Fix | tree.Vary | None, list[tree.Statement], Later[RemoteDevice | None] | None]:
        """The statement that names the runtimes, the others, and the device where that is another machine."""
        remote: Later[RemoteDevice | None] | None = None
        plain: list[tree.Statement] = []
        runtime: tree.Fix | tree.Vary | None = None
        has_runtime = any(
            isinstance(item, tree.Fix | tree.Vary) and item.name.text == "runtime" for item in statements
        )
        for statement in statements:
            if isinstance(statement, tree.Fix | tree.Vary):
                name = statement.name
                if statement.when is not None:
                    self._conditional(name.text, statement.when.span)
                    statement = replace(statement, when=None)
                meant = name.text == "runtime" or (not has_runtime and self._means_runtime(name))
                if meant and runtime is None:
                    runtime = statement
                    continue
                if name.text == "device" and self._device(statement):
                    continue
                call = devices.called(statement.value) if isinstance(statement, tree.Fix) else None
                if name.text == "device" and call is not None:
                    remote = devices.read(self.knobs, call, around)
                    continue
            plain.append(statement)
        return runtime, plain, remote

    def _device(self, statement: tree.Fix | tree.Vary) -> bool:
        value = statement.value if isinstance(statement, tree.Fix) else statement.domain
        if isinstance(statement, tree.Vary):
            self.diagnostics.error(
                "E206", "the device of a target is fixed", statement.span, "a knob",
                help="write a target for each device: every trial is built and measured on all of them",
            )
            return True
        if isinstance(value, tree.String):
            self.diagnostics.error(
                "E302", "a device is a word or a call, and this is a text", value.span, "a text",
                help=f"write `{devices.EXAMPLES['ssh']}` for another machine, or a word: cpu, cuda, browser",
            )
            return True
        if isinstance(value, tree.Path) and value.text in DEVICES:
            self._not_yet(f"the device `{value.text}`", value.span, DEVICES[value.text])
            return True
        return False

    def _conditional(self, name: str, span: Span) -> None:
        advice = f"search it for all points, and `forbid {name} == VALUE and …` what is not wanted"
        if name == "device":
            advice = "write a target for each device: every trial is built and measured on all of them"
        if name == "runtime":
            advice = "its runtimes may have conditions: `runtime in { eager; onnxruntime when … }`"
        self.diagnostics.error(
            "E302", f"the {name} of a target has no condition", span, "every trial is measured with it", help=advice
        )

    def _not_yet(self, what: str, span: Span, advice: str | None = None) -> None:
        self.diagnostics.error("E106", f"{what} is not in this version", span, help=advice)

    def _statements(self, node: tree.Target, seen: tuple[Declared, ...]) -> list[tree.Statement]:
        # What the target sets itself replaces what its base sets under the same name.
        found: dict[str, tree.Statement] = {}
        if node.base is not None:
            base = self.scope.find(node.base)
            if base is None and not self.scope.absorbs(node.base):
                self.scope.missed(node.base, self.scope.names("target"))
                self.diagnostics.error(
                    "E201", f"unknown target `{node.base.text}`", node.base.span, "not declared",
                    help=suggestion(node.base.text, self.scope.names("target")),
                    fix=only(node.base.span, node.base.text, self.scope.names("target")),
                )
            elif base is not None and not isinstance(base.node, tree.Target):
                self.diagnostics.error("E201", f"`{node.base.text}` is {SORTS[base.sort]}, no target", node.base.span)
            elif base is not None and isinstance(base.node, tree.Target) and base not in seen:
                for item in self._statements(base.node, (*seen, base)):
                    assert isinstance(item, tree.Fix | tree.Vary)
                    found[item.name.text] = item
        own: dict[str, Span] = {}
        others: list[tree.Statement] = []
        for item in node.block.statements if node.block is not None else ():
            if isinstance(item, tree.Fix | tree.Vary):
                if item.name.text in own:
                    duplicate(self.diagnostics, item.name.text, item.name.span, own[item.name.text], "keep one of them")
                    continue
                own[item.name.text] = item.name.span
                found[item.name.text] = item
            else:
                others.append(item)
        return [*found.values(), *others]

    def _means_runtime(self, name: tree.Name) -> bool:
        """Whether a setting is `runtime` misspelt: that is reported, and it is read as what was meant."""
        if closest(name.text, [*(param.name for param in PARAMS), "runtime"]) != "runtime":
            return False
        self.diagnostics.error(
            "E205", f"a target has no parameter `{name.text}`", name.span, "not declared",
            help="did you mean `runtime`?", fix=only(name.span, name.text, ["runtime"]),
        )
        return True

    def _runtimes(
        self, node: tree.Target, statement: tree.Fix | tree.Vary | None, around: Around
    ) -> list[Later[RuntimeUse | None]]:
        if statement is None:
            if node.base is None:
                self.diagnostics.error(
                    "E107", f"the target `{node.name.text}` has no runtime", node.name.span, "runs on what?",
                    help="add `runtime in { eager; onnxruntime }`",
                )
            return []
        path = around.at("runtime")
        self._label(path, "setting", statement.name, around)
        if isinstance(statement, tree.Fix):
            if not isinstance(statement.value, tree.Path) or statement.value.text == "none":
                advice = "`runtime in {…}` searches among several" if isinstance(statement.value, tree.Block) else None
                self.diagnostics.error(
                    "E302", "a runtime is expected", statement.value.span, "not a runtime", help=advice
                )
                return []
            label = statement.value.parts[-1].text
            self._label(f"{path}.{label}", "word", statement.value.parts[-1], around)
            use = self._use(label, statement.value, statement.block, path, around.below("runtime"))
            return [use] if use is not None else []
        domain = self.knobs.names.unfold(statement.domain)
        if not isinstance(domain, tree.Block):
            self.diagnostics.error(
                "E302", "runtimes to choose from stand in braces", domain.span, "no choice",
                help="write `runtime in { eager; onnxruntime }`",
            )
            return []
        return self._choice(domain, path, statement.name.span, around)

    def _choice(self, block: tree.Block, path: str, span: Span, around: Around) -> list[Later[RuntimeUse | None]]:
        items = list(branches_of(block))
        kept: dict[str, _Branch] = {}
        for item, conditions in items:
            branch = self._branch(item, conditions)
            if branch is not None and branch.name.text in kept:
                self._twice(branch, kept[branch.name.text])
            elif branch is not None:
                kept[branch.name.text] = branch
                whole = branch.value.span if isinstance(item, tree.Element) else None
                self._label(f"{path}.{branch.name.text}", "step", branch.name, around, whole)
        if not kept:
            if not items:
                self.diagnostics.error("E505", "a choice without runtimes", block.span, "nothing to choose from")
            return []
        if len(kept) == 1 and len(items) == 1:
            self.diagnostics.error(
                "E505", f"a choice with one branch, `{next(iter(kept))}`", block.span, "nothing to choose from",
                help=f"fix it: `runtime = {next(iter(kept))}`",
            )
        only = given({label: self.knobs.branch(branch.conditions, around) for label, branch in kept.items()})
        knob = self.knobs.add(path, "runtime", SetDomain(values=tuple(kept)), "name", span, around, only=only)
        made = []
        for label, branch in kept.items():
            condition = Binary(operator="==", left=KnobRef(path=path), right=Const(value=label))
            inside = replace(around, path=path).below(label, always(condition))
            use = self._use(label, branch.value, branch.settings, f"{path}.{label}", inside)
            if use is not None:
                made.append(use)
        if knob is not None:
            knob.broken = len(made) < len(items)
        return made

    def _branch(self, item: tree.Statement, conditions: tuple[tree.Expression, ...]) -> _Branch | None:
        """A runtime among several; None where it is none, which is reported."""
        value = item.value if isinstance(item, tree.Element | tree.Fix) else None
        if isinstance(item, tree.Element | tree.Fix) and isinstance(value, tree.Path) and value.text != "none":
            name = item.name if isinstance(item, tree.Fix) else value.parts[-1]
            return _Branch(name, value, item.block, conditions)
        if isinstance(item, tree.Maybe):
            self.diagnostics.error(
                "E505", "`maybe` cannot stand in a choice", item.keyword, "already a choice", help="take `maybe` away"
            )
            return None
        known = listed(name for name in self.scope.names("runtime") if "." not in name)
        self.diagnostics.error(
            "E302", "a runtime is expected", item.span, "not a runtime", help=f"runtimes are {known}"
        )
        return None

    def _twice(self, branch: _Branch, first: _Branch) -> None:
        label = branch.name.text
        self.diagnostics.error(
            "E405", f"`{label}` is listed twice", branch.name.span, "the second time",
            labels=(Label(first.name.span, "the first time"),),
            help=f"take one away, or give it a label of its own: `NAME = {branch.value.text}`",
        )

    def _label(
        self, path: str, kind: DefinitionKind, name: tree.Name, around: Around, whole: Span | None = None
    ) -> None:
        self.knobs.label(path, Definition(kind, name.text, name.span, whole, fixed=kind != "step"), around)

    def _use(
        self, label: str, path: tree.Path, block: tree.Block | None, at: str, around: Around
    ) -> Later[RuntimeUse | None] | None:
        declared = self.scope.find(path)
        if declared is None or declared.sort != "runtime":
            absorb(self.knobs, block, around)
            if declared is not None:
                self.diagnostics.error(
                    "E201", f"`{path.text}` is {SORTS[declared.sort]}, no runtime", path.span, "not a runtime",
                    help="steps stand in `steps { … }`" if declared.sort == "technique" else None,
                )
            elif not self.scope.absorbs(path):
                names = self.scope.names("runtime")
                self.scope.missed(path, names)
                known = listed(name for name in names if "." not in name)
                self.diagnostics.error(
                    "E201", f"unknown runtime `{path.text}`", path.span,
                    "not declared in this study or the standard library",
                    help=suggestion(path.text, names, _step_or(path.text, f"runtimes are {known}"), RUNTIMES),
                    fix=only(path.span, path.text, names),
                )
            return None
        runtime = self.declarations.runtime(declared)
        if declared.incomplete:
            absorb(self.knobs, block, around)
            return None
        self.used[runtime.name] = runtime
        settings = settings_of(self.knobs, f"`{path.text}`", runtime.params, block, around, path.span, declared)
        return lambda: RuntimeUse(path=at, label=label, runtime=runtime.name, settings=settings())


def _written(statements: list[tree.Statement], name: str) -> tree.Statement | None:
    """The statement that sets this name."""
    named = (item for item in statements if isinstance(item, tree.Fix | tree.Vary) and item.name.text == name)
    return next(named, None)


def _step_or(word: str, otherwise: str) -> str:
    """Where the word names what a step does: that step; else `otherwise`."""
    steps = field_words.meant(word, STEPS)
    return f"did you mean {either(steps)} in `steps`?" if steps else otherwise
