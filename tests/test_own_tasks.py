"""A Python file of the user's own is enough: arrays, a Dataset, a DataLoader, tasks of all kinds.

The figures that a study stores are calculated again here from the exported file, with numpy and the bare runtime.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import default_collate

from optlang.analysis.load import load
from optlang.diagnostics.render import render
from tests.command_line import optlang

ROOT = Path(__file__).parent.parent
OWN = ROOT / "tests" / "fixtures" / "own"
STUDIES = sorted(OWN.glob("*.opt"))


def module_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"own_{name}", OWN / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(path: Path, inputs: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, inputs), strict=True))


def prices(path: Path) -> float:
    inputs, targets = module_of("prices").data()["validation"]
    found = answers(path, {"measurements": inputs})["output"]
    assert found.shape == (len(targets), 1)
    return float(((found[:, 0] - targets) ** 2).mean())


def tags(path: Path) -> float:
    inputs, labels = module_of("tags").data(seed=0)["validation"]
    found = answers(path, {name: item.numpy() for name, item in inputs.items()})["output"].argmax(2)
    counted = inputs["mask"].numpy() > 0
    return float((found == labels.numpy())[counted].mean())


def boxes(path: Path) -> float:
    samples = [module_of("boxes").Spots(200, seed=1)[index] for index in range(200)]
    (image, camera), targets = default_collate([item[0] for item in samples]), [item[1] for item in samples]
    found = answers(path, {"image": image.numpy(), "camera": camera.numpy()})
    off = numpy.abs(found["place"] - numpy.stack([item["place"].numpy() for item in targets])).max(axis=1)
    return float((off < 0.1).mean())


FIGURES: dict[str, tuple[str, Callable[[Path], float]]] = {
    "prices": ("mse", prices), "tags": ("accuracy", tags), "boxes": ("found", boxes),
}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_each_is_checked_without_a_warning(path: Path) -> None:
    loaded = load(path)
    assert not loaded.diagnostics, render(loaded.diagnostics, loaded.texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_file_of_ones_own_is_enough(name: str, tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    for ending in ("opt", "py"):
        (study / f"{name}.{ending}").write_text((OWN / f"{name}.{ending}").read_text())
    done = optlang(study, "run", f"{name}.opt")
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    metric, calculated = FIGURES[name]
    sql = f"SELECT trial, {metric} AS value FROM results WHERE origin = 'sampler' AND state = 'complete'"
    told = optlang(study, "sql", sql, "--format", "json")
    assert told.returncode == 0, told.stderr
    (row,) = json.loads(told.stdout)
    exported = optlang(study, "export", name, row["trial"], "-o", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    assert calculated(tmp_path / "out" / "model.onnx") == pytest.approx(row["value"], abs=1e-5)
    if metric == "found":
        # A share of one's own is shown as one.
        assert f"{100 * row['value']:.1f} %" in done.stdout
    if name == "prices":
        the_eager_baseline_runs_anywhere(study, tmp_path)


def the_eager_baseline_runs_anywhere(study: Path, folder: Path) -> None:
    """The Python that makes it comes along: what becomes of the study's own file is no matter."""
    exported = optlang(study, "export", "prices", 0, "-o", folder / "baseline")
    assert exported.returncode == 0, exported.stderr

    def ran() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(folder / "baseline" / "run.py")], cwd=folder, capture_output=True, text=True,
            check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    (study / "prices.py").unlink()
    assert "output: largest difference 0" in ran().stdout
    (folder / "baseline" / "python" / "prices.py").unlink()
    lost = ran()
    assert lost.returncode == 1
    assert "Traceback" not in lost.stderr
    assert "OPTLANG_STUDY" in lost.stderr


def test_a_hidden_broadcast_in_a_loss_of_ones_own_is_an_error(tmp_path: Path) -> None:
    from optlang.workload.data.tasks import task_of
    from optlang.workload.imports import UserCodeError

    class Squares:
        def loss(self, outputs: Any, targets: Any) -> Any:
            return torch.nn.functional.mse_loss(outputs, targets)

        def metrics(self, outputs: Any, targets: Any) -> Any:
            return {"off": (outputs - targets).abs().mean()}

    task = task_of(Squares(), tmp_path)
    with pytest.raises(UserCodeError, match="target size"):
        task.loss(torch.zeros(4, 1), torch.zeros(4))
    assert float(task.loss(torch.zeros(4), torch.ones(4))) == 1.0
    # A metric may come from tensors that want gradients; it is a number all the same.
    assert task.metrics(torch.zeros(4, requires_grad=True), torch.ones(4)) == {"off": 1.0}
