"""Transformers' Conv1D as nn.Linear: the same answers, and techniques that find linear layers find them."""

import copy

import pytest
import torch
from torch import nn

from optlang.workload.model.conv1d import plain

pytest.importorskip("transformers")


def net():
    from transformers.pytorch_utils import Conv1D

    return nn.Sequential(Conv1D(6, 4), nn.GELU(), Conv1D(3, 6))


def test_the_same_answers_from_linear_layers():
    model, x = net(), torch.randn(2, 5, 4)
    with torch.no_grad():
        model[0].bias.copy_(torch.randn(6))
    model[2].weight.requires_grad_(False)
    made = plain(copy.deepcopy(model))
    assert [type(item) for item in made] == [nn.Linear, nn.GELU, nn.Linear]
    assert (made[0].in_features, made[0].out_features) == (4, 6)
    assert [item.requires_grad for item in made.parameters()] == [True, True, False, True]
    assert torch.allclose(made(x), model(x), atol=1e-6)


def test_the_model_itself_and_one_layer_in_two_positions():
    model = net()
    assert isinstance(plain(model[0]), nn.Linear)
    twice = plain(nn.ModuleList([model[2], model[2]]))
    assert isinstance(twice[0], nn.Linear)
    assert twice[0] is twice[1]


def test_a_weight_that_another_layer_has_too_stays():
    model = net()
    other = nn.Linear(6, 4, bias=False)
    other.weight = model[0].weight
    assert type(plain(nn.ModuleList([model[0], other]))[0]).__name__ == "Conv1D"
