"""Channels taken out of layers: which numbers are left, in which order, and what several groups take of one layer."""

import copy

import pytest
import torch
from torch import nn

from optlang.techniques.shared.coupled import drawn, group_of, groups
from optlang.techniques.shared.cuts import cut


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(11, 4, 1)

    def forward(self, x):
        return self.c(torch.cat([self.a(x), self.b(x)], 1))


def found(model, example):
    with drawn(model, example) as graph:
        return {item.root: item for item in groups(graph, ())[0]}


@pytest.mark.parametrize("left", [3, 15, 50])
def test_scales_of_a_norm_stay_with_their_channels(left):
    # torch-pruning takes what is left from a set, whose order is that of its table.
    model = nn.Sequential(nn.Linear(4, 96), nn.LayerNorm(96), nn.Linear(96, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.arange(96.0))
        model[1].bias.copy_(-torch.arange(96.0))
    group = found(model, {"input": torch.randn(2, 4)})["0"]
    kept = sorted(torch.randperm(96, generator=torch.Generator().manual_seed(left))[:left].tolist())
    made = cut(copy.deepcopy(model), {"0": sorted(set(range(96)) - set(kept))}, [group])
    assert made[1].weight.tolist() == kept
    assert made[1].bias.tolist() == [-item for item in kept]
    assert made[1].normalized_shape == (left,)
    assert torch.equal(made[0].weight, model[0].weight[kept])
    assert torch.equal(made[2].weight, model[2].weight[:, kept])


def test_groups_that_meet_in_one_layer_are_cut_by_the_numbers_of_the_whole():
    model = Joined()
    model.b.weight.requires_grad_(False)
    both = list(found(model, {"x": torch.randn(2, 3, 4, 4)}).values())
    made = cut(copy.deepcopy(model), {"a": [0, 2], "b": [4]}, both)
    assert torch.equal(made.c.weight, model.c.weight[:, [1, 3, 4, 5, 6, 7, 8, 9]])
    assert (made.a.out_channels, made.b.out_channels, made.c.in_channels) == (4, 4, 8)
    assert [name for name, item in made.named_parameters() if not item.requires_grad] == ["b.weight"]


def test_a_group_by_its_layer():
    model = Joined()
    with drawn(model, {"x": torch.randn(2, 3, 4, 4)}) as graph:
        group = group_of(graph, "b")
    assert (group.channels, group.blocks, group.answers, group.losing) == (5, 1, False, {"b"})
    assert [axis.positions[0] for axis in group.axes if axis.tensor == "c.weight"] == [(6,)]
