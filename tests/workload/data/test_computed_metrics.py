"""Metrics by name: TorchMetrics and the user's own objects see what the task's answers and targets are."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any, Literal

import numpy
import pytest
import torch

from optlang.interfaces import Factory, NamedMetric, OptlangError
from optlang.measure import quality
from optlang.workload.data import tasks
from optlang.workload.data.computed_metrics import computed
from tests.pages import DOCS, blocks

pytestmark = pytest.mark.usefixtures("torchmetrics")


@pytest.fixture
def torchmetrics(torchvision: object) -> None:
    """TorchMetrics imports torchvision where that is installed."""
    pytest.importorskip("torchmetrics")


def named(
    calls: str, name: str = "it", direction: Literal["minimize", "maximize"] = "maximize", **arguments: Any
) -> NamedMetric:
    return NamedMetric(name, direction, Factory(calls, arguments))


def with_metrics(task: tasks.Task, *metrics: NamedMetric, folder: Path = DOCS) -> tasks.Task:
    return task.with_metrics(computed(metrics, folder))


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def test_classification_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import f1_score, roc_auc_score

    answers, wanted = scores(200, 3), labels(200)
    task = with_metrics(
        tasks.Classification(),
        named("torchmetrics:F1Score", "f1", task="multiclass", num_classes=3, average="macro"),
        named("torchmetrics:AUROC", "auc", task="multiclass", num_classes=3),
    )
    found = task.metrics(answers, wanted)
    assert found["f1"] == pytest.approx(f1_score(wanted, answers.argmax(1), average="macro"), abs=1e-6)
    expected = roc_auc_score(wanted, answers.softmax(1), multi_class="ovr")
    assert found["auc"] == pytest.approx(expected, abs=1e-6)
    assert set(found) == {"accuracy", "loss", "f1", "auc"}
    assert task.metrics(answers, wanted, only="f1") == {"f1": found["f1"]}
    # The object keeps nothing from one call to the next.
    assert task.metrics(answers, wanted) == found


def test_ignored_positions_count_in_no_metric() -> None:
    answers, wanted = scores(4, 3, 5), labels(4, 5)
    wanted[:, 3:] = tasks.IGNORED
    task = with_metrics(
        tasks.Classification(),
        named("torchmetrics:Accuracy", "right", task="multiclass", num_classes=3, average="micro"),
    )
    found = task.metrics(answers, wanted)
    assert found["right"] == pytest.approx(found["accuracy"])


def test_segmentation_has_its_mean_iou() -> None:
    answers, wanted = scores(3, 4, 6, 6), labels(3, 6, 6, classes=4)
    task = with_metrics(
        tasks.Classification(), named("torchmetrics:JaccardIndex", "miou", task="multiclass", num_classes=4)
    )
    said = answers.argmax(1)
    pairs = [(said == index, wanted == index) for index in range(4)]
    mean = sum(float((mine & other).sum() / (mine | other).sum()) for mine, other in pairs) / 4
    assert task.metrics(answers, wanted)["miou"] == pytest.approx(mean, abs=1e-6)


def test_perplexity_is_the_exponential_of_the_loss() -> None:
    answers, wanted = scores(3, 7, 5), labels(3, 7, classes=5)
    wanted[0, 4:] = tasks.IGNORED
    task = with_metrics(tasks.Sequence(), named("torchmetrics.text:Perplexity", direction="minimize"))
    found = task.metrics(answers, wanted)
    assert found["it"] == pytest.approx(numpy.exp(found["loss"]), rel=1e-5)


def test_regression_and_a_metric_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(dedent("""
        class Largest:
            higher_is_better = False
            def __init__(self, power):
                self.power = power
                self.reset()
            def reset(self):
                self.found = 0.0
            def update(self, predictions, targets):
                self.found = max(self.found, float((predictions - targets).abs().max() ** self.power))
            def compute(self):
                return self.found

        def bias():
            return lambda predictions, targets: (predictions - targets).mean()
    """))
    answers, wanted = scores(50, 1), scores(50, seed=3)
    task = with_metrics(
        tasks.Regression(), named("torchmetrics:SpearmanCorrCoef", "rank"),
        named("mine.py:Largest", "largest", "minimize", power=2), named("mine.py:bias", "bias", "minimize"),
        folder=tmp_path,
    )
    found = task.metrics(answers, wanted)
    assert found["largest"] == pytest.approx(float((answers[:, 0] - wanted).abs().max() ** 2))
    assert found["bias"] == pytest.approx(float((answers[:, 0] - wanted).mean()))
    assert -1 <= found["rank"] <= 1


def test_a_metric_of_the_tasks_name_replaces_it_with_its_interval() -> None:
    answers, wanted = scores(60, 3), labels(60)
    task = with_metrics(
        tasks.Classification(),
        named("torchmetrics:Accuracy", "accuracy", task="multiclass", num_classes=3, average="macro"),
    )
    vectors = task.sums(answers, wanted)
    assert vectors is not None
    assert set(vectors) == {"loss"}
    found = {item.metric: item for item in quality.score(task, {"logits": answers.numpy()}, wanted)}
    item = found["accuracy"]
    assert item.value == pytest.approx(task.metrics(answers, wanted)["accuracy"])
    assert item.low is not None
    assert item.high is not None
    assert item.low <= item.value <= item.high


def test_what_cannot_be_a_metric_says_what_is_wrong(tmp_path: Path) -> None:
    own = "def three():\n    return 3\n\n\ndef broken():\n    return lambda a, b: a.nothing\n"
    (tmp_path / "mine.py").write_text(own)
    several = {"task": "multiclass", "num_classes": 3}
    with pytest.raises(OptlangError, match="declared `minimize`, and MulticlassF1Score is better when it is more"):
        computed([named("torchmetrics:F1Score", direction="minimize", **several)], tmp_path)
    with pytest.raises(OptlangError, match="made an object of the type int, which computes no metric"):
        computed([named("mine.py:three")], tmp_path)
    with pytest.raises(OptlangError, match=r"has no `F1Scor`"):
        computed([named("torchmetrics:F1Scor")], tmp_path)
    with pytest.raises(OptlangError, match="the metric it raised ValueError"):
        computed([named("torchmetrics:F1Score", task="multiclass", num_classe=3)], tmp_path)
    answers, wanted = scores(20, 3), labels(20)
    each = with_metrics(tasks.Classification(), named("torchmetrics:F1Score", average="none", **several))
    with pytest.raises(OptlangError, match=r"is a tensor of the shape \(3,\), not one number"):
        each.metrics(answers, wanted)
    broken = with_metrics(tasks.Classification(), named("mine.py:broken"), folder=tmp_path)
    with pytest.raises(OptlangError, match=r"the metric it raised AttributeError.*mine.py:6"):
        broken.metrics(answers, wanted)
    area = with_metrics(tasks.Classification(), named("torchmetrics:AUROC", **several))
    with pytest.raises(OptlangError, match="has no value: No negative samples"):
        area.metrics(answers, torch.zeros(20, dtype=torch.int64))


# ---- the tasks that the docs show


def shown(name: str) -> dict[str, Any]:
    [text] = [block["text"] for block in blocks(DOCS / "metrics.md") if block["kind"] == f"python {name}"]
    space: dict[str, Any] = {}
    exec(compile(text, "metrics.md", "exec"), space)
    return space


def test_tags_of_the_docs() -> None:
    from sklearn.metrics import average_precision_score

    task = tasks.Own(shown("tags")["Tags"](), DOCS)
    answers, wanted = scores(40, 5), labels(40, 5, classes=2).float()
    assert task.loss(answers, wanted) > 0
    found = task.metrics(answers, wanted)
    assert found["map"] == pytest.approx(average_precision_score(wanted, answers), abs=1e-5)
    assert 0 < found["f1"] < 1


def test_regions_of_the_docs() -> None:
    task = tasks.Own(shown("regions")["Regions"](), DOCS)
    wanted = labels(3, 6, 6, classes=4)
    perfect = 50 * torch.nn.functional.one_hot(wanted, 4).movedim(-1, 1).float()
    assert float(task.loss(perfect, wanted)) == pytest.approx(0, abs=1e-4)
    assert task.metrics(perfect, wanted) == {"miou": 1.0}
    assert task.loss(scores(3, 4, 6, 6), wanted) > 1


def test_next_word_of_the_docs() -> None:
    task = tasks.Own(shown("words")["NextWord"](), DOCS)
    words = 1 + labels(3, 7, classes=4)
    even = torch.zeros(3, 7, 5)
    assert task.metrics(even, words)["perplexity"] == pytest.approx(5)


def test_speech_of_the_docs() -> None:
    space = shown("speech")
    task = tasks.Own(space["Speech"](), DOCS)
    letters = space["LETTERS"]
    said = [[letters.index(letter) for letter in "a cat"], [letters.index(letter) for letter in "a dog"]]
    wanted = torch.tensor(said)
    heard = torch.tensor([[said[0][0], 0, *said[0][1:]], [0, *said[1][:4], letters.index("t")]])
    answers = 50 * torch.nn.functional.one_hot(heard, len(letters)).float()
    found = task.metrics(answers, wanted)
    assert found["wer"] == pytest.approx(1 / 4)
    assert found["cer"] == pytest.approx(1 / 10)
    assert task.loss(answers, wanted) > 0
