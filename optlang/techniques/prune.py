"""Removes whole channels with torch-pruning, and does so again on a fresh model. Knows no training and no runtime."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optlang.forms import JSON, Context, Edit, OptlangError, Refusal, Subject
from optlang.techniques.sparse import recounted
from optlang.techniques.statistics import recalibrate
from optlang.techniques.worth import Scale, Worth, worth
from optlang.workload.layers import left_alone

if TYPE_CHECKING:
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.prune:replay"
# Keeps 10 * (1 - 0.8) = 1.9999999999999996 from counting as one channel.
_ROUNDING = 1e-9


def channels(subject: Subject, settings: Mapping[str, Any], context: Context) -> Subject:
    """Remove the channels that matter least, with all that hangs on them (DepGraph: Fang et al., CVPR 2023).

    The model's outputs keep their shapes: layers whose channels reach them are left alone, and so are those that `keep`
    names or `only` does not. `importance` says what a channel is worth (see `worth.worth`); `recalibrate` batches of
    training data set the statistics of batch normalizations anew after the cut (EagleEye: Li et al., ECCV 2020).
    Notes: `prune.removed_parameters` and `prune.removed_channels`, the shares removed since the model was made, and
    `prune.no_norm`, the layers that importance "bn_scale" left alone because they have no norm behind them.
    Raises `Refusal` where nothing would be removed, or a layer cannot be pruned.
    """
    from optlang.workload import objects

    if subject.form != "module":
        raise Refusal(f"only a module can lose channels, and the model is in the form {subject.form}")
    with objects.at_home(context.study):
        cutter = Cutter(subject, settings, context)
        cut = cutter.cut(float(settings["ratio"]))
        if not cut.removed:
            raise cutter.refusal(
                f"ratio {settings['ratio']:g} with round_to {settings['round_to']} leaves every layer as it is",
                "a larger ratio",
            )
        return cutter.subject(cut)


@dataclass(frozen=True, slots=True)
class Cut:
    """A smaller copy of a model, what `replay` takes to make another, and how many parameters went."""

    module: nn.Module
    history: list[JSON]
    removed: int
    no_norm: tuple[str, ...]


class Cutter:
    """Removes channels from copies of a subject's module, as often as asked; what they are worth is found once.

    The settings are those of `channels` but the ratio. Used where the user's own modules can be imported
    (`objects.at_home`). Raises `Refusal` where a layer cannot be pruned.
    """

    def __init__(self, subject: Subject, settings: Mapping[str, Any], context: Context) -> None:
        from optlang.workload import objects

        self._subject, self._settings, self._context = subject, settings, context
        # One sample would hide layers that take the batch for channels.
        self.example = context.data.bind(subject.model).example(2)
        self._kept = _kept(subject.model, settings)
        _no_recurrent(subject.model)
        with objects.user_code("the model's forward", context.study):
            self._shapes = _shapes(copy.deepcopy(subject.model).eval(), self.example)
        self._score_of = worth(subject.model, settings, context)
        self._kept |= _fixed(copy.deepcopy(subject.model).eval(), self.example)
        self._blamed: str | None = None

    def cut(self, ratio: float, ratios: Mapping[str, float] | None = None) -> Cut:
        """The model without `ratio` of its channels; `ratios` are those of layers of their own, by name."""
        cut = self._once(ratio, ratios)
        if not cut.history or _try_shapes(cut.module, self.example) == self._shapes:
            return cut
        # Some layer reaches an output by a way that the graph does not show: look at each of them alone.
        harmful, self._blamed = _harmful(self._subject.model, self.example, self._shapes)
        self._kept |= harmful
        cut = self._once(ratio, ratios)
        if cut.history and _try_shapes(cut.module, self.example) != self._shapes:
            raise Refusal(
                "removing channels breaks the model" + (f": {self._blamed}" if self._blamed else ""),
                help=f"keep the layers that its code takes for granted: keep = [{_quoted(sorted(harmful)) or '…'}]",
            )
        return cut

    def _once(self, ratio: float, ratios: Mapping[str, float] | None) -> Cut:
        module = copy.deepcopy(self._subject.model).eval()
        score = self._score_of(module)
        history = _pruned(module, self.example, int(self._settings["round_to"]), ratio, ratios or {}, score, self._kept,
                          self._settings["scope"] == "global")
        removed = counted(self._subject.model)[0] - counted(module)[0]
        left = tuple(sorted(score.left)) if isinstance(score, Scale) else ()
        return Cut(module, history, max(0, removed) if history else 0, left)

    def groups(self) -> list[str]:
        """The groups of coupled channels that may be cut, each by the layer that names it in `ratios`."""
        from torch_pruning import ops

        module = copy.deepcopy(self._subject.model).eval()
        with _graph(module, self.example) as graph:
            kept = [layer for name, layer in module.named_modules() if name in self._kept]
            ignored = [part for layer in kept for part in layer.modules()]
            kinds = [ops.TORCH_CONV, ops.TORCH_LINEAR, ops.TORCH_LSTM]
            groups = graph.get_all_groups(ignored_layers=ignored, root_module_types=kinds)
            found = {group[0].dep.target.module for group in groups}
        return [name for name, layer in module.named_modules() if layer in found]

    def refusal(self, why: str, instead: str) -> Refusal:
        """That nothing was removed, and why."""
        return Refusal(
            f"nothing was removed: {why}" + (f" ({self._blamed})" if self._blamed else ""),
            help=f"{instead}, a smaller round_to, fewer layers in keep, or in only all whose channels go together",
        )

    def recalibrated(self, cut: Cut) -> Cut:
        """With the statistics of the norms set anew where the settings ask for it, in place."""
        if self._settings["recalibrate"]:
            recalibrate(cut.module, int(self._settings["recalibrate"]), self._context)
        return cut

    def subject(self, cut: Cut, **notes: JSON) -> Subject:
        """The cut model as a subject, recalibrated, with what was removed and `notes` noted."""
        from optlang.workload.tensors import describe

        module, subject = self.recalibrated(cut).module, self._subject
        edit = Edit(_REPLAY, {"history": cut.history, "example": describe(self.example)})
        before, after = counted(subject.model), counted(module)
        removed: dict[str, JSON] = {
            f"prune.removed_{name}": share_removed(subject, name, new / old)
            for name, old, new in zip(("parameters", "channels"), before, after, strict=True)
        }
        if cut.no_norm:
            removed["prune.no_norm"] = list(cut.no_norm)
        module.zero_grad(set_to_none=True)
        edits = (*subject.edits, edit)
        removed |= recounted(subject.notes, module)
        return Subject("module", module, subject.factory, edits, {**subject.notes, **removed, **notes})


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Remove the same channels from `module`, a fresh model of the shape that it had before the pruning."""
    with _graph(module, dict(example)) as graph:
        graph.load_pruning_history([list(item) for item in arguments["history"]])
    return module


def share_removed(subject: Subject, what: str, left: float) -> float:
    """The share of `what` removed since the model was made, where `left` of the subject's is there still."""
    earlier = subject.notes.get(f"prune.removed_{what}", 0.0)
    assert isinstance(earlier, int | float)
    return 1 - (1 - earlier) * left


def _kept(module: nn.Module, settings: Mapping[str, Any]) -> set[str]:
    """The layers that keep their channels. Norms and depthwise layers have none of their own: they follow others."""
    from torch import nn

    names = [name for name, _ in module.named_modules()]
    kept = left_alone(settings["keep"], (), names)
    for name in left_alone((), settings["only"], names):
        layer = module.get_submodule(name)
        convolution = isinstance(layer, nn.modules.conv._ConvNd) and not layer.groups == layer.in_channels > 1
        # What holds a chosen layer is left alone, and all that it holds would be with it.
        if convolution or isinstance(layer, nn.Linear | nn.MultiheadAttention):
            kept.add(name)
    return kept


def _no_recurrent(module: nn.Module) -> None:
    """torch-pruning cuts the gates of an LSTM apart, and knows no other recurrent layer."""
    from torch import nn

    for name, layer in module.named_modules():
        if isinstance(layer, nn.RNNBase):
            raise Refusal(
                f"{name} is an {type(layer).__name__}, whose hidden units channels cannot remove",
                help="units removes those, with all their gates; int8 makes the model smaller too",
            )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _shapes(module: nn.Module, example: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    import torch

    from optlang.workload.modules import call

    with torch.no_grad():
        return {name: tuple(item.shape) for name, item in call(module, example).items()}


def _try_shapes(module: nn.Module, example: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]] | str:
    """The shapes of the outputs, or why there are none: a forward that counts on its channels fails in any way."""
    try:
        return _shapes(module, example)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def counted(module: nn.Module) -> tuple[int, int]:
    """Parameters, and output channels of convolutions and linear layers."""
    from torch import nn

    parameters = sum(item.numel() for item in module.parameters())
    outputs = 0
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            outputs += layer.out_features
        elif isinstance(layer, nn.modules.conv._ConvNd):
            outputs += layer.out_channels
    return parameters, outputs


@contextmanager
def _traceable(module: nn.Module) -> Iterator[None]:
    """Frozen parameters leave no trace in the graph of gradients: all of them count while it is drawn."""
    import torch

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


def _forward(module: nn.Module, example: dict[str, Tensor]) -> tuple[Tensor, ...]:
    from optlang.workload.modules import call

    return tuple(item for item in call(module, example).values() if item.requires_grad)


@contextmanager
def _graph(module: nn.Module, example: dict[str, Tensor]) -> Iterator[Any]:
    import torch_pruning

    with _traceable(module):
        yield torch_pruning.DependencyGraph().build_dependency(
            module, example_inputs=example, forward_fn=_forward, verbose=False
        )


@contextmanager
def _followed(module: nn.Module) -> Iterator[None]:
    """Around torch-pruning's work on `module`: what it cannot follow is a `Refusal`."""
    try:
        with _traceable(module):
            yield
    except OptlangError:
        raise
    except Exception as error:
        raise Refusal(
            f"the coupled channels of this model cannot be followed: {type(error).__name__}: {error}",
            help="keep the layers that its code treats in a way of its own",
        ) from error


def _pruned(
    module: nn.Module, example: dict[str, Tensor], round_to: int, ratio: float, ratios: Mapping[str, float],
    score: Worth, kept: set[str], everywhere: bool,
) -> list[JSON]:
    """Prune `module` in place, apart from the layers in `kept`; the history that `replay` takes.

    `ratios` hold for the groups of the layers that they name, in place of `ratio`; `everywhere` ranks across layers.
    """
    import torch_pruning
    from torch import nn

    ratio -= _ROUNDING
    own = {module.get_submodule(name): item - _ROUNDING for name, item in ratios.items()}

    class Pruner(torch_pruning.pruner.BasePruner):  # type: ignore[misc]
        def _is_atten_group(self, group: Any) -> Any:
            self._looked_at = group  # the one that is rounded next
            return super()._is_atten_group(group)

        def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
            """Keep the nearest multiple (the smaller of two as near), and at least one of them.

            Grouped channels lose as many in each group: `n_pruned` counts those of one.
            """
            groups: int = self._get_channel_groups(self._looked_at)
            size, step = current_channels // groups, round_to // math.gcd(round_to, groups)
            remaining: float = size - n_pruned
            share = 1 - own.get(self._looked_at[0].dep.target.module, ratio)
            if remaining == int(size * share):
                remaining = size * share  # a layer's own share, before its fraction was cut off
            multiples = max(1, math.ceil(remaining / step - 0.5 - _ROUNDING))
            return max(0, size - multiples * step)

    heads = {layer: layer.num_heads for layer in module.modules() if isinstance(layer, nn.MultiheadAttention)}
    with _followed(module):
        pruner = Pruner(
            module, example_inputs=example, forward_fn=_forward, importance=score, global_pruning=everywhere,
            pruning_ratio=ratio, pruning_ratio_dict=own, round_to=round_to,
            ignored_layers=[layer for name, layer in module.named_modules() if name in kept],
            in_channel_groups={}, out_channel_groups=heads,
        )
        pruner.step()
    history: list[JSON] = [
        [name, bool(outward), [int(index) for index in indices]] for name, outward, indices in pruner.pruning_history()
    ]
    return history


def _fixed(module: nn.Module, example: dict[str, Tensor]) -> set[str]:
    """The layers whose width is the model's answer, or was chosen."""
    from optlang.techniques.attention import NarrowAttention

    with _followed(module), _graph(module, example) as graph:
        fixed = _reaching(graph)
    for layer in module.modules():
        if isinstance(layer, NarrowAttention):  # heads has chosen its inner width
            fixed += [layer.q_proj, layer.k_proj, layer.v_proj]
    return {name for name, layer in module.named_modules() if layer in fixed}


def _reaching(graph: Any) -> list[Any]:
    """The layers whose output channels are the model's own: nothing consumes them, or an output comes right after."""
    from torch_pruning import ops

    found = []
    for group in graph.get_all_groups(root_module_types=[ops.TORCH_CONV, ops.TORCH_LINEAR, ops.TORCH_LSTM]):
        for item, _ in group:
            node = item.target
            outward = graph.is_out_channel_pruning_fn(item.handler)
            if isinstance(node.module, ops._OutputOp) or (outward and not node.outputs):
                found.append(group[0].dep.target.module)
                break
    return found


def _harmful(module: nn.Module, example: dict[str, Tensor], shapes: Any) -> tuple[set[str], str]:
    """The layers that change an output or break `forward` when they alone lose channels, and the first complaint."""
    from torch_pruning import ops

    harmful: set[str] = set()
    blamed = ""
    fresh = copy.deepcopy(module).eval()
    with _graph(fresh, example) as graph:
        roots = [
            (graph._module2name[group[0].dep.target.module], len(group[0].idxs))
            for group in graph.get_all_groups(root_module_types=[ops.TORCH_CONV, ops.TORCH_LINEAR, ops.TORCH_LSTM])
        ]
    for name, count in roots:
        if count < 2:
            continue
        single = copy.deepcopy(module).eval()
        problem = _alone(single, name, count, example, shapes)
        if problem:
            harmful.add(name)
            blamed = blamed or f"layer {name}: {problem}"
    return harmful, blamed


def _alone(module: nn.Module, name: str, count: int, example: dict[str, Tensor], shapes: Any) -> str:
    with _graph(module, example) as graph:
        layer = module.get_submodule(name)
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        # The upper half: groups of channels stay even.
        group = graph.get_pruning_group(layer, prune, list(range(count // 2, count)))
        if not graph.check_pruning_group(group):
            return ""
        try:
            group.prune()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    found = _try_shapes(module, example)
    if found == shapes:
        return ""
    return found if isinstance(found, str) else "its channels are the model's outputs"
