"""What optlang asks of Optuna besides drawing: silence, and the acquisition function that GPSampler fits to a study.

The function is the one use of a private interface, since no public one hands it over. GPSampler maximizes it over the
whole box in `_optimize_acqf`, which its source offers for overriding without a promise for later versions, by calling
`eval_acqf_no_grad`. So pyproject.toml admits the minor version of Optuna in which these two were tried, and no later.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from optlang.interfaces import OptlangError

if TYPE_CHECKING:
    import numpy
    import optuna

    Array = numpy.ndarray[Any, Any]

Score: TypeAlias = "Callable[[Array], Array]"
"""The values of the acquisition function at points (one a row) in the sampler's normalized parameters."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's log lines and its notes on experimental options, which say nothing to the user of a study."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def maximize(
    study: optuna.Study, distributions: dict[str, optuna.distributions.BaseDistribution], seed: int,
    search: Callable[[Score], Array],
) -> None:
    """Fit processes to the trials of `study`, and let `search` return the point where their acquisition is greatest.

    All trials must have the parameters of `distributions`. Raises OptlangError where Optuna's interface has changed.
    """
    import optuna
    from threadpoolctl import threadpool_limits

    called = False

    class Sampler(optuna.samplers.GPSampler):
        def _optimize_acqf(self, acqf: Any, best_params: Any) -> Any:
            nonlocal called
            if not hasattr(acqf, "eval_acqf_no_grad"):
                raise _changed()
            called = True
            return search(acqf.eval_acqf_no_grad)

    study.sampler = optuna.samplers.RandomSampler(seed=seed)
    study.ask()
    trial = study.get_trials(deepcopy=False)[-1]
    # The matrices are small: more threads are no faster, and spin four times the processor time while they wait.
    with threadpool_limits(1):
        Sampler(seed=seed, n_startup_trials=0).sample_relative(study, trial, distributions)
    if not called:
        raise _changed()


def _changed() -> OptlangError:
    import optuna

    return OptlangError(
        f"Optuna {optuna.__version__} changed GPSampler's acquisition interface",
        help="install `optuna>=5.0,<5.1`, or use another sampler",
    )
