"""Cuts copies of a model as often as asked, and leaves alone what cannot be cut rightly.

A search tries hundreds of cuts and keeps one. Those that it counts and compares are drafts; the one that it keeps is
proved, and where that fails the search is made again without the layers that are at fault (`settled`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.prune.fits import Fits, lent
from optlang.techniques.prune.importance import Scale, scoring
from optlang.techniques.prune.kept import chosen_before, kept_layers, kept_units, untied
from optlang.techniques.prune.pruner import Ranked, chosen, following
from optlang.techniques.prune.recurrent_units import recurrent
from optlang.techniques.prune.sparsity import recounted
from optlang.techniques.prune.statistics import recalibrate
from optlang.techniques.shared import coupled, cuts, proof
from optlang.techniques.shared.coupled import Group, drawn
from optlang.techniques.shared.parametrizations import as_module, with_edit
from optlang.techniques.shared.routes import rerouted, tables
from optlang.techniques.shared.symmetry import Symmetry
from optlang.workload.failures import FAILURES, attempt, exhausted
from optlang.workload.imports import UserCodeError
from optlang.workload.model.layers import left_alone, reasons

if TYPE_CHECKING:
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.prune.pruner:replay"
_WEIGHTS = "magnitude and two_four remove single weights, and int8 makes all of them smaller"
_UNITS = "units removes hidden units, with all their gates; int8 makes the model smaller too"

Found = TypeVar("Found")


class Unproved(Exception):  # noqa: N818 - an answer, not an accident
    """A draft is no cut that can be made: layers of it are left alone from now on."""


def settled(search: Callable[[], Found]) -> Found:
    """What `search` finds; it is made again where it comes upon layers that cannot be cut."""
    while True:
        try:
            return search()
        except Unproved:
            continue


@dataclass(frozen=True, slots=True)
class Cut:
    """A smaller copy of a model, what `replay` takes to make another, and how many parameters went."""

    module: nn.Module
    history: list[JSON]
    removed: int
    no_norm: tuple[str, ...]


@contextmanager
def cutting(state: ModelState, settings: Mapping[str, Any], context: Context) -> Iterator[Cutter]:
    """What cuts copies of the state, where the user's own modules can be imported; `Refusal` where it is no module."""
    from optlang.workload import imports

    state = as_module(state, "lose channels", context)
    with imports.at_home(context.study):
        yield Cutter(state, settings, context)


class Cutter:
    """Removes channels from copies of a state's module, as often as asked; their importance is computed once.

    The settings are those of `channels` but the ratio. What cannot be cut rightly is left alone, and `left` says why,
    by the layer: see `coupled`, `symmetry` and `proof`. Used inside `cutting`. Raises `Refusal` where the model cannot
    be followed at all.
    """

    def __init__(self, state: ModelState, settings: Mapping[str, Any], context: Context) -> None:
        from optlang.workload import imports

        self.whole, self._settings, self._context = state, settings, context
        # One sample would hide layers that take the batch for channels.
        data = context.data.bind(state.model)
        self.example, self._samples = data.example(2), data.example(proof.SAMPLES)
        self._kept = kept_layers(state.model, settings)
        with imports.user_code("the model's forward", context.study):
            self._fits = Fits(state.model, self.example)
        self.left: dict[str, str] = {}
        """The layers whose channels stay though they were open to pruning, and why."""
        self._ties = proof.shared(state.model)
        self._doubtful: set[str] = set()
        self._parts: dict[str, int] = {}
        self._routes: dict[str, list[list[int]]] = {}
        self._known: dict[str, str | None] = {}
        self._tried: dict[str, str | None] = {}
        self._scores: dict[str, Tensor] = {}
        self._no_norm: tuple[str, ...] = ()
        self._groups = self._followed()

    def _followed(self) -> list[Group]:
        """The groups of coupled channels that may be cut. Those whose channels cannot be exchanged are doubtful.

        What is doubtful is proved at each cut; where blocks of it can be exchanged (heads, as a rule), as many go from
        each of them.
        """
        from optlang.workload import imports

        module = copy.deepcopy(self.whole.model).eval()
        self._kept |= chosen_before(module)
        score = scoring(self.whole.model, self._settings, self._context)(module)
        # The graph is that of the whole model, whatever is kept.
        with following(), drawn(module, self.example) as graph:
            found, self.left = coupled.groups(graph, self._kept)
            self.left |= kept_units(module, self._settings)
            open_groups = self._open(found)
            for group in open_groups:
                scores = attempt(partial(score, group.found))
                if isinstance(scores, Exception):
                    self.left[group.root] = coupled.reason(scores)
                elif scores is not None:
                    self._scores[group.root] = scores.detach().cpu()
        self._no_norm = tuple(sorted(score.left)) if isinstance(score, Scale) else ()
        with imports.user_code("the model's forward", self._context.study):
            symmetry = Symmetry(module, self.example)
        mixed = set()
        for group in symmetry.asymmetric(open_groups):
            self._doubtful.add(group.root)
            moved = None if group.form in mixed else rerouted(module, group, open_groups, symmetry, self.example)
            if moved is None:
                mixed.add(group.form)
            else:
                open_groups[open_groups.index(group)] = moved
                self._routes |= tables(moved, module)
                continue
            parts = symmetry.parts(group) if group.blocks == 1 else None
            if parts:
                self._parts[group.root] = parts
        return open_groups

    def _open(self, found: Sequence[Group]) -> list[Group]:
        """Those of the groups whose channels may go; `left` has why the others stay."""
        self._kept |= {group.root for group in found if group.answers}
        closed = left_alone((), self._settings["only"], [name for name, _ in self.whole.model.named_modules()])
        open_groups = []
        for group in found:
            why = untied(group, self._ties)
            # Tables follow other layers; where they alone give the channels, `only` has to name one.
            if group.answers or group.channels < 2 or (closed.issuperset(group.giving) and group.tables):
                continue
            if why:
                self.left[group.root] = why
            else:
                open_groups.append(group)
        # In the order of the model, which the graph has from its end.
        return open_groups[::-1]

    def cut(self, ratio: float, ratios: Mapping[str, float] | None = None) -> Cut:
        """The model without `ratio` of its channels; `ratios` are those of layers of their own, by name.

        What breaks the model, or gives other answers than the whole model with these channels at zero, is left alone.
        """
        while True:
            history = self._chosen(ratio, ratios or {})
            cut, found = self._proved(history)
            if cut is not None:
                return cut
            self._leave(found)

    def draft(self, ratio: float, ratios: Mapping[str, float] | None = None) -> Cut:
        """As `cut`, but not proved, and with the whole model's own weights where a layer loses none.

        Raises `Unproved` where it cannot be made.
        """
        return self._drafted(self._chosen(ratio, ratios or {}))

    def measured(self, draft: Cut, measure: Callable[[nn.Module], Found]) -> Found:
        """What `measure` says of a draft; raises `Unproved` where that fails because a layer of it cannot be cut."""
        try:
            return measure(draft.module)
        except (*FAILURES, UserCodeError) as error:
            if not exhausted(error):
                self.proved(draft)
            raise

    def proved(self, draft: Cut) -> Cut:
        """A draft as a cut that was proved; raises `Unproved` where layers of it cannot be cut."""
        cut, found = self._proved(draft.history)
        if cut is None:
            self._leave(found)
            raise Unproved
        return cut

    def _drafted(self, history: list[JSON]) -> Cut:
        module = attempt(lambda: self._cut(lent(self.whole.model).eval(), history))
        if isinstance(module, Exception):
            _, found = self._proved(history)
            if not found:
                raise module
            self._leave(found)
            raise Unproved from module
        return self._made(module, history)

    def _proved(self, history: list[JSON]) -> tuple[Cut | None, dict[str, str]]:
        """The cut of `history`, or the layers of it that cannot be cut and why."""
        found = self._unproved(history)
        if found:
            return None, found
        for really in (False, True) if history else ():
            if self._breaks(history, really):
                return None, self._guilty(history, really) or self._together(history, really)
        return self._made(self._cut(copy.deepcopy(self.whole.model).eval(), history), history), {}

    def _made(self, module: nn.Module, history: list[JSON]) -> Cut:
        removed = counted(self.whole.model)[0] - counted(module)[0]
        return Cut(module, history, max(0, removed) if history else 0, self._no_norm)

    def wider(self, cut: Cut, root: str, multiples: int = 1) -> Cut | None:
        """A draft of `cut` with so many more multiples of `round_to` channels left in one of its groups.

        None where the group is whole with fewer. Raises `Unproved` as `draft` does.
        """
        history = list(cut.history)
        at = next((number for number, item in enumerate(history) if _item(item)[0] == root), None)
        ranked = self._ranked().get(root)
        if at is None or ranked is None:
            return None
        step, gone = ranked.step(int(self._settings["round_to"])), len(_item(history[at])[2]) // ranked.blocks
        if gone <= step * (multiples - 1):
            return None
        least = ranked.least(gone - step * multiples)
        history[at : at + 1] = [[root, True, [*least]]] if least else []
        return self._drafted(history)

    def lost(self, cut: Cut) -> dict[str, float]:
        """The share of its channels that each group of a cut loses, by its root, in the order of the model."""
        sizes = {group.root: group.channels for group in self._groups}
        return {str(root): len(channels) / sizes[str(root)] for root, _, channels in map(_item, cut.history)}

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
        for really in (False, True):
            why = self._breaks([item], really)
            if why is not None:
                return why
        cut = self._cut(copy.deepcopy(self.whole.model).eval(), [item])
        if proof.refuted_group(self.whole.model, cut, group, channels, self._samples) is None:
            return None
        return "the model's code tells its channels apart by their number (it permutes, regroups or takes them apart)"

    def _guilty(self, history: Sequence[JSON], really: bool) -> dict[str, str]:
        """The layers of `history` whose cut breaks the model by itself, and why."""
        why = self._breaks(history, really)
        if why is None:
            return {}
        if len(history) == 1:
            return {str(_item(history[0])[0]): why}
        middle = len(history) // 2
        return self._guilty(history[:middle], really) | self._guilty(history[middle:], really)

    def _together(self, history: Sequence[JSON], really: bool) -> dict[str, str]:
        """The layers whose cuts break the model together with those before them, but not by themselves."""
        right: list[JSON] = []
        found: dict[str, str] = {}
        for item in history:
            why = self._breaks([*right, item], really)
            if why is None:
                right.append(item)
            else:
                found[str(_item(item)[0])] = why
        return found

    def _breaks(self, history: Sequence[JSON], really: bool) -> str | None:
        """Why a model with these cuts does not answer as the whole one does, in the same shapes (see `Fits.broken`)."""
        really = really and not self._fits.numbers  # with its numbers it is asked in any case
        key = json.dumps([really, *history])
        if key not in self._tried:
            self._tried[key] = self._fits.broken(lambda module: self._cut(module, history), really=really)
        return self._tried[key]

    def _cut(self, module: nn.Module, history: Sequence[JSON]) -> nn.Module:
        """`module`, a copy of the whole one, with these cuts, in place."""
        cuts.cut(module, {str(root): [*channels] for root, _, channels in map(_item, history)}, self._groups)
        cuts.tie(module, self._ties)
        return module

    def _arguments(self, history: Sequence[JSON]) -> dict[str, JSON]:
        arguments: dict[str, JSON] = {"history": list(history)}
        if self._ties:
            arguments["ties"] = self._ties
        if self._routes:
            arguments["routes"] = self._routes
        return arguments

    def _chosen(self, ratio: float, ratios: Mapping[str, float]) -> list[JSON]:
        everywhere = self._settings["scope"] == "global"
        return chosen(list(self._ranked().values()), ratio, ratios, int(self._settings["round_to"]), everywhere)

    def _ranked(self) -> dict[str, Ranked]:
        return {
            group.root: Ranked(group, self._scores[group.root], self._parts.get(group.root, group.blocks))
            for group in self._groups if self._may_lose(group) and group.root in self._scores
        }

    def _may_lose(self, group: Group) -> bool:
        return not (self._kept | set(self.left)).intersection(group.losing)

    def groups(self) -> list[str]:
        """The groups of coupled channels that may be cut, each by the layer that names it in `ratios`."""
        return [group.root for group in self._groups if self._may_lose(group)]

    def refusal(self, why: str, instead: str) -> Refusal:
        """That nothing was removed, and why."""
        if self.left and not self.groups():
            layers, all_open = recurrent(self.whole.model), not self._settings["keep"] and not self._settings["only"]
            return Refusal(
                f"nothing was removed: no layer is left whose channels can be. {reasons(self.left)}",
                help=_UNITS if layers else _WEIGHTS,
                depends="model" if all_open and self.left.keys() <= layers.keys() else "settings",
            )
        about = "".join(f"; {name} is left alone: {reason}" for name, reason in list(self.left.items())[:2])
        return Refusal(
            f"nothing was removed: {why}{about}",
            help=f"{instead}, a smaller round_to, fewer layers in keep, or in only all whose channels go together",
        )

    def recalibrated(self, cut: Cut) -> Cut:
        """With the statistics of the norms recomputed, in place, where the settings ask for it."""
        if self._settings["recalibrate"]:
            recalibrate(cut.module, int(self._settings["recalibrate"]), self._context)
        return cut

    def state(self, cut: Cut, **notes: JSON) -> ModelState:
        """The cut model as a state, recalibrated, with what was removed and `notes` noted."""
        from optlang.workload.data.tensors import describe

        module, state = self.recalibrated(cut).module, self.whole
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
        return with_edit(state, module, edit, {**removed, **recounted(state.notes, module), **notes})


def _item(item: JSON) -> Sequence[Any]:
    assert isinstance(item, Sequence)
    return item


def share_removed(state: ModelState, what: str, left: float) -> float:
    """The share of `what` removed since the model was made, where `left` of the state's is there still."""
    earlier = state.notes.get(f"prune.removed_{what}", 0.0)
    assert isinstance(earlier, int | float)
    return 1 - (1 - earlier) * left


def counted(module: nn.Module) -> tuple[int, int]:
    """Parameters, and output channels of convolutions, linear layers and tables of embeddings."""
    from torch import nn

    parameters = sum(item.numel() for item in module.parameters())
    outputs = 0
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            outputs += layer.out_features
        elif isinstance(layer, nn.modules.conv._ConvNd):
            outputs += layer.out_channels
        elif isinstance(layer, nn.Embedding):
            outputs += layer.embedding_dim
    return parameters, outputs
