"""What rounds of calls come to, and who takes turns with whom; the figures are given, not timed."""

import os
import time
from dataclasses import replace

import numpy
import pytest

from optlang.measure import latency
from optlang.measure.chunks import all_of, chunked
from optlang.measure.latency import Bench, Repetitions, Timings, compare, measurements
from optlang.measure.process import Environment, ProcessDied, ProcessError

EFFORT = Repetitions(rounds=3, processes=1, seconds=0.0, calls=4)


def timings(scale, batch=1, processes=2, rounds=4, noise=0.0, seed=0):
    """Rounds of 100 calls from 1 to 100 times `scale`, each round disturbed as its number says, alike for all."""
    generator = numpy.random.default_rng(seed)
    disturbed = 1 + noise * numpy.random.default_rng(99).random((processes, rounds))
    table = [
        [generator.permutation(numpy.arange(1.0, 101.0)) * scale * disturbed[p, r] for r in range(rounds)]
        for p in range(processes)
    ]
    numbers = range(processes)
    return Timings(batch, table, [0.1 * scale + p for p in numbers], [1000 * (p + 1) for p in numbers])


def by_name(found):
    return {item.metric: item for item in found}


def test_the_process_that_was_begun_runs_the_next_candidate_and_no_other(tmp_path, member_of, inputs):
    candidate, folder = member_of(name="candidate"), tmp_path / "answers"
    with Bench(tmp_path / "lock") as bench:
        bench.begin(Environment.of(candidate))
        first = bench._begun.child.pid
        bench.begin(Environment.of(candidate))
        assert bench._begun.child.pid == first, "it is there already"
        one = {"x": inputs["x"][:1]}
        found = bench.measure(candidate, None, one, EFFORT, answer=chunked(tmp_path / "x", inputs), folder=folder)
        assert (all_of(found.answers.outputs)["pid"] == first).all()
        # With other threads it is another process's work.
        bench.begin(replace(Environment.of(candidate), threads=2))
        left = bench._begun.child
        bench.measure(candidate, None, one, EFFORT)
        assert left.alive
    assert not left.alive


def test_figures_of_a_round_are_numpys():
    found = by_name(measurements(timings(0.001), timings(0.002), "here"))
    calls = numpy.arange(1.0, 101.0) * 0.001
    for name, share in (("latency.p50", 50), ("latency.p90", 90), ("latency.p95", 95), ("latency.p99", 99)):
        assert found[name].value == pytest.approx(numpy.percentile(calls, share))
        assert found[name].low == pytest.approx(found[name].value)
    assert found["latency.mean"].value == pytest.approx(0.0505)
    assert {item.unit for name, item in found.items() if name.startswith("latency")} == {"s"}
    assert {item.target for item in found.values()} == {"here"}
    assert found["latency.p50"].n == 8


def test_ratio_is_how_many_times_the_candidate_is_better():
    found = by_name(measurements(timings(0.001), timings(0.004), "here"))
    for name in ("latency.p50", "latency.p95", "latency.mean", "throughput"):
        item = found[name]
        assert (item.ratio, item.ratio_low, item.ratio_high) == pytest.approx((4, 4, 4))


def test_seconds_and_ratio_are_of_one_measurement():
    mine, other = timings(0.001, batch=4, noise=2.0, seed=1), timings(0.003, batch=4, noise=0.5, seed=2)
    for item in measurements(mine, other, "here"):
        better = item.value / item.baseline if item.metric == "throughput" else item.baseline / item.value
        assert item.ratio == pytest.approx(better, rel=1e-12), item.metric
        assert item.ratio_low is None or item.ratio_low <= item.ratio <= item.ratio_high
    # The baseline's value is what its own measurement would say.
    assert [item.baseline for item in measurements(mine, other, "here")] == pytest.approx(
        [item.value for item in measurements(other, other, "here")]
    )


def test_what_disturbs_a_round_of_both_leaves_the_ratio_alone():
    found = by_name(measurements(timings(0.001, noise=3.0), timings(0.002, noise=3.0), "here"))["latency.p50"]
    assert found.high / found.low > 1.2
    assert found.ratio_high - found.ratio_low < 1e-9


def test_the_baseline_itself_has_ratios_of_one():
    own = timings(0.001, noise=1.0)
    for item in measurements(own, own, "here"):
        assert item.ratio == pytest.approx(1)


def test_throughput_counts_samples():
    found = by_name(measurements(timings(0.001, batch=8), timings(0.002, batch=8), "here"))["throughput"]
    assert found.value == pytest.approx(8 / 0.0505)
    assert found.low <= found.value <= found.high
    assert found.ratio == pytest.approx(2)


def test_load_time_and_memory_are_the_processes():
    found = by_name(measurements(timings(1.0), timings(2.0), "here"))
    assert (found["load_time"].value, found["load_time"].low, found["load_time"].high) == pytest.approx((0.6, 0.1, 1.1))
    assert found["load_time"].n == 2
    assert (found["memory.peak"].value, found["memory.peak"].unit) == (1500, "B")
    unknown = replace(timings(1.0), memory=[])
    assert {"memory.peak", "compile_time"}.isdisjoint(by_name(measurements(unknown, unknown, "here")))


def test_compile_time_is_of_those_that_compile():
    compiled = replace(timings(1.0), compile_times=[3.0, 1.0])
    found = by_name(measurements(compiled, timings(2.0), "here"))["compile_time"]
    assert (found.value, found.low, found.high, found.unit, found.n, found.ratio) == (2.0, 1.0, 3.0, "s", 2, None)


def test_bench_keeps_the_baseline_and_ends_the_candidates(member_of, inputs, tmp_path):
    one = {"x": inputs["x"][:1]}
    baseline = member_of("baseline", factor=1)
    given = chunked(tmp_path / "given", inputs)
    with Bench(tmp_path / "lock") as bench:
        numbers = set()
        for name in ("first", "second"):
            member = member_of_again(baseline, name, factor=5)
            found = bench.measure(member, baseline, one, EFFORT, answer=given, folder=tmp_path / name)
            answers = all_of(found.answers.outputs)
            assert (answers["file"] == inputs["x"] * 5).all()
            numbers.add(int(answers["pid"][0]))
            assert by_name(found.measurements)["latency.p50"].n == 3
            held = bench._warmed["here"][0]
        assert bench._warmed["here"][0] is held
        assert held.alive
        assert len(numbers) == 2
        for number in numbers:
            with pytest.raises(ProcessLookupError):
                os.kill(number, 0)
    assert not held.alive


def member_of_again(member, name, **settings):
    return replace(member, name=name, settings=settings)


def test_bench_starts_another_baseline_where_it_changed_or_died(member_of, inputs, tmp_path):
    one = {"x": inputs["x"][:1]}
    baseline = member_of("baseline", factor=1)
    candidate = member_of_again(baseline, "candidate", factor=2)
    with Bench(tmp_path / "lock") as bench:
        bench.measure(candidate, baseline, one, EFFORT)
        first = bench._warmed["here"][0]
        bench.measure(candidate, member_of_again(baseline, "baseline", factor=3), one, EFFORT)
        second = bench._warmed["here"][0]
        assert first.pid != second.pid
        assert not first.alive
        bench.measure(candidate, second.member, {"x": one["x"] + 1}, EFFORT)
        third = bench._warmed["here"][0]
        assert third.pid != second.pid
        os.kill(third.pid, 9)
        while third.alive:
            time.sleep(0.01)
        bench.measure(candidate, third.member, {"x": one["x"] + 1}, EFFORT)
        assert bench._warmed["here"][0].alive


def test_bench_outlives_a_candidate_that_fails(member_of, inputs, tmp_path):
    one = {"x": inputs["x"][:1]}
    baseline = member_of("baseline", factor=1)
    with Bench(tmp_path / "lock") as bench:
        for wish, kind in (("raise", ProcessError), ("exit", ProcessDied)):
            with pytest.raises(kind):
                bench.measure(member_of_again(baseline, "bad", wish=wish), baseline, one, EFFORT)
        found = bench.measure(member_of_again(baseline, "good", factor=2), baseline, one, EFFORT)
        assert found.answers is None
        assert found.measurements


def test_baseline_is_measured_alone(member_of, inputs, tmp_path):
    with Bench(tmp_path / "lock") as bench:
        given = chunked(tmp_path / "given", inputs)
        one = {"x": inputs["x"][:1]}
        found = bench.measure(member_of("baseline"), None, one, EFFORT, answer=given, folder=tmp_path / "answered")
        assert bench._warmed == {}
    assert {item.ratio for item in found.measurements} == {1.0}
    assert (all_of(found.answers.outputs)["file"] == inputs["x"] * 2).all()


def test_compare_measures_all_in_one_cycle_with_processes_of_their_own(member_of, inputs, tmp_path, monkeypatch):
    turns = []

    class Watched(latency.BareProcess):
        def round(self, *arguments, **named):
            turns.append((self.member.name, self.pid))
            return super().round(*arguments, **named)

    monkeypatch.setattr(latency, "BareProcess", Watched)
    baseline = member_of("baseline")
    others = [member_of_again(baseline, name) for name in ("a", "b")]
    found = compare(baseline, others, {"x": inputs["x"][:1]}, replace(EFFORT, processes=2), tmp_path / "lock")
    assert set(found) == {"baseline", "a", "b"}
    assert {by_name(items)["latency.p50"].n for items in found.values()} == {6}
    assert by_name(found["baseline"])["latency.p95"].ratio == 1.0
    # Forwards, then backwards, then forwards again, by fresh processes each time.
    forwards = ["baseline", "a", "b"]
    assert [name for name, _ in turns] == [*forwards, *reversed(forwards), *forwards] * 2
    assert len({number for _, number in turns}) == 6
    for _, number in turns:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
