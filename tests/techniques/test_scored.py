"""Every technique that trains is scored after each epoch, which changes nothing of its result."""

import numpy
import pytest

from optlang.measure import samples
from optlang.run.scoring import Scorer
from tests.techniques import contract
from tests.techniques.declarations import standard
from tests.techniques.states import STUDY, answers, start

TRAINED = sorted(
    name for name, technique in standard().items() if any(param.name == "epochs" for param in technique.params)
)


def test_these_train():
    assert TRAINED == ["quant.qat", "training.distill", "training.finetune", "training.train"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_technique_that_trains_is_scored_after_each_epoch(name, images, tmp_path):
    state = start("mlp")
    data = images.bind(state.model)
    score = Scorer(data, samples.kept(tmp_path / "validation", data, "validation"), ("accuracy", "loss"), STUDY)
    told = []
    changed = {"width": 0.5} if name == "training.distill" else {}
    results = []
    for number, report, scorer in ((1, told.append, score), (2, lambda _: None, None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        results.append(contract.apply(name, state, data, folder, report=report, score=scorer, **changed))
    scores = [item["scores"] for item in told if "epoch" in item]
    assert len(scores) == contract.LIGHT["epochs"]
    assert all(0 <= item["accuracy"] <= 1 < item["loss"] + 1 for item in scores)
    one, other = (answers(result, data) for result in results)
    assert all(numpy.array_equal(one[output], other[output]) for output in one)
