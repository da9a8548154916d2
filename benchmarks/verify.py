"""Recomputes what a run measured from its exported artifacts, and says where the two disagree.

    python benchmarks/verify.py optlang.duckdb digits
    python benchmarks/verify.py optlang.duckdb digits --trials 0,3,7 --no-latency

Every complete trial is exported by `optlang export`. Then a process that cannot import optlang (only eager and compiled
models in float need it, to make the module: their `run.py` does) counts bytes, parameters, multiply-accumulates and
zeros in the files, runs the model on the validation data with the target's samples a call, and times it in turns with
the baseline. The validation data come from the study's own data factory, since an export has only a few samples.

Exit code 0 where all agree, 1 where something does not. `-` stands for what a file does not show: the graph of a
compiled program, for example. Counts and bytes must be equal; a task's metric may differ by half a sample in accuracy,
or by one part in ten thousand; the ratio of latencies must lie within a quarter of the recomputed interval, since two
measurements of one thing differ on a busy machine.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LEVEL = 12  # of zstd, as docs/language/goals.md says of size.compressed
WITHIN = 1.25
ROUNDS = 15


# ---- the driver: lists and exports, and compares what comes back


def main() -> int:
    """Verify each complete trial of a study's newest run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("db", type=Path)
    parser.add_argument("study")
    parser.add_argument("--trials", help="numbers, with commas between them; all complete ones if left out")
    parser.add_argument("--no-latency", action="store_true", help="leave the latency ratios out")
    given = parser.parse_args()
    chosen = {int(item) for item in given.trials.split(",")} if given.trials else None
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        folder = Path(name)
        trials = [
            row["trial"] for row in asked(given.db, given.study, "trial", "state = 'complete'")
            if chosen is None or row["trial"] in {0, *chosen}
        ]
        for trial in trials:
            command(given.db, "export", given.study, str(trial), "-o", str(folder / str(trial)))
        manifests = {trial: json.loads((folder / str(trial) / "manifest.json").read_text()) for trial in trials}
        data = folder / "validation.npz"
        child("data", str(given.db.resolve()), given.study, str(data), barred=False)
        wrong = 0
        for trial in trials:
            for index, entry in enumerate(manifests[trial]["artifacts"]):
                wrong += verify(folder, manifests, trial, index, entry, data, not given.no_latency)
    print(f"{len(trials)} trials, {wrong} figures that disagree")
    return 1 if wrong else 0


def asked(db: Path, study: str, columns: str, where: str) -> list[dict[str, Any]]:
    """Rows of `results` in the study's newest run."""
    query = (
        f"SELECT {columns} FROM results WHERE {where} AND run = (SELECT arg_max(s.run, s.started) FROM sessions s "
        f"JOIN runs r ON r.run = s.run WHERE r.study = '{study}') ORDER BY trial"
    )
    found: list[dict[str, Any]] = json.loads(command(db, "sql", query, "--format", "json"))
    return found


def command(db: Path, *arguments: str) -> str:
    """What `optlang` prints."""
    words = [sys.executable, "-m", "optlang", *arguments, "--db", str(db)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{' '.join(arguments)}: {ran.stderr}")
    return ran.stdout


def child(role: str, *arguments: str, barred: bool = True) -> str:
    """What a process of this script prints in one of its roles; `barred` ones cannot import optlang."""
    ran = subprocess.run(words(role, *arguments, barred=barred), capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{role} {' '.join(arguments)}: {ran.stderr}")
    return ran.stdout


def words(role: str, *arguments: str, barred: bool = True) -> list[str]:
    """The command line of this script in a role."""
    return [sys.executable, str(Path(__file__).resolve()), f"--role={role}", str(int(barred)), *arguments]


def needs_optlang(entry: Mapping[str, Any]) -> bool:
    """Whether the exported program says that it needs optlang to make the module."""
    return bool(entry["format"] == "safetensors")


def verify(
    folder: Path, manifests: Mapping[int, Any], trial: int, index: int, entry: Mapping[str, Any], data: Path,
    timed: bool,
) -> int:
    """Print one line for an artifact, and one for each figure that disagrees; how many those are."""
    manifest = manifests[trial]
    said = {item["metric"]: item for item in manifest["figures"] if item["target"] == entry["target"]}
    place = folder / str(trial) / entry["folder"]
    runs = "latency.p50" in said
    found: dict[str, Any] = json.loads(child(
        "figures", str(folder / str(trial)), str(index), str(data) if runs else "", barred=not needs_optlang(entry)
    ))
    reference = next((item for item in manifests[0]["artifacts"] if item["target"] == entry["target"]), None)
    if timed and runs and trial and reference is not None:
        found["latency.p50"] = ratio(
            folder / "0", manifests[0]["artifacts"].index(reference), folder / str(trial), index, data,
            not needs_optlang(reference), not needs_optlang(entry),
        )
    lines, shown = [], []
    for metric, value in found.items():
        if metric not in said:
            continue
        if value is None:
            shown.append(f"{metric} -")
            continue
        good, text = agrees(metric, said[metric], value)
        shown.append(text)
        if not good:
            lines.append(f"    {metric}: the run says {figure(metric, said[metric])}, recomputed {value}")
    print(f"{trial:4} {entry['target']}: {manifest['what']}: {', '.join(shown)}", flush=True)
    if not place.is_dir():
        lines.append(f"    there is no folder {place}")
    for line in lines:
        print(line)
    return len(lines)


def figure(metric: str, said: Mapping[str, Any]) -> Any:
    """What of a stored figure is compared: of a latency its ratio, of anything else the value."""
    return said.get("times_better") if metric.startswith("latency") else said["value"]


def agrees(metric: str, said: Mapping[str, Any], value: Any) -> tuple[bool, str]:
    """Whether a recomputed figure is the one that the run stored, and how it is shown."""
    before = figure(metric, said)
    if metric.startswith("latency"):
        low, middle, high = value
        good = before is not None and low / WITHIN <= before <= high * WITHIN
        return good, f"latency ratio {before:.3g} ({middle:.3g})"
    if metric == "accuracy":
        # On a tie, or where two answers are equal within rounding, another thread count may choose the other.
        return abs(before - value) <= 0.5 / said["n"] + 1e-12, f"accuracy {before:.4g}"
    if metric in ("size", "size.compressed", "parameters", "macs"):
        return before == value, f"{metric} {before:.0f}"
    return math.isclose(before, value, rel_tol=1e-4, abs_tol=1e-6), f"{metric} {before:.4g}"


# ---- the validation data, by the study's own factory


def load_data(db: str, study: str, out: str) -> None:
    """Write inputs by name and targets of the validation part as one file of arrays."""
    import numpy

    plan = json.loads(command(
        Path(db), "sql",
        f"SELECT plan FROM runs JOIN (SELECT run, max(started) AS last FROM sessions GROUP BY run) USING (run) "
        f"WHERE study = '{study}' ORDER BY last DESC LIMIT 1", "--format", "json",
    ))[0]["plan"]
    file = json.loads(command(
        Path(db), "sql", f"SELECT file FROM studies WHERE study = '{study}'", "--format", "json"
    ))[0]["file"]
    place, _, name = plan["data"]["calls"].rpartition(":")
    folder = Path(file).parent
    sys.path.insert(0, str(folder))
    module = imported(folder / place) if place.endswith(".py") else importlib.import_module(place)
    part = getattr(module, name)(**plan["data"]["arguments"])["validation"]
    inputs, targets = part if isinstance(part, tuple) else stacked(part)
    arrays = {f"input {key}": item for key, item in named(inputs).items()}
    numpy.savez(out, targets=numpy.asarray(targets), **arrays)


def named(inputs: Any) -> dict[str, Any]:
    """Arrays by name, or by place where they have none."""
    import numpy

    if isinstance(inputs, Mapping):
        return {str(name): numpy.asarray(item) for name, item in inputs.items()}
    if isinstance(inputs, tuple | list):
        return {str(number): numpy.asarray(item) for number, item in enumerate(inputs)}
    return {"0": numpy.asarray(inputs)}


def stacked(part: Any) -> tuple[Any, Any]:
    """All samples of a data set or a loader."""
    import torch

    if isinstance(part, torch.utils.data.DataLoader):
        pairs = list(part)
        return torch.cat([item for item, _ in pairs]), torch.cat([target for _, target in pairs])
    pairs = [part[number] for number in range(len(part))]
    return torch.stack([torch.as_tensor(item) for item, _ in pairs]), torch.as_tensor([target for _, target in pairs])


def imported(path: Path) -> Any:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


# ---- the figures of one exported folder


def figures(folder: str, index: str, data: str) -> None:
    """Print what the files of an export hold, and how good its answers are, as JSON."""
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    entry = manifest["artifacts"][int(index)]
    place = Path(folder) / entry["folder"]
    found: dict[str, Any] = weighed(place, entry)
    found |= counted(place, entry)
    if data:
        found |= scored(place, entry, data)
    print(json.dumps(found))


def weighed(place: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes of all files that the runtime loads, plain and compressed; each must have the hash of the manifest."""
    import zstandard

    plain = packed = 0
    for file in entry["files"]:
        content = (place / file["name"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            sys.exit(f"{file['name']} is not the file of the manifest")
        plain += len(content)
        packed += len(zstandard.ZstdCompressor(level=LEVEL).compress(content))
    return {"size": plain, "size.compressed": packed}


def counted(place: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, multiply-accumulates of one sample and the share of zeros in the weights, where files show them."""
    names = [file["name"] for file in entry["files"]]
    graph = next((name for name in names if name.endswith(".onnx")), None)
    if graph is not None:
        import onnx

        model = onnx.load(place / graph)
        zeros, numbers = graph_zeros(model)
        return {"parameters": parameters(entry, numbers), "macs": graph_macs(place, entry, model), "sparsity": zeros}
    # Weights that torch has packed for its integer kernels are not the module's parameters any more.
    if needs_optlang(entry) and "int8" not in entry["about"]:
        module = program(place).load()._module
        own = list(module.parameters())
        # A token and a scale of each channel, in layers of the user's own, are no weights.
        weights = {
            id(item): item for layer in module.modules() for item in layer.parameters(recurse=False)
            if item.ndim > 1 and item.numel()
            and (sum(size > 1 for size in item.shape) > 1 or type(layer).__module__.startswith("torch.nn."))
        }.values()
        total = sum(item.numel() for item in weights)
        return {
            "parameters": sum(item.numel() for item in own), "macs": module_macs(place, entry, module),
            "sparsity": sum(int((item == 0).sum()) for item in weights) / total if total else 0.0,
        }
    return {"parameters": None, "macs": None, "sparsity": None}


FLOATS = (1, 10, 11, 16)  # float, float16, double and bfloat16 in ONNX
BYTES = (2, 3, 21, 22)  # uint8, int8, uint4 and int4
PASSING = ("DequantizeLinear", "Transpose", "Cast", "Identity", "Reshape")
LAYERS = {
    "Conv": (1,), "ConvTranspose": (1,), "MatMul": (0, 1), "Gemm": (0, 1), "Gather": (0,), "LSTM": (1, 2),
    "GRU": (1, 2), "RNN": (1, 2), "MatMulInteger": (0, 1), "ConvInteger": (1,), "QLinearConv": (3,),
    "QLinearMatMul": (0, 3), "QGemm": (3,), "DynamicQuantizeMatMul": (1,), "DynamicQuantizeLSTM": (1, 2),
    "MatMulIntegerToFloat": (1,),
}


def parameters(entry: Mapping[str, Any], numbers: int) -> int | None:
    """The parameters of the module that the file was made of, by the shapes in the manifest.

    A file folds normalizations into the layers before them, so it has fewer vectors than the module. All weights of two
    and more axes must be there: where the file holds another number of them, the shapes are not the file's.
    """
    shapes = entry["about"].get("parameters")
    if not shapes:
        return None
    wanted = sum(math.prod(shape) for shape in shapes.values() if sum(size > 1 for size in shape) > 1)
    return sum(map(math.prod, shapes.values())) if wanted <= numbers else numbers


def graph_zeros(model: Any) -> tuple[float, int]:
    """The share of zeros among the weights of an ONNX file and how many numbers these are.

    They are dequantized, so that a zero point needs no rule.
    """
    from onnx import numpy_helper

    stored = {item.name: item for item in model.graph.initializer}
    users: dict[str, list[tuple[Any, int]]] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            users.setdefault(name, []).append((node, index))

    def multiplied(name: str) -> bool:
        return any(
            index in LAYERS.get(node.op_type, ())
            or (index == 0 and node.op_type in PASSING and multiplied(node.output[0]))
            for node, index in users.get(name, ())
        )

    zeros = total = 0
    for name, item in stored.items():
        if len(item.dims) < 2 or name not in users:
            continue
        whole = item.data_type in FLOATS
        made = cast(name, users) if item.data_type in BYTES else []
        if made:
            numbers = dequantized(made, stored, model)
            zeros, total = zeros + int((numbers == 0).sum()), total + numbers.size
            continue
        if not multiplied(name) and not (whole and sum(size > 1 for size in item.dims) > 1):
            continue
        levels = numpy_helper.to_array(item)
        packed = next((node for node, index in users[name] if node.op_type == "DequantizeLinear" and index == 0), None)
        if packed is not None:
            levels = dequantized([packed], stored, model)
        elif not whole:
            point = zero_point(users[name], stored)
            levels = levels.astype("int32") - (0 if point is None else point)
        zeros += int((levels == 0).sum())
        total += levels.size
    return (zeros / total if total else 0.0), total


def cast(name: str, users: Mapping[str, Sequence[tuple[Any, int]]]) -> list[Any]:
    """The nodes that make floats of a layer's integers in plain operators: a cast, a difference, a product."""
    nodes: list[Any] = []
    for kinds in (("Cast",), ("Sub", "Mul"), ("Mul",)):
        node = next((node for node, index in users.get(name, ()) if not index and node.op_type in kinds), None)
        if node is None:
            return []
        nodes.append(node)
        name = node.output[0]
        if node.op_type == "Mul":
            return nodes
    return []


def dequantized(nodes: Sequence[Any], stored: Mapping[str, Any], model: Any) -> Any:
    """The numbers that a weight in integers stands for, by running its nodes."""
    import onnx
    import onnxruntime

    constants = [stored[name] for node in nodes for name in node.input if name in stored]
    graph = onnx.helper.make_graph(nodes, "one", [], [onnx.ValueInfoProto(name=nodes[-1].output[0])], constants)
    alone = onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {})[0]


def zero_point(users: Sequence[tuple[Any, int]], stored: Mapping[str, Any]) -> Any:
    """The zero point of an integer weight in an operator that multiplies integers, in a shape that spreads to it."""
    from onnx import numpy_helper

    places = {
        "MatMulInteger": {0: 2, 1: 3}, "ConvInteger": {1: 3}, "QLinearConv": {3: 5}, "QLinearMatMul": {0: 2, 3: 5},
        "QGemm": {3: 5}, "DynamicQuantizeMatMul": {1: 3}, "DynamicQuantizeLSTM": {1: 9, 2: 11},
        "MatMulIntegerToFloat": {1: 5},
    }
    for node, index in users:
        where = places.get(node.op_type, {}).get(index)
        if where is None or where >= len(node.input) or not node.input[where]:
            continue
        point = numpy_helper.to_array(stored[node.input[where]]).astype("int32")
        if node.op_type == "DynamicQuantizeLSTM":
            return point.reshape(len(point), 1, -1)
        if "Conv" in node.op_type and point.size > 1:
            return point.reshape(-1, 1, 1, 1)
        return point
    return None


def graph_macs(place: Path, entry: Mapping[str, Any], model: Any) -> float | None:
    """Multiply-accumulates of one sample, from the shapes that the graph's values have when it runs."""
    import onnx
    import onnxruntime

    samples = entry["about"].get("batch") or 1
    inputs = examples(place, samples)
    if inputs is None:
        return None
    wanted = [name for node in model.graph.node for name in node.output if name]
    known = {item.name for item in model.graph.output}
    open_ = onnx.ModelProto()
    open_.CopyFrom(model)
    open_.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(open_.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [item.name for item in session.get_outputs()]
    shapes = {name: item.shape for name, item in zip(outputs, session.run(outputs, inputs), strict=True)}
    shapes |= {name: item.shape for name, item in inputs.items()}
    shapes |= {item.name: tuple(item.dims) for item in model.graph.initializer}
    return sum(node_macs(node, shapes) for node in model.graph.node) / samples


def node_macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of one node; 0 for what neither multiplies matrices nor convolves."""
    about = {item.name: item for item in node.attribute}
    kind = node.op_type
    if kind in ("Conv", "ConvInteger", "QLinearConv"):
        weight = shapes[node.input[3 if kind == "QLinearConv" else 1]]
        return math.prod(shapes[node.output[0]]) * math.prod(weight[1:])
    if kind == "ConvTranspose":
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if kind == "MatMulNBits":
        return math.prod(shapes[node.output[0]]) * about["K"].i
    if kind in ("MatMul", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"):
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if kind == "QLinearMatMul":
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if kind in ("Gemm", "QGemm"):
        turned = "transA" in about and about["transA"].i
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if turned else 1]
    if kind in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"):
        steps, batch = shapes[node.input[0]][:2]
        weights = [shapes[node.input[place]] for place in (1, 2)]
        return int(steps * batch * sum(math.prod(shape) for shape in weights))
    return 0


def module_macs(place: Path, entry: Mapping[str, Any], module: Any) -> float | None:
    """The same of a torch module, by its ONNX graph: not by the counter that the run used."""
    import io
    import warnings

    import onnx
    import torch

    inputs = examples(place, 1)
    if inputs is None:
        return None
    torch.backends.mha.set_fastpath_enabled(False)
    given = tuple(torch.from_numpy(inputs[item["name"]]) for item in entry["inputs"])
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, given, buffer, input_names=[item["name"] for item in entry["inputs"]], dynamo=False,
            opset_version=17, do_constant_folding=True,
        )
    return graph_macs(place, {**entry, "about": {}}, onnx.load_from_string(buffer.getvalue()))


def examples(place: Path, samples: int) -> dict[str, Any] | None:
    """So many of the samples that lie next to the model, by the names of the inputs."""
    import numpy

    path = place / "example_inputs.npz"
    if not path.is_file():
        return None
    with numpy.load(path) as stored:
        return {name: stored[name][numpy.arange(samples) % len(stored[name])] for name in stored.files}


def program(place: Path) -> Any:
    """The exported `run.py` as a module."""
    return imported(place / "run.py")


def scored(place: Path, entry: Mapping[str, Any], data: str) -> dict[str, Any]:
    """The task's metrics, from answers to the target's samples a call."""
    import numpy

    inputs, targets = validation(entry, data)
    exported = program(place)
    call, _ = opened(place, entry, exported)
    batch = entry["about"]["measured"]["batch"]
    total = len(targets)
    pieces = []
    for start in range(0, total, batch):
        chosen = [min(number, total - 1) for number in range(start, start + batch)]
        answers = call({name: item[chosen] for name, item in inputs.items()})
        pieces.append(next(iter(answers.values()))[: total - start])
    answers = numpy.concatenate(pieces)
    if not numpy.isfinite(answers).all():
        sys.exit(f"{place}: answers that are not finite numbers")
    if targets.dtype.kind in "iu":
        if answers.ndim == 3 and targets.ndim == 2:
            answers = answers.transpose(0, 2, 1)
        counted = targets != -100
        return {"accuracy": float((answers.argmax(axis=1) == targets)[counted].mean())}
    errors = answers.reshape(targets.shape).astype("float64") - targets
    spread = ((targets - targets.mean(axis=0)) ** 2).sum()
    return {
        "mse": float((errors**2).mean()), "mae": float(abs(errors).mean()),
        "r2": float(1 - (errors**2).sum() / spread),
    }


def validation(entry: Mapping[str, Any], data: str) -> tuple[dict[str, Any], Any]:
    """The validation data by the names and types of the artifact's inputs."""
    import numpy

    with numpy.load(data) as stored:
        given = {name.removeprefix("input "): stored[name] for name in stored.files if name != "targets"}
        targets = stored["targets"]
    inputs = {}
    for number, item in enumerate(entry["inputs"]):
        array = given[item["name"]] if item["name"] in given else given[str(number)]
        inputs[item["name"]] = array.astype(item["dtype"])
    return inputs, targets


Call = Callable[[dict[str, Any]], dict[str, Any]]


def opened(place: Path, entry: Mapping[str, Any], exported: Any) -> tuple[Call, Callable[[dict[str, Any]], Any]]:
    """What answers inputs by name, and what prepares a call that can be timed without moving data."""
    measured = entry["about"]["measured"]
    if hasattr(os, "sched_setaffinity"):
        # As a deployed process would be given so many cores: some runtimes size their threads by what they see.
        cores = sorted(os.sched_getaffinity(0))[-measured["threads"] :]
        os.sched_setaffinity(0, cores)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(measured["threads"])
    model = exported.load()

    def answer(inputs: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = exported.run(model, inputs)
        return found

    def prepared(inputs: dict[str, Any]) -> Any:
        if needs_optlang(entry):
            given = model.prepare(inputs)
            return lambda: model.run(given)
        if hasattr(model, "run"):
            names = [item["name"] for item in entry["outputs"]]
            return lambda: model.run(names, inputs)
        if hasattr(exported, "compiled"):
            return openvino_call(exported.compiled(model, len(next(iter(inputs.values())))), inputs)
        return lambda: exported.run(model, inputs)

    return answer, prepared


def openvino_call(compiled: Any, inputs: Mapping[str, Any]) -> Callable[[], Any]:
    """A call whose inputs lie where the runtime reads them."""
    import openvino

    request = compiled.create_infer_request()
    for item in compiled.inputs:
        name = next(name for name in item.names if name in inputs)
        request.set_tensor(item, openvino.Tensor(inputs[name].copy(order="C")))
    return lambda: request.infer()


# ---- latencies, in turns


def serve(folder: str, index: str, data: str) -> None:
    """Time a round of calls for each line of standard input."""
    entry = json.loads((Path(folder) / "manifest.json").read_text())["artifacts"][int(index)]
    place = Path(folder) / entry["folder"]
    # The protocol has the pipe for itself: runtimes print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _, prepared = opened(place, entry, program(place))
    inputs, targets = validation(entry, data)
    batch = entry["about"].get("batch") or entry["about"]["measured"]["batch"]
    call = prepared({name: item[[number % len(targets) for number in range(batch)]] for name, item in inputs.items()})
    for line in sys.stdin:
        seconds = float(line)
        durations = []
        start = time.perf_counter()
        while time.perf_counter() - start < seconds or len(durations) < 20:
            began = time.perf_counter()
            call()
            durations.append(time.perf_counter() - began)
        durations = sorted(durations[3:])
        print(durations[len(durations) // 2], file=answers, flush=True)


@contextmanager
def server(folder: Path, index: int, data: Path, barred: bool) -> Iterator[Callable[[float], float]]:
    """A process that times an export: called with the seconds of a round, the median of its calls."""
    with subprocess.Popen(
        words("serve", str(folder), str(index), str(data), barred=barred), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def measure(seconds: float) -> float:
            print(seconds, file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                sys.exit(f"{folder}: {process.communicate()[1]}")
            return float(line)

        try:
            yield measure
        finally:
            process.stdin.close()


def ratio(
    base: Path, base_index: int, folder: Path, index: int, data: Path, base_barred: bool, barred: bool
) -> tuple[float, float, float]:
    """Baseline ÷ trial: the middle of the rounds' ratios, and the interval that nineteen in twenty resamples give."""
    import random

    with server(base, base_index, data, base_barred) as baseline, server(folder, index, data, barred) as trial:
        for measure in (baseline, trial):
            measure(0.3)
        pairs = [(baseline(0.05), trial(0.05)) for _ in range(ROUNDS)]
    draw = random.Random(0)

    def middle(chosen: Sequence[tuple[float, float]]) -> float:
        above, below = (sorted(item[place] for item in chosen)[len(chosen) // 2] for place in (0, 1))
        return above / below

    drawn = sorted(middle(draw.choices(pairs, k=len(pairs))) for _ in range(400))
    return drawn[10], middle(pairs), drawn[389]


class Barred:
    """Keeps optlang from being imported: what is verified must not do the verifying."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse optlang, and leave all else to the others."""
        if name.partition(".")[0] == "optlang":
            raise ImportError("this process does without optlang")


ROLES: dict[str, Callable[..., None]] = {"data": load_data, "figures": figures, "serve": serve}

if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1].startswith("--role="):
        if int(sys.argv[2]):
            sys.meta_path.insert(0, Barred())
        ROLES[sys.argv[1].removeprefix("--role=")](*sys.argv[3:])
    else:
        sys.exit(main())
