"""A module's weights as a state dict: loaded into the module as optlang saved them, and taken out of it.

Files that users bring are read in `pretrained`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optlang.interfaces import OptlangError, Refusal
from optlang.workload.model.checkpoints import some


def fill(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load what `parameters` took out of such a module; OptlangError where it is another one by now."""
    own = module.state_dict()
    for names in tied(own):
        present = [name for name in names if name in state]
        if present:
            state = {**dict.fromkeys(names, state[present[0]]), **state}
    problems = []
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing:
        problems.append(f"missing: {some(missing)}")
    if unexpected:
        problems.append(f"not in the model: {some(unexpected)}")
    if wrong:
        shapes = [f"{name} ({tuple(state[name].shape)}, the model has {tuple(own[name].shape)})" for name in wrong]
        problems.append(f"of another shape: {some(shapes)}")
    if problems:
        raise OptlangError(
            f"{what} do not fit the model; {'; '.join(problems)}", help="check what the factory makes of its arguments"
        )
    module.load_state_dict(versioned(state, module))


def versioned(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """`state` with the versions of the module's layers, which a file of tensors does not hold.

    Without them `load_state_dict` takes the tensors for those of an early version, which some layers refuse, as
    torchvision's MNASNet does.
    """
    found = OrderedDict(state)
    found._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    return found


def renamed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` under the names of `own` where one of the two has hooks of torch.nn.utils and the other has not.

    weight_norm and spectral_norm call their tensors otherwise than their parametrizations do. A weight with a mask of
    torch.nn.utils.prune is the product of the two where `own` has it plain. LayerNorm's old names are known too.
    """
    found = dict(state)
    for name in own:
        other = next((item for item in _other_names(name) if item in found and item not in own), None)
        if name in found:
            continue
        if other is not None:
            found[name] = found.pop(other)
        elif {f"{name}_orig", f"{name}_mask"} <= found.keys():
            found[name] = found.pop(f"{name}_orig") * found.pop(f"{name}_mask")
    return found


# What a hook adds to the name of the tensor that it makes, and what the parametrization of the same norm calls that.
_HOOKS = (("_g", "original0"), ("_v", "original1"), ("_orig", "original"), ("_u", "0._u"), ("_v", "0._v"))
_OLD = {"weight": "gamma", "bias": "beta"}


def _other_names(name: str) -> Iterator[str]:
    """What else the tensor `name` may be called in a file."""
    holder, found, rest = name.rpartition("parametrizations.")
    made, _, part = rest.partition(".")
    for end, inside in _HOOKS:
        if found and part == inside:
            yield f"{holder}{made}{end}"
        elif not found and name.endswith(end):
            layer, dot, own = name.removesuffix(end).rpartition(".")
            yield f"{layer}{dot}parametrizations.{own}.{inside}"
    layer, dot, own = name.rpartition(".")
    if dot and own in _OLD:
        yield f"{layer}.{_OLD[own]}"


def tied(state: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of tensors that are one in memory, in groups of two and more."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, item in state.items():
        if isinstance(item, Tensor) and not is_lazy(item) and item.numel():
            key = (item.data_ptr(), tuple(item.shape), item.stride(), item.dtype)
            groups.setdefault(key, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with each shared tensor once, dense and on the CPU: what a file of weights holds."""
    state = module.state_dict()
    for name, item in state.items():
        if not isinstance(item, Tensor):
            raise Refusal(f"the state of {name} is a {type(item).__name__}, and only tensors can be saved")
    again = {name for names in tied(state) for name in names[1:]}
    return {name: item.detach().cpu().contiguous().clone() for name, item in state.items() if name not in again}
