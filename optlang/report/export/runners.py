"""The programs that run an exported artifact: one a runtime, needing little but its package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optlang.report.export import checked, tensorrt_runner

_OPENING = '''"""Runs the exported model: `python run.py [INPUTS.npz]` ({package}).

INPUTS.npz holds one array an input, by its name, the first axis being the batch. Without it the example inputs that
were exported with the model are used, and its outputs compared with those that were measured; where there are none,
zeros are.
"""

import sys
from pathlib import Path

import numpy as np
{imports}
HERE = Path(__file__).resolve().parent
# Samples a call, as it was measured: an answer may depend on the other samples of its call. None: all at once.
BATCH = {samples}


def load():
{load}

def run(model, inputs):
    """Outputs by name, from inputs by name."""
{run}

def answers(model, inputs):
    """Outputs by name to any number of samples, in calls of BATCH."""
    count = len(next(iter(inputs.values())))
    pieces = []
    for start in range(0, count, BATCH or count):
        # The last call is filled up with the first samples.
        indices = np.arange(start, start + (BATCH or count)) % count if BATCH and count > BATCH else slice(None)
        pieces.append(run(model, {{name: item[indices] for name, item in inputs.items()}}))
    return {{name: np.concatenate([piece[name] for piece in pieces])[:count] for name in pieces[0]}}


def check(outputs):
    """Compare with the outputs that belong to the example inputs: how far off the largest difference is."""
    path = HERE / "example_outputs.npz"
    if path.is_file():
        with np.load(path) as known:
            for name in known.files:
                off = float(np.max(np.abs(outputs[name] - known[name]), initial=0.0))
                scale = float(np.max(np.abs(known[name]), initial=0.0))
                print(f"{{name}}: largest difference {{off:.3g}} of {{scale:.3g}}")
                if off > 0.02 * scale + 1e-5:
                    sys.exit(f"the output {{name}} is not what was measured")


def main():
    model = load()
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "example_inputs.npz"
    if path.is_file():
        with np.load(path) as file:
            inputs = {{name: file[name] for name in file.files}}
    elif len(sys.argv) > 1:
        sys.exit(f"there is no file {{path}}")
    else:
        inputs = zeros(model)
    outputs = answers(model, inputs)
    for name, value in outputs.items():
        print(name, value.dtype, value.shape)
    if len(sys.argv) == 1 and path.is_file():
        check(outputs)


{zeros}

if __name__ == "__main__":
    main()
'''

_ONNXRUNTIME = {
    "package": "pip install onnxruntime numpy",
    "imports": "import onnxruntime\n",
    "load": '''    """The session that runs the model, as it was measured."""
{session}    return onnxruntime.InferenceSession(HERE / {file!r}{options}, providers={providers}{skipped})
''',
    "run": """    names = [output.name for output in model.get_outputs()]
    return dict(zip(names, model.run(names, inputs)))
""",
    "zeros": '''def zeros(model):
    """Inputs of the right types and shapes; axes of any length are 1."""
    kinds = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
             "tensor(bool)": "bool"}
    return {
        item.name: np.zeros(
            [size if isinstance(size, int) else 1 for size in item.shape],
            kinds.get(item.type) or item.type.removeprefix("tensor(").removesuffix(")"),
        )
        for item in model.get_inputs()
    }
''',
}

_OPENVINO = {
    "package": "pip install openvino numpy",
    "imports": "import openvino\n",
    "load": '''    """The model; it is compiled once for each number of samples a call."""
    core = openvino.Core()
    return core, core.read_model(HERE / {file!r}), {}


def compiled(model, samples):
    """The model compiled for calls of so many samples, as it was measured: a fixed shape is faster than an open one."""
    core, graph, known = model
    if samples not in known:
        graph = graph.clone()
        if {batch!r} is None:
            shapes = {item.any_name: item.partial_shape for item in graph.inputs}
            for shape in shapes.values():
                shape[0] = samples
            graph.reshape(shapes)
        config = {
            "PERFORMANCE_HINT": {hint!r}, "INFERENCE_NUM_THREADS": {threads!r}, "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False, "SNIPPETS_MODE": "DISABLE",
            # Left to itself, it calculates in bfloat16 where the processor has that.
            "INFERENCE_PRECISION_HINT": {precision!r},
        }
        known[samples] = core.compile_model(graph, "CPU", config)
    return known[samples]

''',
    "run": """    found = compiled(model, len(next(iter(inputs.values()))))(inputs)
    return {name: value.copy() for output, value in found.items() for name in output.names}
""",
    "zeros": '''def zeros(model):
    """Inputs of the right types and shapes; axes of any length are 1."""
    return {
        item.get_any_name(): np.zeros(
            [size.get_length() if size.is_static else 1 for size in item.get_partial_shape()],
            item.get_element_type().to_dtype(),
        )
        for item in model[1].inputs
    }
''',
}

_NO_ZEROS = """def zeros(model):
    sys.exit("there are no example inputs here: name a file of inputs, INPUTS.npz")
"""

_EAGER = {
    "package": "the package that exported it, since the model is made by its factory and then changed as it was",
    "imports": "import json\nimport os\n\n"
    "from optlang.interfaces import Artifact, ArtifactFile, OptlangError, TargetSpec\n"
    "from optlang.runtimes.torch.eager import Eager\n",
    "load": '''    """The session that runs the model; the folder `python` holds the user's own Python that makes it.

    Where that reads files of its own, name the study's folder in OPTLANG_STUDY: the Python is then taken from there.
    """
    home = HERE
    while not (home / "manifest.json").is_file():
        home = home.parent
    manifest = json.loads((home / "manifest.json").read_text(encoding="utf-8"))
    entry = next(item for item in manifest["artifacts"] if home / item["folder"] == HERE)
    artifact = Artifact(
        HERE, entry["format"], tuple(ArtifactFile(**file) for file in entry["files"]),
        tuple(item["name"] for item in entry["inputs"]), tuple(item["name"] for item in entry["outputs"]),
        entry["about"],
    )
    study = Path(os.environ.get("OPTLANG_STUDY") or HERE / "python").resolve()
    try:
        return Eager().open(artifact, TargetSpec(entry["target"], {device!r}, {threads!r}, {samples!r}), {}, study)
    except OptlangError as error:
        sys.exit(f"error: {error}\\n  the model is made by the Python in {study}; OPTLANG_STUDY names another folder")
''',
    "run": """    return model.collect(model.run(model.prepare(inputs)))
""",
    "zeros": _NO_ZEROS,
}

_TORCHSCRIPT = {
    "package": "pip install torch numpy; the Python that made the model is not needed",
    "imports": "import torch\n",
    "load": '''    """The graph; its forward takes the inputs in order and returns a tuple of outputs."""
    torch.set_num_threads({threads!r})
    model = torch.jit.load(HERE / {file!r}, map_location={device!r}).eval()
    # As it was measured: with the kernels of this machine, which cannot be saved.
    return torch.jit.optimize_for_inference(model) if {graph!r} == "optimized" else model
''',
    "run": """    with torch.inference_mode():
        found = model(*(torch.from_numpy(inputs[name]).to({device!r}) for name in {inputs!r}))
    # numpy has no bfloat16, and the answers were measured in float32.
    found = [value.float() if value.is_floating_point() else value for value in found]
    return {name: value.cpu().numpy() for name, value in zip({outputs!r}, found)}
""",
    "zeros": _NO_ZEROS,
}

_AOTINDUCTOR = {
    **_TORCHSCRIPT,
    "imports": "import torch\nimport torch._inductor\n",
    "load": '''    """The compiled model, for the processor that it was built on."""
    torch.set_num_threads({threads!r})
    return torch._inductor.aoti_load_package(str(HERE / {file!r}))
''',
}

_EXECUTORCH = {
    "package": "pip install executorch numpy, in the version that manifest.json names under `about`, with its torch",
    "imports": "import torch\nfrom executorch.extension.pybindings import portable_lib\n"
    "from executorch.runtime import Runtime\n",
    "load": '''    """The method; it takes the inputs in order, {batch!r} samples at once."""
    if portable_lib._threadpool_get_thread_count() != {threads!r}:
        portable_lib._unsafe_reset_threadpool({threads!r})
    return Runtime.get().load_program(HERE / {file!r}).load_method("forward")
''',
    "run": """    count = len(next(iter(inputs.values())))
    found = []
    for start in range(0, count, {batch!r}):
        # The last call is filled up with the first samples.
        indices = [index % count for index in range(start, start + {batch!r})]
        answers = model.execute([torch.from_numpy(inputs[name][indices]) for name in {inputs!r}])
        found.append([value.float().numpy() if value.is_floating_point() else value.numpy() for value in answers])
    return {name: np.concatenate(parts)[:count] for name, parts in zip({outputs!r}, zip(*found))}
""",
    "zeros": _NO_ZEROS,
}

_COREML = {
    "package": "pip install coremltools numpy, on a Mac",
    "imports": "import coremltools\n",
    "load": '''    """The package, compiled by this Mac."""
    if sys.platform != "darwin":
        sys.exit("Core ML runs on macOS only")
    return coremltools.models.MLModel(str(HERE / {file!r}), compute_units=coremltools.ComputeUnit.{units})
''',
    "run": """    found = []
    count = len(next(iter(inputs.values())))
    for start in range(0, count, {batch!r}):
        # The last call is filled up with the first samples; Core ML's integers have 32 bits.
        indices = [index % count for index in range(start, start + {batch!r})]
        given = {name: inputs[name][indices] for name in {inputs!r}}
        given = {name: item.astype("int32") if item.dtype.kind in "iub" else item for name, item in given.items()}
        answers = model.predict(given)
        found.append([np.asarray(answers[name]) for name in {outputs!r}])
    return {name: np.concatenate(parts)[:count] for name, parts in zip({outputs!r}, zip(*found))}
""",
    "zeros": _NO_ZEROS,
}

_LITERT = {
    "package": "pip install ai-edge-litert numpy",
    "imports": "from ai_edge_litert.interpreter import Interpreter\n",
    "load": '''    """The interpreter; it takes {batch!r} samples at once."""
    model = Interpreter(model_path=str(HERE / {file!r}), num_threads={threads!r})
    model.allocate_tensors()
    return model
''',
    "run": """    count = len(next(iter(inputs.values())))
    found = []
    for start in range(0, count, {batch!r}):
        # The last call is filled up with the first samples.
        indices = [index % count for index in range(start, start + {batch!r})]
        for item in model.get_input_details():
            model.set_tensor(item["index"], inputs[item["name"]][indices].astype(item["dtype"]))
        model.invoke()
        answers = {item["name"]: model.get_tensor(item["index"]) for item in model.get_output_details()}
        found.append([answers[name] for name in {outputs!r}])
    return {name: np.concatenate(parts)[:count] for name, parts in zip({outputs!r}, zip(*found))}
""",
    "zeros": '''def zeros(model):
    """Inputs of the right types and shapes."""
    return {item["name"]: np.zeros(item["shape"], item["dtype"]) for item in model.get_input_details()}
''',
}

_INDUCTOR = {
    part: text.replace("eager import Eager", "inductor import Inductor").replace("Eager()", "Inductor()")
    for part, text in _EAGER.items()
}

_INDUCTOR_INT8 = {
    "package": "pip install torch torchao numpy, and a C++ compiler; the Python that made the model is not needed",
    "imports": "import torch\nimport torch._inductor.config\n\n"
    "# Importing it tells torch which patterns become integer kernels.\n"
    "from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer  # noqa: F401\n",
    "load": '''    """The program, which is compiled when it is called first; it takes the inputs in order."""
    torch.set_num_threads({threads!r})
    torch._inductor.config.freezing = True
    model = torch.export.load(HERE / {file!r}).module(check_guards=False)
    return torch.compile(model, dynamic={dynamic!r}, fullgraph=True)
''',
    "run": """    count = len(next(iter(inputs.values())))
    batch = {batch!r} or count
    found = []
    for start in range(0, count, batch):
        # The last call is filled up with the first samples.
        indices = [index % count for index in range(start, start + batch)]
        with torch.no_grad():
            found.append(model(*(torch.from_numpy(inputs[name][indices]) for name in {inputs!r})))
    return {name: torch.cat(parts)[:count].numpy() for name, parts in zip({outputs!r}, zip(*found))}
""",
    "zeros": _NO_ZEROS,
}

_PROGRAMS = {
    "onnxruntime": _ONNXRUNTIME, "openvino": _OPENVINO, "eager": _EAGER, "torchscript": _TORCHSCRIPT,
    "aotinductor": _AOTINDUCTOR, "inductor": _INDUCTOR, "inductor pt2": _INDUCTOR_INT8, "executorch": _EXECUTORCH,
    "coreml": _COREML,
    "tensorrt": tensorrt_runner.PROGRAM, "litert": _LITERT,
}


# What an artifact says of itself and where it stands in a program: its key, what it must be, and how it is written.
_MARKS: dict[str, tuple[str, Callable[[Any, str], Any], Callable[[Any], str]]] = {
    "{library}": ("module", checked.word, str), "{version}": ("version", checked.word, str),
    "{compute}": ("compute", checked.word, str), "{units}": ("units", checked.word, str),
    "{graph!r}": ("graph", checked.word, repr), "{batch!r}": ("batch", checked.count, repr),
    "{precision!r}": ("precision", checked.word, lambda value: repr(value or "f32")),
    "{hint!r}": ("hint", checked.word, lambda value: repr(value or "LATENCY")),
    "{dynamic!r}": ("dynamic", checked.truth, repr), "{replayed!r}": ("cuda_graph", checked.truth, repr),
}


def runner(runtime: str | None, entry: Mapping[str, Any]) -> str | None:
    """The text of `run.py` for an artifact as its manifest describes it; None for runtimes that have none."""
    name = (runtime or "").rsplit(".", 1)[-1]
    parts = _PROGRAMS.get(f"{name} {entry.get('format')}", _PROGRAMS.get(name))
    main = _main_file([file["name"] for file in entry["files"]])
    if parts is None or main is None:
        return None
    about = entry["about"]
    measured = about.get("measured") or {}
    most = [shapes["max"][0] for shapes in (about.get("profile") or {}).values()]
    known = {
        **_session(about),
        "{file!r}": repr(main), "{most!r}": repr(checked.count(most[0], "most samples") if most else None),
        "{threads!r}": repr(checked.count(measured.get("threads", 1), "threads")),
        "{device!r}": repr(checked.word(measured.get("device") or "cpu", "device")),
        "{samples!r}": repr(checked.count(measured.get("batch", 1), "batch")),
        **{
            mark: shown(check(value, key) if (value := about.get(key)) is not None else None)
            for mark, (key, check, shown) in _MARKS.items()
            if any(mark in text for text in parts.values())
        },
        **{f"{{{key}!r}}": repr(tuple(item["name"] for item in entry[key])) for key in ("inputs", "outputs")},
        # The layout of images ends the process where a Transformer in float16 is loaded: see onnxruntime/session.py.
        "{skipped}": "" if about.get("convolutions", True) else ', disabled_optimizers=["NchwcTransformer"]',
    }
    samples = about.get("samples_a_call")
    filled = {**parts, "samples": repr(None if samples is None else checked.count(samples, "samples a call"))}
    for mark, value in known.items():
        filled = {part: text.replace(mark, value) for part, text in filled.items()}
    return _OPENING.format(**filled).rstrip() + "\n"


def _session(about: Mapping[str, Any]) -> dict[str, str]:
    """What ONNX Runtime's session was measured with, as lines of the program; nothing where that is not known."""
    cpu, cuda = "CPUExecutionProvider", ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})
    known = about.get("session")
    if known is None:
        return {"{session}": "", "{options}": "", "{providers}": repr([cpu])}
    parallel = known["execution"] == "parallel"
    graph = checked.word(known["graph"], "graph")
    level = "ORT_DISABLE_ALL" if graph == "off" else f"ORT_ENABLE_{graph.upper()}"
    given = [
        f"graph_optimization_level = onnxruntime.GraphOptimizationLevel.{level}",
        f"intra_op_num_threads = {checked.count(known['threads'], 'threads')}",
        f"inter_op_num_threads = {checked.count(known['inter_threads'], 'threads') if parallel else 1}",
        f"execution_mode = onnxruntime.ExecutionMode.ORT_{'PARALLEL' if parallel else 'SEQUENTIAL'}",
        f"enable_cpu_mem_arena = {checked.truth(known['arena'], 'arena')}",
    ]
    lines = ["options = onnxruntime.SessionOptions()", *(f"options.{line}" for line in given)]
    if not known["spinning"]:
        lines += [
            f'options.add_session_config_entry("session.{pool}.allow_spinning", "0")'
            for pool in ("intra_op", "inter_op")
        ]
    first: dict[str, list[Any]] = {"cpu": [], "cuda": [cuda], "tensorrt": ["TensorrtExecutionProvider", cuda]}
    return {
        "{session}": "".join(f"    {line}\n" for line in lines), "{options}": ", options",
        "{providers}": repr([*first[checked.one_of(known["provider"], first, "a provider")], cpu]),
    }


def _main_file(names: list[str]) -> str | None:
    """The file that a runtime loads; it finds the others next to it."""
    packages = [name.partition(".mlpackage/")[0] + ".mlpackage" for name in names if ".mlpackage/" in name]
    if packages:
        return packages[0]
    for ending in (".onnx", ".xml", ".safetensors", ".pt", ".pt2", ".pte", ".engine", ".ort", ".tflite"):
        for name in names:
            if name.endswith(ending):
                return name
    return None


def builder(entry: Mapping[str, Any]) -> str | None:
    """The text of `build.sh` for an artifact that knows a command which builds it again; None for others."""
    command = entry["about"].get("command")
    return None if command is None else tensorrt_runner.SCRIPT.replace("{command}", checked.command(command))
