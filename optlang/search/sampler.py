"""Which point to try next. The only file that knows Optuna: ask for a point, tell what became of it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from random import Random
from typing import TYPE_CHECKING, Any

from optlang.forms import JSON
from optlang.plan.domains import size
from optlang.plan.expressions import Value
from optlang.plan.model import Domain, FloatDomain, IntDomain, Knob, ListDomain, OrderDomain, Plan, SetDomain
from optlang.search import goals
from optlang.search.recipe import Point, resolve
from optlang.search.recombine import recombined
from optlang.search.space import Exhausted, Space, values_of

if TYPE_CHECKING:
    import optuna

REFUSED_IN_A_ROW = 200
"""After so many draws that must not or need not run, the space is called exhausted."""

PATIENCE = 20
"""After so many refused draws in a row the sampler's own favorites are spent: the rest are drawn at random."""

AUTO_TPE_TRIALS = 1000
"""`auto` is TPE up to so many trials; beyond, NSGA-II, whose cost a trial does not grow with their number."""

RECOMBINED = 0.4
"""The share of TPE's draws, once it has started, that recombine two members of the front instead."""

# With a random start, TPE's own default.
STARTUP = 10
POPULATION = 24

# What a point's state holds: Optuna's own attributes of the trial, and the forbidden points drawn before it.
_SYSTEM, _REFUSED = "system", "refused"


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a point.

    `values` are the objectives' (None: it failed, or was never measured), `violations` how far each conjunct of the
    requirements is from being met (at most 0: met). A failure that would come again has no values and a positive
    violation: that keeps the sampler out of such corners. `state` is what `Sampler.ask` gave with the point.
    """

    point: Point
    values: Sequence[float] | None
    violations: Sequence[float]
    state: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """A point to try, with what the sampler wants to be told along with its result, also by a later process."""

    point: Point
    state: Mapping[str, JSON]


class Sampler:
    """Draws points of a space for the study's goals. `known` are the effects (see `Recipe.effect`) that need no run."""

    def __init__(self, plan: Plan, space: Space, known: set[str]) -> None:
        import optuna

        # The loop speaks for the study; Optuna's own log lines and notes on experimental options say nothing to a user.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan = plan
        self._space = space
        # Trials of a runtime that is missing today still tell about what does not hang on it.
        self._whole = Space(plan)
        self._known = known
        self._feasible: dict[int, tuple[Point, tuple[float, ...]]] = {}
        self._told = 0
        self._study = optuna.create_study(directions=[objective.direction for objective in plan.objectives])

    def recall(self, told: Told) -> None:
        """Add what became of a point that was asked for in an earlier session, with the refused draws before it."""
        refused = told.state.get(_REFUSED, ())
        assert isinstance(refused, list | tuple)
        for point in refused:
            assert isinstance(point, Mapping)
            self._add(Told({path: _value(value) for path, value in point.items()}, None, [1.0]), {})
        self.tell(told)

    def tell(self, told: Told) -> None:
        """Add what became of a point."""
        self._told += 1
        if told.values is not None and all(value <= 0 for value in told.violations):
            signs = [-1 if item.direction == "maximize" else 1 for item in self._plan.objectives]
            losses = tuple(sign * value for sign, value in zip(signs, told.values, strict=True))
            self._feasible[self._told] = (told.point, losses)
        system = told.state.get(_SYSTEM, {})
        assert isinstance(system, Mapping)
        self._add(told, system)

    def _add(self, told: Told, system: Mapping[str, Any]) -> None:
        import optuna

        params: dict[str, Any] = {}
        distributions: dict[str, Any] = {}

        def replay(knob: Knob, domain: Domain) -> Value:
            value = told.point[knob.path]
            distribution = _distribution(domain)
            if distribution is not None:
                name = _name(knob, domain)
                params[name], distributions[name] = _coded(domain, value), distribution
            return value

        self._whole.draw(replay)
        constraints = {f"constraints:{index}": float(value) for index, value in enumerate(told.violations)}
        complete = told.values is not None
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
                values=list(told.values) if told.values is not None else None,
                params=params, distributions=distributions, system_attrs={**system, **constraints},
            )
        )

    def ask(self, number: int) -> Asked:
        """The point for trial `number`; raises `Exhausted` where the space has none left that was not tried.

        Every draw is seeded from the study's seed, the trial's number and the attempt, so that a run that was
        interrupted goes on with other draws than it began with, and twice the same history gives the same draw.
        """
        import optuna

        child = self._child(number)
        if child is not None:
            return Asked(child, {})
        refused_points: list[JSON] = []
        for attempt in range(REFUSED_IN_A_ROW):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.sampler = self._sampler(_seed(self._plan.search.seed, number, attempt), attempt >= PATIENCE)
                if isinstance(self._study.sampler, optuna.samplers.NSGAIISampler):
                    # It orders a generation's parents otherwise when it first chooses them than ever after, and a
                    # resumed search first chooses them elsewhere: an ask that nobody takes lets it choose.
                    idle = self._study.ask()
                    _ = idle.relative_params
                    self._study.tell(idle, state=optuna.trial.TrialState.FAIL)
                    self._study.sampler = self._sampler(_seed(self._plan.search.seed, number, attempt), False)
            trial = self._study.ask()
            point = self._space.draw(partial(_suggest, trial))
            refused = self._space.forbidden(point)
            if refused is None and resolve(self._plan, point).effect not in self._known:
                system = dict(self._study.get_trials(deepcopy=False)[trial.number].system_attrs)
                # The result comes back through `tell`, which adds it as a trial of its own; the one that was asked
                # for is closed as failed, which samplers leave out of account.
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                before = {_REFUSED: refused_points} if refused_points else {}
                return Asked(point, {_SYSTEM: system, **before})
            if refused is not None:
                # A resumed search must know of it too, or it would go on with other draws.
                refused_points.append(dict(point))
                trial.set_constraint("0", 1.0)
                self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise Exhausted

    def _child(self, number: int) -> Point | None:
        """A point recombined from the front, where this draw is one that does so."""
        settings = self._plan.search.sampler.settings
        random = Random(_seed(self._plan.search.seed, number))
        if self._kind() != "tpe" or self._told < _count(settings, "startup", STARTUP) or random.random() >= RECOMBINED:
            return None
        members = goals.front({number: losses for number, (_, losses) in self._feasible.items()})
        parents = [self._feasible[member][0] for member in members]
        return recombined(self._plan, self._space, parents, self._known, random)

    def _kind(self) -> str:
        search = self._plan.search
        if search.sampler.name != "auto":
            return search.sampler.name
        return "tpe" if search.trials <= AUTO_TPE_TRIALS else "nsga2"

    def _sampler(self, seed: int, at_random: bool) -> optuna.samplers.BaseSampler:
        import optuna

        name = self._kind()
        if name == "random" or at_random:
            return optuna.samplers.RandomSampler(seed=seed)
        settings = self._plan.search.sampler.settings
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=_count(settings, "population", POPULATION))
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=_count(settings, "startup", STARTUP),
            # Knobs that come and go together are modelled together.
            multivariate=True, group=True, constant_liar=False,
        )


def _value(value: JSON) -> Value:
    return tuple(value) if isinstance(value, list) else value  # type: ignore[return-value]


def _count(settings: Mapping[str, Value], name: str, default: int) -> int:
    value = settings.get(name)
    return value if isinstance(value, int) else default


def _seed(*parts: int) -> int:
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _name(knob: Knob, domain: Domain) -> str:
    """The knob's name with its domain's hash: to Optuna another domain is another parameter."""
    text = json.dumps(domain.model_dump(mode="json"), sort_keys=True)
    return f"{knob.path}#{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _distribution(domain: Domain) -> optuna.distributions.BaseDistribution | None:
    """None where there is nothing to choose."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if size(domain) == 1:
        return None
    match domain:
        case SetDomain(values=values):
            # By index: Optuna keeps choices of mixed types apart only by their Python type.
            return CategoricalDistribution(tuple(range(len(values))))
        case ListDomain(values=values):
            return IntDistribution(0, len(values) - 1)
        case IntDomain(low=low, high=high, log=log):
            return IntDistribution(low, high, log=log)
        case FloatDomain(low=low, high=high, log=log):
            return FloatDistribution(low, high, log=log)
        case OrderDomain():
            return CategoricalDistribution(tuple(range(size(domain) or 1)))
    raise AssertionError(domain)


def _coded(domain: Domain, value: Value) -> Any:
    """The value as Optuna holds it."""
    match domain:
        case SetDomain(values=values) | ListDomain(values=values):
            return next(index for index, item in enumerate(values) if item == value and type(item) is type(value))
        case OrderDomain(labels=labels):
            return list(permutations(labels)).index(tuple(map(str, value)) if isinstance(value, tuple) else ())
    return value


def _decoded(domain: Domain, coded: int) -> Value:
    return list(values_of(domain))[coded]


def _suggest(trial: optuna.trial.Trial, knob: Knob, domain: Domain) -> Value:
    name = _name(knob, domain)
    count = size(domain)
    if count == 1:
        return next(values_of(domain))
    match domain:
        case SetDomain() | OrderDomain():
            return _decoded(domain, trial.suggest_categorical(name, tuple(range(count or 1))))
        case ListDomain():
            return _decoded(domain, trial.suggest_int(name, 0, (count or 1) - 1))
        case IntDomain(low=low, high=high, log=log):
            return trial.suggest_int(name, low, high, log=log)
        case FloatDomain(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
    raise AssertionError(domain)
