"""Writes a torch module as an ONNX file, and proves that both give the same answers.

The batch axis is dynamic, and so are the axes that `Dataset.axes` lists.

It knows no runtime's wishes and no quantization.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from optlang.interfaces import Array, ModelState, OutsideError, Refusal
from optlang.workload import failures, process_state
from optlang.workload.export import half_operators, second_exporter, tracing

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

    from optlang.workload.data.dataset import Dataset

OPSET = 18
"""The newest one that every runtime here reads and that both exporters write without converting (script up to 20)."""

# Protocol buffers end at 2 GiB; larger models keep their weights in an external file.
_LARGE = 1_900_000_000

# The loggers of the exporters, theirs alone: the caller may log while a model is exported.
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
_REMARKS: tuple[process_state.Remark, ...] = (
    *tracing.REMARKS,
    (r"You are using the legacy TorchScript-based ONNX export", DeprecationWarning),
    (r"The feature will be removed\. Please remove usage of this function", DeprecationWarning),
    (r"Exporting a model to ONNX with a batch_size other than 1", UserWarning),
    (r"Constant folding", UserWarning),
    # Masks are filled in place; whether the graph still says the same is what the check is for.
    (r"ONNX Preprocess - Removing mutation", UserWarning),
)


def export(
    state: ModelState, data: Dataset, path: Path, study: Path, *, opset: int = OPSET, exporter: str = "auto"
) -> None:
    """Write the module of `state` to `path`; weights of more than 2 GB go to `path`.data.

    Inputs are named as the data name them, outputs as `call.call` names them; the first axis of each is the batch.
    `exporter` "script" traces a call, "dynamo" takes torch.export's graph: that needs the package onnxscript, takes
    many times as long for mostly the same graph, in which nodes have the names of the same layers. "auto" is
    script, and dynamo where script cannot take the model: `second_exporter.marked` says so of the file. Raises
    `Refusal` with the operator where there is no ONNX for it, where `opset` is not what comes out, and where the
    graph's answers are not the module's.
    """
    if exporter == "dynamo" and importlib.util.find_spec("onnxscript") is None:
        raise OutsideError("exporter = dynamo needs onnxscript", help=second_exporter.INSTALL)
    if state.form != "module":
        raise Refusal(f"a model in the form {state.form} cannot be exported to ONNX, only a torch module")
    module: nn.Module = state.model
    types = {item.dtype for item in module.parameters()}
    if torch.bfloat16 in types:
        raise Refusal(
            "a model in bfloat16 cannot go through ONNX: its runtimes here have no kernels for it",
            help="dtype = float16 runs there; bfloat16 runs in eager",
        )
    example = data.example(tracing.TRACED)
    with tracing.first_call(module, example, study) as answers:
        proofs = tracing.proofs(module, data)

        def exported(how: str) -> ModelProto:
            axes = {name: {0: "batch", **_open(data, name)} for name in example}
            if how == "script":
                opened = tracing.open_outputs(module, data, answers)
                axes |= {name: {0: "batch", **opened.get(name, {})} for name in answers}
            with _fixed_sizes(data):
                made = _exported(module, example, tuple(answers), axes, path.parent, opset, how)
            if torch.float16 in types:
                half_operators.widen(made)
            if exporter == "auto" and how == "script" and data.axes and made.ByteSize() < _LARGE:
                _try_sizes(module, proofs, made, path.parent)
            _check_open(made, data)
            return made

        if exporter == "auto":
            model, second = second_exporter.tried(
                lambda: exported("script"), lambda: exported("dynamo"), module, example, study
            )
        else:
            model, second = exported(exporter), False
        _clean(model)
        if second:
            second_exporter.mark(model)
        _write(model, path)
        _check(module, proofs, path)


def _check_open(model: ModelProto, data: Dataset) -> None:
    """Raise `Refusal` where an exporter made an open axis one of a fixed size, which the newer one does silently."""
    from optlang.workload.export import torch_export

    shapes = {item.name: item.type.tensor_type.shape.dim for item in model.graph.input}
    for item in data.axes:
        for name, axis in item.places:
            if name in shapes and shapes[name][axis].dim_value:
                raise torch_export.fixed_size(item, "the ONNX file")


def _try_sizes(module: nn.Module, proofs: Sequence[tracing.Proof], model: ModelProto, folder: Path) -> None:
    """Raise `Refusal` where the traced graph answers one size only: the other exporter may keep the axis open."""
    import onnx

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "tried.onnx"
        onnx.save(model, file)
        try:
            _check(module, proofs, file)
        except Refusal as refusal:
            refusal.depends = "model"
            raise


@contextmanager
def _fixed_sizes(data: Dataset) -> Iterator[None]:
    """Says which axis the code makes constant, where that is why torch.export refuses."""
    from optlang.workload.export import torch_export

    try:
        yield
    except Refusal as refusal:
        error: BaseException | None = refusal
        while error is not None:
            torch_export.refuse_fixed(data.axes, str(error), "the ONNX file")
            error = error.__cause__
        raise


def _open(data: Dataset, name: str) -> dict[int, str]:
    return {axis: item.name for item in data.axes for place, axis in item.places if place == name}


def _exported(
    module: nn.Module, example: Mapping[str, Tensor], outputs: tuple[str, ...], axes: Mapping[str, Mapping[int, str]],
    folder: Path, opset: int, exporter: str,
) -> ModelProto:
    """`axes` are the open axes of inputs and outputs, each with its name."""
    import onnx

    names = tuple(example)
    how: dict[str, Any]
    if exporter == "dynamo":
        dims = {word: torch.export.Dim(word, min=1) for name in names for word in axes[name].values()}
        shapes = tuple({axis: dims[word] for axis, word in axes[name].items()} for name in names)
        how = {"dynamo": True, "dynamic_shapes": (shapes,), "verbose": False}
    else:
        how = {"dynamo": False, "dynamic_axes": axes, "do_constant_folding": True}
    # What matters of the newer exporter's warnings is asked of its result. The older one prints the whole graph on an
    # error, from C++.
    quiet = (
        process_state.quiet(_LOGGERS, [("",)], logging.CRITICAL) if exporter == "dynamo"
        else process_state.quiet(remarks=_REMARKS)
    )
    opened = any(len(axes[name]) > 1 for name in names)
    attention = tracing.any_length() if opened and exporter == "script" else nullcontext()
    with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet, attention, process_state.without_standard_output():
        file = Path(scratch) / "exported.onnx"
        other = "exporter = script takes other parts of Python; or " if exporter == "dynamo" else ""
        # torch's newer exporter wraps what stopped it in advice to its own developers.
        with failures.refused(
            "the model cannot be exported to ONNX",
            help=f"{other}write that part of forward with other operators, or use the runtime eager",
            depends="model", innermost=exporter == "dynamo",
        ):
            torch.onnx.export(
                tracing.Positional(module, names).eval(), tuple(example.values()), str(file), input_names=list(names),
                output_names=list(outputs), opset_version=opset, **how,
            )
        # External weights are loaded too.
        model = onnx.load(file)
    written = opset_of(model)
    if written != opset:
        # It says so in its log alone, and gives the opset that it has.
        raise Refusal(
            f"the exporter gives opset {written}, and not {opset}", help=f"opset = {written}, or exporter = script"
        )
    return model


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators."""
    return next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))


# ---- the file


def _clean(model: ModelProto) -> None:
    """Take out what only costs bytes, and give nodes and weights the names that the module has for them."""
    graph = model.graph
    second_exporter.name_by_layers(graph)
    del model.metadata_props[:]
    model.doc_string = ""
    for inner in _graphs(graph):
        inner.doc_string = ""
        del inner.metadata_props[:]
        for node in inner.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer):
            value.doc_string = ""
    _unwrap(graph)
    _share(graph)
    _rename(graph)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def redirect(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Let nodes, those in branches too, read what the names stand for."""
    for inner in _graphs(graph):
        for node in inner.node:
            for index, name in enumerate(node.input):
                if name in names:
                    node.input[index] = names[name]


def drop_unread(graph: GraphProto) -> None:
    """Take out the constants that nothing reads: they cost bytes, and ONNX Runtime warns of them."""
    used = {name for inner in _graphs(graph) for node in inner.node for name in node.input}
    used.update(item.name for item in graph.output)
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _unwrap(graph: GraphProto) -> None:
    """Replace nodes that only hold or hand on a value: Constant, and Identity, by which the exporter shares weights.

    A vector gets its copy back, since the int8 bias of each layer needs a scale of its own; quantizers look for
    initializers, not for what an Identity makes of them.
    """
    stored = {item.name: item for item in graph.initializer}
    answers = {item.name for item in graph.output}
    again: dict[str, str] = {}
    kept = []
    for node in graph.node:
        source = stored.get(node.input[0]) if node.op_type == "Identity" else None
        if node.op_type == "Constant" and node.attribute[0].name == "value" and node.output[0] not in answers:
            value = graph.initializer.add()
            value.CopyFrom(node.attribute[0].t)
            value.name = node.output[0]
        elif source is None or node.output[0] in answers:
            kept.append(node)
        elif len(source.dims) < 2:
            copy = graph.initializer.add()
            copy.CopyFrom(source)
            copy.name = node.output[0]
        else:
            again[node.output[0]] = source.name
    del graph.node[:]
    graph.node.extend(kept)
    redirect(graph, again)


def _share(graph: GraphProto) -> None:
    """Keep one of several equal matrices (tied weights that constant folding has transposed twice) and of shapes."""
    from onnx import TensorProto

    first: dict[tuple[Any, ...], str] = {}
    again: dict[str, str] = {}
    for item in graph.initializer:
        if len(item.dims) < 2 and item.data_type != TensorProto.INT64:
            continue
        content = hashlib.sha256(_bytes(item)).digest()
        key = (item.data_type, tuple(item.dims), content)
        if key in first:
            again[item.name] = first[key]
        else:
            first[key] = item.name
    redirect(graph, again)
    drop_unread(graph)


def _bytes(item: TensorProto) -> bytes:
    from onnx import numpy_helper

    return bytes(item.raw_data) or numpy_helper.to_array(item).tobytes()


def _rename(graph: GraphProto) -> None:
    values = _Plain()
    nodes = _Plain()
    for inner in _graphs(graph):
        for node in inner.node:
            node.name = nodes(node.name)
            node.input[:] = [values(name) for name in node.input]
            node.output[:] = [values(name) for name in node.output]
        for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer):
            value.name = values(value.name)


class _Plain:
    """Names without the wrapper's, each one once: what a hook of the module does has the wrapper's scope already."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {"": ""}
        self._taken: set[str] = {""}

    def __call__(self, name: str) -> str:
        if name not in self._known:
            plain = short = name.replace(f"/{tracing.INNER}/", "/").replace(f"{tracing.INNER}.", "")
            count = 0
            while short in self._taken:
                count += 1
                short = f"{plain}_{count}"
            self._taken.add(short)
            self._known[name] = short
        return self._known[name]


def _write(model: ModelProto, path: Path) -> None:
    import onnx

    size = sum(len(item.raw_data) for item in model.graph.initializer)
    if size > _LARGE:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        onnx.save(model, path)
    # By path, since a model of more than 2 GiB cannot be checked in memory.
    with failures.refused(
        "the model's graph is no ONNX", depends="model",
        help="calculate in float32 (no torch.autocast in forward), or use the runtime eager",
    ):
        onnx.checker.check_model(str(path), full_check=True)


# ---- the proof


def plain_session(path: Path) -> Any:
    """An ONNX Runtime session that computes what the file says, without optimizations, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _check(module: nn.Module, proofs: Sequence[tracing.Proof], path: Path) -> None:
    session = plain_session(path)
    known = {item.name for item in session.get_inputs()}

    def answer(proof: tracing.Proof, outputs: list[str]) -> list[Array]:
        given = {name: item.numpy() for name, item in proof.inputs.items() if name in known}
        answers: list[Array] = session.run(outputs, given)
        return answers

    for proof in proofs:
        tracing.prove(module, proof, "the exported graph", functools.partial(answer, proof))
