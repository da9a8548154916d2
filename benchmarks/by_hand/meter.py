"""Times files of one runtime in turns and compares their answers: it knows nothing of optlang.

    python benchmarks/by_hand/meter.py onnxruntime inputs.npz FILE …

`inputs.npz` holds samples as arrays called `NUMBER NAME`, each a call of one sample, and `labels` where there are any.
For each file a line of JSON has the milliseconds of a call; `error`, the root of the mean squared difference to the
first file's answers over that of the answers less their mean; `agreement`, the share of samples (pixels, words) with
the same largest answer; and `metric`, the share of right answers where there are labels, else the mean cosine to the
first file's. Of a file that does not run, `failed` says why.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

Sample = Mapping[str, Any]
Call = Callable[[Sample], Any]

ROUNDS, SECONDS = int(os.environ.get("METER_ROUNDS", "15")), 0.1
"""Turns of each file, and how long each of them takes."""


def main(runtime: str, inputs: str, *paths: str) -> None:
    """Print what is found of each file."""
    samples, labels = read(inputs)
    calls: dict[str, Call] = {}
    answers: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for path in paths:
        try:
            call = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}[runtime](path)
            found = numpy.concatenate([call(item) for item in samples])
            # OpenVINO 2026.4 answers with an axis more than NNCF's file of a GPT-2 declares.
            answers[path] = found.reshape(answers[paths[0]].shape) if answers else found
            calls[path] = call
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises
            failed[path] = f"{type(error).__name__}: {error}"
    times: dict[str, list[float]] = {path: [] for path in calls}
    for turn in range(ROUNDS):
        for path in calls if turn % 2 else reversed(calls):
            times[path].append(seconds(calls[path], samples))
    print(json.dumps([
        {"failed": failed[path]} if path in failed else
        {"latency": 1e3 * quartile(times[path]), **compared(answers[path], answers[paths[0]], labels)} for path in paths
    ]))


def read(path: str) -> tuple[list[Sample], Any]:
    """The samples in their order, each a mapping of names to arrays, and the labels (None: there are none)."""
    found: dict[int, dict[str, Any]] = {}
    labels = None
    for key, item in numpy.load(path).items():
        number, _, name = key.partition(" ")
        if name:
            found.setdefault(int(number), {})[name] = item
        else:
            labels = item
    return [found[number] for number in sorted(found)], labels


def compared(found: Any, wanted: Any, labels: Any) -> dict[str, float]:
    """What the head of this file says of a file's answers."""
    axis = 1 if wanted.ndim in (2, 4) else -1
    spread = numpy.sqrt(numpy.square(wanted - wanted.mean(0)).mean())
    best = found.argmax(axis)
    flat, first = found.reshape(len(found), -1), wanted.reshape(len(wanted), -1)
    lengths = numpy.linalg.norm(flat, axis=1) * numpy.linalg.norm(first, axis=1)
    cosine = float(((flat * first).sum(1) / lengths).mean())
    return {
        "error": float(numpy.sqrt(numpy.square(found - wanted).mean()) / spread),
        "agreement": float((best == wanted.argmax(axis)).mean()),
        "metric": cosine if labels is None else float((best == labels).mean()),
    }


def seconds(call: Call, samples: Sequence[Sample]) -> float:
    """The lower quartile of the times of calls, one sample after the other: what else runs only makes them longer."""
    found: list[float] = []
    while sum(found) < SECONDS or len(found) < 3:
        item = samples[len(found) % len(samples)]
        start = time.perf_counter()
        call(item)
        found.append(time.perf_counter() - start)
    return quartile(found)


def quartile(values: Sequence[float]) -> float:
    """What a quarter of the values do not reach."""
    return sorted(values)[len(values) // 4]


def named(inputs: Sequence[str], sample: Sample) -> dict[str, Any]:
    """The sample by the names that a file has for its inputs: the same ones, or in the same order."""
    return {name: sample[name] for name in inputs} if set(inputs) <= set(sample) else dict(
        zip(inputs, sample.values(), strict=True)
    )


def in_onnxruntime(path: str) -> Call:
    """A call of the file in ONNX Runtime, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = [item.name for item in session.get_inputs()]
    return lambda sample: session.run(None, named(inputs, sample))[0]


def in_openvino(path: str) -> Call:
    """A call of the file in OpenVINO, one thread, compiled for one sample and float32 where it is not in integers."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    shapes = {}
    for item in model.inputs:
        shape = item.partial_shape
        shape[0] = 1
        shapes[item] = shape
    model.reshape(shapes)
    # Without snippets, its generated kernels: they crash OpenVINO 2026.4 on small attention.
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "SNIPPETS_MODE": "DISABLE"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    inputs = [item.any_name for item in model.inputs]
    return lambda sample: numpy.array(next(iter(request.infer(named(inputs, sample)).values())))


if __name__ == "__main__":
    main(*sys.argv[1:])
