"""Lets `import torchvision` succeed where its wheel is not the one that belongs to torch's CPU wheel; for tests alone.

PyPI's torchvision for Linux is built for CUDA, and its compiled operators do not load next to a torch without: the
import fails at the operators that it registers in Python. Its models need none of these. Python imports a file of this
name at its start from wherever PYTHONPATH points, so workers and measured processes have it too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import PackageNotFoundError, version
from importlib.util import spec_from_file_location
from types import ModuleType

_KEPT = []   # an operator ends with the library object that defined it


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == "torchvision" else None
        if spec is None or spec.origin is None:
            return None
        return spec_from_file_location(
            fullname, spec.origin, loader=_Loader(fullname, spec.origin),
            submodule_search_locations=spec.submodule_search_locations,
        )


def _mismatched() -> bool:
    try:
        return version("torch").endswith("+cpu") and not version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return False


if _mismatched() and not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
