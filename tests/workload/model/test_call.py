"""A module in another mode for a while, and what it was before."""

import pytest
from torch import nn

from optlang.workload.model.call import in_mode


@pytest.mark.parametrize("training", [False, True])
def test_each_layer_is_in_its_own_mode_again(training):
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(), nn.Linear(4, 4)))
    module[0].eval()
    module[1][0].eval()
    before = [layer.training for layer in module.modules()]

    with in_mode(module, training):
        assert [layer.training for layer in module.modules()] == [training] * 5
    assert [layer.training for layer in module.modules()] == before == [True, False, True, False, True]
