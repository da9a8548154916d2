"""OpenVINO on the CPU: the file that it loads, an .onnx file or its own .xml and .bin.

It reads the same `.onnx` as ONNX Runtime: one QDQ file serves both, and is far smaller than OpenVINO's own files.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import Artifact, ModelState, QuantWants, Refusal, Session, TargetSpec
from optlang.runtimes.openvino import quantize, session

if TYPE_CHECKING:
    from optlang.workload.data.dataset import Dataset

NAME = "model.xml"
WEIGHTS = "model.bin"
_UNNAMED = re.compile(r"[A-Z]\w*_\d+")


class OpenVino:
    """The artifact is `model.onnx`, or `model.xml` with `model.bin`.

    `settings["hint"]` is what the runtime schedules for, `settings["precision"]` what it calculates in,
    `settings["file"]` which file it is ("onnx" or "ir"), and `settings["int8"]` whether NNCF makes it int8 ("none",
    "nncf", or "accuracy": with as many layers in float as keep to `settings["max_drop"]`).
    """

    imports: ClassVar[tuple[str, ...]] = ("openvino",)

    def available(self) -> str | None:
        """None where openvino is installed."""
        return None if importlib.util.find_spec("openvino") else 'pip install "optlang-dsl[openvino]"'

    def wants(self) -> QuantWants:
        """The same as ONNX Runtime: the QDQ file made for it runs as fast here as one of OpenVINO's own tool.

        But ONNX's operators for dynamic int8 have no kernels here (a BERT ran at a fifth of its speed in float): linear
        layers whose weights are integers round their inputs as they come.
        """
        from optlang.runtimes.shared.processor import overflows

        return QuantWants("uint8", "int8", False, True, True, reduced=overflows(), dynamic="weights")

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Write `model.onnx`, or OpenVINO's own `model.xml` and `model.bin`, in int8 by NNCF where that is asked for.

        OpenVINO's converter is not used: it is what reports to its makers, and reading a file does not.
        """
        from optlang.runtimes.shared import onnx_file

        if target.device != "cpu":
            raise Refusal(f"this runtime is OpenVINO on the CPU; the target's device is {target.device}")
        if settings.get("int8", "none") == "none" and settings.get("file", "onnx") == "onnx":
            artifact = onnx_file.build(state, "openvino", folder, data, study)
        else:
            with tempfile.TemporaryDirectory(prefix="optlang-openvino-") as scratch:
                onnx = onnx_file.build(state, "openvino", Path(scratch), data, study)
                artifact = _own_format(onnx, state, target, settings, folder, data)
        chosen = {
            "precision": session.PRECISIONS[settings.get("precision", "float32")],
            "hint": session.HINTS[settings.get("hint", "latency")],
        }
        return replace(artifact, about={**artifact.about, **chosen})

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """A compiled model with one stream of `target.threads` threads, for the target's batch size."""
        return session.opened(artifact, target, settings)


def _own_format(
    onnx: Artifact, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset
) -> Artifact:
    """Write `model.xml` and `model.bin` into `folder`, from the ONNX file of `state`; weights keep their precision."""
    from optlang.runtimes.shared import onnx_file
    from optlang.runtimes.shared.artifact_files import described

    way = str(settings.get("int8", "none"))
    # Its own names come and go with its build: none of them is in its types.
    openvino: Any = importlib.import_module("openvino")
    # OpenVINO's converters report to its makers too; reading a file does not.
    source = onnx.folder / onnx_file.NAME
    model, stored = openvino.Core().read_model(str(source)), onnx.about["stored"]
    if way != "none":
        model, stored = quantize.quantized(model, source, state, target, settings, data.bind(onnx.inputs))
    _rename(model)
    openvino.save_model(model, str(folder / NAME), compress_to_fp16=False)
    about = {"batch": onnx.about["batch"], "int8": way, "stored": stored}
    return Artifact(folder, "openvino", described(folder, [NAME, WEIGHTS]), onnx.inputs, onnx.outputs, about)


def _rename(model: Any) -> None:
    """Give operators that have no name of their own one that is the same each time, not the next of this process."""
    for index, item in enumerate(model.get_ordered_ops()):
        if _UNNAMED.fullmatch(item.get_friendly_name()):
            item.set_friendly_name(f"{item.get_type_name()}.{index}")
