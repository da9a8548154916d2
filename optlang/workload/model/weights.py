"""A module's weights as a state dict: read from a user's file, loaded into the module, taken out of it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optlang.interfaces import WEIGHTS_FORMS, OptlangError, Refusal

_SAVE = "save them with torch.save(model.state_dict(), …) or safetensors; whole pickled models are not read"


def read(name: str, study: Path) -> dict[str, Tensor]:
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
        raise OptlangError(f"{path} does not contain a plain state dict: {_why(error)}", help=_SAVE) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if isinstance(state, Tensor) or not isinstance(state, Mapping):
        raise OptlangError(f"{path} contains a {type(state).__name__}, not a state dict", help=_SAVE)
    others = [str(key) for key, item in state.items() if not isinstance(item, Tensor)]
    if others:
        inside = next((key for key, item in state.items() if _is_state(item)), None)
        raise OptlangError(
            f"{path} contains {_some(others)} next to or instead of tensors, so it is not a plain state dict",
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


def fill(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
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
