"""Untying: no layer without parameters is called twice afterwards, by torch.fx's own count, and no answer changes."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.techniques.graph.untie import untie
from optlang.workload.model.call import call
from optlang.workload.model.make import make
from optlang.workload.model.save import load, save
from tests.techniques.states import NETWORKS

REFUSES = {item: "nothing to untie" for item in NETWORKS if item not in ("residual", "unet")}

STUDY = Path(__file__).parents[2] / "fixtures" / "models"

pytestmark = pytest.mark.slow


def given(module):
    return ModelState("module", module.eval(), Factory("networks.py:cnn"))


def apply(state, data):
    return untie(state, {}, Context(data, 3, Path(), STUDY))


def answers(state, data):
    with torch.no_grad():
        return call(state.model, data.bind(state.model).example(8))["output"]


def uses(module):
    return Counter(node.target for node in fx.symbolic_trace(module).graph.nodes if node.op == "call_module")


def test_a_residual_net(images, tmp_path):
    factory = Factory("networks.py:residual")
    state = ModelState("module", make(factory, STUDY), factory)
    assert max(uses(state.model).values()) == 2
    result = apply(state, images)
    assert max(uses(result.model).values()) == 1
    assert result.notes["graph.untied"] == 2
    assert list(result.model.state_dict()) == list(state.model.state_dict())
    assert torch.equal(answers(result, images), answers(state, images))
    save(result, tmp_path)
    loaded = load(tmp_path, STUDY)
    assert max(uses(loaded.model).values()) == 1
    assert torch.equal(answers(loaded, images), answers(state, images))
    with pytest.raises(Refusal, match="nothing to untie"):
        apply(result, images)


def test_one_layer_under_two_names(images):
    relu = nn.ReLU()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), relu, nn.Linear(8, 8), relu, nn.Linear(8, 10))
    result = apply(given(net), images)
    assert result.model[2] is not result.model[4]
    assert net[2] is net[4]
    assert torch.equal(answers(result, images), answers(given(net), images))


class Recurring(nn.Module):
    """The same layer with its parameters again, and an activation of each use."""

    def __init__(self, ask=False):
        super().__init__()
        self.first, self.again, self.relu, self.ask = nn.Linear(64, 8), nn.Linear(8, 8), nn.ReLU(), ask

    def forward(self, image):
        x = self.relu(self.first(image.flatten(1)))
        x = self.relu(self.again(self.relu(self.again(x))))
        return nn.functional.dropout(x, 0.5, self.training) if self.ask else x


def test_parameters_that_are_shared_stay_shared(images):
    result = apply(given(Recurring()), images)
    assert uses(result.model)["again"] == 2
    assert [times for target, times in uses(result.model).items() if "relu" in target] == [1, 1, 1]


def test_what_cannot_be_traced(images):
    class Choosing(Recurring):
        def forward(self, image):
            x = self.relu(self.first(image.flatten(1)))
            return self.relu(x) if x.sum() > 0 else x

    with pytest.raises(Refusal, match="forward of the model cannot be traced"):
        apply(given(Choosing()), images)
    with pytest.raises(Refusal, match="something else in training"):
        apply(given(Recurring(ask=True)), images)


def test_one_forward_that_cannot_be_traced_stays_and_the_others_are_written(images):
    class Choosing(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.relu(x)
            return self.relu(x) if x.sum() > 0 else x

    net = nn.Sequential(Recurring(), Choosing(), nn.Linear(8, 10))
    result = apply(given(net), images)
    assert max(times for target, times in uses(result.model[0]).items() if "relu" in target) == 1
    assert isinstance(result.model[1], Choosing)
    assert list(result.notes["graph.left"]) == ["1"]
    assert "cannot be traced" in result.notes["graph.left"]["1"]
    assert torch.equal(answers(result, images), answers(given(net), images))
