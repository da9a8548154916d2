"""Untying: no layer without parameters is called twice afterwards, by torch.fx's own count, and no answer changes."""

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.techniques.graph.untie import replay, untie
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


class Unpacking(Recurring):
    """A value that has no value yet cannot be taken apart."""

    def forward(self, image):
        left, right = [*self.relu(self.first(image.flatten(1))).split(4, 1)]
        return self.relu(torch.cat([right, left], 1))


def stacks(module, example):
    """How often torch.export sees each layer called, by its own count of where operators come from."""
    found = Counter()
    for node in torch.export.export(module, (), dict(example)).graph.nodes:
        if node.op == "call_function" and "relu" in str(node.target):
            found[next(reversed(node.meta["nn_module_stack"].values()))[0]] += 1
    return found


def test_a_capture_sees_each_copy(images):
    state = given(Recurring())
    example = images.bind(state.model).example(2)
    assert max(stacks(state.model, example).values()) == 3
    assert set(stacks(apply(state, images).model, example).values()) == {1}


def test_what_cannot_be_traced_has_copies_that_take_its_calls_in_turn(images, tmp_path):
    for module in (Unpacking(), Recurring(ask=True)):
        state = given(module)
        result = apply(state, images)
        example = images.bind(state.model).example(2)
        assert max(stacks(state.model, example).values()) > 1
        assert set(stacks(result.model, example).values()) == {1}
        assert set(stacks(result.model, example).values()) == {1}
        assert torch.equal(answers(result, images), answers(state, images))
        assert list(result.model.state_dict()) == list(state.model.state_dict())
        assert result.model.relu.inplace is False
        with pytest.raises(Refusal, match="nothing to untie"):
            apply(result, images)
        fresh = replay(copy.deepcopy(state.model), result.edits[-1].arguments, example)
        assert [name for name, _ in fresh.named_modules()] == [name for name, _ in result.model.named_modules()]


def test_below_a_layer_that_is_used_again(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, 10)

        def forward(self, image):
            return self.head(self.block(self.block(image.flatten(1))))

    state = given(Twice())
    result = apply(state, images)
    assert set(stacks(result.model, images.bind(state.model).example(2)).values()) == {1}
    assert sum(isinstance(layer, nn.Linear) for layer in result.model.modules()) == 2
    assert torch.equal(answers(result, images), answers(state, images))


def test_code_that_asks_for_the_class_of_a_layer(images):
    class Asking(Unpacking):
        def forward(self, image):
            x = super().forward(image)
            return x if isinstance(self.relu, nn.ReLU) else -x

    with pytest.raises(Refusal, match="other answers with a copy of relu"):
        apply(given(Asking()), images)


def test_one_forward_that_cannot_be_traced_and_others_are_written(images):
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.relu(x)
            return self.relu(x) if x.sum() > 0 else x

    net = nn.Sequential(Recurring(), Asking(), nn.Linear(8, 10))
    result = apply(given(net), images)
    assert max(times for target, times in uses(result.model[0]).items() if "relu" in target) == 1
    assert isinstance(result.model[1], Asking)
    assert len(result.model[1].relu.copies) == 2
    assert result.notes["graph.untied"] == 3
    assert torch.equal(answers(result, images), answers(given(net), images))


@pytest.mark.parametrize("kind", ["t5", "vit", "albert"])
def test_models_of_hugging_face(images, torchvision, kind):
    transformers = pytest.importorskip("transformers")

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            about = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
            if kind == "t5":
                config = transformers.T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
                self.inner = transformers.T5EncoderModel(config)
            elif kind == "vit":
                config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **about)
                self.inner = transformers.ViTModel(config)
            else:
                config = transformers.AlbertConfig(vocab_size=20, embedding_size=8, **about)
                self.inner = transformers.AlbertModel(config)

        def forward(self, image):
            tokens = (image[:, 0, 2] * 19).long().clamp(0, 19)
            return self.inner(image if kind == "vit" else tokens).last_hidden_state

    torch.manual_seed(0)
    state = given(Encoder())
    result = apply(state, images)
    assert result.notes["graph.untied"] > 0
    assert torch.equal(answers(result, images), answers(state, images))
    assert list(result.model.state_dict()) == list(state.model.state_dict())
    with pytest.raises(Refusal, match="nothing to untie"):
        apply(result, images)
    torch.export.export(result.model, (), dict(images.bind(state.model).example(2)))
