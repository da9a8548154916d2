"""Losses and metrics against scikit-learn and against torch's own, and what is refused."""

import math

import numpy
import pytest
import torch
from sklearn import metrics as reference

from optlang.interfaces import OptlangError
from optlang.workload.data.tasks import task_of
from optlang.workload.imports import UserCodeError

GENERATOR = numpy.random.default_rng(0)
SCORES = GENERATOR.normal(size=(50, 4)).astype(numpy.float32)
LABELS = GENERATOR.integers(0, 4, size=50)


def softmax(scores):
    exponents = numpy.exp(scores - scores.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


class TestClassification:
    @pytest.mark.parametrize(
        "wrap",
        [lambda s: {"output": s}, torch.from_numpy, lambda s: {"extra": s[:1], "logits": s},
         lambda s: (torch.from_numpy(s), None)],
    )
    def test_as_scikit_learn_has_it(self, tmp_path, wrap):
        found = task_of(None, tmp_path).metrics(wrap(SCORES), LABELS)
        assert found["accuracy"] == pytest.approx(reference.accuracy_score(LABELS, SCORES.argmax(1)))
        assert found["loss"] == pytest.approx(reference.log_loss(LABELS, softmax(SCORES), labels=range(4)), rel=1e-4)

    def test_loss_is_the_mean_of_what_metrics_report(self, tmp_path):
        task = task_of("classification", tmp_path)
        scores = torch.from_numpy(SCORES).requires_grad_()
        loss = task.loss({"output": scores}, torch.from_numpy(LABELS))
        loss.backward()
        assert scores.grad.abs().sum() > 0
        assert loss.item() == pytest.approx(task.metrics(scores, LABELS)["loss"], rel=1e-5)

    def test_per_sample_values_have_the_metrics_as_means(self, tmp_path):
        task = task_of(None, tmp_path)
        found, each = task.metrics(SCORES, LABELS), task.sums(SCORES, LABELS)
        assert set(each["accuracy"][0]) == {0.0, 1.0}
        assert {name: values.sum() / 50 for name, (values, _) in each.items()} == pytest.approx(found)
        assert all((number == numpy.ones(50)).all() for _, number in each.values())

    def test_pixels_are_classified_too(self, tmp_path):
        scores = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        labels = scores.argmax(1)
        labels[0, 0, 0] = -100
        assert task_of(None, tmp_path).metrics(scores, labels)["accuracy"] == 1.0
        right, number = task_of(None, tmp_path).sums(scores, labels)["accuracy"]
        assert right.tolist() == number.tolist() == [19, 20]

    @pytest.mark.parametrize(
        ("scores", "labels", "words"),
        [
            (torch.zeros(5, 1), torch.zeros(5).long(), "a score for each class"),
            (torch.zeros(5), torch.zeros(5).long(), "a score for each class"),
            (torch.zeros(5, 3), torch.zeros(5, 3).long(), "labels of the shape"),
            (torch.zeros(5, 3), torch.full((5,), 3), "a label 3, and the model answers with 3 classes"),
            (torch.full((5, 3), float("nan")), torch.zeros(5).long(), "metric loss is nan"),
            (torch.zeros(5, 3), (torch.zeros(5).long(),) * 2, "2 tensors"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path, scores, labels, words):
        with pytest.raises(OptlangError, match=words):
            task_of(None, tmp_path).metrics(scores, labels)


class TestSequence:
    def test_padding_does_not_count(self, tmp_path):
        scores = GENERATOR.normal(size=(6, 7, 3)).astype(numpy.float32)
        labels = GENERATOR.integers(0, 3, size=(6, 7))
        labels[:, 5:] = -100
        task = task_of("sequence", tmp_path)
        found = task.metrics({"output": scores}, labels)
        flat, wanted = scores[:, :5].reshape(-1, 3), labels[:, :5].reshape(-1)
        assert found["accuracy"] == pytest.approx(reference.accuracy_score(wanted, flat.argmax(1)))
        assert found["loss"] == pytest.approx(reference.log_loss(wanted, softmax(flat), labels=range(3)), rel=1e-4)
        loss = task.loss(torch.from_numpy(scores), torch.from_numpy(labels))
        assert float(loss) == pytest.approx(found["loss"], rel=1e-5)

    def test_one_answer_a_sample_is_no_sequence(self, tmp_path):
        with pytest.raises(OptlangError, match="batch, positions, classes"):
            task_of("sequence", tmp_path).metrics(SCORES, LABELS)


class TestRegression:
    @pytest.mark.parametrize("shape", [(50,), (50, 1)])
    def test_as_scikit_learn_has_it(self, tmp_path, shape):
        wanted = GENERATOR.normal(size=50)
        answers = wanted + GENERATOR.normal(size=50) * 0.3
        task = task_of("regression", tmp_path)
        found = task.metrics({"output": answers.reshape(shape)}, wanted)
        assert found["mse"] == pytest.approx(reference.mean_squared_error(wanted, answers), rel=1e-4)
        assert found["mae"] == pytest.approx(reference.mean_absolute_error(wanted, answers), rel=1e-4)
        assert found["r2"] == pytest.approx(reference.r2_score(wanted, answers), rel=1e-4)
        squares, number = task.sums(answers.reshape(shape), wanted)["mse"]
        assert squares.sum() / number.sum() == pytest.approx(found["mse"])

    def test_several_targets(self, tmp_path):
        wanted = GENERATOR.normal(size=(30, 3))
        answers = wanted * 0.5
        found = task_of("regression", tmp_path).metrics(answers, wanted)
        assert found["r2"] == pytest.approx(
            reference.r2_score(wanted, answers, multioutput="variance_weighted"), rel=1e-4
        )

    def test_targets_that_do_not_vary(self, tmp_path):
        assert task_of("regression", tmp_path).metrics(numpy.ones(4), numpy.ones(4))["r2"] == 1.0

    def test_targets_of_different_sizes_count_where_they_are(self, tmp_path):
        task = task_of("regression", tmp_path)
        wanted = torch.tensor([[1.0, 2.0, math.nan], [3.0, 5.0, 4.0]])
        answers = torch.tensor([[1.0, 4.0, 0.0], [3.0, 5.0, 7.0]])
        found = task.metrics(answers, wanted)
        assert (found["mse"], found["mae"]) == (13 / 5, 1.0)
        assert float(task.loss(answers, wanted)) == pytest.approx(13 / 5)
        squares, number = task.sums(answers, wanted)["mse"]
        assert (squares.tolist(), number.tolist()) == ([4.0, 9.0], [2.0, 3.0])

    def test_targets_that_are_no_numbers(self, tmp_path):
        with pytest.raises(OptlangError, match="the targets hold NaN"):
            task_of("regression", tmp_path).check_targets(torch.tensor([1.0, math.nan]), "the targets")

    def test_shapes_that_would_be_broadcast(self, tmp_path):
        with pytest.raises(OptlangError, match="do not fit"):
            task_of("regression", tmp_path).loss(torch.zeros(5, 2), torch.zeros(5))


class Pinball:
    """A task of the user's own."""

    def loss(self, outputs, targets):
        mean, spread = outputs
        return ((mean - targets) ** 2).mean() + spread.abs().mean()

    def metrics(self, outputs, targets):
        mean, spread = outputs
        assert mean.dtype == spread.dtype == targets.dtype == torch.float32
        return {"rmse": ((mean - targets) ** 2).mean().sqrt(), "width": spread.mean(), "count": len(targets)}


class TestOwn:
    def test_outputs_come_as_the_model_gave_them(self, tmp_path):
        task = task_of(Pinball(), tmp_path)
        outputs = {"output_0": numpy.ones(4), "output_1": numpy.full(4, 2.0)}
        assert task.metrics(outputs, numpy.zeros(4)) == {"rmse": 1.0, "width": 2.0, "count": 4.0}
        tensors = {name: torch.from_numpy(item).float() for name, item in outputs.items()}
        assert float(task.loss(tensors, torch.zeros(4))) == 3.0
        assert task.sums(outputs, numpy.zeros(4)) is None

    @pytest.mark.parametrize(
        ("returned", "words"),
        [(3.0, "returned a float"), ({}, "returned nothing"), ({"m": "x"}, "metric m is not a number"),
         ({"m": float("nan")}, "metric m is nan"), ({"m": float("inf")}, "metric m is inf")],
    )
    def test_metrics_that_are_none(self, tmp_path, returned, words):
        class Wrong(Pinball):
            def metrics(self, outputs, targets):
                return returned

        with pytest.raises(OptlangError, match=words):
            task_of(Wrong(), tmp_path).metrics(numpy.ones(4), numpy.ones(4))

    def test_a_loss_for_each_sample_is_none(self, tmp_path):
        class Wrong(Pinball):
            def loss(self, outputs, targets):
                return outputs - targets

        with pytest.raises(OptlangError, match="one number"):
            task_of(Wrong(), tmp_path).loss(torch.ones(4), torch.ones(4))

    def test_its_exceptions_are_the_users(self, tmp_path):
        with pytest.raises(UserCodeError, match="the task's metrics raised"):
            task_of(Pinball(), tmp_path).metrics(numpy.ones(4), numpy.ones(4))
