"""The digits study as a good practitioner writes it in an afternoon: Optuna, torch-pruning, ONNX Runtime, OpenVINO.

    python benchmarks/plain_loop/script.py FOLDER [--seed 1] [--trials 40]

It knows nothing of optlang: its own net, training, pruning, quantization and timing, one process, one thread. The
space is that of studies/digits.opt without `qat` and without PyTorch itself as a runtime, which never wins. Into FOLDER
go the files of each trial; each trial is a line of JSON on stdout: the `seconds` since the start at which it was known,
the `runtime`, the `file`, and what the script itself measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import openvino
import optuna
import torch
import torch_pruning
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

METHODS = {
    "minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
RECOVERY = 3
"""Epochs after each pruning."""
LOST, SLOW = 0.04, 2e-3
"""What accuracy may be lost, and the seconds that a call may take."""


def net(width: int = 32) -> nn.Sequential:
    """Three convolutions, as in the study."""
    def stage(inputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]

    return nn.Sequential(
        *stage(1), *stage(width), nn.MaxPool2d(2), *stage(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 10),
    )


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and to validate on: three quarters, one quarter."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(numpy.float32).reshape(-1, 1, 8, 8)
    train, held, train_labels, held_labels = map(torch.from_numpy, train_test_split(
        images, labels.astype(numpy.int64), test_size=0.25, random_state=0, stratify=labels
    ))
    return train, train_labels, held, held_labels


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float) -> None:
    """AdamW with a cosine of the learning rate, batches of 32."""
    batch = 32
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(images) // batch))
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def prune(model: nn.Sequential, ratio: float, scope: str) -> None:
    """Remove this share of the channels, the weakest by their weights' norms."""
    torch_pruning.pruner.BasePruner(
        model, torch.zeros(1, 1, 8, 8), importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio, global_pruning=scope == "global", ignored_layers=[model[-1]],
    ).step()


class Samples(CalibrationDataReader):
    """Images one by one, for static quantization."""

    def __init__(self, images: Tensor) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """The next image."""
        image = next(self._left, None)
        return None if image is None else {"x": image[None].numpy()}


def exported(model: nn.Module, path: Path) -> None:
    """Write the net as ONNX, for batches of any size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, 1, 8, 8),), str(path), input_names=["x"], output_names=["y"], dynamo=False,
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )


def quantized(path: Path, precision: str, calibration: Callable[[], Samples], method: str) -> Path:
    """The file in this precision."""
    if precision == "none":
        return path
    made = path.with_name(f"{path.stem}_int8.onnx")
    if precision == "dynamic":
        quantize_dynamic(path, made, weight_type=QuantType.QInt8)
        return made
    ready = path.with_name(f"{path.stem}_ready.onnx")
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    quantize_static(ready, made, calibration(), per_channel=True, calibrate_method=METHODS[method])
    ready.unlink()
    return made


def opened(path: Path, runtime: str) -> Callable[[Any], Any]:
    """A call of the file on one thread."""
    if runtime == "onnxruntime":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})[0]
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
    request = compiled.create_infer_request()
    return lambda x: numpy.array(request.infer({"x": x})[compiled.output(0)])


def timed(call: Callable[[Any], Any], image: Any) -> float:
    """The median seconds of 200 calls, after 20 that do not count."""
    found = []
    for number in range(220):
        start = time.perf_counter()
        call(image)
        if number >= 20:
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def search(folder: Path, seed: int, trials: int) -> None:
    """Train the baseline once, and search."""
    begin = time.perf_counter()
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    images, labels, held, held_labels = data()
    whole = net()
    train(whole, images, labels, 20, 3e-3)
    wanted = float((whole(held).argmax(1) == held_labels).float().mean())
    exported(whole, folder / "baseline.onnx")

    def objective(trial: optuna.Trial) -> Sequence[float]:
        runtime = trial.suggest_categorical("runtime", ["onnxruntime", "openvino"])
        rounds = trial.suggest_int("rounds", 0, 3)
        model = copy.deepcopy(whole)
        if rounds:
            ratio = trial.suggest_float("ratio", 0.1, 0.5, step=0.1)
            scope = trial.suggest_categorical("scope", ["layer", "global"])
            rate = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
            for _ in range(rounds):
                prune(model, ratio, scope)
                train(model, images, labels, RECOVERY, rate)
        precision = trial.suggest_categorical("precision", ["none", "dynamic", "static"])
        method, samples = "minmax", 0
        if precision == "static":
            method = trial.suggest_categorical("calibrator", list(METHODS))
            samples = trial.suggest_categorical("samples", [64, 128, 256])
        path = folder / f"{trial.number}.onnx"
        exported(model, path)
        try:
            made = quantized(path, precision, lambda: Samples(images[:samples]), method)
            call = opened(made, runtime)
            answers = call(held.numpy())
            seconds = timed(call, held[:1].numpy())
        except Exception as error:
            # Whatever a quantizer or a runtime raises: OpenVINO does not take every file.
            trial.set_constraint("runs", 1.0)
            raise optuna.TrialPruned(str(error)) from error
        accuracy = float((answers.argmax(1) == held_labels.numpy()).mean())
        trial.set_constraint("accuracy", wanted - LOST - accuracy)
        trial.set_constraint("latency", seconds / SLOW - 1)
        print(json.dumps({
            "seconds": time.perf_counter() - begin, "runtime": runtime, "file": made.name, "latency": seconds,
            "size": made.stat().st_size, "accuracy": accuracy,
        }), flush=True)
        return seconds, made.stat().st_size, accuracy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["minimize", "minimize", "maximize"],
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=12),
    )
    study.optimize(objective, n_trials=trials)


def main() -> None:
    """Read the options, and search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=40)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    search(options.folder, options.seed, options.trials)


if __name__ == "__main__":
    main()
