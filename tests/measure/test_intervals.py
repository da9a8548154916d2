"""Intervals against other implementations, and how often they hold what they should."""

import numpy
import pytest
from scipy.stats import norm

from optlang.measure import intervals


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (1, 2), (97, 100), (445, 450), (500, 1000)])
def test_wilsons_ends_are_the_proportions_that_the_share_is_just_compatible_with(successes, n):
    low, high = intervals.wilson(successes, n)
    for bound in (low, high):
        distance = norm.ppf(0.975) * numpy.sqrt(bound * (1 - bound) / n)
        assert abs(successes / n - bound) == pytest.approx(distance, abs=1e-9)
    assert 0 <= low <= successes / n <= high <= 1


def test_a_single_value_and_equal_values_have_no_width():
    assert intervals.mean(numpy.array([3.0])) == (3.0, 3.0)
    assert intervals.mean(numpy.full(9, 2.0)) == (2.0, 2.0)
    assert intervals.wilson(1, 1)[1] == 1


def test_mean_is_close_to_the_normal_theory_where_that_holds():
    values = numpy.random.default_rng(3).normal(5, 2, size=4000)
    low, high = intervals.mean(values, resamples=2000)
    half = norm.ppf(0.975) * values.std(ddof=1) / numpy.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_seed_decides():
    values = numpy.random.default_rng(3).normal(size=50)
    assert intervals.mean(values, seed=1) == intervals.mean(values, seed=1) != intervals.mean(values, seed=2)
    table = values.reshape(5, 10)
    assert intervals.rounds(table, seed=1) == intervals.rounds(table, seed=1)


def test_resampled_mean_is_the_mean():
    values = numpy.random.default_rng(4).normal(size=200)
    found = intervals.resampled(lambda chosen: float(values[chosen].mean()), 200, seed=1, resamples=2000, seconds=60)
    assert found == pytest.approx(intervals.mean(values, seed=5, resamples=2000), abs=0.02)


def test_resampling_stops_when_its_time_is_over():
    calls = []
    intervals.resampled(lambda chosen: float(calls.append(1) is None), 3, resamples=10_000, seconds=0.0)
    assert len(calls) == 50


def test_rounds_hold_their_own_value_and_are_exact_for_equal_figures():
    assert intervals.rounds([[2.0, 2.0], [2.0, 2.0]]) == (2.0, 2.0, 2.0)
    assert intervals.rounds([[3.0]]) == (3.0, 3.0, 3.0)
    for seed in range(20):
        value, low, high = intervals.rounds(numpy.random.default_rng(seed).exponential(size=(1, 5)))
        assert low <= value <= high


def test_a_quotient_is_that_of_the_medians_and_pairs_stay_together():
    generator = numpy.random.default_rng(5)
    level = generator.exponential(size=(3, 10)) + 1
    value, low, high = intervals.quotient(6 * level, 2 * level)
    assert (value, low, high) == pytest.approx((3, 3, 3))
    above, below = level * generator.normal(6, 0.1, (3, 10)), level * generator.normal(2, 0.05, (3, 10))
    value, low, high = intervals.quotient(above, below, seed=2)
    assert value == intervals.rounds(above)[0] / intervals.rounds(below)[0]
    assert low < value < high
    # Where rounds are drawn apart, what disturbs both looks like a difference between them.
    apart = intervals.quotient(above, generator.permutation(below.ravel()).reshape(3, 10), seed=2)
    assert high - low < apart[2] - apart[1]


def coverage(processes, count, between, within, resample, runs=300):
    """How often `resample`(calls by process, round, call) holds the true median, 1.0, in simulated measurements.

    A call is 1 + what its process adds + what its round adds + noise of its own, all normal.
    """
    held = 0
    for seed in range(runs):
        generator = numpy.random.default_rng(seed)
        calls = (
            1
            + between * generator.normal(size=(processes, 1, 1))
            + within * generator.normal(size=(processes, count, 1))
            + 0.02 * generator.normal(size=(processes, count, 60))
        )
        low, high = resample(calls, seed)
        held += low <= 1.0 <= high
    return held / runs


def by_rounds(calls, seed):
    return intervals.rounds(numpy.median(calls, axis=2), seed, resamples=300)[1:]


def by_calls(calls, seed):
    generator = numpy.random.default_rng(seed)
    flat = calls.ravel()
    medians = numpy.median(flat[generator.integers(len(flat), size=(300, len(flat)))], axis=1)
    return numpy.percentile(medians, (2.5, 97.5))


def test_rounds_hold_the_truth_nearly_as_often_as_they_say():
    assert coverage(1, 5, between=0.0, within=0.05, resample=by_rounds) > 0.88
    assert coverage(1, 10, between=0.0, within=0.05, resample=by_rounds) > 0.88
    # Three processes are few to learn from how processes differ, but it is far more than the calls know.
    assert coverage(3, 10, between=0.03, within=0.05, resample=by_rounds) > 0.75


@pytest.mark.slow
def test_resampling_calls_would_be_far_too_sure():
    assert coverage(3, 10, between=0.03, within=0.05, resample=by_calls, runs=60) < 0.5
