"""Coupled channels: searches that do not end have a limit, and one unknown operator does not spoil the rest."""

import time

import pytest
import torch
from torch import nn

from optlang.techniques.shared import coupled
from optlang.techniques.shared.coupled import drawn, groups


class Rotary(nn.Module):
    """A block with rotary positions, grouped queries and a gated hidden layer (Llama)."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.size = width // heads
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width // 2), nn.Linear(width, width // 2)
        self.o = nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 48), nn.Linear(width, 48), nn.Linear(48, width)

    def turned(self, x):
        x = x.unflatten(-1, (-1, self.size)).transpose(1, 2)
        one, two = x[..., : self.size // 2], x[..., self.size // 2 :]
        return x * 0.5 + torch.cat([-two, one], -1) * 0.5

    def forward(self, x):
        q, k = self.turned(self.q(x)), self.turned(self.k(x)).repeat_interleave(2, 1)
        v = self.v(x).unflatten(-1, (-1, self.size)).transpose(1, 2).repeat_interleave(2, 1)
        answer = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.o(answer)
        return x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Shuffled(nn.Module):
    """A unit of ShuffleNet: half of the channels pass by, and both halves are interleaved."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 12, 1), nn.Conv2d(12, 4, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        for _ in range(2):
            one, two = self.stem(x).chunk(2, 1)
            y = torch.cat([one, self.outer(self.inner(two))], 1)
            x = y.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)[:, :3]
        return self.head(y.mean((2, 3)))


def found(model, example):
    with drawn(model.eval(), {"x": example}) as graph:
        own, left = groups(graph, ())
    return {item.root: item.giving for item in own}, left


def test_rotary_positions_are_left_and_the_hidden_layer_is_found_soon():
    model = nn.Sequential(nn.Linear(16, 32), Rotary(), Rotary(), nn.Linear(32, 4))
    began = time.process_time()
    with drawn(model, {"input": torch.randn(2, 5, 16)}) as graph:
        own, left = groups(graph, ())
    assert time.process_time() - began < 30  # torch-pruning's search does not end here
    giving = {frozenset(item.giving) for item in own}
    assert {frozenset({"1.gate", "1.up"}), frozenset({"2.gate", "2.up"})} <= giving
    assert {name for name in left if name.endswith((".q", ".k", ".v"))}


def test_the_limit_is_of_work_and_says_so(monkeypatch):
    monkeypatch.setattr(coupled, "_MOST", 10)
    own, left = found(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(2, 4))
    assert left["0"] == "its channels are taken apart and joined too often to be followed"
    assert "0" not in own


def test_an_operator_without_known_positions_leaves_the_rest():
    own, _ = found(Shuffled(), torch.randn(2, 3, 4, 4))
    assert ("inner",) in own.values()


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_layers_are_followed_and_stay_frozen(frozen):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model[0].requires_grad_(not frozen)
    own, _ = found(model, torch.randn(2, 4))
    assert own["0"] == ("0",)
    assert model[0].weight.requires_grad != frozen
