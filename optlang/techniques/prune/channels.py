"""Removes whole channels with torch-pruning, and does so again on a fresh model. Knows no training and no runtime."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.prune.importance import Scale, Worth, worth
from optlang.techniques.prune.magnitude import recounted
from optlang.techniques.prune.statistics import recalibrate
from optlang.techniques.shared import coupled, proof
from optlang.techniques.shared.baked import baked
from optlang.techniques.shared.coupled import Group, drawn, forward, traceable
from optlang.techniques.shared.failures import FAILURES, attempt, first_line
from optlang.techniques.shared.routes import rerouted, tables
from optlang.techniques.shared.symmetry import Symmetry
from optlang.workload.model.layers import left_alone

if TYPE_CHECKING:
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.prune.channels:replay"
# Keeps 10 * (1 - 0.8) = 1.9999999999999996 from counting as one channel.
_ROUNDING = 1e-9


def channels(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove the channels that matter least, with all that hangs on them (DepGraph: Fang et al., CVPR 2023).

    The model's outputs keep their shapes: layers whose channels reach them are left alone, and so are those that `keep`
    names or `only` does not. `importance` says what a channel is worth (see `worth.worth`); `recalibrate` batches of
    training data set the statistics of batch normalizations anew after the cut (EagleEye: Li et al., ECCV 2020).
    Notes: `prune.removed_parameters` and `prune.removed_channels`, the shares removed since the model was made, and
    `prune.no_norm`, the layers that importance "bn_scale" left alone because they have no norm behind them.
    Raises `Refusal` where nothing would be removed, or a layer cannot be pruned.
    """
    from optlang.workload import imports

    if state.form != "module":
        raise Refusal(f"only a module can lose channels, and the model is in the form {state.form}")
    state = baked(state, context.data, context.study)
    with imports.at_home(context.study):
        cutter = Cutter(state, settings, context)
        cut = cutter.cut(float(settings["ratio"]))
        if not cut.removed:
            raise cutter.refusal(
                f"ratio {settings['ratio']:g} with round_to {settings['round_to']} leaves every layer as it is",
                "a larger ratio",
            )
        return cutter.state(cut)


@dataclass(frozen=True, slots=True)
class Cut:
    """A smaller copy of a model, what `replay` takes to make another, and how many parameters went."""

    module: nn.Module
    history: list[JSON]
    removed: int
    no_norm: tuple[str, ...]


class Cutter:
    """Removes channels from copies of a state's module, as often as asked; what they are worth is found once.

    The settings are those of `channels` but the ratio. What cannot be cut rightly is left alone, and `left` says why,
    by the layer: see `coupled`, `symmetry` and `proof`. Used where the user's own modules can be imported
    (`imports.at_home`). Raises `Refusal` where the model cannot be followed at all.
    """

    def __init__(self, state: ModelState, settings: Mapping[str, Any], context: Context) -> None:
        from optlang.workload import imports

        self._subject, self._settings, self._context = state, settings, context
        # One sample would hide layers that take the batch for channels.
        data = context.data.bind(state.model)
        self.example, self._samples = data.example(2), data.example(proof.SAMPLES)
        self._kept = _kept(state.model, settings)
        _no_recurrent(state.model)
        with imports.user_code("the model's forward", context.study):
            self._shapes = _shapes(copy.deepcopy(state.model).eval(), self.example)
        self._training = proof.trains(state.model, self.example)
        self._score_of = worth(state.model, settings, context)
        self.left: dict[str, str] = {}
        """The layers whose channels stay though they were open to pruning, and why."""
        self._ties = proof.shared(state.model)
        self._doubtful: set[str] = set()
        self._parts: dict[str, int] = {}
        self._routes: dict[str, list[list[int]]] = {}
        self._known: dict[str, str | None] = {}
        self._groups = self._followed()

    def _followed(self) -> list[Group]:
        """The groups of coupled channels that may be cut. Those whose channels cannot be exchanged are doubtful.

        What is doubtful is proved at each cut; where blocks of it can be exchanged (heads, as a rule), as many go from
        each of them.
        """
        from optlang.workload import imports

        module = copy.deepcopy(self._subject.model).eval()
        self._kept |= _chosen_before(module)
        # The graph is that of the whole model, whatever is kept.
        with _following("model"), drawn(module, self.example) as graph, _following("settings"):
            found, self.left = coupled.groups(graph, self._kept)
        self._kept |= {group.root for group in found if group.answers}
        open_groups = []
        for group in found:
            untied = _untied(group, self._ties)
            if group.answers or group.channels < 2:
                continue
            if untied:
                self.left[group.root] = untied
            else:
                open_groups.append(group)
        # In the order of the model, which the graph has from its end.
        open_groups.reverse()
        with imports.user_code("the model's forward", self._context.study):
            symmetry = Symmetry(module, self._samples)
        for group in symmetry.asymmetric(open_groups):
            self._doubtful.add(group.root)
            moved = rerouted(module, group, open_groups, symmetry, self._samples)
            if moved is not None:
                open_groups[open_groups.index(group)] = moved
                self._routes |= tables(moved, module)
                continue
            parts = symmetry.parts(group) if group.blocks == 1 else None
            if parts:
                self._parts[group.root] = parts
        return open_groups

    def cut(self, ratio: float, ratios: Mapping[str, float] | None = None) -> Cut:
        """The model without `ratio` of its channels; `ratios` are those of layers of their own, by name.

        What breaks the model, or gives other answers than the whole model with these channels at zero, is left alone.
        """
        while True:
            try:
                cut = self._once(ratio, ratios)
            except _Broken as error:
                self.left[error.layer] = error.why
                continue
            found = self._unproved(cut.history)
            if not found and cut.history and self._breaks(cut.module):
                found = self._guilty(cut.history) or self._together(cut.history)
            if not found:
                return cut
            self._leave(found)

    def _leave(self, found: Mapping[str, str]) -> None:
        for name, why in found.items():
            # As many of each block was one attempt; the graph's own choice is another.
            if name in self._parts:
                del self._parts[name]
            else:
                self.left[name] = why

    def _unproved(self, history: Sequence[JSON]) -> dict[str, str]:
        """The doubtful layers of `history` whose cut gives other answers than their channels at zero, and why."""
        groups = {group.root: group for group in self._groups}
        found: dict[str, str] = {}
        for item in history:
            root, _, channels = _item(item)
            if root not in self._doubtful:
                continue
            key = json.dumps(item)
            if key not in self._known:
                self._known[key] = self._other(groups[root], channels, item)
            why = self._known[key]
            if why is not None:
                found[root] = why
        return found

    def _other(self, group: Group, channels: Sequence[int], item: JSON) -> str | None:
        whole = self._subject.model
        cut = self._replayed([item])
        why = self._breaks(cut)
        if why is not None or isinstance(cut, str):
            return why
        if proof.refuted_group(whole, cut, group, channels, self._samples) is None:
            return None
        return "the model's code tells its channels apart by their number (it permutes, regroups or takes them apart)"

    def _guilty(self, history: Sequence[JSON]) -> dict[str, str]:
        """The layers of `history` whose cut breaks the model by itself, and why."""
        why = self._breaks(self._replayed(history))
        if why is None:
            return {}
        if len(history) == 1:
            return {str(_item(history[0])[0]): why}
        middle = len(history) // 2
        return self._guilty(history[:middle]) | self._guilty(history[middle:])

    def _together(self, history: Sequence[JSON]) -> dict[str, str]:
        """The layers whose cuts break the model together with those before them, but not by themselves."""
        right: list[JSON] = []
        found: dict[str, str] = {}
        for item in history:
            why = self._breaks(self._replayed([*right, item]))
            if why is None:
                right.append(item)
            else:
                found[str(_item(item)[0])] = why
        return found

    def _replayed(self, history: Sequence[JSON]) -> nn.Module | str:
        """A copy of the model with these cuts, or why there is none."""
        try:
            return replay(copy.deepcopy(self._subject.model).eval(), self._arguments(history), self.example)
        except FAILURES as error:
            return coupled.reason(error)

    def _breaks(self, module: nn.Module | str) -> str | None:
        """Why a cut model does not answer as the whole one does, in the same shapes; None where it does."""
        found = module if isinstance(module, str) else _try_shapes(module, self.example)
        if isinstance(found, str):
            return f"the model's code counts on its channels ({found})"
        if found != self._shapes:
            return "its channels are the model's outputs"
        assert not isinstance(module, str)
        if self._training is not None and proof.trains(module, self.example) != self._training:
            return "in training the model's code takes its channels another way, which is not followed"
        return None

    def _arguments(self, history: Sequence[JSON]) -> dict[str, JSON]:
        arguments: dict[str, JSON] = {"history": list(history)}
        if self._ties:
            arguments["ties"] = self._ties
        if self._routes:
            arguments["routes"] = self._routes
        return arguments

    def _once(self, ratio: float, ratios: Mapping[str, float] | None) -> Cut:
        module = copy.deepcopy(self._subject.model).eval()
        score = self._score_of(module)
        history = _pruned(module, self.example, int(self._settings["round_to"]), ratio, ratios or {}, score,
                          self._kept | set(self.left), self._parts, self._routes, self._settings["scope"] == "global")
        _tie(module, self._ties)
        removed = counted(self._subject.model)[0] - counted(module)[0]
        left = tuple(sorted(score.left)) if isinstance(score, Scale) else ()
        return Cut(module, history, max(0, removed) if history else 0, left)

    def groups(self) -> list[str]:
        """The groups of coupled channels that may be cut, each by the layer that names it in `ratios`."""
        return [group.root for group in self._groups if not set(self.left).intersection((group.root, *group.giving))]

    def refusal(self, why: str, instead: str) -> Refusal:
        """That nothing was removed, and why."""
        if self.left and not self.groups():
            some = [f"{name}: {reason}" for name, reason in list(self.left.items())[:3]]
            more = len(self.left) - len(some)
            return Refusal(
                "nothing was removed: no layer is left whose channels can be. " + "; ".join(some)
                + (f"; and {more} more layers" if more else ""),
                help="magnitude and two_four remove single weights, and int8 makes all of them smaller",
            )
        about = "".join(f"; {name} is left alone: {reason}" for name, reason in list(self.left.items())[:2])
        return Refusal(
            f"nothing was removed: {why}{about}",
            help=f"{instead}, a smaller round_to, fewer layers in keep, or in only all whose channels go together",
        )

    def recalibrated(self, cut: Cut) -> Cut:
        """With the statistics of the norms set anew where the settings ask for it, in place."""
        if self._settings["recalibrate"]:
            recalibrate(cut.module, int(self._settings["recalibrate"]), self._context)
        return cut

    def state(self, cut: Cut, **notes: JSON) -> ModelState:
        """The cut model as a state, recalibrated, with what was removed and `notes` noted."""
        from optlang.workload.data.tensors import describe

        module, state = self.recalibrated(cut).module, self._subject
        edit = Edit(_REPLAY, {**self._arguments(cut.history), "example": describe(self.example)})
        before, after = counted(state.model), counted(module)
        removed: dict[str, JSON] = {
            f"prune.removed_{name}": share_removed(state, name, new / old)
            for name, old, new in zip(("parameters", "channels"), before, after, strict=True)
        }
        if cut.no_norm:
            removed["prune.no_norm"] = list(cut.no_norm)
        if self.left:
            removed["prune.left"] = dict(self.left)
        module.zero_grad(set_to_none=True)
        edits = (*state.edits, edit)
        removed |= recounted(state.notes, module)
        return ModelState("module", module, state.factory, edits, {**state.notes, **removed, **notes})


class _Broken(Exception):  # noqa: N818 - an answer, not an accident
    """torch-pruning failed at the channels of a layer."""

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(layer, why)
        self.layer, self.why = layer, why


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Remove the same channels from `module`, a fresh model of the shape that it had before the pruning."""
    with drawn(module, dict(example)) as graph:
        coupled.route(graph, arguments.get("routes", {}))
        graph.load_pruning_history([list(item) for item in arguments["history"]])
    _tie(module, arguments.get("ties", []))
    return module


def _tie(module: nn.Module, ties: Sequence[Sequence[str]]) -> None:
    """Make one of the parameters that were one before each layer was cut by itself."""
    for first, *others in ties:
        parameter = module.get_parameter(first)
        for name in others:
            holder, _, own = name.rpartition(".")
            setattr(module.get_submodule(holder), own, parameter)


def _untied(group: Group, ties: Sequence[Sequence[str]]) -> str | None:
    """Why weights that layers share keep a group whole: it would cut them in one layer and not alike in the others."""
    for names in ties:
        cuts = {name: {(item.axis, item.places) for item in group.axes if item.tensor == name} for name in names}
        if any(cuts.values()) and len({frozenset(item) for item in cuts.values()}) > 1:
            return f"{' and '.join(names)} are one weight, which it would cut in one of them alone"
    return None


def _item(item: JSON) -> Sequence[Any]:
    assert isinstance(item, Sequence)
    return item


def share_removed(state: ModelState, what: str, left: float) -> float:
    """The share of `what` removed since the model was made, where `left` of the state's is there still."""
    earlier = state.notes.get(f"prune.removed_{what}", 0.0)
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
                help="units removes those, with all their gates; int8 makes the model smaller too", depends="model",
            )


def _shapes(module: nn.Module, example: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    import torch

    from optlang.workload.model.modules import call

    with torch.no_grad():
        return {name: tuple(item.shape) for name, item in call(module, example).items()}


def _try_shapes(module: nn.Module, example: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]] | str:
    """The shapes of the outputs, or why there are none: a forward that counts on its channels fails in any way."""
    found = attempt(lambda: _shapes(module, example))
    return first_line(found) if isinstance(found, Exception) else found


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
def _following(depends: Literal["model", "settings"]) -> Iterator[None]:
    """Around torch-pruning's work on a whole model: what it cannot follow is a `Refusal`."""
    try:
        yield
    except FAILURES as error:
        raise Refusal(
            f"the channels of this model cannot be followed: {coupled.reason(error)}",
            help="magnitude and two_four remove single weights, and int8 makes all of them smaller", depends=depends,
        ) from error


def _pruned(
    module: nn.Module, example: dict[str, Tensor], round_to: int, ratio: float, ratios: Mapping[str, float],
    score: Worth, kept: set[str], parts: Mapping[str, int], routes: Mapping[str, Sequence[Sequence[int]]],
    everywhere: bool,
) -> list[JSON]:
    """Prune `module` in place, apart from the layers in `kept`; the history that `replay` takes.

    `ratios` hold for the groups of the layers that they name, in place of `ratio`; of those in `parts` as many go from
    each of so many blocks; `routes` are for `coupled.route`; `everywhere` ranks across layers. Raises `_Broken` where a
    layer cannot be cut.
    """
    import torch_pruning
    from torch import nn

    ratio -= _ROUNDING
    own = {module.get_submodule(name): item - _ROUNDING for name, item in ratios.items()}

    class Pruner(torch_pruning.pruner.BasePruner):  # type: ignore[misc]
        _looked_at: Any = None

        def _is_atten_group(self, group: Any) -> Any:
            self._looked_at = group  # the one that is rounded next
            return super()._is_atten_group(group)

        def pruned(self) -> None:
            """One step; a group that torch-pruning cannot cut is named."""
            try:
                self.step()
            except FAILURES as error:
                why = coupled.reason(error)
                if self._looked_at is None:  # at a group that it had not made yet
                    broken = coupled.groups(self.DG, kept)[1]
                    if not broken:
                        raise
                    raise _Broken(*next(iter(broken.items()))) from error
                raise _Broken(self.DG._module2name[self._looked_at[0].dep.target.module], why) from error

        def estimate_importance(self, group: Any) -> Any:
            found = super().estimate_importance(group)
            self._looked_at = None
            return found

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

    heads: dict[nn.Module, int] = {
        layer: layer.num_heads for layer in module.modules() if isinstance(layer, nn.MultiheadAttention)
    }
    heads |= {module.get_submodule(name): count for name, count in parts.items()}
    with _following("settings"), traceable(module):
        pruner = Pruner(
            module, example_inputs=example, forward_fn=forward, importance=score, global_pruning=everywhere,
            pruning_ratio=ratio, pruning_ratio_dict=own, round_to=round_to,
            ignored_layers=[layer for name, layer in module.named_modules() if name in kept],
            in_channel_groups={}, out_channel_groups=heads,
        )
        coupled.limit(pruner.DG)
        coupled.route(pruner.DG, routes)
        pruner.pruned()
    history: list[JSON] = [
        [name, bool(outward), [int(index) for index in indices]] for name, outward, indices in pruner.pruning_history()
    ]
    return history


def _chosen_before(module: nn.Module) -> set[str]:
    """The layers whose width was chosen by an earlier step: `heads` chose the inner one of attention."""
    from optlang.techniques.prune.attention import NarrowAttention

    return {
        f"{name}.{own}" if name else own for name, layer in module.named_modules()
        if isinstance(layer, NarrowAttention) for own in ("q_proj", "k_proj", "v_proj")
    }
