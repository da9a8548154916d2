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
    found = worker.prepare(PrepareJob(workload, (metric,), tmp_path / "progress"))
    if words is None:
        assert found == ()
    else:
        assert isinstance(found, Failure)
        assert words in found.reason
