"""What a user writes to have a model in 8 bits, by the documentation of each tool.

    python benchmarks/by_hand/quantize.py MODEL SAMPLES FOLDER     a function of models.py, and that of its samples
    python benchmarks/by_hand/quantize.py STUDY FOLDER             a function of studies.py: the model is trained first

It writes float.onnx, dynamic.onnx, static.onnx and nncf.xml, and inputs.npz for the meter.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nncf
import numpy
import openvino
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

sys.path.append(str(Path(__file__).resolve().parents[1] / "coverage"))

import models

import studies

Sample = Mapping[str, Any]


def main(*words: str) -> None:
    """Make the files in the folder."""
    *names, place = words
    if len(names) == 1:
        made = getattr(studies, names[0])()
    else:
        data = getattr(models, names[1])()
        singles = {part: calls(data[part][0]) for part in ("train", "validation")}
        made = studies.Made(getattr(models, names[0])(), singles["train"], singles["validation"])
    warnings.simplefilter("ignore")
    os.chdir(place)
    kept = {f"{number} {name}": item for number, sample in enumerate(made.validation) for name, item in sample.items()}
    numpy.savez("inputs.npz", **kept, **({} if made.labels is None else {"labels": made.labels}))
    quantize(made)


def calls(inputs: Any) -> list[dict[str, Any]]:
    """One call for each sample, by the names of its inputs."""
    named = inputs if isinstance(inputs, Mapping) else {"x": inputs}
    return [{name: item[index : index + 1] for name, item in named.items()} for index in range(models.SAMPLES)]


def quantize(made: studies.Made) -> None:
    """The lines by hand."""
    first = made.calibration[0]
    axes = {name: {0: "batch", **dict.fromkeys(made.open, "length")} for name in first}
    torch.onnx.export(
        made.model.eval(), tuple(torch.as_tensor(numpy.concatenate([item, item])) for item in first.values()),
        "float.onnx", input_names=list(first), output_names=["y"], dynamic_axes={**axes, "y": {0: "batch"}},
        dynamo=False, opset_version=18,
    )
    quant_pre_process("float.onnx", "prepared.onnx", skip_symbolic_shape=True)
    attempt("dynamic", lambda: quantization.quantize_dynamic("prepared.onnx", "dynamic.onnx"))

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Sample] = iter(made.calibration)

        def get_next(self) -> Any:
            return next(self.left, None)

    attempt("static", lambda: quantization.quantize_static("prepared.onnx", "static.onnx", Reader()))

    def by_nncf() -> None:
        model = openvino.Core().read_model("float.onnx")
        openvino.save_model(nncf.quantize(model, nncf.Dataset(made.calibration)), "nncf.xml")

    attempt("nncf", by_nncf)


def attempt(what: str, make: Callable[[], Any]) -> None:
    """Say where a tool cannot do it: its file is missing then."""
    try:
        make()
    except Exception as error:  # noqa: BLE001 - whatever a tool raises
        print(f"by hand, {what}: {str(error).strip().splitlines()[0][:200]}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
