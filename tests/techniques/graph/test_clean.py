"""Layers that do nothing: what is removed, and what a fold leaves behind."""

import pytest
import torch
from torch import nn

from optlang.interfaces import Refusal
from optlang.techniques.graph.clean import clean
from optlang.techniques.graph.fold import fold
from optlang.workload.model import save
from tests.techniques.graph.trained_norms import answers, apply, start
from tests.techniques.states import NETWORKS, STUDY

pytestmark = pytest.mark.slow

REFUSES = dict.fromkeys(NETWORKS, "no Dropout and no Identity")


class TestClean:
    def test_only_what_does_nothing_goes(self, images, tmp_path):
        state = start("dropping")
        result = apply(clean, state, images)
        assert result.notes["graph.removed"] == 1
        assert [name for name, _ in result.model.named_children()] == ["0", "1", "2", "4"]
        assert torch.equal(answers(result, images), answers(state, images))
        save.save(result, tmp_path)
        loaded = save.load(tmp_path, STUDY)
        assert len(loaded.model) == 4
        assert torch.equal(answers(loaded, images), answers(state, images))

    def test_what_folding_leaves(self, images):
        result = apply(clean, apply(fold, start(), images), images)
        assert not [layer for layer in result.model.modules() if isinstance(layer, nn.Identity)]

    def test_none(self, images):
        with pytest.raises(Refusal, match="no Dropout and no Identity"):
            apply(clean, start("mlp"), images)
