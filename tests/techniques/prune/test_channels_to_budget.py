"""Channels under a target: what is left by torch's own counter, the smallest ratio that does, what is out of reach."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from optlang.interfaces import Context, Factory, Refusal, TargetSpec
from optlang.measure.latency import Repetitions
from optlang.run import trial
from optlang.run.job import RuntimeJob, StepJob, TargetJob, TrialJob, Workload
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.channels_to_budget import channels_to_budget
from optlang.techniques.prune.channels_to_latency import channels_to_latency
from optlang.workload.data import dataset as data_module
from optlang.workload.model.make import make
from tests.techniques.subjects import STUDY, start

CHANNELS = {"importance": "l2", "scope": "layer", "round_to": 1, "keep": (), "only": (), "recalibrate": 0}


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


def until(state, data, resource, share, **changed):
    settings = {**CHANNELS, "resource": resource, "share": share, **changed}
    return channels_to_budget(state, settings, Context(data, 1, Path(), STUDY))


def within(state, data, clock, **changed):
    return channels_to_latency(state, CHANNELS | changed, Context(data, 1, Path(), STUDY, latency=clock))


def size(state, resource):
    if resource == "parameters":
        return sum(item.numel() for item in state.model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        state.model(torch.zeros(1, 1, 8, 8))
    return counter.get_total_flops() // 2


class TestUntil:
    @pytest.mark.parametrize(
        ("network", "resource", "scope"),
        [("cnn", "macs", "layer"), ("residual", "parameters", "global"), ("depthwise", "macs", "layer")],
    )
    def test_no_more_is_left_and_a_smaller_ratio_leaves_more(self, images, network, resource, scope):
        state = start(network, width=32)
        result = until(state, images, resource, 0.33, scope=scope)
        left = size(result, resource) / size(state, resource)
        assert 0.2 < left <= 0.33
        assert result.notes["prune.reached"] == pytest.approx(left)
        ratio = result.notes["prune.ratio"]
        settings = CHANNELS | {"scope": scope}
        context = Context(images, 1, Path(), STUDY)
        same, less = (channels(state, settings | {"ratio": item}, context) for item in (ratio, ratio - 0.001))
        assert same.edits == result.edits
        assert size(less, resource) / size(state, resource) > 0.33

    def test_shares_of_what_it_comes_with(self, images):
        state = start(width=32)
        once = until(state, images, "macs", 0.5)
        twice = until(once, images, "macs", 0.5)
        assert 0.2 < size(twice, "macs") / size(state, "macs") <= 0.25
        assert twice.notes["prune.removed_parameters"] == pytest.approx(
            1 - size(twice, "parameters") / size(state, "parameters")
        )

    def test_outputs_are_no_channels(self, images):
        for network in ("residual", "joined"):
            module = until(start(network, width=32), images, "parameters", 0.1).model
            with torch.no_grad():
                answer = module(torch.zeros(2, 1, 8, 8))
            shapes = {tuple(item.shape) for item in (answer.values() if isinstance(answer, dict) else [answer])}
            assert shapes == ({(2, 10), (2, 12)} if network == "joined" else {(2, 10)})

    def test_kept_layers_count_and_stay(self, images):
        state = start(width=32)
        result = until(state, images, "macs", 0.5, keep=("0",))
        assert result.model[0].out_channels == 32
        assert size(result, "macs") <= 0.5 * size(state, "macs")

    def test_statistics_are_set_anew_after_the_last_cut(self, images):
        plain, again = (until(start(), images, "macs", 0.5, recalibrate=item).model for item in (0, 2))
        assert plain[2].weight.shape == again[2].weight.shape
        assert not torch.allclose(plain[3].running_mean, again[3].running_mean, atol=1e-5)

    def test_out_of_reach(self, images):
        with pytest.raises(Refusal, match=r"1\.0% of the macs cannot be .* 95% leaves .*% of .* is \d") as error:
            until(start(), images, "macs", 0.01, keep=("2",))
        assert "keep" in error.value.help

    def test_nothing_to_take(self, images):
        with pytest.raises(Refusal, match=r"nothing was removed: not even ratio 0\.95"):
            until(start("mlp"), images, "macs", 0.5, keep=("*",))


class TestWithin:
    def clock(self, timed):
        """A microsecond for each thousand multiply-accumulates."""

        def seconds(state):
            timed.append(state)
            return 1e-9 * size(state, "macs")

        return seconds

    @pytest.mark.parametrize("limit", ["share", "time"])
    def test_no_slower_than_was_asked_for(self, images, limit):
        state = start(width=32)
        whole = 1e-9 * size(state, "macs")
        timed = []
        result = within(state, images, self.clock(timed), limit=limit, share=0.33, time=0.33 * whole)
        left = 1e-9 * size(result, "macs")
        assert 0.3 < left / whole <= 0.33
        assert result.notes["prune.reached"] == pytest.approx(left / whole if limit == "share" else left)
        # The model as it came, the largest ratio, and one for each halving of 95 steps at most.
        assert len(timed) <= 9
        assert all(item.edits for item in timed[1:])

    def test_a_model_is_timed_once_however_many_ratios_leave_it(self, images):
        timed = []
        within(start(width=16), images, self.clock(timed), limit="share", share=0.5, round_to=8)
        assert len({len(str(item.edits)) for item in timed}) == len(timed)

    def test_fast_enough_as_it_came(self, images):
        with pytest.raises(Refusal, match=r"before any channel is removed a call takes 1 ms, which is within 2 ms"):
            within(start(), images, lambda _: 1e-3, limit="time", time=2e-3)

    def test_out_of_reach(self, images):
        # A clock that does not care: no ratio is fast enough.
        with pytest.raises(Refusal, match=r"^0\.5 ms cannot be .* 95% leaves 1 ms, and the largest .* is 7 \("):
            within(start(), images, lambda _: 1e-3, limit="time", time=5e-4)

    @pytest.mark.slow
    def test_timed_on_the_trials_runtime(self, tmp_path):
        for name in ("study", "home"):
            (tmp_path / name).mkdir()
        workload = Workload(
            Factory("optlang.zoo.digits:cnn", {"width": 32}), Factory("optlang.zoo.digits:digits", {"seed": 0}),
            tmp_path / "study", tmp_path / "home", "cpu",
        )
        data = data_module.load(workload.data, workload.study)
        trial_context = trial.TrialContext(workload, data.bind(make(workload.model, workload.study)))
        calls = "optlang.runtimes.onnxruntime.build:OnnxRuntime"
        step = StepJob(
            "fast", "channels_to_latency", "optlang.techniques.prune.channels_to_latency:channels_to_latency",
            CHANNELS | {"limit": "share", "share": 0.6, "round_to": 8}, ("training", "latency"), 1,
        )
        runtime = RuntimeJob("onnxruntime", calls, {"graph": "all"}, workload.study)
        place = TargetJob(TargetSpec("here", batch=32), runtime, (step,), tmp_path / "artifact", None)
        job = TrialJob(1, workload, (place,), Repetitions(3, 1, 0.01, 10), tmp_path / "progress")
        try:
            result = trial.carry_out(job, trial_context, lambda _: None, [])
        finally:
            trial_context.bench.close()
        assert 0 < result.notes["prune.reached"] <= 0.6
        assert 0 < result.notes["prune.ratio"] <= 0.95
        assert result.notes["prune.removed_channels"] > 0
