"""The plan: what a study means, with every name resolved and every quantity in SI units.

Frozen Pydantic models; `Plan.model_dump_json` and `Plan.model_validate_json` lose nothing, and `Plan.meaning` hashes
what the study says, not how it is written. Search and run know nothing else of a study.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from pydantic import Field

from optlang.interfaces import JSON, RemoteDevice
from optlang.plan.expressions import Environment, Expression, Frozen, MetricRef, Scalar, Value, holds, references
from optlang.plan.metrics import AGREEMENT, BUILT

Dimension = Literal["ratio", "count", "time", "bytes", "number", "name", "names", "bool", "string", "model", "models"]
"""What a value means: `count` is an integer, `time` in seconds, `bytes` in bytes, `ratio` between 0 and 1 as a rule."""


BASELINE_RUNTIME = "runtime.eager"
"""What the reference model is measured with, whatever runtimes the study has."""


class Location(Frozen):
    """Where something stands in the text; lines and columns from 1. Not part of a plan's meaning."""

    file: str
    line: int
    column: int


# ---- domains


class SetDomain(Frozen):
    """`{a, b}`: values without an order."""

    kind: Literal["set"] = "set"
    values: tuple[Scalar, ...]


class ListDomain(Frozen):
    """`[1, 2, 4]` or a stepped range: ordered values, searched by index."""

    kind: Literal["list"] = "list"
    values: tuple[Scalar, ...]


class IntDomain(Frozen):
    """`low .. high` of integers, both included."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False


class FloatDomain(Frozen):
    """`low .. high` of real numbers, both included."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False


class OrderDomain(Frozen):
    """`any order`: a permutation of labels; a value is the tuple of the labels in their order."""

    kind: Literal["order"] = "order"
    labels: tuple[str, ...]


Domain: TypeAlias = Annotated[
    SetDomain | ListDomain | IntDomain | FloatDomain | OrderDomain, Field(discriminator="kind")
]


class Knob(Frozen):
    """One search variable.

    `path` is its full path of labels, `column` the shortest suffix that is unique in the study (with dots). `role` says
    what takes its value: a setting, which branch of a choice, whether a `maybe` is in, how many rounds, which order,
    or which runtime. `condition` names earlier knobs only; the knob is absent where it is false. The
    domain of a choice is a SetDomain of its branches' names, `none` written as the text "none"; of a `maybe` the
    set false, true; of a repeat integers. `only` has the branches of a choice (the runtimes of a target) that can be
    taken only where a condition on earlier knobs holds. `default` is what the parameter that it is a value of declares,
    inside the domain or not.
    """

    path: str
    column: str
    role: Literal["value", "choice", "maybe", "repeat", "order", "runtime"]
    domain: Domain
    dimension: Dimension
    default: Value = None
    condition: Expression | None = None
    only: dict[str, Expression] = Field(default_factory=dict)
    help: str = ""
    location: Location | None = None

    def conditions(self) -> tuple[Expression, ...]:
        """All that decides whether the knob is there, and which of its values are."""
        return (*([self.condition] if self.condition is not None else []), *self.only.values())

    def open(self, value: Value, environment: Environment) -> bool:
        """Whether the value can be taken at a point where the knob is there."""
        condition = self.only.get(value) if isinstance(value, str) else None
        return condition is None or holds(condition, environment)


# ---- settings and steps


class Fixed(Frozen):
    """A setting with one value, `=`."""

    kind: Literal["fixed"] = "fixed"
    value: Value
    when: Expression | None = None


class Searched(Frozen):
    """A setting that is a knob, `in`."""

    kind: Literal["searched"] = "searched"
    knob: str
    when: Expression | None = None


class Computed(Frozen):
    """A setting that follows from knobs and rounds, computed again in each round."""

    kind: Literal["computed"] = "computed"
    expression: Expression
    dimension: Dimension
    when: Expression | None = None


Plain: TypeAlias = Annotated[Fixed | Searched | Computed, Field(discriminator="kind")]
"""A setting that is one value at each point."""


_Argument = TypeVar("_Argument")


class Use(Frozen, Generic[_Argument]):
    """How something is made: `name` as written, `calls` what it stands for, its arguments, and a model's weights."""

    name: str
    calls: str
    arguments: dict[str, _Argument] = Field(default_factory=dict)
    weights: str | None = None
    weights_key: str | None = None
    weights_strict: bool = True


class ModelUse(Use[Plain]):
    """A model that a setting names, whose arguments may be searched."""

    def factory(self, arguments: Mapping[str, JSON]) -> dict[str, JSON]:
        """What the setting is where the arguments have these values: the fields of an `interfaces.Factory`."""
        given: dict[str, JSON] = {"calls": self.calls, "arguments": arguments, "weights": self.weights}
        if self.weights_key is not None:
            given["weights_key"] = self.weights_key
        if not self.weights_strict:
            given["weights_strict"] = False
        return given


class Models(Frozen):
    """A setting that is a model, or, where `several`, a list of models."""

    kind: Literal["models"] = "models"
    models: tuple[ModelUse, ...]
    several: bool
    when: Expression | None = None


Setting: TypeAlias = Annotated[Fixed | Searched | Computed | Models, Field(discriminator="kind")]


class Apply(Frozen):
    """A technique with all of its declared parameters, defaults filled in."""

    kind: Literal["apply"] = "apply"
    path: str
    technique: str
    settings: dict[str, Setting]
    when: Expression | None = None
    location: Location | None = None


class Branch(Frozen):
    """One way of a choice; `none` has no steps."""

    name: str
    steps: tuple[Step, ...]


class Choice(Frozen):
    """Exactly one branch; the knob at `path` names it."""

    kind: Literal["choice"] = "choice"
    path: str
    branches: tuple[Branch, ...]
    when: Expression | None = None
    location: Location | None = None


class Maybe(Frozen):
    """In or out, by the Boolean knob at `path`."""

    kind: Literal["maybe"] = "maybe"
    path: str
    steps: tuple[Step, ...]
    when: Expression | None = None
    location: Location | None = None


class Repeat(Frozen):
    """The steps so many times: always `count`, or by the knob `knob` (the parameter of a pipeline around it), or, where
    both are None, by the knob at `path`."""

    kind: Literal["repeat"] = "repeat"
    path: str
    count: int | None
    steps: tuple[Step, ...]
    knob: str | None = None
    when: Expression | None = None
    location: Location | None = None

    @property
    def counter(self) -> str:
        """The path of the knob that counts the rounds, where `count` is None."""
        return self.knob or self.path


class Group(Frozen):
    """Several steps under one label (`NAME = { … }`), or under one condition (`when EXPR { … }`, path "")."""

    kind: Literal["group"] = "group"
    path: str
    steps: tuple[Step, ...]
    when: Expression | None = None
    location: Location | None = None


class Order(Frozen):
    """Members run in the order that the knob at `path` gives; names are their labels."""

    kind: Literal["order"] = "order"
    path: str
    members: tuple[Branch, ...]
    when: Expression | None = None
    location: Location | None = None


Step: TypeAlias = Annotated[Apply | Choice | Maybe | Repeat | Group | Order, Field(discriminator="kind")]


def applies(steps: tuple[Step, ...]) -> Iterator[Apply]:
    """All applied techniques, in the order of the text, whatever choices they stand in."""
    for step in steps:
        match step:
            case Apply():
                yield step
            case Choice(branches=branches) | Order(members=branches):
                for branch in branches:
                    yield from applies(branch.steps)
            case Maybe(steps=inner) | Repeat(steps=inner) | Group(steps=inner):
                yield from applies(inner)


# ---- what the declarations say


class Param(Frozen):
    """A declared parameter: its type, what it may be, its default and one line of help."""

    name: str
    dimension: Dimension
    domain: Domain | None
    default: Value = None
    required: bool = False
    when: Expression | None = None
    help: str = ""


class Technique(Frozen):
    """The declared facts of a technique; `name` is qualified by its module ("quant.static").

    `recovered_by` names the training without which a trial of this technique alone says nothing, as of pruning.
    `stronger_with` are the parameters whose larger values change a model more, `milder_with` those whose larger values
    change it less.
    """

    name: str
    help: str
    calls: str
    params: tuple[Param, ...]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    cost_depends_on: Literal["settings", "weights"] = "settings"
    recovered_by: str | None = None
    stronger_with: tuple[str, ...] = ()
    milder_with: tuple[str, ...] = ()

    @property
    def prepares(self) -> bool:
        """Whether it has its own part also where a runtime carries it out: it takes no graph, and gives one."""
        return "graph" in self.gives and "graph" not in self.takes


class Runtime(Frozen):
    """The declared facts of a runtime; `takes` are the forms that it builds from, `performs` the techniques (or modules
    of them) that it carries out itself when it builds."""

    name: str
    help: str
    calls: str
    params: tuple[Param, ...]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    performs: tuple[str, ...] = ()

    def carries_out(self, technique: str) -> bool:
        """Whether it carries out the technique of this qualified name itself, when it builds."""
        return technique in self.performs or technique.rpartition(".")[0] in self.performs


class FactoryUse(Use[Value]):
    """How the model, the data or a metric is made, with fixed arguments."""


class Metric(Frozen):
    """A metric that can be a goal; `task` ones say how good answers are, the others come from measuring.

    `made_by` makes the object that computes it; None where the task of the user's data returns it.
    """

    name: str
    dimension: Dimension
    direction: Literal["minimize", "maximize"]
    task: bool
    help: str = ""
    made_by: FactoryUse | None = None

    @property
    def judges(self) -> bool:
        """Whether it says how good answers are."""
        return self.task or self.name in AGREEMENT

    def against(self, value: float, reference: float, ratio: float | None) -> tuple[float | None, float | None]:
        """How `value` compares with the baseline's: how many times better, and what was lost; one at least is None.

        `ratio` is the first as it was measured side by side. Shares, and what tells how good answers are, are compared
        by the difference where more is better.
        """
        if self.direction == "maximize" and (self.judges or self.dimension == "ratio"):
            return None, reference - value
        if ratio is None and not reference:
            # Of nothing there are no times: an error of zero is the baseline's own.
            return None, None
        worse, better = (value, reference) if self.direction == "minimize" else (reference, value)
        return ratio if ratio is not None else better / worse if worse else None, None


# ---- the members of a study


class RuntimeUse(Frozen):
    """One runtime of a target; `label` is the value of the runtime's knob, `settings` all of its parameters."""

    path: str
    label: str
    runtime: str
    settings: dict[str, Setting]


class Target(Frozen):
    """Where trials are measured. `knob` is the path of the runtime knob, None where there is one runtime.

    `remote` is the other machine whose `device` it is, None for this one. `dynamic` are axes of the inputs that any
    size is to be answered of, `shape` the sizes to time with: see plan/axes.
    """

    name: str
    device: str
    threads: Setting
    batch: Setting
    runtimes: tuple[RuntimeUse, ...]
    knob: str | None
    dynamic: tuple[str, ...] = ()
    shape: tuple[str, ...] = ()
    remote: RemoteDevice | None = None

    @property
    def place(self) -> str:
        """Where it is, as a study writes it."""
        return self.device if self.remote is None else str(self.remote)

    def use(self, values: Mapping[str, Value]) -> RuntimeUse:
        """The runtime that the values of the knobs take."""
        if self.knob is None:
            return self.runtimes[0]
        return next(use for use in self.runtimes if use.label == values[self.knob])


class Input(Frozen):
    """What `--set` may change, with the value that it has in this plan."""

    name: str
    dimension: Dimension
    domain: Domain | None
    value: Value
    help: str = ""


class Rule(Frozen):
    """A `forbid` or a `require`: the condition, its text as written, and the author's reason."""

    expression: Expression
    text: str
    because: str | None = None


class Impossible(Frozen):
    """A combination that the declared facts rule out: knob paths with the values that cannot go together, and why.

    The value of an order is the tuple of its labels.
    """

    values: dict[str, Value]
    reason: str


class Objective(Frozen):
    """One goal of the search."""

    metric: MetricRef
    direction: Literal["minimize", "maximize"]


class Sampler(Frozen):
    """How points are drawn; settings are the sampler's own (`startup`, `population`)."""

    name: Literal["auto", "tpe", "gp", "nsga2", "nsga3", "grid", "qmc", "random"]
    settings: dict[str, Value] = Field(default_factory=dict)


TRIALS = 40
"""The searched trials of a study that says neither how many nor how long."""


class Halving(Frozen):
    """Successive halving: a trial's trainings pause after `first` epochs, and after `reduce` times as many, again and
    again; one in `reduce` of the trials that paused there goes on."""

    reduce: int = 3
    first: int = 1


class Ray(Frozen):
    """The cluster whose machines train: its `address`, and what each trainer takes of a node (of a GPU also a part).

    `per_node` and `most` bound how many trainers there are on a node and in all; None: as many as have room.
    """

    address: str = "auto"
    cpus: int = 1
    gpus: float = 0.0
    per_node: int | None = None
    most: int | None = None


class Search(Frozen):
    """The search: how many trials in all (None: not said), how long (seconds; None: no limit), and from which seed.

    `ladder` says whether each technique is measured alone first, `stop_early` whether a trial is ended as soon
    as what is known of it decides it, `warm_start` whether the sampler learns from the trials of earlier runs.
    `screening` is of how many points most trials are chosen; below 2 the sampler's own is taken. `halving` is
    None where each trial is carried out whole. `disk` are the bytes that the cache and the artifacts may have; None: a
    tenth of the free space. `workers` is how many worker processes train at the same time on this
    machine; where `ray` is not None, the trainers of that cluster do instead. `device` is what models are trained on,
    as torch names it ("cuda:1"), or "auto": what is there.
    """

    sampler: Sampler
    trials: int | None
    timeout: float | None
    trial_timeout: float
    seed: int
    ladder: bool = True
    stop_early: bool = True
    warm_start: bool = False
    screening: int = 16
    halving: Halving | None = None
    disk: int | None = None
    workers: int = 1
    ray: Ray | None = None
    device: str = "auto"

    @property
    def most(self) -> int | None:
        """How many searched trials there are at most; None where the time alone ends the search."""
        return TRIALS if self.trials is None and self.timeout is None else self.trials


class Measure(Frozen):
    """How latency is measured: rounds and processes while searching and for the front, seconds and calls a round."""

    rounds: int
    processes: int
    front_rounds: int
    front_processes: int
    round_seconds: float
    round_calls: int


class Plan(Frozen):
    """All that a study means."""

    edition: int
    study: str
    title: str
    inputs: tuple[Input, ...]
    metrics: tuple[Metric, ...]
    model: FactoryUse
    data: FactoryUse
    baseline: tuple[Step, ...]
    targets: tuple[Target, ...]
    steps: tuple[Step, ...]
    knobs: tuple[Knob, ...]
    impossible: tuple[Impossible, ...]
    forbids: tuple[Rule, ...]
    requires: tuple[Rule, ...]
    objectives: tuple[Objective, ...]
    search: Search
    measure: Measure
    techniques: tuple[Technique, ...]
    runtimes: tuple[Runtime, ...]

    def technique(self, name: str) -> Technique:
        """The declaration of a technique of this plan; KeyError where the plan does not use it."""
        return _named(self.techniques, name)

    def runtime(self, name: str) -> Runtime:
        """The declaration of a runtime of this plan; KeyError where the plan does not use it."""
        return _named(self.runtimes, name)

    def metric(self, name: str) -> Metric:
        """The declaration of a metric; KeyError where nothing declares it."""
        return _named(self.metrics, name)

    @property
    def judging(self) -> list[str]:
        """The metrics that say how good answers are, those of agreement last."""
        names = [metric.name for metric in self.metrics if metric.judges]
        return sorted(names, key=AGREEMENT.__contains__)

    @property
    def judged(self) -> tuple[str, ...]:
        """Those of them that goals and requirements name, in the order of the text."""
        names = (ref.metric for ref in self.metric_refs() if not ref.baseline)
        return tuple(dict.fromkeys(name for name in names if self.metric(name).judges))

    def metric_refs(self) -> Iterator[MetricRef]:
        """All metrics that goals and requirements name, in the order of the text."""
        yield from (objective.metric for objective in self.objectives)
        for rule in self.requires:
            yield from (ref for ref in references(rule.expression) if isinstance(ref, MetricRef))

    def of_machine(self, metric: str) -> bool:
        """Whether a metric depends on the machine and the moment: all but what is counted and what judges answers."""
        return metric not in BUILT and not self.metric(metric).judges

    @property
    def timed(self) -> bool:
        """Whether a goal or a requirement is on such a metric. Where none is, the same seed makes the same search."""
        return any(self.of_machine(ref.metric) for ref in self.metric_refs())

    def comparable(self) -> dict[str, Any]:
        """What is searched, as JSON by member: where things stand in the text, its layout, help and titles do not
        count, nor how long or how carefully the search goes on (`trials`, `timeout`, `measure`), nor the ladder,
        nor whether trials end early or pause, nor what the search is given of earlier runs, nor its screening,
        nor how much disk it may take, nor how many workers there are and where, nor what they train on."""
        content = self.model_dump(mode="json", exclude={"measure": True, "title": True})
        # A metric that is declared and not spoken of changes nothing of what is searched, unless its values change.
        named = {ref.metric for ref in self.metric_refs()}
        content["metrics"] = [metric for metric in content["metrics"] if metric["name"] in named or metric["made_by"]]
        for metric in content["metrics"]:
            # The task's were there before there were others.
            if not metric["made_by"]:
                del metric["made_by"]
        for limit in (
            "trials", "timeout", "trial_timeout", "ladder", "stop_early", "warm_start", "screening", "halving",
            "disk", "workers", "ray", "device",
        ):
            del content["search"][limit]
        # Which of its values are stronger decides how often the search draws a technique, and not what it does.
        for technique in content["techniques"]:
            del technique["stronger_with"], technique["milder_with"]
        # A rule's expression says what its text does, however that is laid out.
        for rule in (*content["requires"], *content["forbids"]):
            del rule["text"]
        # A target that says nothing of axes is what it was before targets could.
        for target in content["targets"]:
            for said in ("dynamic", "shape", "remote"):
                if not target[said]:
                    del target[said]
            # How long a device is waited for changes nothing of what is searched.
            target.get("remote", {}).pop("reconnect", None)
        # What a technique does is not changed by what is known of it.
        for technique in content["techniques"]:
            technique["traits"] = [trait for trait in technique["traits"] if trait != "per_layer"]
        for runtime in content["runtimes"]:
            runtime["traits"] = [trait for trait in runtime["traits"] if trait not in ("standalone", "mobile")]
        # A knob all of whose branches are always there is what it was before branches could have conditions. What is
        # declared for it decides where the ladder tries it, and not what is searched.
        for knob in content["knobs"]:
            del knob["default"]
            if not knob["only"]:
                del knob["only"]
        kept = _without(content, ("location", "help"))
        assert isinstance(kept, dict)
        return kept

    @property
    def meaning(self) -> str:
        """A stable hash of what is searched, see `comparable`."""
        text = json.dumps(self.comparable(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Item = TypeVar("_Item", bound=_Named)


def _named(items: tuple[_Item, ...], name: str) -> _Item:
    for item in items:
        if item.name == name:
            return item
    raise KeyError(name)


def _without(value: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    if isinstance(value, list):
        return [_without(item, keys) for item in value]
    return value
