"""Channels under a latency: by a clock that counts, and timed on the runtime of a trial."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from optlang.interfaces import Context, Factory, Refusal, TargetSpec
from optlang.measure.latency import Repetitions
from optlang.run import trial
from optlang.run.job import RuntimeJob, StepJob, TargetJob, TrialJob, Workload
from optlang.techniques.prune.channels_to_latency import channels_to_latency
from optlang.workload.data import dataset as data_module
from optlang.workload.model.make import make
from tests.techniques.prune import test_channels
from tests.techniques.states import STUDY, macs, start

# Most of it is in hidden units, which stay.
REFUSES = {**test_channels.REFUSES, "lstm": "cannot be reached by removing channels: .* the largest layer then is lstm"}


def check(state, result, data):
    assert macs(result) <= 0.5 * macs(state)
    assert result.notes["prune.reached"] <= 0.5


CHANNELS = {"importance": "l2", "scope": "layer", "round_to": 1, "keep": (), "only": (), "recalibrate": 0}


def within(state, data, clock, **changed):
    return channels_to_latency(state, CHANNELS | changed, Context(data, 1, Path(), STUDY, latency=clock))


def size(state, resource):
    if resource == "parameters":
        return sum(item.numel() for item in state.model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        state.model(torch.zeros(1, 1, 8, 8))
    return counter.get_total_flops() // 2


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
        # The model as it came, the largest ratio, one for each halving of 95 steps, and 8 with channels left again.
        assert len(timed) <= 17
        assert all(item.edits for item in timed[1:])

    def test_a_model_is_timed_once_however_many_ratios_leave_it(self, images):
        timed = []
        within(start(width=16), images, self.clock(timed), limit="share", share=0.5, round_to=8)
        assert len({str(item.edits) for item in timed}) == len(timed)

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
        effort = Repetitions(3, 1, 0.01, 10)
        place = TargetJob(TargetSpec("here", batch=32), runtime, (step,), tmp_path / "artifact", None, effort)
        job = TrialJob(1, workload, (place,))
        try:
            result = trial.carry_out(job, trial_context, lambda _: None, [])
        finally:
            trial_context.bench.close()
        assert 0 < result.notes["prune.reached"] <= 0.6
        assert 0 < result.notes["prune.ratio"] <= 0.95
        assert result.notes["prune.removed_channels"] > 0
