"""Makes, calls, saves and loads models: factories, edits and weights, never a pickle. Knows no technique."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optlang.interfaces import JSON, WEIGHTS_FORMS, Edit, Factory, ModelState, OptlangError, Refusal, Request
from optlang.workload import imports
from optlang.workload.data.tensors import flat_outputs, imagined
from optlang.workload.model.parametrized import modernized
from optlang.workload.seeds import seeded

_ABOUT = "subject.json"
_WEIGHTS = "model.safetensors"
_GRAPH = "model.onnx"
_SAVE = "save them with torch.save(model.state_dict(), …) or safetensors; whole pickled models are not read"
# Initial weights are drawn from here, so that a factory gives the same model in every process.
_INITIAL_SEED = 0


def make(factory: Factory, study: Path) -> nn.Module:
    """The model of `factory` on the CPU, in eval mode, with its weights loaded where it names a file of them.

    Initial weights are the same each time. Hooks of torch.nn.utils (weight_norm, spectral_norm, prune) become
    parametrizations, which can be copied (see `parametrized.modernized`). Raises `UserCodeError` where the factory
    raises, OptlangError where it returns no module, a ScriptModule, or the weights do not fit.
    """
    create = imports.find(factory.calls, study)
    what = f"the model {imports.split(factory.calls)[1]}"
    with seeded(_INITIAL_SEED), imports.user_code(what, study):
        module = create(**factory.arguments)
    if not isinstance(module, nn.Module):
        raise OptlangError(
            f"{what} gave a {type(module).__name__}, not a torch.nn.Module", help="return the module from the factory"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise OptlangError(
            f"{what} gave a {type(module).__name__}, which cannot be compressed: its layers are compiled already",
            help="return the torch.nn.Module itself, before torch.jit.script or torch.jit.trace",
        )
    # Compiling is the runtime's work; what torch.compile wraps is the same module.
    if type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module):
        module = module._orig_mod
    assert isinstance(module, nn.Module)
    module = module.cpu().eval()
    if factory.weights is not None:
        _fill(module, _read_weights(factory.weights, study), f"the weights {factory.weights}")
    return modernized(module)


def settled(module: nn.Module) -> nn.Module:
    """Take what layers have kept of a call (attention maps, hidden states) out of autograd's graph, in place.

    A tensor in the middle of a graph cannot be copied, and a model that keeps one could not be either.
    """
    for layer in module.modules():
        for kept in (layer.__dict__, layer._buffers):
            for name, item in list(kept.items()):
                if _in_a_graph(item):
                    kept[name] = _detached(item)
    return module


def _in_a_graph(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.grad_fn is not None
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(_in_a_graph(item) for item in items)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach() if value.grad_fn is not None else value
    if isinstance(value, dict):
        return type(value)((key, _detached(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        items = [_detached(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def rebuild(factory: Factory, edits: Sequence[Edit], study: Path) -> nn.Module:
    """The factory's model with `edits` replayed in order; weights are the initial ones, to be loaded over."""
    return edited(make(Factory(factory.calls, factory.arguments), study), edits, study)


def edited(module: nn.Module, edits: Sequence[Edit], study: Path) -> nn.Module:
    """`module` with `edits` replayed in order, its weights those that it has left; it is changed in place."""
    for edit in edits:
        replay = imports.find(edit.calls, study)
        example: Any = edit.arguments.get("example", {})
        changed = replay(module, edit.arguments, imagined(example))
        module = module if changed is None else changed
    return module.eval()


def _read_weights(name: str, study: Path) -> dict[str, Tensor]:
    path = Path(name) if Path(name).is_absolute() else study / name
    if not path.is_file():
        raise OptlangError(f"there is no file of weights {path}", help=f"name {WEIGHTS_FORMS}")
    if path.suffix == ".safetensors":
        import safetensors
        import safetensors.torch

        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise OptlangError(f"{path} is not a safetensors file: {error}") from error
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise OptlangError(f"{path} holds no plain state dict: {_why(error)}", help=_SAVE) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if isinstance(state, Tensor) or not isinstance(state, Mapping):
        raise OptlangError(f"{path} holds a {type(state).__name__}, not a state dict", help=_SAVE)
    others = [str(key) for key, item in state.items() if not isinstance(item, Tensor)]
    if others:
        inside = next((key for key, item in state.items() if _is_state(item)), None)
        raise OptlangError(
            f"{path} holds {_some(others)} beside or instead of tensors, so it is no plain state dict",
            help=f'take the weights out of it: torch.save(torch.load("{path.name}")["{inside}"], "weights.pt")'
            if inside is not None else _SAVE,
        )
    return {str(key): item for key, item in state.items()}


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _why(error: Exception) -> str:
    """What torch says of a file that it does not read, without its advice to read it all the same."""
    text = str(error).strip()
    known = re.search(r"Unsupported (?:global: GLOBAL|class|operand) ([\w.]+)", text)
    if known:
        return f"it holds a pickled {known[1]}, and unpickling may run any code"
    return text.splitlines()[0] if text else type(error).__name__


def _fill(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    own = module.state_dict()
    state = _renamed(state, own)
    # Of tensors that share memory a file may hold one name only.
    for names in _tied(own):
        present = [name for name in names if name in state]
        if present:
            state = {**dict.fromkeys(names, state[present[0]]), **state}
    problems = []
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing:
        problems.append(f"missing: {_some(missing)}")
    if unexpected:
        problems.append(f"not in the model: {_some(unexpected)}")
    if wrong:
        problems.append(
            "of another shape: "
            + _some([f"{name} ({tuple(state[name].shape)}, the model has {tuple(own[name].shape)})" for name in wrong])
        )
    if problems:
        raise OptlangError(f"{what} do not fit the model; " + "; ".join(problems), help=_way_out(missing, unexpected))
    module.load_state_dict(state)


def _renamed(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the two tensors of each older weight_norm under the names that they have in a parametrization."""
    for name in own:
        holder, found, rest = name.rpartition("parametrizations.")
        tensor = rest.removesuffix(".original0")
        old = [f"{holder}{tensor}_{part}" for part in "gv"]
        if found and tensor != rest and all(item in state and item not in own for item in old):
            new = [f"{holder}parametrizations.{tensor}.original{index}" for index in range(2)]
            state = {dict(zip(old, new, strict=True)).get(key, key): item for key, item in state.items()}
    return state


def _way_out(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Wrappers (DataParallel's `module.`, Lightning's `model.`) put their own name before each of the model's."""
    for name in unexpected:
        prefix = name.partition(".")[0] + "."
        if len(unexpected) > 1 and {item.removeprefix(prefix) for item in unexpected} == set(missing):
            return f"every name begins with `{prefix}`: save the state dict of the model inside that wrapper"
    return "check the factory's arguments against those that the weights were trained with"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _tied(state: Mapping[str, Tensor]) -> list[list[str]]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, item in state.items():
        if item.numel():
            key = (item.data_ptr(), tuple(item.shape), item.stride(), item.dtype)
            groups.setdefault(key, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with each shared tensor once, dense and on the CPU: what a file of weights holds."""
    state = module.state_dict()
    for name, item in state.items():
        if not isinstance(item, Tensor):
            raise Refusal(f"the state of {name} is a {type(item).__name__}, and only tensors can be saved")
    again = {name for names in _tied(state) for name in names[1:]}
    return {name: item.detach().cpu().contiguous().clone() for name, item in state.items() if name not in again}


def factory_json(factory: Factory) -> dict[str, JSON]:
    """`factory` as plain JSON."""
    return asdict(factory)


def factory_from(value: Mapping[str, Any]) -> Factory:
    """What `factory_json` wrote."""
    return Factory(value["calls"], value["arguments"], value["weights"])


def edits_json(edits: Sequence[Edit]) -> list[JSON]:
    """`edits` as plain JSON."""
    return [{"calls": edit.calls, "arguments": dict(edit.arguments)} for edit in edits]


def edits_from(value: Sequence[Mapping[str, Any]]) -> tuple[Edit, ...]:
    """What `edits_json` wrote."""
    return tuple(Edit(item["calls"], item["arguments"]) for item in value)


def save(subject: ModelState, folder: Path) -> None:
    """Write `subject` into `folder` (made if absent): its history as JSON, its weights as safetensors or ONNX.

    Raises `Refusal` for forms that have no files of their own kind here, or a state that is not made of tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if subject.form in ("module", "graph"):
        import safetensors.torch

        safetensors.torch.save_file(parameters(subject.model), folder / _WEIGHTS)
    elif subject.form == "onnx":
        _copy_graph(Path(subject.model), folder)
    else:
        raise Refusal(f"a subject in the form {subject.form} cannot be saved")
    about: dict[str, JSON] = {
        "form": subject.form,
        "factory": factory_json(subject.factory),
        "edits": edits_json(subject.edits),
        "notes": dict(subject.notes),
        "requests": [[item.technique, dict(item.settings)] for item in subject.requests],
    }
    (folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _copy_graph(source: Path, folder: Path) -> None:
    if source.resolve() != (folder / _GRAPH).resolve():
        shutil.copyfile(source, folder / _GRAPH)
    for name in external_files(source):
        place = folder / name
        if (source.parent / name).resolve() != place.resolve():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / name, place)


def external_files(path: Path) -> tuple[str, ...]:
    """The files of weights beside the ONNX file `path`, by their names relative to it.

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


def load(folder: Path, study: Path) -> ModelState:
    """The subject that `save` wrote: the factory's model, its edits replayed, its weights loaded over.

    Raises OptlangError where the folder does not hold one, or the factory's code no longer gives a model that fits.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptlangError(f"{folder} holds no saved model: {error}") from error
    factory, edits = factory_from(about["factory"]), edits_from(about["edits"])
    if about["form"] == "onnx":
        return ModelState("onnx", folder / _GRAPH, factory, edits, about["notes"])
    import safetensors.torch

    module = rebuild(factory, edits, study)
    _fill(module, safetensors.torch.load_file(folder / _WEIGHTS), f"the saved weights in {folder}")
    requests = tuple(Request(*item) for item in about.get("requests", ()))
    return ModelState(about["form"], module, factory, edits, about["notes"], requests)


def arguments(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Positional and keyword arguments for `module`: by name where `forward` knows the names, else in their order.

    A forward of `(*args, **kwargs)` hands on what it is given: it knows the names that the data give, and none where
    these are numbered by `Data` ("input", "input_0", …).
    """
    parameters = inspect.signature(module.forward).parameters
    kinds = inspect.Parameter
    found = {item.kind for item in parameters.values()}
    if kinds.VAR_POSITIONAL in found and tuple(inputs) in (("input",), tuple(f"input_{n}" for n in range(len(inputs)))):
        return tuple(inputs.values()), {}
    anything = kinds.VAR_KEYWORD in found
    by_name = [
        name for name in inputs
        if (name in parameters and parameters[name].kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY))
        or (anything and name not in parameters)
    ]
    if len(by_name) == len(inputs):
        return (), dict(inputs)
    return tuple(inputs.values()), {}


def call(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run `module` on inputs by `forward`'s argument names; outputs by name (see `tensors.flat_outputs`)."""
    positional, named = arguments(module, inputs)
    return flat_outputs(module(*positional, **named))
