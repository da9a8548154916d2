"""How far answers agree with the baseline's, against sums by hand, for all kinds of answers."""

import numpy
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics.pairwise import paired_cosine_distances

from optlang.measure import chunks
from optlang.measure.quality import score
from optlang.workload.data.tasks import Classification, Regression, Sequence, Unlabeled

GENERATOR = numpy.random.default_rng(0)


def answers(*shape, noise=0.3):
    baseline = GENERATOR.normal(size=shape).astype(numpy.float32)
    return baseline + noise * GENERATOR.normal(size=shape).astype(numpy.float32), baseline


def agreed(task, mine, baseline, targets=None):
    mine, baseline = ({"output": item} if isinstance(item, numpy.ndarray) else item for item in (mine, baseline))
    found = {item.metric: item for item in score(task, mine, targets, baseline)}
    return {name: item for name, item in found.items() if name.startswith("agreement")}


def test_answers_to_samples_without_labels():
    mine, baseline = answers(200, 6)
    found = agreed(Unlabeled(), mine, baseline)
    same = int((mine.argmax(1) == baseline.argmax(1)).sum())
    expected = binomtest(same, 200).proportion_ci(method="wilson")
    share = found["agreement"]
    assert (share.value, share.low, share.high) == pytest.approx((same / 200, expected.low, expected.high))
    assert (share.unit, share.n, share.baseline, share.ratio) == ("ratio", 200, 1.0, share.value)
    cosine = found["agreement.cosine"]
    assert cosine.value == pytest.approx(1 - paired_cosine_distances(mine, baseline).mean(), rel=1e-5)
    assert cosine.low < cosine.value < cosine.high
    assert (cosine.unit, cosine.baseline) == ("", 1.0)
    error = found["agreement.error"]
    assert error.value == pytest.approx(numpy.linalg.norm(mine - baseline) / numpy.linalg.norm(baseline), rel=1e-5)
    assert error.low < error.value < error.high
    assert error.baseline == 0.0


def test_the_baseline_agrees_with_itself():
    _, baseline = answers(50, 4)
    found = agreed(Unlabeled(), baseline, baseline)
    assert [found[name].value for name in ("agreement", "agreement.cosine", "agreement.error")] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("task", "name", "shape", "axis"),
    [
        (Unlabeled(), "output", (9, 4), 1), (Unlabeled(), "output", (9, 1), None),
        (Unlabeled(), "output", (9, 5, 7), None), (Unlabeled(), "logits", (9, 5, 7), 2),
        (Unlabeled(), "output", (9, 3, 8, 8), None), (Unlabeled(), "logits", (9, 3, 8, 8), 1),
        (Classification(), "output", (9, 3, 8, 8), 1), (Sequence(), "output", (9, 5, 7), 2),
        (Regression(), "output", (9, 4), None),
    ],
)
def test_classes_are_where_the_task_or_the_name_says(task, name, shape, axis):
    mine, baseline = answers(*shape, noise=1.0)
    found = agreed(task, {name: mine}, {name: baseline})
    assert ("agreement" in found) is (axis is not None)
    if axis is not None:
        assert found["agreement"].value == pytest.approx((mine.argmax(axis) == baseline.argmax(axis)).mean())
        # Positions of one sample are not independent: an interval as wide as that of nine samples.
        assert found["agreement"].n == 9
    assert {"agreement.cosine", "agreement.error"} <= set(found)


def test_whole_numbers_are_classes_and_have_no_angle():
    baseline = numpy.arange(10)
    found = agreed(Unlabeled(), numpy.where(baseline < 3, 0, baseline), baseline)
    assert set(found) == {"agreement"}
    assert found["agreement"].value == 0.8


def test_only_positions_with_labels_count_for_classes():
    mine, baseline = answers(6, 8, 3, noise=2.0)
    labels = torch.zeros(6, 8).long()
    labels[:, 5:] = -100
    found = agreed(Sequence(), mine, baseline, labels)
    assert found["agreement"].value == pytest.approx((mine.argmax(2) == baseline.argmax(2))[:, :5].mean())


def test_the_worst_of_several_outputs_counts_and_formats_may_rename_them():
    (first, one), (second, two) = answers(30, 4, noise=0.01), answers(30, 2, 5, noise=1.0)
    found = agreed(Unlabeled(), {"a": first, "b": second}, {"x": one, "y": two})
    flat = second.reshape(30, -1), two.reshape(30, -1)
    assert found["agreement.cosine"].value == pytest.approx(1 - paired_cosine_distances(*flat).mean(), rel=1e-5)
    assert found["agreement.error"].value == pytest.approx(numpy.linalg.norm(second - two) / numpy.linalg.norm(two))
    assert found["agreement"].value == (first.argmax(1) == one.argmax(1)).mean()


def test_answers_of_other_shapes_are_not_compared():
    mine, baseline = answers(10, 4)
    assert agreed(Unlabeled(), mine[:, :3], baseline) == {}


def test_answers_of_zeros():
    zeros, ones = numpy.zeros((4, 3), numpy.float32), numpy.ones((4, 3), numpy.float32)
    found = agreed(Regression(), zeros, zeros)
    assert (found["agreement.cosine"].value, found["agreement.error"].value) == (1.0, 0.0)
    found = agreed(Regression(), ones, zeros)
    assert (found["agreement.cosine"].value, found["agreement.error"].value) == (0.0, 1.0)


def test_parts_add_up(monkeypatch):
    mine, baseline = answers(40, 3, 6, 6, noise=1.0)
    labels = torch.from_numpy(GENERATOR.integers(-1, 3, size=(40, 6, 6))).long()
    labels[labels < 0] = -100

    def scored():
        return score(Classification(), {"output": mine}, labels, {"output": baseline})

    whole = scored()
    monkeypatch.setattr(chunks, "BYTES", 5_000)
    monkeypatch.setattr(chunks.pieces, "__defaults__", (5_000,))
    assert [
        (item.metric, pytest.approx(item.value), pytest.approx(item.low), pytest.approx(item.high)) for item in whole
    ] == [(item.metric, item.value, item.low, item.high) for item in scored()]
