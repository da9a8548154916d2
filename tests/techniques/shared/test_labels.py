"""Techniques on data without labels: what learns from the baseline's answers, and what says that it needs labels."""

from pathlib import Path

import numpy
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.techniques.prune.gradients import fisher, taylor
from optlang.techniques.shared.labels import apart, drawn_loss, loss_against
from optlang.techniques.training.train import train
from optlang.workload.data import dataset
from optlang.workload.data.tasks import Regression, Unlabeled

STUDY = Path(__file__).parent
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(96, 4, generator=GENERATOR)


@pytest.fixture
def context(tmp_path, monkeypatch):
    """Rows without labels."""
    monkeypatch.setattr(dataset.imports, "find", lambda *_: lambda: {"train": INPUTS, "validation": INPUTS})
    return Context(dataset.load(Factory("mine.py:data"), tmp_path), 0, tmp_path, tmp_path)


def classifier():
    torch.manual_seed(1)
    return torch.nn.Linear(4, 3).eval()


def test_answers_are_compared_as_scores_where_they_are_such():
    one, two = torch.randn(5, 3, generator=GENERATOR), torch.randn(5, 3, generator=GENERATOR)
    found = apart(Unlabeled(), {"output": one}, {"output": two}, (), 2.0)
    expected = F.kl_div((one / 2).log_softmax(1), (two / 2).softmax(1), reduction="batchmean") * 4
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    for task, name in ((Regression(), "output"), (Unlabeled(), "hidden")):
        maps = (one, two) if name == "output" else (one[:, :, None], two[:, :, None])
        found = apart(task, {name: maps[0]}, {name: maps[1]}, (), 2.0)
        assert float(found) == pytest.approx(float(((one - two) ** 2).mean()), rel=1e-5)


def test_importance_without_labels_is_the_fisher_information(context):
    module = classifier()
    weights = {"weight": module.weight}
    found = fisher(module, weights, 20_000, context)["weight"]
    with torch.no_grad():
        chances = module(INPUTS).softmax(1)
    # Of a linear layer: the variance of each class's chance, times the square of the input.
    expected = module.weight.detach() ** 2 / 2 * torch.einsum("nc,ni->nci", chances * (1 - chances), INPUTS**2).mean(0)
    assert numpy.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.8
    first, again = (taylor(module, weights, 96, context)["weight"] for _ in range(2))
    assert torch.equal(first, again)
    assert (first > 0).all(), "the distance to its own answers would have no gradient"


def test_other_answers_are_drawn_around_themselves():
    outputs = {"output": torch.zeros(4000, 2, requires_grad=True)}
    loss = drawn_loss(Regression(), outputs, (), torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(0.5, rel=0.05)
    loss.backward()
    assert outputs["output"].grad.abs().sum() > 0


def test_losses_are_against_a_reference(context):
    module, other = classifier(), torch.nn.Linear(4, 3)
    data = context.data.bind(module)
    inputs, targets = next(data.batches("train", 8))
    loss = loss_against(module, Context(data, 0, context.folder, context.study))
    assert loss({"output": module(inputs["input"])}, inputs, targets).item() == pytest.approx(0.0, abs=1e-6)
    assert loss({"output": other(inputs["input"])}, inputs, targets).item() > 0.01


def test_a_training_says_that_it_needs_labels(context):
    state = ModelState("module", classifier(), Factory("mine.py:net"))
    with pytest.raises(Refusal, match="learns from labels, and 'train' has none") as caught:
        train(state, {}, context)
    assert "`distill`" in caught.value.help
