"""Metrics with their intervals, against scikit-learn and scipy, on data that the models were really fitted to."""

import numpy
import pytest
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, r2_score

from optlang.interfaces import OptlangError
from optlang.measure.quality import score
from optlang.workload.data.tasks import Classification, Regression, Sequence, task_of


@pytest.fixture(scope="module")
def digits():
    """Log-probabilities of a weak and a good classifier for 300 images, and the labels."""
    images, labels = load_digits(return_X_y=True)
    images = images / 16

    def fitted(columns, steps):
        model = LogisticRegression(max_iter=steps, tol=1e-2).fit(images[:1000, :columns], labels[:1000])
        return model.predict_log_proba(images[1000:1300, :columns]).astype(numpy.float32)

    return fitted(24, 100), fitted(64, 100), torch.from_numpy(labels[1000:1300])


def by_name(found):
    return {item.metric: item for item in found}


def test_accuracy_has_wilsons_interval_and_loss_the_bootstraps(digits):
    _, good, labels = digits
    found = by_name(score(Classification(), {"output": good}, labels))
    right = int((good.argmax(1) == labels.numpy()).sum())
    expected = binomtest(right, 300).proportion_ci(method="wilson")
    accuracy = found["accuracy"]
    assert accuracy.value == pytest.approx(accuracy_score(labels, good.argmax(1)))
    assert (accuracy.low, accuracy.high) == pytest.approx((expected.low, expected.high))
    assert (accuracy.unit, accuracy.n, accuracy.ratio) == ("ratio", 300, None)
    loss = found["loss"]
    assert loss.value == pytest.approx(log_loss(labels, numpy.exp(good)), rel=1e-4)
    assert 0 < loss.low < loss.value < loss.high < 2 * loss.value


def test_ratios_are_paired_and_say_how_many_times_better(digits):
    weak, good, labels = digits
    task = Classification()
    found = by_name(score(task, {"output": good}, labels, {"output": weak}))
    before = task.metrics({"output": weak}, labels)
    assert found["accuracy"].ratio == pytest.approx(found["accuracy"].value / before["accuracy"])
    assert found["loss"].ratio == pytest.approx(before["loss"] / found["loss"].value)
    agreement = found["agreement"]
    for name in ("accuracy", "loss"):
        item = found[name]
        assert 1 < item.ratio_low < item.ratio < item.ratio_high
    same = by_name(score(task, {"output": good}, labels, {"output": good}))
    assert same["agreement"].value == 1
    for name in ("accuracy", "loss"):
        assert (same[name].ratio, same[name].ratio_low, same[name].ratio_high) == (1, 1, 1)
    # Whether the two answer the same has nothing to do with who is right.
    alike = int((good.argmax(1) == weak.argmax(1)).sum())
    expected = binomtest(alike, 300).proportion_ci(method="wilson")
    assert (agreement.value, agreement.low, agreement.high) == pytest.approx((alike / 300, expected.low, expected.high))


def test_pairing_sees_what_two_intervals_alone_would_not(digits):
    _, good, labels = digits
    spoiled = good.copy()
    right = numpy.flatnonzero(good.argmax(1) == labels.numpy())[:9]
    spoiled[right] = numpy.roll(spoiled[right], 1, axis=1)
    found = by_name(score(Classification(), {"output": spoiled}, labels, {"output": good}))["accuracy"]
    whole = by_name(score(Classification(), {"output": good}, labels))["accuracy"]
    assert found.high > whole.low
    assert found.ratio_high < 1


def test_draws_on_which_a_ratio_has_no_value_are_left_out(tmp_path):
    """A draw of which all losses are zero does not say how many times better the model is."""
    mine, before = numpy.zeros(50), numpy.full(50, 0.5)
    mine[7] = 1.0
    task = Regression()
    outputs, others = ({"output": numpy.sqrt(item).astype(numpy.float32)} for item in (mine, before))
    found = by_name(score(task, outputs, torch.zeros(50), others, seed=3))["mse"]
    draw, kept = numpy.random.default_rng(3), []
    while len(kept) < 300:
        chosen = draw.integers(50, size=50)
        kept += [before[chosen].mean() / mine[chosen].mean()] if mine[chosen].any() else []
    assert found.ratio == pytest.approx(25)
    assert (found.ratio_low, found.ratio_high) == pytest.approx(tuple(numpy.percentile(kept, (2.5, 97.5))), rel=1e-5)


def test_the_baselines_own_value_comes_with_each_metric(digits):
    weak, good, labels = digits
    task = Classification()
    before = task.metrics({"output": weak}, labels)
    agreement = {"agreement": 1, "agreement.cosine": 1, "agreement.error": 0}
    for item in score(task, {"output": good}, labels, {"output": weak}):
        assert item.baseline == {**before, **agreement}[item.metric]
        if item.ratio is not None:
            above, below = (item.baseline, item.value) if item.metric == "loss" else (item.value, item.baseline)
            assert item.ratio == above / below


def test_regression_has_intervals_for_all_metrics():
    measured, progress = load_diabetes(return_X_y=True)
    predicted = LinearRegression().fit(measured[:300], progress[:300]).predict(measured[300:])
    outputs = {"output": predicted.astype(numpy.float32)[:, None]}
    targets = torch.from_numpy(progress[300:]).float()
    found = by_name(score(Regression(), outputs, targets, outputs))
    assert found["r2"].value == pytest.approx(r2_score(progress[300:], predicted), abs=1e-4)
    for name in ("r2", "mse", "mae", "loss"):
        item = found[name]
        assert item.low < item.value < item.high
        assert item.n == len(targets)
        assert item.ratio == pytest.approx(1)
    again = by_name(score(Regression(), outputs, targets, outputs))
    assert again == found


def test_positions_of_a_sequence_are_not_taken_for_samples():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 25, 4, generator=generator)
    labels = scores.argmax(2)
    # Whole sequences are wrong, so there are 40 answers to learn from and not 1,000.
    labels[:10] = (labels[:10] + 1) % 4
    found = by_name(score(Sequence(), {"output": scores.numpy()}, labels))["accuracy"]
    assert (found.value, found.n) == (0.75, 40)
    independent = binomtest(750, 1000).proportion_ci(method="wilson")
    assert found.high - found.low > 2 * (independent.high - independent.low)


class Own:
    """Counts how far off the answers are, for several outputs."""

    def loss(self, outputs, targets):
        return (outputs["a"] - targets["t"]).abs().mean()

    def metrics(self, outputs, targets):
        return {"off": float((outputs["a"] - targets["t"]).abs().mean()), "most": float(outputs["b"].max())}


def test_own_metrics_are_resampled_as_a_whole(tmp_path):
    generator = numpy.random.default_rng(1)
    outputs = {name: generator.normal(size=80).astype(numpy.float32) for name in ("a", "b")}
    targets = {"t": torch.zeros(80)}
    task = task_of(Own(), tmp_path)
    found = by_name(score(task, outputs, targets, outputs, {"off": "minimize"}))
    assert found["off"].low < found["off"].value < found["off"].high
    assert found["most"].low < found["most"].value == found["most"].high
    assert (found["off"].ratio, found["most"].ratio) == (1.0, None)


@pytest.mark.parametrize(("value", "word"), [(numpy.nan, "NaN"), (numpy.inf, "infinity")])
def test_answers_that_are_no_numbers_are_told_by_name(digits, value, word):
    _, good, labels = digits
    bad = good.copy()
    bad[3, 4:6] = value
    with pytest.raises(OptlangError, match=rf"answer output holds {word} \(2 of 3000 values\)"):
        score(Classification(), {"output": bad}, labels)


class Recall:
    """A metric of the user's own that has no value without positives."""

    def loss(self, outputs, targets):
        return outputs.mean()

    def metrics(self, outputs, targets):
        if targets.sum() == 0:
            raise ValueError("only one class is there")
        return {"recall": ((outputs > 0) & (targets > 0)).sum() / targets.sum()}


def test_draws_without_a_value_are_left_out_of_an_interval(tmp_path):
    rng = numpy.random.default_rng(1)
    answers = rng.normal(size=40).astype("float32")
    targets = torch.zeros(40)
    targets[:4] = 1
    (recall,) = score(task_of(Recall(), tmp_path), {"output": answers}, targets, ratios=["recall"])
    share = (answers[:4] > 0).mean()
    assert (recall.value, recall.unit) == (pytest.approx(share), "ratio")
    generator = numpy.random.default_rng(0)
    draws = [generator.integers(40, size=40) for _ in range(400)]
    with_positives = [item[item < 4] for item in draws if (item < 4).any()][:300]
    assert len(with_positives) == 300
    assert any((item >= 4).all() for item in draws[:300])
    low, high = numpy.percentile([(answers[item] > 0).mean() for item in with_positives], (2.5, 97.5))
    assert (recall.low, recall.high) == (pytest.approx(low), pytest.approx(high))


def test_a_metric_that_hardly_any_draw_has_is_named(tmp_path):
    class Distinct(Recall):
        def metrics(self, outputs, targets):
            if len(set(outputs.tolist())) < len(outputs):
                raise ValueError("samples come twice")
            return {"spread": outputs.std()}

    answers = numpy.arange(30, dtype="float32")
    with pytest.raises(OptlangError, match="the metric spread: it has a value on 0 of"):
        score(task_of(Distinct(), tmp_path), {"output": answers}, torch.zeros(30))
