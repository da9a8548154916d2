"""What steps are given to work with: the trained baseline, times on the way, and scores that are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import numpy_helper

from optlang.interfaces import Factory, ModelState, OptlangError, OutsideError, QuantWants, TargetSpec
from optlang.measure.latency import Repetitions
from optlang.run import steps, trial
from optlang.run.cache import Clock
from optlang.run.job import RuntimeJob, StepJob, StepRun, TargetJob, TrialJob, Workload
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.workload.data import dataset as data_module
from optlang.workload.model.make import make

pytestmark = pytest.mark.slow

OWN = '''\
import copy
import dataclasses
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from optlang.interfaces import Request


def scaled(state, by):
    model = copy.deepcopy(state.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(by)
    return dataclasses.replace(state, model=model)


def double(state, settings, context):
    assert context.baseline is None and context.latency is None
    return scaled(state, 2.0)


def back(state, settings, context):
    """The baseline again, whatever was done since."""
    return dataclasses.replace(context.baseline(), notes={"back": True})


def timed(state, settings, context):
    return dataclasses.replace(scaled(state, 1.0), notes={"seconds": context.latency(state), "batch": context.batch})


def part(state, settings, context):
    """Its own part, before the runtime's; settings["form"] in place of what is to be left."""
    assert context.performed and context.wants is not None
    requests = (*state.requests, Request("part", {**settings, "found": 3}))
    return dataclasses.replace(scaled(state, 2.0), form=settings["form"], requests=requests)


def scored(state, settings, context):
    log = Path(settings["log"])

    def compute():
        with log.open("a") as file:
            file.write("x")
        return {"score": 1.5}

    scores = context.memo("scores", {"of": settings["of"]}, compute)
    return dataclasses.replace(scaled(state, 1.0 + settings["budget"]), notes=scores)
'''


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    study = tmp_path / "study"
    study.mkdir()
    (study / "own.py").write_text(OWN)
    home = tmp_path / "home"
    home.mkdir()
    model = Factory("optlang.zoo.digits:cnn", {"width": 4})
    return Workload(model, Factory("optlang.zoo.digits:digits", {"seed": 0}), study, home, "cpu")


def step(name: str, *, path: str = "", needs: tuple[str, ...] = (), seed: int = 1, **settings: object) -> StepJob:
    return StepJob(path or name, name, f"own.py:{name}", settings, needs, seed)  # type: ignore[arg-type]


def wants() -> QuantWants:
    return OnnxRuntime().wants()


def never(_: ModelState) -> float:
    raise AssertionError("nothing here is to be timed")


def after(workload: Workload, *jobs: StepJob) -> tuple[ModelState, list[StepRun]]:
    data = data_module.load(workload.data, workload.study)
    done: list[StepRun] = []
    clock = Clock("none", never)
    result = steps.apply(jobs, workload, data, wants, clock, lambda _: None, done)
    return result.state, done


def weight(state: ModelState) -> float:
    return float(next(state.model.parameters()).detach().abs().sum())


def test_a_technique_that_asks_gets_the_baseline_after_its_steps(workload: Workload) -> None:
    start = weight(ModelState("module", make(workload.model, workload.study), workload.model))
    twice = step("double", path="baseline.double")
    state, _ = after(workload, twice, step("double"), step("back", needs=("baseline",)))
    assert state.notes == {"back": True}
    assert weight(state) == pytest.approx(2 * start)
    # Without steps of its own the baseline is what the factory gives.
    state, _ = after(workload, step("double"), step("back", needs=("baseline",)))
    assert weight(state) == pytest.approx(start)


def test_the_zeros_of_a_file_are_its_own(workload: Workload) -> None:
    settings = {"bits": 8, "group": None, "symmetric": True, "keep": (), "only": ()}
    rounded = StepJob("w", "weight_only", "optlang.techniques.quant.weight_only:weight_only", settings, (), 1)
    data = data_module.load(workload.data, workload.study)
    clock = Clock("none", never)
    for _ in ("computed", "from the cache"):
        done = steps.apply([rounded], workload, data, wants, clock, lambda _: None, [])
        counted = {item.metric: item.value for item in done.counted.measurements}
        levels = [
            numpy_helper.to_array(item) for item in onnx.load(done.state.model).graph.initializer
            if item.data_type == onnx.TensorProto.INT8
        ]
        count = sum(int((item == 0).sum()) for item in levels)
        assert counted["sparsity"] == count / sum(item.size for item in levels) > 0
        assert counted["parameters"] > sum(item.size for item in levels)


def test_what_the_runtime_carries_out_itself_is_handed_to_it(workload: Workload) -> None:
    # The object of the first is not even looked for; a setting that is absent stays absent.
    half = StepJob("half", "cast.half", "own.py:nowhere", {"dtype": "float16"}, (), 1, performed=True)
    static = StepJob("static", "quant.static", "own.py:nowhere", {"samples": 64}, ("runtime",), 1, True)
    for cached in (False, True):
        state, done = after(workload, step("double"), half, static)
        assert state.form == "graph"
        assert [item.technique for item in state.requests] == ["half", "static"]
        assert [dict(item.settings) for item in state.requests] == [{"dtype": "float16"}, {"samples": 64}]
        assert [item.cached for item in done] == [cached] * 3
        assert weight(state) == weight(after(workload, step("double"))[0])
    # In fewer bits more weights are zero than the module has, and nobody counts what the runtime writes.
    data = data_module.load(workload.data, workload.study)
    counted = steps.apply(
        [half], workload, data, wants, Clock("none", never), lambda _: None, []
    ).counted.measurements
    assert {item.metric for item in counted} == {"parameters", "macs"}
    # The same technique, done by itself or left to the runtime, is two different steps.
    _, done = after(workload, step("double"), step("double", path="half"))
    assert not done[1].cached


def test_one_that_trains_first_does_so_and_leaves_the_rest_to_the_runtime(workload: Workload) -> None:
    def part(form: str) -> StepJob:
        return StepJob("part", "own.part", "own.py:part", {"form": form}, ("runtime",), 1, True, prepares=True)

    for cached in (False, True):
        state, done = after(workload, step("double"), part("graph"))
        assert state.form == "graph"
        assert [(item.technique, item.settings["found"]) for item in state.requests] == [("part", 3)]
        assert weight(state) == pytest.approx(2 * weight(after(workload, step("double"))[0]))
        assert [item.cached for item in done] == [cached] * 2
    with pytest.raises(OptlangError, match=r"own\.part left its runtime no graph, but a PyTorch module"):
        after(workload, part("module"))


def test_scores_are_computed_once_for_all_budgets(workload: Workload, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def run(**changed: object) -> list[StepRun]:
        settings = {"of": "all", "budget": 0.5, "log": str(log)} | changed
        first = step("double", seed=int(str(settings.pop("parent", 1))))
        state, done = after(workload, first, step("scored", seed=int(str(settings.pop("seed", 1))), **settings))
        assert state.notes == {"score": 1.5}
        return done

    assert [item.cached for item in run()] == [False, False]
    assert [item.cached for item in run()] == [True, True]
    assert [item.cached for item in run(budget=0.25)] == [True, False]
    assert log.read_text() == "x"
    for changed in ({"of": "others"}, {"seed": 2}, {"parent": 2}):
        before = log.read_text()
        run(**changed)
        assert log.read_text() == before + "x", changed


def test_a_subject_is_timed_through_the_trials_runtime(workload: Workload, tmp_path: Path) -> None:
    data = data_module.load(workload.data, workload.study)
    trial_context = trial.TrialContext(workload, data.bind(make(workload.model, workload.study)))
    calls = "optlang.runtimes.onnxruntime.build:OnnxRuntime"
    runtime = RuntimeJob("onnxruntime", calls, {"graph": "all"}, workload.study)
    timed = step("timed", needs=("latency",))
    effort = Repetitions(2, 1, 0.002, 5)
    place = TargetJob(TargetSpec("here", batch=2), runtime, (timed,), tmp_path / "artifact", None, effort)
    job = TrialJob(1, workload, (place,))
    done: list[StepRun] = []
    result = trial.carry_out(job, trial_context, lambda _: None, done)
    trial_context.bench.close()
    assert result.notes["batch"] == 2
    seconds = result.notes["seconds"]
    assert isinstance(seconds, float)
    assert 0 < seconds < 1
    assert "latency.p50" in {item.metric for item in result.measurements}
    assert not list(workload.home.glob("optlang-aim-*"))


def test_what_was_timed_hangs_on_the_runtime(workload: Workload) -> None:
    data = data_module.load(workload.data, workload.study)

    def cached(about: str) -> bool:
        done: list[StepRun] = []
        clock = Clock(about, lambda _: 0.001)
        steps.apply([step("timed", needs=("latency",))], workload, data, wants, clock, lambda _: None, done)
        return done[0].cached

    assert [cached("one"), cached("one"), cached("other")] == [False, True, False]


def test_a_model_in_the_settings_counts_by_its_code_and_its_weights(workload: Workload) -> None:
    code, weights = workload.study / "nets.py", workload.study / "teacher.safetensors"
    code.write_text("def net(width):\n    return width\n")
    weights.write_bytes(b"one")
    teacher = {"calls": "nets.py:net", "arguments": {"width": 8}, "weights": "teacher.safetensors"}

    def cached(**changed: object) -> bool:
        _, done = after(workload, step("double", teachers=({**teacher, **changed},)))
        return done[0].cached

    assert not cached()
    assert cached()
    code.write_text("# a remark\ndef net(width):\n    return width\n")
    assert cached()
    assert not cached(arguments={"width": 16})
    code.write_text("def net(width):\n    return 2 * width\n")
    assert not cached()
    weights.write_bytes(b"two")
    assert not cached()


def test_what_another_worker_trained_on_a_gpu_is_found_where_there_is_none(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = step("double", needs=("training",))
    with monkeypatch.context() as patch:
        patch.setattr(steps, "resolved", lambda _: SimpleNamespace(kind="cuda", torch_name="cpu"))
        (trained,) = after(workload, job)[1]
    (found,) = after(replace(workload, trained_on="cuda"), job)[1]
    assert (found.key, found.cached) == (trained.key, True)
    (own,) = after(workload, job)[1]
    assert own.key != trained.key
    assert own.cached is False
    with pytest.raises(OutsideError, match="own was carried out on `cuda` by another worker"):
        after(replace(workload, trained_on="cuda"), step("double", path="own", needs=("training",), seed=2))
    # What comes behind a step that aims at a latency is carried out where it is measured.
    aims = step("back", path="aims", needs=("latency", "baseline"))
    last = replace(job, path="last", seed=3)
    done = after(replace(workload, trained_on="cuda"), job, aims, last)[1]
    assert [run.cached for run in done] == [True, False, False]
