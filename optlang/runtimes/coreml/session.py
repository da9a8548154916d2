"""A package that Core ML has loaded on a Mac, and its calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optlang.interfaces import Array, Arrays, Artifact


class CoreMLSession:
    def __init__(self, model: Any, artifact: Artifact) -> None:
        self._model = model
        self._artifact = artifact
        self._kinds: Mapping[str, Any] = artifact.about["inputs"]  # type: ignore[assignment]

    def prepare(self, batch: Arrays) -> dict[str, Array]:
        return {name: batch[name].astype(self._kinds[name]["dtype"]) for name in self._artifact.inputs}

    def run(self, prepared: dict[str, Array]) -> Any:
        return self._model.predict(prepared)

    def collect(self, result: Any) -> dict[str, Array]:
        import numpy

        return {name: numpy.asarray(result[name]) for name in self._artifact.outputs}

    def close(self) -> None:
        del self._model
