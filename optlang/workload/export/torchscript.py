"""Writes a torch module as a TorchScript file, the same bytes each time, and proves that both answer the same.

It knows no runtime's wishes; what a file may be optimized to when it is loaded is for the runtime to know.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from optlang.interfaces import Array
from optlang.workload import failures, process_state
from optlang.workload.data.tensors import array, members_of
from optlang.workload.export import tracing
from optlang.workload.model.call import arguments

if TYPE_CHECKING:
    from optlang.workload.data.dataset import Dataset

_MANGLED = re.compile(r"___torch_mangle_(\d+)")
# `version` is kept; the id is a hash of the other records, and nothing that loads asks for it.
_LEFT_OUT = (".debug_pkl", "/.data/serialization_id")


def export(module: nn.Module, data: Dataset, path: Path, study: Path, *, mode: str, fold: bool) -> tuple[str, ...]:
    """Write `module` to `path` and return its outputs' names; the graph's own are a tuple in that order.

    Its inputs are the data's, in order. `mode` is "trace" or "script"; `fold` lets norms be folded into convolutions,
    which changes roundings. Raises `Refusal` with the operator or the line where the module cannot be traced or
    compiled, and where the file's answers to another number of samples, or to other sizes of open axes, are not the
    module's.
    """
    example = data.example(tracing.TRACED)
    with tracing.first_call(module, example, study, process_state.quiet(remarks=tracing.REMARKS)) as answers:
        graph = _traced(module, example) if mode == "trace" else _scripted(module, example)
        stored = io.BytesIO()
        torch.jit.save(torch.jit.freeze(graph.eval(), optimize_numerics=fold), stored)
        _write(stored, path)
        for proof in tracing.proofs(module, data):
            _prove(module, proof, path)
    return tuple(answers)


def _traced(module: nn.Module, example: Mapping[str, Tensor]) -> Any:
    wrapped = tracing.Positional(module, tuple(example)).eval()
    with failures.refused(
        "the model cannot be traced",
        help="mode = script compiles the source of forward instead; or use the runtime eager",
    ):
        # Its own check calls again with the same samples; ours takes others.
        return torch.jit.trace(wrapped, tuple(example.values()), check_trace=False)  # type: ignore[no-untyped-call]


def _scripted(module: nn.Module, example: Mapping[str, Tensor]) -> Any:
    """The compiled module in a forward that takes tensors in order and gives a tuple, written for its answer's form."""
    positional, named = arguments(module, example)
    names = [f"input_{index}" for index in range(len(example))]
    words = {name: f"{name}={place}" for name, place in zip(example, names, strict=True)}
    given = names if positional else [words[name] for name in named]
    answers = ", ".join(_places(module(*positional, **named), "answer"))
    source = (
        f"def forward(self, {', '.join(names)}):\n"
        f"    answer = self.inner({', '.join(given)})\n"
        f"    return ({answers},)\n"
    )

    # A class of its own each time: torch would take up the compiled one again, which has its forward already.
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

    with failures.refused(
        "the model's forward cannot be compiled",
        help="mode = trace records one call instead; or use the runtime eager",
    ):
        compiled = torch.jit.script(Holder().eval())
        compiled.define(source)
    return compiled


def _places(value: Any, place: str) -> list[str]:
    """Where the tensors of an answer are, as source, in the order of `tensors.flat_outputs`."""
    if isinstance(value, Tensor):
        return [place]
    return [found for _, inner, step in members_of(value) or () for found in _places(inner, place + step)]


# ---- the file


def _write(stored: io.BytesIO, path: Path) -> None:
    """The archive without where the source lay on this machine, its classes numbered from zero.

    torch numbers classes of one name through the life of a process, so the second graph has other names than the first.
    """
    numbers: dict[str, str] = {}

    def renamed(text: str) -> str:
        return _MANGLED.sub(lambda found: f"___torch_mangle_{numbers.setdefault(found[1], str(len(numbers)))}", text)

    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            if name.endswith(_LEFT_OUT):
                continue
            content = source.read(name)
            if name.endswith(".py"):
                content = renamed(content.decode()).encode()
            elif name.endswith(".pkl"):
                content = _renamed_pickle(content, renamed)
            # Of no date: a ZipInfo's own is the first of January 1980.
            target.writestr(zipfile.ZipInfo(renamed(name)), content)


def _renamed_pickle(content: bytes, renamed: Any) -> bytes:
    """A pickle with names of classes changed, where they are named and where a text says a type; nothing is loaded."""
    operations = [(kind.name, value, start) for kind, value, start in pickletools.genops(content) if start is not None]
    ends = [start for _, _, start in operations[1:]] + [len(content)]
    pieces = []
    for (kind, value, start), end in zip(operations, ends, strict=True):
        piece = content[start:end]
        if kind == "GLOBAL":
            piece = renamed(piece.decode()).encode()
        elif kind == "BINUNICODE":
            text = renamed(value).encode("utf-8", "surrogatepass")
            piece = b"X" + len(text).to_bytes(4, "little") + text
        pieces.append(piece)
    return b"".join(pieces)


def _prove(module: nn.Module, proof: tracing.Proof, path: Path) -> None:
    def answer(_: list[str]) -> list[Array]:
        graph = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        return [array(item) for item in graph(*proof.inputs.values())]

    tracing.prove(module, proof, "the TorchScript graph", answer)
