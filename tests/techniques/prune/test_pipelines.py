"""The library's pipelines of single zeros, from the text of a study to the trained model: zeros counted by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch

from optlang.analysis.load import load
from optlang.interfaces import Factory, ModelState
from optlang.plan.model import Plan
from optlang.run import steps
from optlang.run.cache import Clock
from optlang.run.job import StepJob, Workload
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.space.recipe import Applied, resolve, steps_of
from optlang.workload.data import dataset as data_module
from optlang.workload.model.make import make

OK = Path(__file__).parents[2] / "fixtures" / "ok"

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = load(OK / "lottery.opt").plan
    assert found is not None
    return found


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """One home for all: the baseline is trained once."""
    net, seen = Factory("optlang.zoo.digits:cnn", {"width": 16}), Factory("optlang.zoo.digits:digits", {"seed": 0})
    return Workload(net, seen, OK, tmp_path_factory.mktemp("home"), "cpu")


def after(plan: Plan, workload: Workload, branch: str, left_out: int = 0) -> steps.Stepped:
    """What the baseline's steps and a branch's come to, applied as a trial applies them; the last few may be left."""

    def job(step: Applied, before: str = "") -> StepJob:
        technique = plan.technique(step.technique)
        return StepJob(before + step.path, technique.name, technique.calls, step.settings, technique.needs, 1)

    jobs = [job(step, "baseline.") for step in steps_of(plan.baseline, {})]
    jobs += [job(step) for step in resolve(plan, {"sparse": branch}).steps]
    data = data_module.load(workload.data, workload.study)
    clock = Clock("none", lambda _: 0.0)
    return steps.apply(jobs[: len(jobs) - left_out], workload, data, OnnxRuntime().wants, clock, lambda _: None, [])


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [item.weight.detach() for item in module.modules() if isinstance(item, torch.nn.Conv2d | torch.nn.Linear)]


def zeros(module: torch.nn.Module) -> tuple[int, int]:
    """Zeros and all of the weights, one by one."""
    values = [value for weight in weights(module) for value in weight.flatten().tolist()]
    return values.count(0.0), len(values)


def accuracy(state: ModelState, workload: Workload) -> float:
    inputs, labels = data_module.load(workload.data, workload.study).arrays("validation")
    with torch.no_grad():
        answers = state.model(torch.from_numpy(next(iter(inputs.values())))).numpy()
    return float((answers.argmax(1) == numpy.asarray(labels)).mean())


@pytest.mark.parametrize("branch", ["ticket", "gradual"])
def test_zeros_after_the_last_training(plan: Plan, workload: Workload, branch: str) -> None:
    done = after(plan, workload, branch)
    count, whole = zeros(done.state.model)
    # Two rounds of half of what is left, or 75 % in the end: the same, but for the rounding of each round.
    assert abs(count - 0.75 * whole) <= 1
    assert done.state.notes["prune.sparsity"] == count / whole
    assert {item.metric: item.value for item in done.counted.measurements}["sparsity"] == count / whole
    assert accuracy(done.state, workload) > 0.95


def test_a_ticket_is_trained_from_the_beginning(plan: Plan, workload: Workload) -> None:
    before = after(plan, workload, "ticket", left_out=1).state.model
    ticket = after(plan, workload, "ticket").state.model
    beginning = weights(make(workload.model, workload.study))
    for start, trained, fresh in zip(weights(before), weights(ticket), beginning, strict=True):
        assert torch.equal(start, fresh.masked_fill(trained == 0, 0.0))
        assert not torch.equal(start, trained)
