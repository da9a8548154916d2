"""The channels of a model that must go together, as torch-pruning follows them through the graph of gradients.

It says where each channel lies in which tensor, and which layers cannot be followed, and cuts nothing. Source: DepGraph
(Fang et al., CVPR 2023), torch-pruning 1.6.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optlang.workload.failures import FAILURES, exhausted

if TYPE_CHECKING:
    from torch import Tensor, nn


class Unfollowed(RuntimeError):  # noqa: N818 - an answer, not an accident
    """The channels of a layer go where the graph does not follow them; the text says where."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a group's channels lie on one axis of a tensor: `positions` has the indices of each channel."""

    tensor: str
    axis: int
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that are coupled, by the layer that gives them.

    `blocks` is in how many blocks (of heads, of a grouped convolution or norm) as many must go from each; `answers`,
    whether they are channels of the model's own answers; `giving` are the layers that lose outputs.
    """

    root: str
    channels: int
    blocks: int
    answers: bool
    giving: tuple[str, ...]
    axes: tuple[Axis, ...]


class _Limited(list[Any]):
    """The index mappings of a dependency, each of which may give no more indices than the widest layer has."""

    def __init__(self, mappings: Sequence[Any], most: int) -> None:
        super().__init__(mappings)
        self._most = most

    def __iter__(self) -> Iterator[Any]:
        for mapping in super().__iter__():
            yield mapping if mapping is None else functools.partial(self._mapped, mapping)

    def _mapped(self, mapping: Callable[[Any], Any], indices: Any) -> Any:
        found = mapping(indices)
        if len(found) > self._most:
            raise Unfollowed(f"one of its channels counts for more than the {self._most} that the widest layer takes")
        return found


@contextmanager
def traceable(module: nn.Module) -> Iterator[None]:
    """Frozen parameters leave no trace in the graph of gradients: all of them count while it is drawn."""
    import torch

    from optlang.workload.model.call import settled

    frozen = {name for name, item in module.named_parameters() if not item.requires_grad}
    for item in module.parameters():
        item.requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, item in module.named_parameters():
            item.requires_grad_(name not in frozen)
        settled(module)


def forward(module: nn.Module, example: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The answers that gradients come from, for torch-pruning."""
    from optlang.workload.model.call import call

    return tuple(item for item in call(module, example).values() if item.requires_grad)


@contextmanager
def drawn(module: nn.Module, example: Mapping[str, Tensor]) -> Iterator[Any]:
    """torch-pruning's graph of `module`; its searches for coupled channels have a limit (`Unfollowed`)."""
    import torch_pruning

    with traceable(module):
        graph = torch_pruning.DependencyGraph().build_dependency(
            module, example_inputs=dict(example), forward_fn=forward, verbose=False
        )
        limit(graph)
        yield graph


def limit(graph: Any) -> None:
    """Let no index mapping of `graph` give more indices than the widest layer takes."""
    sizes = [max(item.shape) for item in graph.model.parameters() if item.ndim]
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping = _Limited(dependency.index_mapping, max(sizes, default=1))


class _Routed(list[Any]):
    """The index mapping into a layer at which channels arrive at positions of their own."""

    def __init__(self, table: Sequence[Sequence[int]] | None) -> None:
        super().__init__([None, None])  # torch-pruning writes its own here
        self._table = table  # None: nothing comes back this way

    def __iter__(self) -> Iterator[Any]:
        yield self._mapped

    def _mapped(self, indices: Sequence[Any]) -> list[Any]:
        if self._table is None:
            return []
        roots = dict.fromkeys(item.root_idx for item in indices)
        return [type(indices[0])(idx=position, root_idx=root) for root in roots for position in self._table[root]]


def route(graph: Any, tables: Mapping[str, Sequence[Sequence[int]]]) -> None:
    """Let channels arrive in the named layers at these positions, by the number of the channel where it begins."""
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            name = graph._module2name.get(dependency.target.module)
            if name in tables and graph.is_in_channel_pruning_fn(dependency.handler):
                dependency.index_mapping = _Routed(tables[name])
            source = graph._module2name.get(dependency.source.module)
            if source in tables and graph.is_in_channel_pruning_fn(dependency.trigger):
                dependency.index_mapping = _Routed(None)


def groups(graph: Any, kept: Collection[str]) -> tuple[list[Group], dict[str, str]]:
    """The groups of coupled channels of layers that are not `kept`, and the layers that cannot be followed, with why.

    A group is left out where a kept layer would lose channels with it.
    """
    from torch import nn

    names = {layer: name for name, layer in graph.model.named_modules()}
    model = graph.model
    tensors = {*dict(model.named_parameters(remove_duplicate=False)), *dict(model.named_buffers())}
    seen: set[Any] = set()
    found: list[Group] = []
    left: dict[str, str] = {}
    for layer in list(graph.module2node):
        name = names.get(layer)
        if name is None or not isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) or layer in seen or name in kept:
            continue
        try:
            made = _group(graph, name, layer)
            computed = next((item.tensor for item in made.axes if item.tensor not in tensors), None)
            if computed is not None:
                raise Unfollowed(f"{computed} is computed from other weights")
        except Unfollowed as error:
            left[name] = str(error)
            continue
        except FAILURES as error:
            left[name] = reason(error)
            continue
        if made.channels == 1 < len(made.giving):
            continue  # one number that all channels of another layer are multiplied with: the group is theirs
        seen |= {graph.model.get_submodule(item) for item in made.giving}
        if not set(kept).intersection(made.giving):
            found.append(made)
    for group in found:
        stays = next((item for item in group.giving if item in left), None)
        if stays is not None:
            left[group.root] = f"its channels go with those of {stays}"
    return [group for group in found if group.root not in left], left


def reason(error: Exception) -> str:
    """Why the channels of a layer cannot be followed, in words; raises `error` where memory ran out."""
    if exhausted(error):
        raise error
    if isinstance(error, Unfollowed):
        return str(error)
    return "torch-pruning does not know how the code behind it uses its channels"


def _group(graph: Any, name: str, layer: nn.Module) -> Group:
    from torch import nn

    names = {item: own for own, item in graph.model.named_modules()}
    group = _full(graph, layer)
    giving = dict.fromkeys(
        names[item.dep.target.module] for item in group.items
        if graph.is_out_channel_pruning_fn(item.dep.handler) and item.dep.target.module in names
        and isinstance(item.dep.target.module, nn.modules.conv._ConvNd | nn.Linear | nn.MultiheadAttention)
    )
    return Group(
        name, len(group[0].idxs), _blocks(group), _answered(graph, group), tuple(giving), tuple(_axes(graph, group))
    )


def _full(graph: Any, layer: nn.Module) -> Any:
    pruner = graph.get_pruner_of_module(layer)
    return graph.get_pruning_group(layer, pruner.prune_out_channels, list(range(pruner.get_out_channels(layer))))


def _answered(graph: Any, group: Any) -> bool:
    """Whether nothing takes the channels of a group, or the model's own answer comes right after them."""
    from torch_pruning import ops

    for item in group.items:
        node = item.dep.target
        if node.type == ops.OPTYPE.OUTPUT:
            return True
        if graph.is_out_channel_pruning_fn(item.dep.handler) and not node.outputs:
            return True
    return False


def _blocks(group: Any) -> int:
    from torch import nn

    found, channels = 1, len(group[0].idxs)
    for item in group.items:
        layer = item.dep.target.module
        if isinstance(layer, nn.MultiheadAttention):
            blocks, width = layer.num_heads, layer.embed_dim
        elif isinstance(layer, nn.GroupNorm):
            blocks, width = layer.num_groups, layer.num_channels
        elif isinstance(layer, nn.modules.conv._ConvNd) and layer.groups != layer.out_channels:
            blocks, width = layer.groups, len(item.idxs)
        else:
            continue
        if blocks > 1 and width != channels:
            raise Unfollowed("groups of a layer behind it have channels of other layers too")
        found = max(found, blocks)
    return found


def _axes(graph: Any, group: Any) -> Iterator[Axis]:
    """Where the channels of a full group lie in the tensors of all layers that take part."""
    from torch import nn

    names = {layer: name for name, layer in graph.model.named_modules()}
    count = len(group[0].idxs)
    for item in group.items:
        target, outward = item.dep.target, graph.is_out_channel_pruning_fn(item.dep.handler)
        positions: list[list[int]] = [[] for _ in range(count)]
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            if root is None:
                raise Unfollowed("its channels are repeated for others (grouped queries)")
            positions[root].append(index)
        if isinstance(target.module, nn.Parameter):
            sides: list[Any] = [(graph._param_to_name[target.module], target.module, target.pruning_dim, None)]
        elif target.module in names:
            sides = list(_sides(names[target.module], target.module, outward, target.pruning_dim))
        else:
            continue
        for name, tensor, axis, spread in sides:
            size = tensor.shape[axis]
            spots = tuple(tuple(dict.fromkeys(spot for index in own for spot in (spread(index) if spread else [index])))
                          for own in positions)
            if any(not 0 <= spot < size for own in spots for spot in own):
                holder = name.rpartition(".")[0] or name
                raise Unfollowed(f"what lies between it and {holder} makes other channels of its channels")
            yield Axis(name, axis % tensor.ndim, spots)


def _sides(name: str, layer: Any, outward: bool, dim: int) -> Iterator[tuple[str, Tensor, int, Any]]:
    """The tensors of a layer that have its output (or input) channels on an axis: name, tensor, axis, and on which
    indices a channel lies (None: on its own number)."""
    from torch import nn

    def own(*axes: tuple[str, int, Any]) -> Iterator[tuple[str, Tensor, int, Any]]:
        for attribute, axis, spread in axes:
            tensor = getattr(layer, attribute, None)
            if tensor is not None:
                yield f"{name}.{attribute}" if name else attribute, tensor, axis, spread

    if isinstance(layer, nn.modules.conv._ConvNd):
        if layer.groups == layer.out_channels > 1:
            yield from own(("weight", 0, None), ("bias", 0, None))
            return
        first = outward != layer.transposed
        # The second axis of a grouped convolution has the channels of one group.
        size = (layer.out_channels if outward else layer.in_channels) // layer.groups
        yield from own(("weight", 0 if first else 1, None if first else lambda index: [index % size]))
        if outward:
            yield from own(("bias", 0, None))
    elif isinstance(layer, nn.Linear):
        yield from own(("weight", 0 if outward else 1, None))
        if outward:
            yield from own(("bias", 0, None))
    elif isinstance(layer, nn.Embedding):
        yield from own(("weight", 1, None))
    elif isinstance(layer, nn.LayerNorm):
        yield from own(("weight", dim, None), ("bias", dim, None))
    elif isinstance(layer, nn.PReLU):
        if layer.num_parameters > 1:
            yield from own(("weight", 0, None))
    elif isinstance(layer, nn.MultiheadAttention):
        width = layer.embed_dim
        thrice = lambda index: [index, width + index, 2 * width + index]  # noqa: E731 - used once, here
        yield from own(
            ("in_proj_weight", 0, thrice), ("in_proj_weight", 1, None), ("in_proj_bias", 0, thrice),
            ("q_proj_weight", 0, None), ("k_proj_weight", 0, None), ("v_proj_weight", 0, None),
            ("bias_k", 2, None), ("bias_v", 2, None),
        )
        out = f"{name}.out_proj" if name else "out_proj"
        yield f"{out}.weight", layer.out_proj.weight, 0, None
        yield f"{out}.weight", layer.out_proj.weight, 1, None
        if layer.out_proj.bias is not None:
            yield f"{out}.bias", layer.out_proj.bias, 0, None
    else:  # norms over channels
        yield from own(*((item, 0, None) for item in ("weight", "bias", "running_mean", "running_var")))
