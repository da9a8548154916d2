"""Weights as optlang saved them, back into their module."""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import nn

from optlang.workload.model.pretrained import load
from optlang.workload.model.weights import fill


class Second(nn.Module):
    """Of a second version, which tells an earlier one's weights by their metadata, as torchvision's MNASNet does."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") not in (1, 2):
            raise ValueError(f"version should be set to 1 or 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_layers_see_their_own_version(tmp_path):
    made, other, third = Second(), nn.Sequential(Second()), Second()
    fill(made, dict(third.state_dict()), "the weights")
    assert torch.equal(made.layer.weight, third.layer.weight)
    save_file(dict(other.state_dict()), tmp_path / "net.safetensors")
    again = nn.Sequential(Second())
    load(again, "net.safetensors", tmp_path)
    assert torch.equal(again[0].layer.weight, other[0].layer.weight)
