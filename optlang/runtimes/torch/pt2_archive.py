"""Exported programs in files that hold no pickle."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from optlang.interfaces import Refusal

# What a program remembers of where its nodes come from: paths of this machine, and half of a small file.
_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def write(program: Any, path: Path) -> None:
    """Save an ExportedProgram: its graph as JSON, deflated, its tensors as they are; no example inputs, no origins.

    Example inputs are what torch would pickle, and the only thing; `read` refuses files with pickles.
    """
    import torch

    for node in program.graph.nodes:
        for name in _ORIGINS:
            node.meta.pop(name, None)
    program.example_inputs = None
    whole = io.BytesIO()
    torch.export.save(program, whole)
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(path, "w") as file:
        for item in given.infolist():
            way = zipfile.ZIP_DEFLATED if item.filename.endswith(".json") else zipfile.ZIP_STORED
            file.writestr(zipfile.ZipInfo(item.filename, _NO_DATE), given.read(item), way)


def read(path: Path) -> Any:
    """The graph of the program in `path`, a module that takes the inputs in order.

    Raises `Refusal` for a file that cannot be read, or that holds what only a pickle can say: loading one runs whatever
    its writer liked.
    """
    import torch

    try:
        _check_plain(path)
        return torch.export.load(path).module(check_guards=False)
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise Refusal(f"torch.export does not load the model: {lines[0]}") from error


def _check_plain(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        for item in file.infolist():
            where = item.filename.partition("/")[2]
            if where.startswith("data/sample_inputs/") and item.file_size:
                raise Refusal(f"{path.name} holds a pickle, {where}, which is not loaded")
            if where.endswith("_config.json"):
                entries = json.loads(file.read(item))["config"]
                for name, entry in entries.items():
                    if entry["use_pickle"]:
                        raise Refusal(f"{path.name} holds a pickle, {name}, which is not loaded")
            elif where.startswith(("data/weights/", "data/constants/")) and where.endswith((".pt", ".pkl")):
                raise Refusal(f"{path.name} holds a pickle, {where}, which is not loaded")
