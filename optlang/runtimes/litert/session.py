"""A file that LiteRT's interpreter has loaded, and its calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optlang.interfaces import Array, Arrays, Refusal


class LiteRTSession:
    def __init__(self, path: Path, outputs: Mapping[str, Mapping[str, Any]], threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise Refusal(f"LiteRT does not load the model: {error}", help="the runtime onnxruntime") from error
        self._inputs = {item["name"]: item for item in self._interpreter.get_input_details()}
        places = {item["name"]: item["index"] for item in self._interpreter.get_output_details()}
        self._outputs = [(name, places[name], about["dtype"]) for name, about in outputs.items()]

    def prepare(self, batch: Arrays) -> list[tuple[int, Array]]:
        """The inputs in the file's types, by the places that they go to."""
        import numpy

        return [
            (item["index"], numpy.ascontiguousarray(batch[name], dtype=item["dtype"]))
            for name, item in self._inputs.items()
        ]

    def run(self, prepared: list[tuple[int, Array]]) -> None:
        """Copy the inputs in and call the graph once; its answers stay where it wrote them."""
        for place, item in prepared:
            self._interpreter.set_tensor(place, item)
        self._interpreter.invoke()

    def collect(self, result: None) -> dict[str, Array]:
        """The answers in the types that the module gives."""
        return {
            name: self._interpreter.get_tensor(place).astype(dtype, copy=False)
            for name, place, dtype in self._outputs
        }

    def close(self) -> None:
        del self._interpreter
