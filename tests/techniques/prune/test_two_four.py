"""Two of every four: compared with hand counts."""

from pathlib import Path

import pytest

from optlang.interfaces import Context, Refusal
from optlang.techniques.prune.two_four import two_four
from tests.techniques.states import STUDY, start


def check(state, result, data):
    assert 0.25 < result.notes["prune.sparsity"] <= 0.5


class TestTwoFour:
    def pruned(self, network, data, **changed):
        settings = {"keep": (), "only": ()} | changed
        return two_four(start(network), settings, Context(data, 1, Path(), STUDY))

    def test_two_of_each_four_and_the_larger_stay(self, images):
        result = self.pruned("mlp", images)
        before, after = start("mlp").model[1].weight.detach(), result.model[1].weight.detach()
        for row, kept in zip(before.reshape(-1, 4), after.reshape(-1, 4), strict=True):
            least = sorted(range(4), key=lambda index: abs(float(row[index])))
            assert [float(kept[index]) for index in least[:2]] == [0.0, 0.0]
            assert [float(kept[index]) for index in least[2:]] == [float(row[index]) for index in least[2:]]
        assert result.notes["prune.sparsity"] == 0.5

    def test_along_the_channels_of_a_convolution(self, images):
        result = self.pruned("cnn", images)
        zeros = (result.model[2].weight == 0).reshape(32, 4, 4, 3, 3).sum(dim=2)
        assert bool((zeros == 2).all())
        assert result.notes["prune.two_four_left"] == ["0.weight"]

    def test_nothing_fits(self, images):
        with pytest.raises(Refusal, match=r"multiple of four inputs: 0\.weight"):
            self.pruned("cnn", images, only=("0",))

    def test_twice(self, images):
        once = self.pruned("mlp", images)
        with pytest.raises(Refusal, match="already"):
            two_four(once, {"keep": (), "only": ()}, Context(images, 1, Path(), STUDY))
