"""What the trials so far say of points that were not tried: for each goal and requirement the model that does so best.

The models are scikit-learn's: a Gaussian process, a linear regression, and a forest of randomized trees (Geurts et
al., 2006; SMAC's model: Hutter et al., 2011). Each is judged by how it predicts a trial that it has not seen, and a
constant with them: where nothing is better, all points are expected to be as the mean of the trials. A small and smooth
space suits the process, a sum of effects the linear model, for which few trials are enough, and many trials the forest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from optlang.plan.domains import every_value, size
from optlang.plan.model import Knob, Plan
from optlang.search import pareto
from optlang.search.observation import Observation
from optlang.search.samplers.encoding import ABSENT, gene_of, unordered
from optlang.space.recipe import Point

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TREES = 16
"""Trees of the forest."""

MOST = 100
"""With more trials than this no process is fitted: its time grows with their cube, and the forest has enough."""

TURNS = 30
"""Steps of the search for a process's lengths, at most."""

BETTER = 0.8
"""A model is taken where its error is at most this share of a constant's: of several models one is a little better by
chance."""

PENALTIES = (1e-2, 1e-1, 1.0, 1e1, 1e2)
"""The linear model's, of which it takes the best."""


class Seen:
    """What was taken in, as numbers, each point once: a row of features, and what became of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.measured = 0
        self._knobs = tuple(knob for knob in plan.knobs if size(knob.domain) != 1)
        self._rows: list[list[float]] = []
        self._results: list[list[float] | None] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, told: Observation) -> None:
        """Take in what became of a point."""
        self._rows.append(self.cells(told.point))
        self.measured += told.values is not None
        self._results.append(
            None if told.values is None else [*pareto.losses(self.plan, told.values), *map(float, told.violations)]
        )

    def features(self) -> Array:
        """A row a point."""
        import numpy as np

        return np.array(self._rows, dtype=np.float64)

    def targets(self) -> Array:
        """A row a point: losses and violations. A trial without figures counts as the worst in all."""
        import numpy as np

        goals = len(self.plan.objectives)
        worst = np.array([row for row in self._results if row is not None]).max(axis=0)
        worst[goals:] = 1.0
        return np.array([worst if row is None else row for row in self._results])

    def cells(self, point: Point) -> list[float]:
        """A point as numbers: one for each knob, one column a value where nearness of values says nothing."""
        return [cell for knob in self._knobs for cell in _cells(knob, point)]


def _cells(knob: Knob, point: Point) -> list[float]:
    """The knob in the models' own coordinates; -1 where it is not there, which a tree can tell apart."""
    there = knob.path in point
    count = size(knob.domain)
    if not unordered(knob.domain) or count is None or count > 12:
        return [gene_of(knob.domain, point[knob.path]) if there else -1.0]
    return [float(there and point[knob.path] == value) for value in every_value(knob.domain)]


class Model(Protocol):
    """What is known of one goal or requirement, scaled: `error` is the mean square of what it got wrong unseen."""

    error: float

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation by point."""


class Prediction:
    """Models of all goals and requirements, fitted to what was seen; the same history and seed give the same."""

    def __init__(self, seen: Seen, seed: int) -> None:
        import numpy as np
        from threadpoolctl import threadpool_limits

        features, targets = seen.features(), seen.targets()
        # What is a multiple of the baseline's is a sum of effects in logarithms.
        self._logs = (targets > 0).all(axis=0) & (np.arange(targets.shape[1]) < len(seen.plan.objectives))
        targets = np.where(self._logs, np.log(np.where(targets > 0, targets, 1.0)), targets)
        self._middle, self._scale = targets.mean(axis=0), targets.std(axis=0)
        varies = self._scale > 1e-12 * np.maximum(1.0, np.abs(self._middle))
        self._scale[~varies] = 1.0
        scaled = (targets - self._middle) / self._scale
        with threadpool_limits(1):
            forest = _Trees(features, scaled, seed)
            self.models: list[Model] = []
            for index in range(targets.shape[1]):
                # A goal with a requirement on it is one thing to learn.
                same = next((at for at in range(index) if np.allclose(scaled[:, at], scaled[:, index])), None)
                if same is not None:
                    self.models.append(self.models[same])
                elif varies[index]:
                    self.models.append(_best(features, scaled[:, index], forest.of(index)))
                else:
                    self.models.append(_Constant(0.0))

    @property
    def better_than_constants(self) -> bool:
        """Whether any goal or requirement is known better than by the mean of the trials."""
        return not all(isinstance(model, _Constant) for model in self.models)

    def opinions(self, features: Array, draws: Array) -> Array:
        """What each point may have: a row for each of the `draws` (standard normal, a column a target), then the
        points."""
        import numpy as np

        found = np.empty((len(draws), len(features), len(self.models)))
        for index, model in enumerate(self.models):
            mean, spread = model.predict(features)
            values = (mean + spread * draws[:, index, None]) * self._scale[index] + self._middle[index]
            found[:, :, index] = np.exp(values) if self._logs[index] else values
        return found


def _best(features: Array, target: Array, tree: Model) -> Model:
    """The model with the smallest error, the simplest of equals."""
    # Leaving one out of n moves the mean of the others by an n-th of its distance.
    constant = _Constant((len(target) / (len(target) - 1)) ** 2)
    models: list[Model] = [_Linear(features, target), tree]
    if 2 * features.shape[1] <= len(target) <= MOST:
        models.append(_Process(features, target))
    best = min(models, key=lambda model: model.error)
    return best if best.error <= BETTER * constant.error else constant


class _Constant:
    """The mean of all."""

    def __init__(self, error: float) -> None:
        self.error = error

    def predict(self, features: Array) -> tuple[Array, Array]:
        import numpy as np

        return np.zeros(len(features)), np.full(len(features), self.error ** 0.5)


class _Linear:
    """A sum of effects (ridge regression), its penalty and error by leaving one out."""

    def __init__(self, features: Array, target: Array) -> None:
        from sklearn.linear_model import RidgeCV

        self._middle = _filled(features).mean(axis=0)
        self._model = RidgeCV(PENALTIES).fit(_filled(features) - self._middle, target)
        self.error = float(-self._model.best_score_)

    def predict(self, features: Array) -> tuple[Array, Array]:
        import numpy as np

        return self._model.predict(_filled(features) - self._middle), np.full(len(features), self.error ** 0.5)


class _Process:
    """A Gaussian process with a length for each feature.

    Its error is that of leaving one out (Rasmussen and Williams, 2006, 5.4.2), and larger the more lengths were chosen
    for so many trials, as in generalized cross-validation (Craven and Wahba, 1979): the lengths have seen all of them.
    """

    def __init__(self, features: Array, target: Array) -> None:
        import warnings

        import numpy as np
        from scipy.linalg import cho_solve
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import Matern, WhiteKernel

        count, lengths = features.shape
        kernel = Matern(np.ones(lengths), (0.1, 100.0), nu=2.5) + WhiteKernel(0.1, (1e-4, 1.0))
        self._model = GaussianProcessRegressor(kernel, optimizer=_optimized, random_state=0)
        with warnings.catch_warnings():
            # A length at its bound says that the feature does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(_filled(features), target)
        inverse = cho_solve((self._model.L_, True), np.eye(count))
        left_out = float(np.mean((self._model.alpha_ / np.diag(inverse)) ** 2))
        self.error = left_out * (count / (count - lengths)) ** 2

    def predict(self, features: Array) -> tuple[Array, Array]:
        mean, spread = self._model.predict(_filled(features), return_std=True)
        return mean, spread


def _optimized(loss: Callable[[Array], tuple[float, Array]], start: Array, bounds: Array) -> tuple[Array, float]:
    """The logarithms of a process's lengths, and its loss with them."""
    from scipy.optimize import minimize

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": TURNS})
    return found.x, float(found.fun)


class _Trees:
    """The forest, of all targets at once: their disagreement is the uncertainty."""

    def __init__(self, features: Array, scaled: Array, seed: int) -> None:
        import numpy as np
        from sklearn.ensemble import ExtraTreesRegressor

        self._forest = ExtraTreesRegressor(TREES, bootstrap=True, min_samples_leaf=1, random_state=seed)
        self._forest.fit(features, scaled)
        total, times = np.zeros_like(scaled), np.zeros(len(scaled))
        # How well each trial is predicted by the trees that were grown without it (Breiman, 1996).
        for tree, kept in zip(self._forest.estimators_, self._forest.estimators_samples_, strict=True):
            out = np.setdiff1d(np.arange(len(scaled)), kept)
            total[out] += tree.predict(features[out]).reshape(len(out), -1) if len(out) else 0.0
            times[out] += 1
        seen = times > 0
        self.errors = ((total[seen] / times[seen][:, None] - scaled[seen]) ** 2).mean(axis=0)

    def of(self, index: int) -> Model:
        """Its part of one target."""
        return _Forest(self, index)

    def predict(self, features: Array, index: int) -> tuple[Array, Array]:
        """Mean and standard deviation by point."""
        import numpy as np

        features = features.astype(np.float32)
        trees = np.array([tree.predict(features).reshape(len(features), -1) for tree in self._forest.estimators_])
        return trees[:, :, index].mean(axis=0), trees[:, :, index].std(axis=0)


class _Forest:
    def __init__(self, trees: _Trees, index: int) -> None:
        self._trees, self._index, self.error = trees, index, float(trees.errors[index])

    def predict(self, features: Array) -> tuple[Array, Array]:
        return self._trees.predict(features, self._index)


def _filled(features: Array) -> Array:
    """The features with a middle value where a knob is not there: distances and sums have no other."""
    import numpy as np

    return np.where(features < 0, ABSENT, features)
