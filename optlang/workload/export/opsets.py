"""An ONNX file in another opset, by ONNX's own converter, proven to answer as before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from optlang.interfaces import Array, Refusal
from optlang.workload import failures
from optlang.workload.export.onnx import opset_of, plain_session


def convert(path: Path, opset: int, inputs: Mapping[str, Array]) -> None:
    """Write the file again in `opset`, where it is in another one; external weights move into the file.

    Raises `Refusal` where ONNX has no way for an operator, and where the answers to `inputs` become others.
    """
    import numpy
    import onnx
    from onnx import version_converter

    model = onnx.load(path)
    before = opset_of(model)
    if before == opset:
        return
    advice = f"opset = {before}; a module is exported in any of them"
    wanted = _answers(path, inputs)
    with failures.refused(f"the file has opset {before}, and ONNX does not convert it to {opset}", help=advice):
        converted = version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted, full_check=True)
    onnx.save(converted, path)
    for name, item in _answers(path, inputs).items():
        if not numpy.allclose(item, wanted[name], rtol=1e-4, atol=1e-5):
            raise Refusal(f"converted from opset {before} to {opset}, the file answers {name} otherwise", help=advice)


def _answers(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    session = plain_session(path)
    names = [item.name for item in session.get_outputs()]
    given = {item.name: inputs[item.name] for item in session.get_inputs()}
    return dict(zip(names, session.run(names, given), strict=True))
