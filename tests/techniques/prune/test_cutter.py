"""Searches among cuts: those that are counted need no proof, and the one that a search ends with was proved."""

from pathlib import Path

import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState
from optlang.techniques.prune import cutter as cutter_module
from optlang.techniques.prune.budget import _largest
from optlang.techniques.prune.channels_to_budget import channels_to_budget
from optlang.techniques.prune.cutter import Cutter, Unproved, cutting, settled
from optlang.techniques.prune.widths import widths
from tests.techniques.states import STUDY, macs, start

CHANNELS = {"importance": "l2", "round_to": 1, "keep": (), "only": (), "recalibrate": 0, "scope": "layer"}
BUDGET = CHANNELS | {"resource": "macs", "share": 0.7, "levels": 3, "scored": 64}


class Strict(nn.Module):
    """Its first layer must have 40 channels, or the 2 that the largest ratio leaves; in training alone where asked."""

    def __init__(self, *, always):
        super().__init__()
        self.always = always
        self.first, self.second = nn.Conv2d(1, 40, 3, padding=1), nn.Conv2d(40, 40, 3, padding=1)
        self.head = nn.Linear(40, 10)

    def forward(self, image):
        y = torch.relu(self.first(image))
        if (self.training or self.always) and y.shape[1] not in (2, 40):
            raise ValueError("these channels are counted on")
        return self.head(torch.relu(self.second(y)).mean((2, 3)))


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("technique", [channels_to_budget, widths])
def test_a_width_that_cannot_be_is_found_by_the_search(technique, always, images):
    state = ModelState("module", Strict(always=always).eval(), Factory("x:y"))
    result = technique(state, BUDGET, Context(images, 1, Path(), STUDY))
    assert "first" in result.notes["prune.left"]
    assert (result.model.first.out_channels, result.model.head.in_features < 40) == (40, True)
    assert macs(result) <= 0.7 * macs(state)
    result.model.train()(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("technique", [channels_to_budget, widths])
def test_few_of_the_cuts_of_a_search_are_proved(technique, images, monkeypatch):
    counts = {"made": 0, "proved": 0}

    def counting(name, method):
        def counted(self, *given):
            counts[name] += 1
            return method(self, *given)

        monkeypatch.setattr(Cutter, method.__name__, counted)

    counting("made", Cutter._made)
    counting("proved", Cutter._proved)
    technique(start("residual", width=32), BUDGET, Context(images, 1, Path(), STUDY))
    # At the largest ratio, whole, and what each of the searches ends with.
    assert counts["proved"] <= 8 < counts["made"]


def test_a_draft_leaves_the_model_as_it_was(images):
    state = start("residual", width=32)
    before = {name: item.clone() for name, item in state.model.state_dict().items()}
    with cutting(state, CHANNELS, Context(images, 1, Path(), STUDY)) as cutter:
        draft = cutter.draft(0.5)
        cutter_module.recalibrate(draft.module, 1, Context(images, 1, Path(), STUDY))
        proved = cutter.proved(draft)
    assert all(torch.equal(item, before[name]) for name, item in state.model.state_dict().items())
    assert {name: item.shape for name, item in draft.module.named_parameters()} == {
        name: item.shape for name, item in proved.module.named_parameters()
    }
    own = {item.data_ptr() for item in state.model.parameters()}
    assert not own & {item.data_ptr() for item in proved.module.parameters()}


def test_a_search_is_made_again_until_it_settles():
    left = [1, 2]

    def search():
        if left:
            left.pop()
            raise Unproved
        return "found"

    assert settled(search) == "found"


@pytest.mark.parametrize("most", [0, 1, 2, 3, 11, 16])
def test_the_largest_number_that_fits(most):
    asked = []

    def fitting(count):
        asked.append(count)
        return count if count <= most else None

    assert _largest(fitting) == (most or None)
    assert len(asked) <= 2 * max(1, most).bit_length() + 1
