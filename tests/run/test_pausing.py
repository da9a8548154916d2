"""Trainings that pause and go on: by proof, that nothing of the result is another; and what a pause leaves behind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from optlang.interfaces import ModelState, OptlangError, TargetSpec
from optlang.measure.latency import Repetitions
from optlang.run import pausing
from optlang.run.cache import Cache, key_of
from optlang.run.checkpoints import Checkpoints, UnreadableError
from optlang.run.engine import LocalEngine, WorkerDied
from optlang.run.job import CHECKPOINT, Paused, RuntimeJob, StepJob, StepRun, TargetJob, TrialJob, Workload
from optlang.run.step_training import PausedTraining, Watch
from optlang.run.trial import TrialContext
from optlang.run.worker import carry_out
from optlang.workload.data import dataset as data_module
from tests.run.paused_study import applied, kept, own, training, workload

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "language" / "declarations.md"


def paused(place: Workload, *jobs: StepJob, pause: int, watch: Watch | None = None) -> PausedTraining:
    """Where the steps pause."""
    found, runs = applied(place, jobs, pause, watch)
    assert isinstance(found, PausedTraining)
    assert runs[-1].cached is None or runs[-1].path == found.step
    return found


def finished(place: Workload, *jobs: StepJob) -> list[StepRun]:
    """The steps at their end."""
    found, runs = applied(place, jobs)
    assert isinstance(found, ModelState)
    return runs


def checkpoints(place: Workload) -> list[Path]:
    return list((place.home / "cache").glob("*/*/training.pt"))


@pytest.mark.parametrize(("technique", "model", "data", "changed"), [
    ("train", "net", "arrays", {"optimizer": "sgd"}),
    ("train", "net", "noisy", {"ema": 0.9}),
    ("train", "net", "loaded", {"clip": 0.5, "schedule": "one_cycle"}),
    ("train", "net", "arrays", {"amp": "bfloat16", "optimizer": "adam"}),
    ("train", "loud", "arrays", {"amp": "float16", "label_smoothing": 0.1}),
    ("train", "net", "arrays", {"patience": 2, "ema": 0.5, "lr": 0.3, "epochs": 8, "schedule": "constant"}),
    ("finetune", "net", "arrays", {}),
    ("distill", "plain", "arrays", {}),
    ("distill", "plain", "arrays", {"start": "fresh", "ema": 0.8}),
    ("qat", "plain", "arrays", {}),
    ("qat", "plain", "arrays", {"performed": True, "freeze": 0.2}),
])
def test_a_training_that_pauses_gives_the_same_bytes(
    tmp_path: Path, technique: str, model: str, data: str, changed: dict[str, Any]
) -> None:
    step = training(technique, **changed)
    once, twice = (workload(tmp_path / name, model, data) for name in ("once", "twice"))
    whole = finished(once, step)
    # In this process too another training comes first, which draws from what both share.
    last = 5 if "patience" in changed else 3
    for epochs in (2, last):
        found = paused(twice, step, pause=epochs)
        assert (found.epochs, found.step) == (epochs, "fit")
        assert len(checkpoints(twice)) == 1
    runs = finished(twice, step)
    assert kept(twice, runs) == kept(once, whole)
    assert (whole[-1].resumed, runs[-1].resumed) == (0, last)
    assert checkpoints(twice) == []
    # Of these 8 epochs patience leaves 6.
    assert len(whole[-1].curve) == (6 if "patience" in changed else 4)


# ---- where it pauses


def test_trainings_of_a_trial_count_together_and_the_baselines_do_not(tmp_path: Path) -> None:
    jobs = (
        own("walk", "baseline.fit"), own("walk", "one", epochs=3), own("nothing", "cut", epochs=None),
        own("walk", "two", epochs=2), own("walk", "three", epochs=3),
    )
    place, scored = workload(tmp_path, "plain"), list[int]()

    def score(module: torch.nn.Module) -> dict[str, float]:
        scored.append(len(scored))
        return {"accuracy": 0.1 * len(scored)}

    def stands(pause: int) -> tuple[int, str, list[tuple[str, bool | None]]]:
        watch = Watch(score, lambda path, curve: None, ("accuracy",))
        found, runs = applied(place, jobs, pause, watch)
        assert isinstance(found, PausedTraining)
        assert found.scores == {"accuracy": pytest.approx(0.1 * len(scored))}
        return found.epochs, found.step, [(run.path, run.cached) for run in runs]

    first = [("baseline.fit", False), ("one", None)]
    assert stands(2) == (2, "one", first)
    assert len(scored) == 2, "the baseline's own training is not the trial's"
    # After its last epoch a step is finished, and the trial pauses behind it.
    assert stands(3) == (3, "one", [("baseline.fit", True), ("one", False)])
    cached = [("baseline.fit", True), ("one", True)]
    assert stands(3) == (3, "one", cached)
    assert stands(4) == (4, "two", [*cached, ("cut", False), ("two", None)])
    cached += [("cut", True)]
    assert stands(5) == (5, "two", [*cached, ("two", False)])
    assert stands(2) == (5, "two", [*cached, ("two", True)]), "what the cache has is done"
    assert stands(7) == (7, "three", [*cached, ("two", True), ("three", None)])
    # A checkpoint that has more epochs than are asked for is not trained on.
    trained = len(scored)
    watch = Watch(score, lambda path, curve: None, ("accuracy",))
    found, runs = applied(place, jobs, 6, watch)
    assert isinstance(found, PausedTraining)
    assert (found.epochs, found.scores, len(scored)) == (7, {"accuracy": pytest.approx(0.1 * trained)}, trained)
    assert (runs[-1].resumed, len(runs[-1].curve)) == (2, 2)
    # There is nothing left to pause for.
    found, runs = applied(place, jobs, 8)
    assert isinstance(found, ModelState)
    assert runs[-1].resumed == 2
    assert checkpoints(place) == []


def test_the_curve_and_the_seconds_go_on(tmp_path: Path) -> None:
    place = workload(tmp_path, "plain")
    paused(place, own("walk"), pause=1)
    _, [run] = applied(place, [own("walk")], 3)
    assert (run.key, run.cached, run.resumed) == (None, None, 1)
    assert 0 < run.earlier < 60
    runs = finished(place, own("walk"))
    assert [item.epoch for item in runs[0].curve] == [1, 2, 3, 4]
    seconds = [item.seconds for item in runs[0].curve]
    assert seconds == sorted(seconds)
    assert runs[0].earlier == pytest.approx(run.earlier + run.seconds, abs=0.5)


def test_what_patience_ends_is_over_and_is_not_paused(tmp_path: Path) -> None:
    step = training(patience=2, ema=0.5, lr=0.3, epochs=8, schedule="constant")
    place = workload(tmp_path)
    # Its last epoch is the 6th: the second in which nothing was better.
    found, runs = applied(place, [step], 6)
    assert isinstance(found, ModelState)
    assert len(runs[0].curve) == 6
    place = workload(tmp_path / "longer")
    found, runs = applied(place, [step, own("walk", "later")], 6)
    assert isinstance(found, PausedTraining)
    assert (found.epochs, found.step, runs[0].cached) == (6, "fit", False)
    assert paused(place, step, own("walk", "later"), pause=7).step == "later"


# ---- a technique of the user's own


def test_an_own_technique_goes_on_where_it_says_what_with(tmp_path: Path) -> None:
    once, twice = workload(tmp_path / "once", "plain"), workload(tmp_path / "twice", "plain")
    for epochs in (1, 2):
        assert paused(twice, own("walk"), pause=epochs).epochs == epochs
    assert kept(twice, finished(twice, own("walk"))) == kept(once, finished(once, own("walk")))


def test_what_the_docs_show_goes_on_too(tmp_path: Path) -> None:
    [shown] = [text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "context.resume" in text]
    once, twice = workload(tmp_path / "once", "plain", "noisy"), workload(tmp_path / "twice", "plain", "noisy")
    for place in (once, twice):
        (place.study / "shown.py").write_text(shown)
    step = replace(own("train", lr=0.1), calls="shown.py:train")
    for epochs in (1, 2):
        assert paused(twice, step, pause=epochs).epochs == epochs
    assert kept(twice, finished(twice, step)) == kept(once, finished(once, step))


def test_one_that_does_not_is_trained_whole(tmp_path: Path) -> None:
    place = workload(tmp_path, "plain")
    found, runs = applied(place, [own("whole"), own("walk", "later")], 2)
    assert isinstance(found, PausedTraining)
    assert (found.epochs, found.step) == (4, "fit")
    assert [run.cached for run in runs] == [False]
    assert checkpoints(place) == []


def test_a_step_with_several_trainings_pauses_in_each(tmp_path: Path) -> None:
    step = own("rounds", times=2)
    once, twice = workload(tmp_path / "once", "plain"), workload(tmp_path / "twice", "plain")
    for epochs in (3, 5, 7):
        assert paused(twice, step, pause=epochs).epochs == epochs
    runs = finished(twice, step)
    assert kept(twice, runs) == kept(once, finished(once, step))
    assert [item.epoch for item in runs[0].curve] == [1, 2, 3, 4, 1, 2, 3, 4]


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    place = workload(tmp_path, "plain")
    with pytest.raises(OptlangError, match=r"has a object at state\(\)\['of'\]\[1\]\['object'\]") as raised:
        applied(place, [own("odd")], 2)
    assert raised.value.help is not None
    assert checkpoints(place) == []


# ---- what is not as it was written


@pytest.mark.parametrize(("damage", "why"), [
    (lambda data: data[: len(data) // 2], "it cannot be read"),
    (lambda data: data[:-3], "it cannot be read"),
    (lambda data: b"", "it cannot be read"),
    (lambda data: _flipped(data), "is damaged"),
])
def test_a_damaged_checkpoint_is_not_used_and_that_is_said(tmp_path: Path, damage: Any, why: str) -> None:
    once, twice = workload(tmp_path / "once", "plain"), workload(tmp_path / "twice", "plain")
    paused(twice, own("walk"), pause=2)
    [path] = checkpoints(twice)
    path.write_bytes(damage(path.read_bytes()))
    runs = finished(twice, own("walk"))
    assert runs[0].ignored is not None
    assert runs[0].ignored.startswith("the checkpoint of fit is not used: ")
    assert why in runs[0].ignored
    assert runs[0].ignored.endswith("It is trained from its start")
    assert runs[0].resumed == 0
    assert kept(twice, runs) == kept(once, finished(once, own("walk")))


def _flipped(data: bytes) -> bytes:
    """With a bit of a tensor changed, which torch reads as it stands."""
    place = data.index(b"FB", len(data) // 3) + 200
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_a_checkpoint_of_another_format_is_replaced(tmp_path: Path) -> None:
    place = workload(tmp_path, "plain")
    paused(place, own("walk"), pause=1)
    [path] = checkpoints(place)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"format": 99}, path)
    found, runs = applied(place, [own("walk")], 2)
    assert isinstance(found, PausedTraining)
    assert runs[0].ignored is not None
    assert "it has the format 99, and 1 is read here" in runs[0].ignored
    _, runs = applied(place, [own("walk")], 3)
    assert (runs[0].ignored, runs[0].resumed) == (None, 2)


def test_a_checkpoint_holds_no_objects(tmp_path: Path) -> None:
    """It is read by torch as weights are: a file in the cache runs no code."""
    place = workload(tmp_path, "plain")
    paused(place, own("walk"), pause=1)
    [path] = checkpoints(place)
    torch.save({**torch.load(path, weights_only=True), "random": tmp_path}, path)
    store = Checkpoints(Cache(place.home / "cache"))
    _, runs = applied(place, [own("walk")], 2)
    assert runs[0].ignored is not None
    assert store.find("none of this name") is None
    folder = Cache(place.home / "cache").put(key_of("checkpoint", "step"), lambda folder: None)
    (folder / "training.pt").write_bytes(b"x")
    with pytest.raises(UnreadableError):
        store.find("step")


# ---- whole trials, in a worker


def trial_job(place: Workload, targets: Sequence[str], pause: int | None, *jobs: StepJob) -> TrialJob:
    calls = "optlang.runtimes.onnxruntime.build:OnnxRuntime"
    runtime = RuntimeJob("onnxruntime", calls, {"graph": "all"}, place.study)
    places = tuple(
        TargetJob(TargetSpec(name), runtime, jobs, place.home / name, None, Repetitions(2, 1, 0.002, 5))
        for name in targets
    )
    return TrialJob(
        3, place, places, {"accuracy": "maximize"}, frozenset({"accuracy"}), ("accuracy",),
        pause=pause,
    )


def test_nothing_is_built_before_all_targets_are_trained(tmp_path: Path) -> None:
    place = workload(tmp_path, "plain", "few")
    context = TrialContext(place, data_module.load(place.data, place.study))
    runs: list[StepRun] = []
    job = trial_job(place, ("here", "there"), 2, training(epochs=3))
    result = pausing.carry_out(job, context, lambda _: None, runs)
    assert result.paused is not None
    assert (result.paused.epochs, result.paused.step) == (2, "fit")
    # There are 40 samples to score on, fewer than an epoch is scored by otherwise.
    scores = result.paused.scores
    assert scores["here"] == scores["there"]
    assert 0 < scores["here"]["accuracy"] < 1
    assert not result.artifacts
    assert not (place.home / "here").exists()
    assert result.notes["scoring.seconds"]
    # The training is one, which both found in its checkpoint.
    [run] = result.steps
    assert [(item.epoch, item.metric, item.target) for item in run.curve] == [
        (1, "accuracy", None), (2, "accuracy", None)
    ]
    result = pausing.carry_out(trial_job(place, ("here",), 9, training(epochs=3)), context, lambda _: None, [])
    context.bench.close()
    assert result.paused is None
    assert set(result.artifacts) == {"here"}
    assert "latency.p50" in {item.metric for item in result.measurements}
    assert result.notes["scoring.seconds"]
    [run] = result.steps
    assert (run.cached, run.resumed, [item.epoch for item in run.curve]) == (False, 2, [1, 2, 3])


def test_a_worker_that_is_killed_between_two_pauses_loses_what_came_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = tmp_path / "switch"
    monkeypatch.setenv("OPTLANG_KILL", str(switch))
    once, twice = (workload(tmp_path / name, "net", "noisy") for name in ("once", "twice"))

    def stands(engine: LocalEngine, place: Workload, pause: int) -> tuple[Paused, StepRun]:
        result = engine.submit(carry_out, trial_job(place, ("here",), pause, training())).result()
        assert result.failure is None, result.failure.text
        assert result.paused is not None
        return result.paused, result.steps[-1]

    with closing(LocalEngine(tmp_path, tmp_path)) as engine:
        assert stands(engine, twice, 1)[0].epochs == 1
        switch.touch()
        with pytest.raises(WorkerDied, match="SIGKILL"):
            stands(engine, twice, 3)
        assert not switch.exists()
        found, run = stands(engine, twice, 3)
        whole, _ = stands(engine, once, 3)
        # A trial that trains from its start, though there is a checkpoint, says so.
        torn = workload(tmp_path / "torn", "net", "noisy")
        [path] = (stands(engine, torn, 1), checkpoints(torn))[1]
        path.write_bytes(b"")
        result = engine.submit(carry_out, trial_job(torn, ("here",), 3, training())).result()
        assert result.paused == whole
        assert str(result.notes[CHECKPOINT]).startswith("the checkpoint of fit is not used: it cannot be read")
    assert found == whole
    assert (found.epochs, run.resumed) == (3, 1)
    one, other = (torch.load(*checkpoints(place), weights_only=True) for place in (once, twice))
    _equal(one["state"], other["state"])
    _equal(one["random"], other["random"])


def _equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            _equal(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other
