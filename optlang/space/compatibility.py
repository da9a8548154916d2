"""What the declared facts say of one way through the steps: which form each step finds, and where that does not go.

Knows declarations, steps and values of knobs; runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from optlang.interfaces import FORMS, RemoteDevice
from optlang.plan.expressions import Environment, Expression, Value, holds, names_rounds
from optlang.plan.model import (
    Apply,
    Choice,
    Group,
    Maybe,
    Order,
    Plan,
    Repeat,
    Runtime,
    RuntimeUse,
    Step,
    Target,
    Technique,
)

FIXED_SIZES = "fixed_sizes"
"""The trait of a runtime whose files take each input in one size, besides the number of samples."""

SPARSITY = "sparsity"

ELSEWHERE: Mapping[str, str] = {"ssh": "standalone", "adb": "mobile"}
"""The trait of a runtime that a device of each kind runs: `standalone` needs Python with numpy and the runtime's own
package, `mobile` a program of the runtime's."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why one way through the steps does not go: the code, the words, and the paths of the steps (or the runtime).

    `turned` says that `path` is the party that the reason speaks of second. `way_out` is what to do where the code does
    not say it.
    """

    code: str
    reason: str
    path: str
    other: str | None = None
    turned: bool = False
    way_out: str | None = None


@dataclass(frozen=True, slots=True)
class DeclaredFacts:
    """What is declared of the techniques and runtimes that a study uses, and whether it has a goal or a requirement on
    `sparsity`."""

    techniques: Mapping[str, Technique]
    runtimes: Mapping[str, Runtime]
    wants_sparsity: bool = False

    @classmethod
    def of(cls, plan: Plan) -> DeclaredFacts:
        """Those that the plan holds."""
        return cls(
            {item.name: item for item in plan.techniques}, {item.name: item for item in plan.runtimes},
            any(ref.metric == SPARSITY for ref in plan.metric_refs()),
        )

    def refuses(self, runtime: Runtime, technique: Technique) -> bool:
        """Whether the runtime does not run what the technique makes."""
        return bool({technique.name, technique.name.rpartition(".")[2], *technique.traits}.intersection(
            runtime.excludes
        )) or self.hides_zeros(runtime, technique)

    def hides_zeros(self, runtime: Runtime, technique: Technique) -> bool:
        """Whether a sparsity is asked for, and the runtime carries the technique out: of what it writes there is no
        such figure."""
        return self.wants_sparsity and runtime.carries_out(technique.name)


def label_of(path: str) -> str:
    """The last label of a path, which is how it is spoken of."""
    return path.rpartition(".")[2]


def incompatibility(plan: Plan, values: Mapping[str, Value]) -> str | None:
    """Why the declared facts rule this point out, or None. Exact where `plan.impossible` had too much to list."""
    facts = DeclaredFacts.of(plan)
    environment = Environment(knob=values.get)
    taken = list(applied(plan.steps, values, lambda condition: holds(condition, environment)))
    for target in plan.targets:
        found = conflicts(taken, target.use(values), target, facts)
        if found:
            return found[0].reason
    return None


def applied(
    steps: tuple[Step, ...], values: Mapping[str, Value], true: Callable[[Expression], bool]
) -> Iterator[Apply]:
    """The steps that run with these values, in their order; two rounds of a `repeat` show what any more would."""
    for step in steps:
        # A condition on the round's number holds in some round.
        if step.when is not None and not names_rounds(step.when) and not true(step.when):
            continue
        match step:
            case Apply():
                yield step
            case Choice(path=path, branches=branches):
                for branch in branches:
                    if values.get(path) == branch.name:
                        yield from applied(branch.steps, values, true)
            case Maybe(path=path, steps=inner):
                if values.get(path):
                    yield from applied(inner, values, true)
            case Repeat(count=count, steps=inner):
                rounds = count if count is not None else values.get(step.counter)
                for _ in range(min(rounds, 2) if isinstance(rounds, int) else 0):
                    yield from applied(inner, values, true)
            case Group(steps=inner):
                yield from applied(inner, values, true)
            case Order(path=path, members=members):
                order = values.get(path)
                named = {member.name: member for member in members}
                for label in order if isinstance(order, tuple) else ():
                    yield from applied(named[str(label)].steps, values, true)


@dataclass(slots=True)
class _Walk:
    form: str = "module"
    left_by: Apply | None = None
    done: list[tuple[Apply, Technique]] = field(default_factory=list)
    found: dict[Conflict, None] = field(default_factory=dict)


def conflicts(steps: list[Apply], use: RuntimeUse, target: Target, facts: DeclaredFacts) -> list[Conflict]:
    """All that keeps these steps and this runtime from going together, in the order of the run."""
    walk = _Walk()
    for step in steps:
        technique = as_done(facts.techniques[step.technique], facts.runtimes[use.runtime])
        parties: set[frozenset[str | None]] = set()
        for check in (_gpu, _order, _form, _excludes):
            conflict = check(walk, step, technique, target)
            # Two steps in the wrong order often leave the wrong form too: that is one mistake.
            if conflict is not None and frozenset((conflict.path, conflict.other)) not in parties:
                parties.add(frozenset((conflict.path, conflict.other)))
                walk.found[conflict] = None
        if walk.form not in technique.gives:
            walk.form, walk.left_by = technique.gives[0], step
        walk.done.append((step, technique))
    conflict = _runtime(walk, use, facts, target)
    if conflict is not None:
        walk.found[conflict] = None
    return list(walk.found)


def _device(target: Target) -> str:
    return f"the target {target.name} has device = {target.place}"


def _gpu(walk: _Walk, step: Apply, technique: Technique, target: Target) -> Conflict | None:
    if "gpu" not in technique.needs or target.device == "cuda":
        return None
    reason = f"{label_of(step.path)} needs a GPU; {_device(target)}"
    return Conflict("E501", reason, step.path)


def _form(walk: _Walk, step: Apply, technique: Technique, target: Target) -> Conflict | None:
    if walk.form in technique.takes:
        return None
    takes = " or ".join(FORMS[form] for form in technique.takes)
    before = f"{label_of(walk.left_by.path)} leaves" if walk.left_by is not None else "the model is"
    reason = f"{label_of(step.path)} takes {takes}; {before} {FORMS[walk.form]}"
    code = "E506" if walk.form == "artifact" else "E508"
    return Conflict(code, reason, step.path, walk.left_by.path if walk.left_by is not None else None)


def _order(walk: _Walk, step: Apply, technique: Technique, target: Target) -> Conflict | None:
    for earlier, declared in walk.done:
        if declared.name != technique.name and names_technique(declared.after, technique):
            reason = f"{label_of(earlier.path)} comes after {label_of(step.path)}; here it runs before it"
            return Conflict("E502", reason, earlier.path, step.path)
    return None


def _excludes(walk: _Walk, step: Apply, technique: Technique, target: Target) -> Conflict | None:
    for earlier, declared in walk.done:
        if declared.name == technique.name:
            continue
        if names_technique(declared.excludes, technique) or names_technique(technique.excludes, declared):
            reason = f"{label_of(earlier.path)} and {label_of(step.path)} exclude each other"
            return Conflict("E503", reason, step.path, earlier.path)
    return None


def _runtime(walk: _Walk, use: RuntimeUse, facts: DeclaredFacts, target: Target) -> Conflict | None:
    runtime = facts.runtimes[use.runtime]
    if "gpu" in runtime.needs and target.device != "cuda":
        return Conflict("E501", f"{use.label} needs a GPU; {_device(target)}", use.path)
    if ("browser" in runtime.needs) is not (target.device == "browser"):
        runs = "runs in a browser" if "browser" in runtime.needs else "runs in no browser"
        return Conflict("E504", f"{use.label} {runs}; {_device(target)}", use.path)
    if target.remote is not None and ELSEWHERE[target.remote.kind] not in runtime.traits:
        return Conflict("E504", _at_home(use, target.remote), use.path, way_out=_elsewhere(target.remote))
    if target.remote is not None and target.remote.kind == "adb" and (target.dynamic or target.shape):
        reason = f"the phone's program calls a model with one size; the target {target.name} has others"
        return Conflict("E504", reason, use.path, way_out="remove `dynamic` and `shape` from the target")
    if FIXED_SIZES in runtime.traits and (target.dynamic or target.shape):
        setting, (text, *_) = ("dynamic", target.dynamic) if target.dynamic else ("shape", target.shape)
        reason = f'{use.label} takes inputs of one size; the target {target.name} has {setting} = "{text}"'
        way_out = f"remove `{setting}` from the target and pad all inputs to one length, or take `{use.label}` away"
        return Conflict("E504", reason, use.path, way_out=way_out)
    if walk.form not in runtime.takes:
        takes = " or ".join(FORMS[form] for form in runtime.takes)
        left = walk.left_by
        before = f"{label_of(left.path)} leaves" if left is not None else "the model is"
        reason = f"{use.label} runs {takes}; {before} {FORMS[walk.form]}"
        return Conflict("E504", reason, left.path if left is not None else use.path, use.path)
    for step, technique in walk.done:
        for word in runtime.excludes:
            if word in (*technique.traits, technique.name, technique.name.rpartition(".")[2]):
                return Conflict(
                    "E504", f"{use.label} does not run {word}; {label_of(step.path)} makes it", step.path, use.path
                )
        if facts.hides_zeros(runtime, technique):
            reason = f"{use.label} carries out {label_of(step.path)} itself, and what it writes has no `sparsity`"
            way_out = f"take `sparsity` out of the goals and requirements, or `{label_of(step.path)}` out of the steps"
            return Conflict("E504", reason, step.path, use.path, way_out=way_out)
    return None


def _at_home(use: RuntimeUse, device: RemoteDevice) -> str:
    if device.kind == "adb":
        return f"{use.label} has no program that runs its files on a phone; the device is {device}"
    return (
        f"{use.label} needs more than Python, numpy and a package of its own, so it runs on this machine only; the "
        f"device is {device}"
    )


def _elsewhere(device: RemoteDevice) -> str:
    if device.kind == "adb":
        return "on a device of adb take the runtime executorch"
    return "on a device of ssh take onnxruntime, litert, openvino or executorch"


def names_technique(words: tuple[str, ...], technique: Technique) -> bool:
    """Whether the words of a declaration name the technique: itself, or its module for all that it has."""
    return technique.name in words or technique.name.rpartition(".")[0] in words


def as_done(technique: Technique, runtime: Runtime) -> Technique:
    """The technique as it is on this runtime: what a runtime carries out itself leaves the module to it."""
    if not runtime.carries_out(technique.name):
        return done_alone(technique)
    takes = technique.takes if technique.prepares else ("module", "graph")
    return technique.model_copy(update={"takes": takes, "gives": ("graph",)})


def done_alone(technique: Technique) -> Technique:
    """The technique where no runtime carries it out: it leaves no graph that one would finish."""
    finished = tuple(form for form in technique.gives if form != "graph")
    return technique.model_copy(update={"gives": finished}) if technique.prepares and finished else technique


def risky(first: Technique, second: Technique) -> bool:
    """Whether the two can be in each other's way, in this order, at all."""
    forms = [form for form in first.gives if form not in second.takes]
    return bool(forms) or names_technique(first.after, second) or apart(first, second)


def apart(first: Technique, second: Technique) -> bool:
    """Whether the two exclude each other."""
    named = names_technique(first.excludes, second) or names_technique(second.excludes, first)
    return first.name != second.name and named
