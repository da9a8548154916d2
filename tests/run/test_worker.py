"""What a worker finds out about the model and the data before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from optlang.interfaces import Factory
from optlang.run import worker
from optlang.run.job import Failure, PrepareJob, Workload

RARE = """\
import torch

def net():
    return torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0))

class Recall:
    def loss(self, outputs, targets):
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)

    def metrics(self, outputs, targets):
        if targets.sum() == 0:
            raise ValueError("only one class is there")
        return {"recall": ((outputs > 0) & (targets > 0)).sum() / targets.sum()}

def data(positives):
    x, y = torch.randn(80, 2), torch.zeros(80)
    y[80 - positives:] = 1
    return {"train": (x, y), "validation": (x, y), "task": Recall()}
"""


@pytest.fixture(autouse=True)
def the_process_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(worker, "_kept", None)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("positives", "metric", "words"),
    [
        (3, "recall", None),
        (3, "auc", "no metric `auc`"),
        (0, "recall", "only one class is there (rare.py:12: in metrics)"),
    ],
)
def test_a_metric_that_the_first_samples_do_not_have(
    tmp_path: Path, positives: int, metric: str, words: str | None
) -> None:
    (tmp_path / "rare.py").write_text(RARE)
    data = Factory("rare.py:data", {"positives": positives})
    workload = Workload(Factory("rare.py:net"), data, tmp_path, tmp_path / "home", "cpu")
    found = worker.prepare(PrepareJob(workload, (metric,)))
    if words is None:
        assert not isinstance(found, Failure)
        assert found.said == ()
    else:
        assert isinstance(found, Failure)
        assert words in found.reason


UNLABELED = """\
import torch

def net(shape):
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Unflatten(1, shape))

def data(task=None, labels=False):
    x = torch.randn(40, 4)
    answer = {"train": x, "validation": (x, torch.zeros(40).long()) if labels else x}
    return answer if task is None else {**answer, "task": task}
"""


@pytest.mark.parametrize(
    ("shape", "task", "labels", "metrics", "words"),
    [
        ([6], None, False, ("agreement", "agreement.cosine"), None),
        ([6], None, False, ("accuracy",), "`accuracy` compares answers with labels, and 'validation' has none"),
        ([6], None, True, ("accuracy", "agreement"), None),
        ([2, 3], None, False, ("agreement",), "not known to be scores of classes: output (32, 2, 3)"),
        ([2, 3], None, False, ("agreement.error",), None),
        ([2, 3], "sequence", False, ("agreement",), None),
        ([6], "regression", False, ("agreement",), "not known to be scores of classes: output (32, 6)"),
    ],
)
def test_metrics_of_data_without_labels(
    tmp_path: Path, shape: list[int], task: str | None, labels: bool, metrics: tuple[str, ...], words: str | None
) -> None:
    (tmp_path / "bare.py").write_text(UNLABELED)
    data = Factory("bare.py:data", {"task": task, "labels": labels})
    workload = Workload(Factory("bare.py:net", {"shape": shape}), data, tmp_path, tmp_path / "home", "cpu")
    found = worker.prepare(PrepareJob(workload, metrics))
    if words is None:
        assert not isinstance(found, Failure)
        assert found.said == ()
    else:
        assert isinstance(found, Failure)
        assert words in found.reason


def test_a_step_that_learns_from_labels_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(UNLABELED)
    workload = Workload(
        Factory("bare.py:net", {"shape": [6]}), Factory("bare.py:data"), tmp_path, tmp_path / "home", "cpu"
    )
    job = PrepareJob(workload, (), learn_labels={"`finetune`": "use `distill`"})
    found = worker.prepare(job)
    assert isinstance(found, Failure)
    assert found.reason == "`finetune` learns from labels, and the data's 'train' has none"
    assert "use `distill`" in found.text
