"""Compares optlang's 8-bit files with what ten lines written by hand make of the same models, on the CPU.

    .venv/bin/pip install -q -e ".[all,examples]" && .venv/bin/python benchmarks/by_hand.py [NAME …] [--write]

By hand are ONNX Runtime's `quantize_dynamic` and `quantize_static` and NNCF's `quantize`, each as its own page begins;
optlang's files are those that `optlang export` writes of a study's ladder. A meter that knows nothing of optlang counts
the bytes that a runtime loads, times the files of one runtime in turns, one thread and one sample a call, and compares
their answers with the float model's. `--write` puts the table into docs/techniques/int8.md, between the two lines that
mark it. A model is a function of by_hand/models.py and a line of `MODELS`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FACTORIES = ROOT / "benchmarks" / "by_hand" / "models.py"
PAGE = ROOT / "docs" / "techniques" / "int8.md"
BEGIN, END = "<!-- measured by_hand: begin -->", "<!-- measured by_hand: end -->"

MODELS = {
    "bert": "tokens", "distilbert": "tokens", "albert": "tokens", "gpt2": "tokens", "t5": "tokens", "vit": "images",
    "whisper": "spectrograms", "wav2vec2": "waveforms", "resnet18": "images", "mobilenet_v3": "images",
    "lraspp": "pixels", "convnext": "images", "swin": "images", "mixer": "images", "levit": "large_images",
    "gru": "series", "lstm": "tokens", "unet": "pixels",
}
"""The functions that make each model and its samples."""

STUDY = """optlang 1

import python "models.py" as these

study {name} {{
  model net     = these.{name}()
  data  samples = these.{samples}()
  target cpu {{ threads = 1; batch = 1; runtime in {{ onnxruntime; openvino; nncf = openvino {{ int8 = nncf }} }} }}
  steps {{
    precision in {{
      none
      dynamic
      static
      weight_only
    }}
  }}
  minimize size
  search {{ trials = 1 }}
}}
"""
"""What is written instead of those lines by hand. Times are the meter's."""

LARGER, SLOWER, FARTHER = 1.01, 1.05, 1.1
"""By how much a file may be larger, slower and farther from the float answers and still count as no worse: two
measurements of one file differ by a few hundredths."""

SMALLER = 0.9
"""A file in 8 bits is smaller than this share of the float one."""

ROUNDS, SECONDS = 15, 0.1
"""Turns of each file, and how long each of them takes."""


@dataclass(slots=True)
class File:
    """A file that a runtime loads, who made it how, and what the meter says of it."""

    runtime: str
    maker: str
    path: Path
    found: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the file, and of OpenVINO's weights next to it."""
        parts = {self.path, self.path.with_suffix(".bin")} if self.path.suffix == ".xml" else {self.path}
        return sum(part.stat().st_size for part in parts)


def main() -> int:
    """Make the files, measure them, print the table; 1 where something by hand is better than all of optlang's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="which of the models (default: all)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/techniques/int8.md too")
    parser.add_argument("--all", action="store_true", help="print every file, not only the comparisons")
    parser.add_argument("--keep", type=Path, help="leave all files in this folder")
    given = parser.parse_args()
    lines, worse = [], 0
    for name in given.names or MODELS:
        with tempfile.TemporaryDirectory(prefix="by-hand-") as scratch:
            folder = given.keep.resolve() / name if given.keep else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            inputs = made_by_hand(name, folder)
            files = [*by_hand(folder), *by_optlang(name, folder)]
            for runtime in ("onnxruntime", "openvino"):
                mine = [item for item in files if item.runtime == runtime]
                measure(runtime, mine, inputs)
                if given.all:
                    print(*(described(name, item) for item in mine), sep="\n", flush=True)
                for line in compared(name, mine):
                    worse += line[-1] != "yes"
                    lines.append(line)
                    print("  ".join(line), flush=True)
    if given.write:
        head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{markdown(lines)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 1 if worse else 0


# ---- by hand


def made_by_hand(name: str, folder: Path) -> Path:
    """Write float.onnx, dynamic.onnx, static.onnx and nncf.xml of the model, and the samples as inputs.npz."""
    child("make", name, str(folder))
    return folder / "inputs.npz"


def make(name: str, place: str) -> None:
    """What a user writes to have the model in 8 bits, by the documentation of each tool."""
    import nncf
    import numpy
    import openvino
    import torch
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    sys.path.insert(0, str(FACTORIES.parent))
    import models

    warnings.simplefilter("ignore")
    os.chdir(place)
    net, data = getattr(models, name)(), getattr(models, MODELS[name])()
    train, validation = data["train"][0], data["validation"][0]
    numpy.savez("inputs.npz", validation)
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    torch.onnx.export(
        net, (torch.as_tensor(train[:2]),), "float.onnx", input_names=["x"], output_names=["y"], dynamic_axes=axes,
        dynamo=False, opset_version=18,
    )
    quant_pre_process("float.onnx", "prepared.onnx", skip_symbolic_shape=True)
    attempt("dynamic", lambda: quantization.quantize_dynamic("prepared.onnx", "dynamic.onnx"))

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(train)

        def get_next(self) -> Any:
            item = next(self.left, None)
            return None if item is None else {"x": item[None]}

    attempt("static", lambda: quantization.quantize_static("prepared.onnx", "static.onnx", Reader()))

    def by_nncf() -> None:
        model = openvino.Core().read_model("float.onnx")
        found = nncf.quantize(model, nncf.Dataset([item[None] for item in train]))
        openvino.save_model(found, "nncf.xml")

    attempt("nncf", by_nncf)


def attempt(what: str, make: Callable[[], Any]) -> None:
    """Say where a tool cannot do it: its file is missing then."""
    try:
        make()
    except Exception as error:  # noqa: BLE001 - whatever a tool raises
        print(f"by hand, {what}: {str(error).strip().splitlines()[0][:200]}", file=sys.stderr)


def by_hand(folder: Path) -> list[File]:
    """The files that are there, for each runtime that loads them."""
    made = [("float", "float.onnx"), ("quantize_dynamic", "dynamic.onnx"), ("quantize_static", "static.onnx")]
    files = [File(runtime, maker, folder / name) for runtime in ("onnxruntime", "openvino") for maker, name in made]
    files.append(File("openvino", "nncf.quantize", folder / "nncf.xml"))
    return [item for item in files if item.path.is_file()]


# ---- by optlang


def by_optlang(name: str, folder: Path) -> list[File]:
    """The files of each trial of the study's ladder, as they are exported."""
    (folder / "models.py").write_text(FACTORIES.read_text(encoding="utf-8"), encoding="utf-8")
    study = folder / f"{name}.opt"
    study.write_text(STUDY.format(name=name, samples=MODELS[name]), encoding="utf-8")
    optlang(folder, "run", str(study), "--ladder", "--progress", "plain", into=folder / "run.txt")
    asked = "SELECT trial, runtime, precision AS how FROM results WHERE trial > 0 AND state = 'complete'"
    files = []
    for row in json.loads(optlang(folder, "sql", asked, "--format", "json")):
        runtime = row["runtime"].split(",")[0].rpartition(".")[2]
        if row["how"] == "none" and runtime != "nncf":
            continue
        out = folder / f"trial{row['trial']}"
        optlang(folder, "export", name, str(row["trial"]), "-o", str(out))
        path = next(item for item in sorted(out.rglob("model.*")) if item.suffix in (".onnx", ".xml"))
        how = "int8 = nncf" if runtime == "nncf" else row["how"]
        files.append(File("openvino" if runtime == "nncf" else runtime, f"optlang: {how}", path))
    return files


def optlang(folder: Path, *words: str, into: Path | None = None) -> str:
    """What a command prints; its log goes into a file."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "optlang", *words], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )
    if into is not None:
        into.write_text(done.stdout + done.stderr, encoding="utf-8")
        for line in done.stdout.splitlines():
            if "failed:" in line:
                print("optlang, " + " ".join(line.split())[:300], file=sys.stderr)
    if done.returncode:
        sys.exit(f"optlang {' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout


# ---- the meter, in a process of its own: a runtime, its files, and samples


def measure(runtime: str, files: Sequence[File], inputs: Path) -> None:
    """Let each file know its size and, by the meter's process, its milliseconds and how near its answers are."""
    given = json.loads(child("meter", runtime, str(inputs), *(str(item.path) for item in files)))
    for item, found in zip(files, given, strict=True):
        item.found = {"size": item.size, **found}


def meter(runtime: str, inputs: str, *paths: str) -> None:
    """Print, for each file, the milliseconds of a call and how its answers differ from the first file's.

    `error` is the root of the mean squared difference over that of the answers (less their mean), `agreement` the share
    of samples (pixels, words) with the same largest answer.
    """
    import numpy

    samples = next(iter(numpy.load(inputs).values()))
    calls = [{"onnxruntime": in_onnxruntime, "openvino": in_openvino}[runtime](path) for path in paths]
    answers = [numpy.concatenate([call(item[None]) for item in samples]) for call in calls]
    wanted = answers[0]
    axis = 1 if wanted.ndim in (2, 4) else -1
    spread = numpy.sqrt(numpy.square(wanted - wanted.mean(0)).mean())
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(ROUNDS):
        for index in range(len(calls)) if turn % 2 else reversed(range(len(calls))):
            times[index].append(seconds(calls[index], samples))
    print(json.dumps([
        {
            "latency": 1e3 * quartile(mine),
            "error": float(numpy.sqrt(numpy.square(found - wanted).mean()) / spread),
            "agreement": float((found.argmax(axis) == wanted.argmax(axis)).mean()),
        }
        for mine, found in zip(times, answers, strict=True)
    ]))


def seconds(call: Callable[[Any], Any], samples: Any) -> float:
    """The lower quartile of the times of calls, one sample after the other: what else runs only makes them longer."""
    found: list[float] = []
    while sum(found) < SECONDS or len(found) < 3:
        item = samples[len(found) % len(samples)][None]
        start = time.perf_counter()
        call(item)
        found.append(time.perf_counter() - start)
    return quartile(found)


def quartile(values: Sequence[float]) -> float:
    """What a quarter of the values do not reach."""
    return sorted(values)[len(values) // 4]


def in_onnxruntime(path: str) -> Callable[[Any], Any]:
    """A call of the file in ONNX Runtime, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def in_openvino(path: str) -> Callable[[Any], Any]:
    """A call of the file in OpenVINO, one thread, compiled for one sample and float32 where it is not in integers."""
    import numpy
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    shape = model.inputs[0].partial_shape
    shape[0] = 1
    model.reshape(shape)
    # Without snippets, its generated kernels: they crash OpenVINO 2026.4 on small attention.
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "SNIPPETS_MODE": "DISABLE"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda batch: numpy.array(next(iter(request.infer([batch]).values())))


# ---- comparing


def no_worse(mine: File, other: File) -> bool:
    """Whether a file is no larger, no slower and no farther from the float answers, but for what measuring leaves."""
    return all(
        mine.found[name] <= bound * other.found[name] + slack
        for name, bound, slack in (("size", LARGER, 0), ("latency", SLOWER, 0), ("error", FARTHER, 0.01))
    )


def compared(name: str, files: Iterable[File]) -> list[tuple[str, ...]]:
    """A line for each file by hand: it, the file of optlang's that is nearest to no worse, and whether it is.

    A file that is as large as the float one has nothing in 8 bits, and no line.
    """
    first, *others = files
    own = [item for item in others if item.maker.startswith("optlang")]
    lines = []
    for item in others:
        if item in own or item.size > SMALLER * first.size:
            continue
        good = [mine for mine in own if no_worse(mine, item)]
        best = min(good or own, key=lambda mine: excess(mine, item), default=None)
        shown = figures(best) if best else ("–",) * 4
        lines.append((name, item.runtime, item.maker, *figures(item), best.maker[9:] if best else "–", *shown,
                      "yes" if good else "no"))
    return lines


def excess(mine: File, other: File) -> float:
    """How much larger plus how much slower; farther from the float answers counts where it is more than a little."""
    farther = max(0.0, mine.found["error"] - FARTHER * other.found["error"] - 0.01)
    return sum(max(1.0, mine.found[name] / other.found[name]) for name in ("size", "latency")) + 10 * farther + (
        1e-3 * mine.found["latency"] / other.found["latency"]
    )


HEADS = (
    "model", "runtime", "by hand", "MB", "ms", "error", "agreement", "optlang", "MB", "ms", "error", "agreement",
    "no worse",
)


def figures(item: File) -> tuple[str, ...]:
    """Size, latency, error and agreement as text."""
    found = item.found
    return (
        f"{found['size'] / 1e6:.2f}", f"{found['latency']:.2f}", f"{100 * found['error']:.1f} %",
        f"{100 * found['agreement']:.1f} %",
    )


def described(name: str, item: File) -> str:
    """A file as a line."""
    return "    " + "  ".join((name, item.runtime, item.maker.ljust(24), *figures(item)))


def markdown(lines: Iterable[Sequence[str]]) -> str:
    """The table for the docs."""
    head = f"| {' | '.join(HEADS)} |\n|---|---|---|{'--:|' * 4}---|{'--:|' * 4}---|"
    return "\n".join([head, *(f"| {' | '.join(line)} |" for line in lines)])


def child(role: str, *words: str) -> str:
    """What a process of this script prints in one of its roles, one thread for whatever runs in it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NNCF_CI": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), f"--role={role}", *words], stdout=subprocess.PIPE, text=True,
        check=False, env=environment,
    )
    if done.returncode:
        sys.exit(f"{role} {' '.join(words)} ended with {done.returncode}")
    return done.stdout


ROLES: Mapping[str, Callable[..., None]] = {"make": make, "meter": meter}

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("--role="):
        ROLES[sys.argv[1].partition("=")[2]](*sys.argv[2:])
    else:
        sys.exit(main())
