"""Reads files of weights: safetensors, torch's own files, and the index of a model in several files.

It knows what files hold, and no model. Nothing is unpickled that could run code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from optlang.interfaces import WEIGHTS_FORMS, OptlangError

States = dict[str, dict[str, Tensor]]
"""The sets of tensors that a file holds, by where they stand in it ("", "state_dict", "model.ema")."""

_SAVE = "save them with torch.save(model.state_dict(), …) or safetensors; whole pickled models are not read"
_INDEX = ".index.json"
_DEPTH = 3
# How numpy unpickles a number and an array, and what older releases call these.
_NUMPY = {"scalar": numpy.float64(0).__reduce__()[0], "_reconstruct": numpy.zeros(1).__reduce__()[0]}
# What training scripts keep next to their weights. Making these runs no code but their own.
_HARMLESS: tuple[Any, ...] = (
    argparse.Namespace, pathlib.PosixPath, numpy.dtype, numpy.ndarray,
    *((made, f"numpy.{core}.multiarray.{name}") for name, made in _NUMPY.items() for core in ("core", "_core")),
    *(type(numpy.dtype(kind)) for kind in "?bhilqBHILQefd"),
)


def read(path: Path) -> States:
    """The sets of tensors of the file `path`; OptlangError where it is absent, of another kind, or holds no tensors."""
    if path.is_dir():
        raise OptlangError(f"{path} is a folder, not a file of weights", help=f"name {WEIGHTS_FORMS}")
    if not path.is_file():
        raise OptlangError(f"there is no file of weights {path}", help=f"name {WEIGHTS_FORMS}")
    if path.name.endswith(_INDEX):
        state: dict[str, Tensor] = {}
        for part in parts(path):
            if not part.is_file():
                raise OptlangError(
                    f"{path.name} names {part.name}, and there is no such file", help=f"copy all files of {path.name}"
                )
            state |= _content(part)
        content: Any = state
    else:
        content = _content(path)
    if isinstance(content, Tensor) or not isinstance(content, Mapping):
        raise OptlangError(f"{path} contains a {type(content).__name__}, not a state dict", help=_SAVE)
    states = dict(_states(content))
    if not states:
        raise OptlangError(f"{path} contains {some(list(map(str, content)))}, and no tensors by name", help=_SAVE)
    return states


def parts(path: Path) -> list[Path]:
    """The files that hold the tensors: `path` itself, or those next to it that an index names."""
    if not path.name.endswith(_INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptlangError(f"{path} is not the index of a model in several files: {error!r}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise OptlangError(f"{path.name} names {name}, which lies outside its folder")
    return [path.parent / name for name in names]


def fingerprint(path: Path) -> str | None:
    """What the file's tensors are, as a hash of all its files; None where one is absent."""
    if not path.is_file():
        return None
    files = [path, *(part for part in parts(path) if part != path)]
    if not all(item.is_file() for item in files):
        return None
    hashes = [_hash(item, item.stat().st_mtime_ns, item.stat().st_size) for item in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


@lru_cache(maxsize=64)
def _hash(path: Path, _time: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise OptlangError(f"{path} is a pointer of Git LFS, not the weights", help="git lfs pull")
    if path.suffix == ".safetensors":
        import safetensors
        import safetensors.torch

        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise OptlangError(f"{path} is not a safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)), warnings.catch_warnings():
            warnings.simplefilter("ignore")   # of archives that it refuses in the next line
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptlangError(f"{path} does not contain a plain state dict: {_why(error)}", help=_advice(error)) from error


def _pickled(error: Exception) -> str | None:
    """The class whose pickled objects a file holds, as torch names it; None where that was not the reason."""
    found = re.search(r"Unsupported (?:global: GLOBAL|class|operand) ([\w.]+)", str(error))
    return found[1] if found else None


def _why(error: Exception) -> str:
    """What torch says of a file that it does not read, without its advice to read it all the same."""
    text = str(error).strip()
    known = _pickled(error)
    if known:
        return f"it holds a pickled {known}, and unpickling may run any code"
    if "TorchScript" in text:
        return "it is a TorchScript archive, a compiled model"
    return text.splitlines()[0] if text else type(error).__name__


def _advice(error: Exception) -> str:
    known = _pickled(error)
    if known is None or re.search(r"\.(nn|models?|modules?|networks?)\.", f".{known}."):
        return _SAVE
    return (
        "if you trust the file, save its weights alone: torch.save(torch.load(FILE, weights_only=False)"
        '["state_dict"], "weights.pt"), with the key that holds them'
    )


def _states(content: Mapping[Any, Any], place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    tensors = {key: item for key, item in content.items() if isinstance(key, str) and isinstance(item, Tensor)}
    if tensors:
        yield place, tensors
    if depth < _DEPTH:
        for key, item in content.items():
            if isinstance(key, str) and isinstance(item, Mapping):
                yield from _states(item, f"{place}.{key}" if place else key, depth + 1)


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of `names`, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
