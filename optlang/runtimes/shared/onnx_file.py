"""The ONNX file that several runtimes load: exported from a module, or copied with its weights. Runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Artifact, ModelState, Refusal

if TYPE_CHECKING:
    from optlang.workload.data.dataset import Dataset

NAME = "model.onnx"
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def build(
    state: ModelState, runtime: str, folder: Path, data: Dataset, study: Path, *, opset: int | None = None,
    exporter: str = "auto",
) -> Artifact:
    """Write `model.onnx` into `folder`. `about["batch"]` is the number of samples that the graph is fixed to, or None,
    `about["convolutions"]` whether it has any, whose images a runtime may store in another layout (see `laid_out`), and
    `about["stored"]` how much of its weights is in few bits.

    `about["exporter"]` is "dynamo" where torch's first exporter could not take the module.

    `opset` None leaves a file as it is and exports a module in the exporter's own; a file in another one is converted.
    Whatever comes out has passed ONNX's checker. Raises `Refusal` for a module that cannot be exported, for a file that
    cannot be converted or that `exporter` "dynamo" is named for, and for other forms.
    """
    import shutil

    import onnx

    from optlang.runtimes.shared.artifact_files import described
    from optlang.workload.export import onnx as onnx_export
    from optlang.workload.export import onnx_weights, second_exporter
    from optlang.workload.model import quantized_share
    from optlang.workload.model.save import external_files

    path = folder / NAME
    if state.form == "module":
        onnx_export.export(state, data, path, study, opset=opset or onnx_export.OPSET, exporter=exporter)
    elif state.form == "onnx":
        source = Path(state.model)
        shutil.copyfile(source, path)
        for name in external_files(source):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / name, folder / name)
        if exporter == "dynamo":
            raise Refusal(
                f"the model comes as an ONNX file, and exporter = {exporter} exports modules",
                help="set exporter = auto",
            )
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            raise Refusal(f"the file is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
        if opset is not None:
            _convert(path, opset, data)
    else:
        raise Refusal(f"{runtime} runs torch modules and ONNX files, not a model in the form {state.form}")
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    stored = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in stored]
    batches = {item.type.tensor_type.shape.dim[0].dim_value for item in inputs if item.type.tensor_type.shape.dim}
    if len(batches) > 1:
        raise Refusal(f"the inputs of the graph are fixed to different numbers of samples: {sorted(batches)}")
    batch = next(iter(batches), 0)
    names = [NAME, *external_files(path)]
    return Artifact(
        folder, "onnx", described(folder, names), tuple(item.name for item in inputs),
        tuple(item.name for item in graph.output),
        {
            "batch": batch or None, "convolutions": laid_out(graph),
            "stored": quantized_share.stored(*onnx_weights.shares(graph)),
            **({"exporter": second} if (second := second_exporter.marked(model)) else {}),
        },
    )


def laid_out(graph: Any) -> bool:
    """Whether a runtime may store images in another layout: there are convolutions, and no Transformer in float16.

    There the layout ends the process (ONNX Runtime 1.32), and one convolution for the patches gains nothing by it.
    """
    from onnx import TensorProto

    kinds = {node.op_type for node in graph.node}
    halved = any(item.data_type == TensorProto.FLOAT16 for item in graph.initializer)
    return bool(kinds.intersection(_CONVOLUTIONS)) and not (halved and {"MatMul", "Softmax"} <= kinds)


def _convert(path: Path, opset: int, data: Dataset) -> None:
    import onnx

    from optlang.workload.export import opsets
    from optlang.workload.model.save import external_files

    graph = onnx.load(path, load_external_data=False).graph
    stored = {item.name for item in graph.initializer}
    first = next((item for item in graph.input if item.name not in stored), None)
    fixed = first is not None and first.type.tensor_type.shape.dim[0].dim_value
    before = external_files(path)
    example = data.bind([item.name for item in graph.input if item.name not in stored]).example(fixed or 2)
    opsets.convert(path, opset, {name: item.numpy() for name, item in example.items()})
    for name in set(before) - set(external_files(path)):
        (path.parent / name).unlink()
