"""Answers that depend on the other samples of a call: what is noted of them, and why NaN fails a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from optlang.interfaces import Factory, ModelState, OptlangError
from optlang.measure.answers import Answers, same
from optlang.measure.chunks import Held
from optlang.run.batch_dependence import Reference, check_finite, depends, notes

Array = numpy.ndarray[Any, Any]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.linear(x)
        return answer


class Normalized(Plain):
    """It normalizes by its batch: of one sample there is no standard deviation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centered = x - x.mean(0)
        return super().forward(centered / (centered.square().sum(0) / (len(x) - 1)).sqrt())


# A study's folder that holds no module: those of a study are set aside when another one's are looked for.
FOLDER = Path(__file__).parents[1] / "fixtures" / "models"
INPUTS = {"x": numpy.random.default_rng(0).normal(size=(64, 4)).astype(numpy.float32)}


def reference(module: nn.Module | None) -> Reference:
    torch.manual_seed(0)
    state = None if module is None else ModelState("module", module.eval(), Factory("parts.py:net"))
    return Reference(lambda: state, INPUTS, FOLDER)


def answered(here: Array, others: dict[int, Array], batch: int = 1, noise: float = 0.0) -> Answers:
    given = {size: {"y": item} for size, item in others.items()}
    uniform = all(same({"y": here}, other) for other in given.values())
    return Answers(Held({"y": here}), batch, numpy.arange(len(here)), {"y": here}, given, uniform, noise)


def of(known: Reference, batch: int) -> Array:
    answers = known.answers(batch)
    assert answers is not None
    return answers["output"]


def test_the_reference_is_the_module_in_calls_of_that_size() -> None:
    module = Normalized()
    x = torch.from_numpy(INPUTS["x"])
    with torch.inference_mode():
        calls = [module(x[start : start + 16]) for start in range(0, 64, 16)]
    numpy.testing.assert_allclose(of(reference(module), 16), torch.cat(calls).numpy(), rtol=1e-6)
    assert reference(None).answers(1) is None


def test_a_model_that_normalizes_by_its_batch_is_named() -> None:
    known = reference(Normalized())
    noted = notes(answered(of(known, 8), {1: of(known, 1)[:32], 64: of(known, 64)}, batch=8), known)
    assert noted["batch_dependent"] is True
    assert noted["batch_dependent.cause"] == "the model"
    # Alone a sample has no answer: that is no difference that could be told.
    assert (noted["batch_dependent.other"], noted["batch_dependent.difference"]) == (1, None)
    noted = notes(answered(of(known, 8), {64: of(known, 64)}, batch=8), known)
    assert noted["batch_dependent.difference"] == pytest.approx(0.4, abs=0.3)
    assert depends(noted)


def test_a_kernel_that_is_wrong_for_many_samples_is_the_artifacts_doing() -> None:
    known = reference(Plain())
    right = of(known, 1)
    wrong = numpy.where(numpy.arange(64)[:, None] < 36, right, 0)
    for here, other, batch, size in ((right, wrong, 1, 64), (wrong, right, 64, 1)):
        noted = notes(answered(here, {size: other}, batch), known)
        assert noted["batch_dependent"] is True, "whichever of the two is the target's"
        assert noted["batch_dependent.cause"] == "the artifact"
        assert noted["batch_dependent.own"] == pytest.approx(0, abs=1e-5)


def test_what_int8_is_off_anyway_is_no_dependence() -> None:
    known = reference(Plain())
    draw = numpy.random.default_rng(1)
    right = of(known, 1)
    one, other = (right + 0.1 * draw.normal(size=right.shape).astype(numpy.float32) for _ in range(2))
    answers = answered(one, {64: other})
    assert not answers.uniform
    assert notes(answers, known) == {"batch_dependent": False}
    assert notes(answers, reference(None))["batch_dependent"] is True, "with nothing to compare it is shown"
    # An artifact of chance differs as much from itself.
    assert notes(answered(one, {64: other}, noise=0.3), reference(None)) == {"batch_dependent": False}


def test_answers_alike_are_not_compared_with_anything() -> None:
    def never() -> ModelState:
        raise AssertionError("the module is loaded where it is needed only")

    here = numpy.ones((8, 3), numpy.float32)
    assert notes(answered(here, {64: here}), Reference(never, INPUTS, FOLDER)) == {"batch_dependent": False}


def test_an_artifact_that_takes_one_sample_is_judged_by_its_module() -> None:
    """What it answers is right for the calls it takes; the module that was trained in batches says otherwise."""

    class Centered(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x - x.mean(0))

    centered, plain = reference(Centered()), reference(Plain())
    noted = notes(answered(of(centered, 1), {}), centered)
    assert (noted["batch_dependent"], noted["batch_dependent.cause"]) == (True, "the model")
    assert notes(answered(of(plain, 1), {}), plain) == {"batch_dependent": False}
    assert notes(answered(of(plain, 1), {}), reference(None)) == {}


def test_nan_at_the_targets_batch_names_the_cause() -> None:
    normalized, plain = reference(Normalized()), reference(Plain())
    nan = numpy.full((64, 3), numpy.nan, numpy.float32)
    good = of(plain, 1)

    def told(answers: Answers, known: Reference) -> str:
        with pytest.raises(OptlangError) as caught:
            check_finite(answers, known, "onnxruntime")
        return f"{caught.value.message}\n{caught.value.help}"

    text = told(answered(nan, {64: of(normalized, 64)}), normalized)
    calls = "in calls of 1 sample, the target's `batch`"
    assert f"holds NaN (192 of 192 values) {calls}, and numbers in calls of 64" in text
    assert "an answer depends on the other samples of its call" in text
    assert "`batch = 64`" in text
    # An artifact that takes one sample a call: its module knows.
    assert "and numbers in calls of 64" in told(answered(nan, {}), normalized)
    text = told(answered(nan, {64: nan}), plain)
    assert f"{calls}, where the torch module answers with numbers: onnxruntime" in text
    infinite = good.copy()
    infinite[5, 1] = numpy.inf
    assert "holds infinity (1 of 192 values)" in told(answered(infinite, {64: infinite}), plain)
    assert "overflowed" in told(answered(nan, {64: nan}), reference(None))
    check_finite(answered(good, {64: nan}), plain, "onnxruntime")
