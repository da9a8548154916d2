"""Counts against counting by hand."""

import pytest
import torch
from torch import nn

from optlang.measure.counts import count, macs, sparsity, sparsity_by_layer

pytestmark = pytest.mark.slow


def one(**shapes):
    return {name: torch.ones(shape) for name, shape in shapes.items()}


class Product(nn.Module):
    def forward(self, left, right):
        return left @ right


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


# Of a sequence of 10 with 32 numbers each: four projections, and two products of queries, keys and values.
ATTENTION = 4 * 10 * 32 * 32 + 2 * 10 * 10 * 32


@pytest.mark.parametrize(
    ("module", "inputs", "expected"),
    [
        (nn.Conv2d(3, 16, 3, padding=1), one(input=(1, 3, 8, 8)), 8 * 8 * 16 * 3 * 9),
        (nn.Conv2d(3, 16, 3, stride=2), one(input=(1, 3, 9, 9)), 4 * 4 * 16 * 3 * 9),
        (nn.Conv2d(16, 16, 3, padding=1, groups=16), one(input=(1, 16, 8, 8)), 8 * 8 * 16 * 9),
        (nn.Conv1d(4, 6, 5), one(input=(1, 4, 12)), 8 * 6 * 4 * 5),
        (nn.Linear(20, 30), one(input=(1, 20)), 600),
        (nn.Linear(20, 30), one(input=(1, 7, 20)), 7 * 600),
        (Product(), one(left=(1, 5, 6), right=(1, 6, 7)), 5 * 6 * 7),
        (Attending(), one(x=(1, 10, 32)), ATTENTION),
        (nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), one(src=(1, 10, 32)), ATTENTION + 2 * 10 * 32 * 64),
        (nn.LSTM(6, 8, batch_first=True), one(input=(1, 5, 6)), 5 * 4 * 8 * (6 + 8)),
        (nn.GRU(6, 8, batch_first=True), one(input=(1, 5, 6)), 5 * 3 * 8 * (6 + 8)),
        (nn.ReLU(), one(input=(1, 5)), 0),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, nn.Module) else "",
)
def test_macs_are_those_counted_by_hand_for_one_sample(module, inputs, expected):
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    module.train()
    assert macs(module, inputs) == expected
    repeated = {name: torch.cat([item] * 4) for name, item in inputs.items()}
    assert macs(module, repeated) == expected
    assert module.training
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled) == before


def test_all_counts_of_a_small_network():
    net = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[0].bias.zero_()
    found = {item.metric: item for item in count(net, {"input": torch.ones(1, 10)})}
    assert {name: item.value for name, item in found.items()} == {
        "parameters": 44 + 8, "macs": 48, "sparsity": 20 / 48,
    }
    assert {name: item.unit for name, item in found.items()} == {
        "parameters": "count", "macs": "count", "sparsity": "ratio",
    }
    assert sparsity_by_layer(net) == {"0.weight": 0.5, "2.weight": 0.0}


def test_shared_weights_count_once():
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    net[1].weight = net[0].weight
    found = {item.metric: item.value for item in count(net, {"input": torch.ones(1, 5)})}
    assert (found["parameters"], found["macs"]) == (25, 50)


def test_a_model_without_weights_has_no_zeros():
    assert sparsity(nn.ReLU()) == 0.0
