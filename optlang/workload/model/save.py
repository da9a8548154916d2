"""Saves and loads a model's state: its history as JSON, its weights as safetensors or ONNX, never a pickle."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from optlang.interfaces import JSON, Edit, Factory, ModelState, OptlangError, Refusal, Request
from optlang.workload.model import weights
from optlang.workload.model.make import rebuild

_ABOUT = "state.json"
_WEIGHTS = "model.safetensors"
_GRAPH = "model.onnx"


def save(state: ModelState, folder: Path) -> None:
    """Write `state` into `folder` (made if absent): its history as JSON, its weights as safetensors or ONNX.

    Raises `Refusal` for forms that have no files of their own kind here, or a state that is not made of tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if state.form in ("module", "graph"):
        import safetensors.torch

        safetensors.torch.save_file(weights.parameters(state.model), folder / _WEIGHTS)
    elif state.form == "onnx":
        _copy_graph(Path(state.model), folder)
    else:
        raise Refusal(f"a model in the form {state.form} cannot be saved")
    about: dict[str, JSON] = {
        "form": state.form,
        "factory": asdict(state.factory),
        "edits": [asdict(item) for item in state.edits],
        "notes": dict(state.notes),
        "requests": [[item.technique, dict(item.settings)] for item in state.requests],
    }
    (folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def load(folder: Path, study: Path) -> ModelState:
    """The state that `save` wrote: the factory's model, its edits replayed, its weights loaded over.

    Raises OptlangError where the folder does not hold one, or the factory's code no longer gives a model that fits.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptlangError(f"{folder} holds no saved model: {error}") from error
    factory, edits = Factory(**about["factory"]), tuple(Edit(**item) for item in about["edits"])
    if about["form"] == "onnx":
        return ModelState("onnx", folder / _GRAPH, factory, edits, about["notes"])
    import safetensors.torch

    module = rebuild(factory, edits, study)
    weights.fill(module, safetensors.torch.load_file(folder / _WEIGHTS), f"the saved weights in {folder}")
    requests = tuple(Request(*item) for item in about.get("requests", ()))
    return ModelState(about["form"], module, factory, edits, about["notes"], requests)


def _copy_graph(source: Path, folder: Path) -> None:
    if source.resolve() != (folder / _GRAPH).resolve():
        shutil.copyfile(source, folder / _GRAPH)
    for name in external_files(source):
        place = folder / name
        if (source.parent / name).resolve() != place.resolve():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / name, place)


def external_files(path: Path) -> tuple[str, ...]:
    """The external weight files of the ONNX file `path`, by their names relative to it.

    Refusal where one of them lies outside its folder: a file that somebody else made could name any file there is.
    """
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    graph = onnx.load(path, load_external_data=False).graph
    names = {ExternalDataInfo(item).location for item in graph.initializer if uses_external_data(item)}
    home = path.parent.resolve()
    for name in names:
        if not name or Path(name).is_absolute() or not (home / name).resolve().is_relative_to(home):
            raise Refusal(f"{path.name} keeps weights outside its folder, in {name or 'a file without a name'}")
    return tuple(sorted(names))
