"""The channels of a model that must go together, as torch-pruning follows them through the graph of gradients.

It says where each channel lies in which tensor, and which layers cannot be followed, and cuts nothing. Source: DepGraph
(Fang et al., CVPR 2023), torch-pruning 1.6.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Refusal
from optlang.techniques.shared.stand_ins import StandIns
from optlang.workload.failures import FAILURES, attempt, exhausted

if TYPE_CHECKING:
    from torch import Tensor, nn

# How often a search for coupled channels may look at each channel on each way between two layers, and how many channels
# on ways it looks at in all. A search that ends looks about once; others never end.
_ROUNDS, _MOST = 20, 4_000_000


class Unfollowed(RuntimeError):  # noqa: N818 - an answer, not an accident
    """The channels of a layer go where the graph does not follow them; the text says where."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a group's channels lie on one axis of a tensor: `positions` has the indices of each channel."""

    tensor: str
    axis: int
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A layer (or a parameter of no such layer) that has a group's channels among its outputs, or else its inputs.

    `dim` is the dimension that torch-pruning cuts where the layer's kind leaves that open.
    """

    layer: str
    outward: bool
    dim: int
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that are coupled, by the layer that gives them.

    `blocks` is in how many blocks (of heads, of a grouped convolution or norm) as many must go from each; `answers`,
    whether they are channels of the model's own answers; `giving` are the layers that lose outputs, tables of
    embeddings only where no other layer does, and `tables` all of those. `found` is the group as torch-pruning has it,
    for scores.
    """

    root: str
    channels: int
    blocks: int
    answers: bool
    giving: tuple[str, ...]
    tables: tuple[str, ...]
    axes: tuple[Axis, ...]
    parts: tuple[Part, ...] = field(compare=False)
    found: Any = field(compare=False, repr=False)

    @property
    def form(self) -> tuple[object, ...]:
        """What groups have in common that play one part in different blocks of a model."""
        kinds = Counter(
            (axis.tensor.rpartition(".")[2], axis.axis, len(axis.positions[0]) if axis.positions else 0)
            for axis in self.axes
        )
        return self.channels, self.blocks, len(self.giving), self.root.rpartition(".")[2], frozenset(kinds.items())

    @property
    def losing(self) -> set[str]:
        """The layers that lose outputs, norms and depthwise layers among them."""
        return {part.layer for part in self.parts if part.outward}


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
    """The answers that gradients come from, for torch-pruning; `Refusal` where none does."""
    from optlang.workload.model.call import call

    answers = tuple(item for item in call(module, example).values() if item.requires_grad)
    if not answers:
        raise Refusal(
            "no answer of the model has a gradient, so which layers go together cannot be seen",
            help="no torch.no_grad, torch.inference_mode or .detach() in forward", depends="model",
        )
    return answers


@contextmanager
def drawn(module: nn.Module, example: Mapping[str, Tensor]) -> Iterator[Graph]:
    """The graph of `module`, which must not be cut while it is in use."""
    with traceable(module):
        yield Graph(module, example)


class Graph:
    """torch-pruning's graph of a module, searched with a limit.

    torch-pruning's own search goes round for ever where code takes channels apart and joins them again (rotary
    positions), works all positions out again for each layer, and fails for the whole model where it cannot do so for
    one operator.
    """

    def __init__(self, module: nn.Module, example: Mapping[str, Tensor]) -> None:
        import torch_pruning

        self.model = module
        stand_ins = StandIns(module)
        self.closed = stand_ins.closed
        """Why channels that reach these layers stay."""
        self.recurrent = frozenset(stand_ins.names)
        """What stands for the inputs of recurrent layers."""
        self.names: dict[Any, str] = {layer: name for name, layer in module.named_modules()} | stand_ins.names
        self._graph = graph = torch_pruning.DependencyGraph()
        # What `build_dependency` does, apart from the positions.
        graph.verbose, graph.model, graph.ignored_params = False, module, []
        graph._module2name = dict(self.names)
        graph._param_to_name, found = graph._detect_unwrapped_parameters(None)
        inner = set(map(id, stand_ins.parameters))
        graph.unwrapped_parameters = [item for item in found if id(item[0]) not in inner]
        graph.IGNORED_LAYERS_IN_TRACING = [*stand_ins.layers.values()]
        with stand_ins.at_work() as taken:
            graph.module2node = graph._trace(
                stand_ins.whole, dict(example), lambda _, given: (*forward(module, given), *taken), None
            )
        graph._build_dependency(graph.module2node)
        _positioned(graph)
        sizes = [max(item.shape) for item in module.parameters() if item.ndim]
        self._widest = max(sizes, default=1)
        self._ways = sum(len(node.dependencies) for node in graph.module2node.values())

    @property
    def layers(self) -> list[Any]:
        """The layers, from the model's end."""
        return list(self._graph.module2node)

    def parameter(self, item: nn.Parameter) -> str:
        """The name of a parameter that no layer known to torch-pruning has."""
        return str(self._graph._param_to_name[item])

    def outward(self, handler: Any) -> bool:
        """Whether a layer loses outputs by `handler`."""
        return bool(self._graph.is_out_channel_pruning_fn(handler))

    def full(self, layer: nn.Module) -> Any:
        """All output channels of a layer with all that goes with them, a group as torch-pruning's scores take it.

        Raises `Unfollowed` where they are still not found after `_ROUNDS` rounds, or lie at more positions than the
        widest layer has.
        """
        from torch_pruning import _helpers
        from torch_pruning.dependency.dependency import Dependency
        from torch_pruning.dependency.group import Group as Items

        pruner = self._graph.get_pruner_of_module(layer)
        count = pruner.get_out_channels(layer)
        node, prune = self._graph.module2node[layer], pruner.prune_out_channels
        first = Dependency(prune, prune, source=node, target=node)
        merged: dict[Any, tuple[Any, dict[int, Any]]] = {}
        for way, indices in self._reached(first, [_helpers._HybridIndex(item, item) for item in range(count)]):
            _, own = merged.setdefault((way.target, way.handler), (way, {}))
            for index in indices:
                own.setdefault(index.idx, index.root_idx)
        group = Items()
        group._DG = self._graph
        for way, own in merged.values():
            item = _helpers.GroupItem(way, list(own))
            item.root_idxs = list(own.values())
            group.items.append(item)
        return group

    def _reached(self, first: Any, indices: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
        """The ways between layers on which channels go together with those of `first`, each with their indices."""
        left = min(_MOST, _ROUNDS * (self._ways + 10) * len(indices))
        known = {(first.target, first.handler, tuple(indices))}
        pending = [(first, indices)]
        yield first, indices
        while pending:
            way, indices = pending.pop()
            for following in way.target.dependencies:
                if not following.is_triggered_by(way.handler):
                    continue
                left -= len(indices)
                if left < 0:
                    raise Unfollowed("its channels are taken apart and joined too often to be followed")
                mapped = self._mapped(following, indices)
                key = following.target, following.handler, tuple(mapped)
                if mapped and key not in known:
                    known.add(key)
                    pending.append((following, mapped))
                    yield following, mapped

    def _mapped(self, way: Any, indices: list[Any]) -> list[Any]:
        for mapping in way.index_mapping:
            if mapping is not None:
                indices = mapping(indices)
            if len(indices) > self._widest:
                raise Unfollowed(
                    f"the code behind it spreads its channels over more positions than the {self._widest} that the "
                    "widest layer takes"
                )
        return indices


def _positioned(graph: Any) -> None:
    """Work out how positions change at each operator; where that fails they stay, which the proof of a cut refutes."""
    from torch_pruning import ops
    from torch_pruning.dependency import index_mapping, shape_infer

    attempt(lambda: shape_infer.init_shape_information(graph))
    kinds = {
        ops.OPTYPE.CONCAT: index_mapping.update_concat_index_mapping,
        ops.OPTYPE.SPLIT: index_mapping.update_split_index_mapping,
        ops.OPTYPE.RESHAPE: index_mapping.update_reshape_index_mapping,
        ops.OPTYPE.UNBIND: index_mapping.update_unbind_index_mapping,
        ops.OPTYPE.EXPAND: index_mapping.update_expand_index_mapping,
        ops.OPTYPE.SLICE: index_mapping.update_slice_index_mapping,
    }
    for node in graph.module2node.values():
        if node.type in kinds:
            attempt(partial(kinds[node.type], graph, node))


def groups(graph: Graph, kept: Collection[str]) -> tuple[list[Group], dict[str, str]]:
    """The groups of coupled channels of layers that are not `kept`, and the layers that cannot be followed, with why.

    A group is left out where a kept layer would lose channels with it.
    """
    from torch import nn

    model = graph.model
    tensors = {*dict(model.named_parameters(remove_duplicate=False)), *dict(model.named_buffers())}
    seen: set[Any] = set()
    found: list[Group] = []
    left: dict[str, str] = {}
    for layer in graph.layers:
        name = graph.names.get(layer)
        kinds = nn.modules.conv._ConvNd | nn.Linear | nn.Embedding
        if name is None or not isinstance(layer, kinds) or layer in seen or name in kept:
            continue
        if layer in graph.recurrent:
            continue
        try:
            made = group_of(graph, name)
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
        seen |= {graph.model.get_submodule(item) for item in (*made.giving, *made.tables)}
        if not made.losing.intersection(kept):
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


def group_of(graph: Graph, name: str) -> Group:
    """The group of a layer's output channels; raises `Unfollowed` where they are not known, or one of `FAILURES`."""
    from torch import nn

    group = graph.full(graph.model.get_submodule(name))
    layers = [
        item.dep.target.module for item in group.items
        if graph.outward(item.dep.handler) and item.dep.target.module in graph.names
    ]
    kinds = nn.modules.conv._ConvNd | nn.Linear | nn.MultiheadAttention
    giving = dict.fromkeys(graph.names[layer] for layer in layers if isinstance(layer, kinds))
    tables = dict.fromkeys(graph.names[layer] for layer in layers if isinstance(layer, nn.Embedding))
    blocks, parts = _blocks(group), tuple(_parts(graph, group))
    axes = tuple(axis for part in parts for axis in _axes(graph.model, part))
    return Group(
        name, len(group[0].idxs), blocks, _answered(graph, group), tuple(giving or tables), tuple(tables), axes, parts,
        group,
    )


def moved(module: nn.Module, group: Group, tables: Mapping[str, Sequence[Sequence[int]]]) -> Group:
    """`group` with its channels at these positions in the layers of these names that take them, by channel."""
    parts = tuple(
        part if part.outward or part.layer not in tables
        else replace(part, positions=tuple(tuple(positions) for positions in tables[part.layer]))
        for part in group.parts
    )
    return replace(group, parts=parts, axes=tuple(axis for part in parts for axis in _axes(module, part)))


def _answered(graph: Graph, group: Any) -> bool:
    """Whether nothing takes the channels of a group, or the model's own answer comes right after them."""
    from torch_pruning import ops

    for item in group.items:
        node = item.dep.target
        if node.type == ops.OPTYPE.OUTPUT:
            return True
        if graph.outward(item.dep.handler) and not node.outputs:
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


def _parts(graph: Graph, group: Any) -> Iterator[Part]:
    from torch import nn

    count = len(group[0].idxs)
    for item in group.items:
        target = item.dep.target
        if target.module in graph.closed:
            raise Unfollowed(graph.closed[target.module])
        if isinstance(target.module, nn.Parameter):
            name = graph.parameter(target.module)
        elif target.module in graph.names:
            name = graph.names[target.module]
        else:
            continue
        positions: list[list[int]] = [[] for _ in range(count)]
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            if root is None:
                raise Unfollowed("its channels are repeated for others (grouped queries)")
            positions[root].append(index)
        yield Part(name, graph.outward(item.dep.handler), target.pruning_dim, tuple(tuple(own) for own in positions))


def _axes(module: nn.Module, part: Part) -> Iterator[Axis]:
    """Where the channels of a full group lie in the tensors of a layer that takes part."""
    try:
        sides = list(_sides(part.layer, module.get_submodule(part.layer), part.outward, part.dim))
    except AttributeError:  # a parameter of no layer that torch-pruning knows
        sides = [(part.layer, module.get_parameter(part.layer), part.dim, None)]
    for name, tensor, axis, spread in sides:
        size = tensor.shape[axis]
        spots = tuple(
            tuple(dict.fromkeys(spot for index in own for spot in (spread(index) if spread else [index])))
            for own in part.positions
        )
        if any(not 0 <= spot < size for own in spots for spot in own):
            holder = name.rpartition(".")[0] or name
            raise Unfollowed(f"the code between it and {holder} makes other channels of its channels")
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
