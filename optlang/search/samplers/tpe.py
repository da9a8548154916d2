"""TPE and random draws by Optuna, knob by knob, as the text has them: conditional knobs are asked for where they are.

TPE: Bergstra et al., 2011; several objectives: Ozaki et al., 2022; knobs that come and go together are modelled
together (Optuna's `group`, with `multivariate`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING, Any

from optlang.plan.domains import every_value, size
from optlang.plan.expressions import Value
from optlang.plan.model import Domain, FloatDomain, IntDomain, Knob, ListDomain, OrderDomain, Plan, SetDomain
from optlang.search.observation import TRIES, Observation, Suggestion
from optlang.search.samplers.encoding import rounded
from optlang.search.samplers.optuna_adapter import quiet
from optlang.space.recipe import Point
from optlang.space.space import Space

if TYPE_CHECKING:
    import optuna

PATIENCE = 20
"""After so many refused draws in a row TPE's own favorites are spent: the rest are drawn at random."""

# Optuna's own attributes of the trial.
_SYSTEM = "system"


class Parzen:
    """TPE after `startup` random draws; random draws alone where `startup` is None."""

    tries = TRIES

    @quiet()
    def __init__(self, plan: Plan, space: Space, startup: int | None) -> None:
        import optuna

        self._space, self._startup = space, startup
        # Trials of a runtime that is missing today still say something about what does not depend on it.
        self._whole = Space(plan)
        self._study = optuna.create_study(directions=[objective.direction for objective in plan.objectives])
        self._asked: optuna.Trial | None = None
        self._expected: list[int] = []
        """Optuna's numbers of the trials that stand for what is being tried."""

    @quiet()
    def add(self, told: Observation) -> None:
        """Take in what became of a point."""
        import optuna

        self._close(optuna.trial.TrialState.FAIL)
        params, distributions = self._replayed(told.point)
        system = told.state.get(_SYSTEM, {})
        assert isinstance(system, Mapping)
        complete = told.values is not None
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
                values=list(told.values) if told.values is not None else None,
                params=params, distributions=distributions, system_attrs=dict(system),
                constraints={str(index): float(value) for index, value in enumerate(told.violations)},
            )
        )

    @quiet()
    def expect(self, points: Sequence[Point]) -> None:
        """TPE takes them to be bad (the constant liar), so that it draws elsewhere."""
        import optuna

        self._close(optuna.trial.TrialState.FAIL)
        for number in self._expected:
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        first = len(self._study.get_trials(deepcopy=False))
        self._expected = list(range(first, first + len(points)))
        for point in points:
            params, distributions = self._replayed(point)
            self._study.add_trial(optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING, params=params, distributions=distributions
            ))

    def _replayed(self, point: Point) -> tuple[dict[str, Any], dict[str, Any]]:
        """Optuna's parameters of a point, and their distributions."""
        params: dict[str, Any] = {}
        distributions: dict[str, Any] = {}

        def replay(knob: Knob, domain: Domain) -> Value:
            value = point[knob.path]
            distribution = _distribution(domain)
            if distribution is not None:
                name = _name(knob, domain)
                params[name], distributions[name] = _coded(domain, value), distribution
            return value

        self._whole.draw(replay)
        return params, distributions

    @quiet()
    def draw(self, seed: int, attempt: int) -> Suggestion:
        """The point of this attempt."""
        import optuna

        self._close(optuna.trial.TrialState.FAIL)
        self._study.sampler = self._sampler(seed, attempt >= PATIENCE)
        trial = self._asked = self._study.ask()
        point = self._space.draw(partial(_suggest, trial))
        return Suggestion(point, {_SYSTEM: dict(self._study.get_trials(deepcopy=False)[trial.number].system_attrs)})

    def postpone(self, asked: Suggestion) -> None:
        """Nothing is learned from it."""

    def refuse(self, asked: Suggestion, *, forbidden: bool) -> bool:
        """A forbidden point teaches TPE where not to look; that a point was run already teaches it nothing."""
        import optuna

        if forbidden:
            assert self._asked is not None
            self._asked.set_constraint("0", 1.0)
            self._close(optuna.trial.TrialState.PRUNED)
        return forbidden

    def _close(self, state: optuna.trial.TrialState) -> None:
        # A result comes back through `add`, as a trial of its own; the one that was asked for is closed as failed,
        # which samplers leave out of account.
        if self._asked is not None:
            self._study.tell(self._asked, state=state)
            self._asked = None

    def _sampler(self, seed: int, at_random: bool) -> optuna.samplers.BaseSampler:
        import optuna

        if self._startup is None or at_random:
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=self._startup, multivariate=True, group=True,
            constant_liar=bool(self._expected),
        )


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
    return list(every_value(domain))[coded]


def _suggest(trial: optuna.trial.Trial, knob: Knob, domain: Domain) -> Value:
    name = _name(knob, domain)
    count = size(domain)
    if count == 1:
        return next(every_value(domain))
    match domain:
        case SetDomain() | OrderDomain():
            return _decoded(domain, trial.suggest_categorical(name, tuple(range(count or 1))))
        case ListDomain():
            return _decoded(domain, trial.suggest_int(name, 0, (count or 1) - 1))
        case IntDomain(low=low, high=high, log=log):
            return trial.suggest_int(name, low, high, log=log)
        case FloatDomain(low=low, high=high, log=log):
            return rounded(domain, trial.suggest_float(name, low, high, log=log))
    raise AssertionError(domain)
