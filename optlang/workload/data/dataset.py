"""The user's data, whatever form they have: batches, arrays, examples and a fingerprint."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optlang.diagnostics.suggest import closest
from optlang.interfaces import JSON, Array, Factory, NamedMetric, OptlangError
from optlang.plan.axes import AxisSizes
from optlang.workload import imports
from optlang.workload.data import axes, ragged
from optlang.workload.data.axes import OpenAxis, Shapes
from optlang.workload.data.computed_metrics import computed
from optlang.workload.data.split import Batch, Split
from optlang.workload.data.splits import split_of
from optlang.workload.data.survey import Survey, fitted
from optlang.workload.data.tasks import WITHOUT_LABELS, Own, Task, Unlabeled, task_of
from optlang.workload.data.tensors import Tensors, forward_names, joined, leaves
from optlang.workload.seeds import seeded

_KEYS = ("train", "validation", "test", "calibration", "task", "labels", "fingerprint", "preprocessing", "dynamic")
_SPLITS = _KEYS[:4]
_INITIAL_SEED = 0


class Dataset:
    """A data set with its task. Inputs go by name: those of the model's `forward`, once `bind` has set them.

    Until then one input is called "input", several "input_0", "input_1", …, and a dictionary's keep their keys.
    """

    def __init__(
        self, splits: Mapping[str, Split], task: Task, said: str | None, names: Sequence[str] | None = None,
        preprocessing: JSON = None, dynamic: Sequence[AxisSizes] = (),
    ) -> None:
        self.splits = dict(splits)
        self.task = task
        self.preprocessing = preprocessing
        """What was done to the raw inputs, in the words of the data's factory: the deployer has to do the same."""
        self._said = said
        self._names = tuple(names) if names is not None else None
        self._own = tuple(dynamic)
        self._open = self._own
        self._timed: tuple[AxisSizes, ...] = ()
        self._survey: list[Survey] = []
        self._differ: list[bool] = []

    def bind(self, names: nn.Module | Sequence[str]) -> Dataset:
        """The same data with inputs named as `forward` names them, or as given (an artifact's or a graph's inputs).

        Raises OptlangError where the model takes another number of inputs, or does not know a dictionary's key.
        """
        sample = self._sample[0]
        given, by_name, anything = (
            forward_names(names) if isinstance(names, nn.Module) else (tuple(names), (), False)
        )
        count = len(leaves(sample))
        if isinstance(sample, dict):
            unknown = [key for key in sample if key not in (*given, *by_name)]
            if unknown and not anything and not isinstance(names, nn.Module):
                raise OptlangError(f"the data gives '{unknown[0]}', and the model takes {', '.join(given)}")
            if unknown and not anything:
                near = closest(unknown[0], given)
                raise OptlangError(
                    f"the data gives '{unknown[0]}', and the model's forward takes {', '.join(given) or 'nothing'}",
                    help=f"did you mean '{near}'?" if near else "name the inputs as forward names its arguments",
                )
            chosen: tuple[str, ...] = tuple(sample)
        elif len(given) >= count:
            chosen = given[:count]
        elif anything:
            chosen = self.input_names
        else:
            raise OptlangError(
                f"the data gives {count} input{'s' if count > 1 else ''}, and the model takes {len(given)}",
                help="the inputs are one tensor, a tuple in the order of forward's arguments, or a dictionary by name",
            )
        bound = copy.copy(self)
        bound._names = chosen
        if self._names is not None:
            renamed = dict(zip(self._names, chosen, strict=True))
            bound._own, bound._open, bound._timed = (
                tuple(replace(item, input=renamed.get(item.input, item.input)) for item in items)
                for items in (self._own, self._open, self._timed)
            )
        bound.__dict__.pop("axes", None)
        return bound

    @functools.cached_property
    def _sample(self) -> Batch:
        return self.splits["train"].first(1)[0]

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        if self._names is not None:
            return self._names
        sample = self._sample[0]
        if isinstance(sample, dict):
            return tuple(sample)
        return ("input",) if isinstance(sample, Tensor) else tuple(f"input_{index}" for index in range(len(sample)))

    @functools.cached_property
    def fingerprint(self) -> str:
        """What the data hold, as a hash: the factory's own `fingerprint` where it returned one.

        Raises OptlangError where a Dataset gives other samples each time and says no fingerprint.
        """
        digest = hashlib.sha256(f"{self.task.name} {self.task.identity} {' '.join(self.splits)}".encode())
        if self._said is not None:
            digest.update(f" said {self._said}".encode())
        else:
            for name, split in self.splits.items():
                digest.update(f" {name} {split.content()}".encode())
        if self._own:
            digest.update(f" open {self._own}".encode())
        return digest.hexdigest()

    def has(self, split: str) -> bool:
        """Whether there is such a split."""
        return split in self.splits

    def _split(self, name: str) -> Split:
        if name not in self.splits:
            raise OptlangError(
                f"the data have no '{name}' split", help=f"return it from the data factory under '{name}'"
            )
        return self.splits[name]

    def labeled(self, split: str) -> bool:
        """Whether a split has targets."""
        return self._split(split).labeled

    def size(self, split: str) -> int:
        """The number of samples of a split."""
        return self._split(split).size()

    def _named(self, inputs: Tensors) -> dict[str, Tensor]:
        if isinstance(inputs, dict):
            return inputs
        return dict(zip(self.input_names, leaves(inputs), strict=True))

    def batches(
        self, split: str, batch: int, seed: int | None = None, shuffle: bool = False
    ) -> Iterator[tuple[dict[str, Tensor], Tensors]]:
        """One pass over a split: inputs by name and targets, `batch` samples each (the last may be smaller).

        Without labels the targets are an empty tuple.
        `shuffle` draws the order from `seed` (None: 0). A user's DataLoader keeps its own batch size and order.
        """
        source = self._split(split)
        order = None
        if shuffle and not source.keeps_order:
            generator = torch.Generator().manual_seed(seed or 0)
            order = torch.randperm(source.size(), generator=generator)
        for inputs, targets in source.batches(batch, order, seed or 0):
            yield self._named(inputs), self.task.check_targets(targets, f"the targets of '{split}'")

    def arrays(self, split: str, limit: int | None = None) -> tuple[dict[str, Array], Tensors]:
        """All samples of a split (at most `limit`): inputs by name as arrays, and targets as tensors.

        Inputs whose samples differ in shape are arrays of objects (see `ragged`); targets that do are filled up to the
        largest with the task's padding, positions that do not count.
        """
        return self._together(self._split(split).first(limit if limit is not None else 2**62), split)

    def _together(self, pieces: Sequence[Batch], split: str) -> tuple[dict[str, Array], Tensors]:
        what = f"the targets of '{split}'"
        targets = [self.task.check_targets(item, what) for _, item in pieces]
        _check_together(targets, what)
        return self._columns([inputs for inputs, _ in pieces], split), joined(targets, self.task.padding)

    def _columns(self, pieces: Sequence[Tensors], split: str) -> dict[str, Array]:
        _check_together(pieces, f"the inputs of '{split}'")
        named = [self._named(item) for item in pieces]
        columns = {name: ragged.column([item[name].numpy() for item in named]) for name in named[0]}
        if not self._differ and any(map(ragged.is_ragged, columns.values())):
            # The first samples may have had one shape.
            self._differ.append(True)
            if self._survey and not self._survey[0].observed.varied:
                self._survey.clear()
                self.__dict__.pop("axes", None)
        return columns

    def calibration(self, samples: int, seed: int) -> dict[str, Array]:
        """At most `samples` samples to choose ranges from, drawn with `seed`: of 'calibration', else of 'train'.

        Inputs whose samples differ in shape are arrays of objects (see `ragged`).
        """
        source = self.splits.get("calibration", self.splits["train"])
        generator = torch.Generator().manual_seed(seed)
        count = min(samples, source.size())
        chosen = torch.randperm(source.size(), generator=generator)[:count].sort().values
        return self._columns([inputs for inputs, _ in source.chosen(chosen)], source.name)

    def held_out(self, samples: int, seed: int, drawn: int) -> tuple[dict[str, Array], Tensors]:
        """At most `samples` samples of 'train' with their targets, none of which `calibration(drawn, seed)` gives.

        Drawn with `seed`, in the form of `arrays`. Raises OptlangError where calibration takes all of them.
        """
        source = self._split("train")
        order = torch.randperm(source.size(), generator=torch.Generator().manual_seed(seed))
        left = order if self.has("calibration") else order[drawn:]
        if not len(left):
            raise OptlangError(
                f"all {source.size()} training samples are taken for calibration, and none is left to measure with",
                help="fewer calibration `samples`, or a 'calibration' split from the data factory",
            )
        return self._together(source.chosen(left[:samples].sort().values), "train")

    @functools.cached_property
    def axes(self) -> tuple[OpenAxis, ...]:
        """The axes besides the samples whose sizes differ from sample to sample, or that were declared open."""
        return axes.opened(self._surveyed().observed, self.input_names, self._open, self._timed)

    @property
    def declared(self) -> tuple[AxisSizes, ...]:
        """The axes that are open by declaration, of the data's factory or of a target."""
        return self._open

    def check_own_axes(self) -> None:
        """Raise OptlangError where the data's factory opens an axis that no input has."""
        if self._own:
            axes.check("the data's 'dynamic'", self._own, self._surveyed().observed, self.input_names)

    def opened(self, declared: Sequence[AxisSizes], timed: Sequence[AxisSizes] = ()) -> Dataset:
        """The same data, with axes that are open besides its own, and with sizes that examples have.

        Where both declare sizes of an axis, those given here hold.
        Raises OptlangError for an axis that no input has, and for a size of one that is not open.
        """
        if not declared and not timed:
            return self
        made = copy.copy(self)
        made._open, made._timed = axes.united(declared, self._own), tuple(timed)
        made.__dict__.pop("axes", None)
        axes.opened(self._surveyed().observed, self.input_names, made._open, made._timed)
        return made

    def _surveyed(self) -> Survey:
        # Copies that name the inputs otherwise share what was seen.
        if not self._survey:
            splits = [self.splits[name] for name in ("train", "validation")]
            self._survey.append(Survey.of(splits, differ=bool(self._differ)))
        return self._survey[0]

    def example(self, batch: int, sizes: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """The first samples of 'train', repeated up to `batch`: real inputs for exporting and timing.

        Where samples differ in shape they have that of the sample in the middle, of 'train' and 'validation', or the
        sizes that `opened` says. `sizes` are other ones, by the names of `axes`: samples that have them where there are
        such, else the usual ones, cut or repeated along these axes.
        """
        if self._timed:
            sizes = {item.name: item.usual for item in self.axes} | dict(sizes or {})
        given = self._repeated(batch, self._wanted(sizes or {}))
        for open_axis in self.axes if sizes else ():
            for name, axis in open_axis.places:
                given[name] = fitted(given[name], axis, (sizes or {}).get(open_axis.name, given[name].shape[axis]))
        return given

    def other_example(self, batch: int) -> dict[str, Tensor] | None:
        """As `example`, of the next shape to it: what calls alternate with while they are timed.

        None where all samples have one shape, and where `opened` says the sizes to time with.
        """
        observed = self._surveyed().observed
        if self._timed or not observed.varied:
            return None
        shapes = observed.ordered()
        place = shapes.index(observed.middle)
        return self._repeated(batch, shapes[place + 1 if place + 1 < len(shapes) else place - 1])

    def _repeated(self, batch: int, shapes: Shapes) -> dict[str, Tensor]:
        """The first samples of these shapes, repeated up to `batch`."""
        found = self._named(self._surveyed().samples(batch, shapes))
        return {name: torch.cat([item] * -(-batch // len(item)))[:batch].contiguous() for name, item in found.items()}

    def _wanted(self, sizes: Mapping[str, int]) -> Shapes:
        """The usual shapes with other sizes, in the order of the inputs."""
        shapes = [list(shape) for shape in self._surveyed().observed.middle]
        for item in self.axes if sizes else ():
            for name, axis in item.places:
                shapes[self.input_names.index(name)][axis - 1] = sizes.get(item.name, item.usual)
        return tuple(tuple(shape) for shape in shapes)


def _check_together(pieces: Sequence[Tensors], what: str) -> None:
    """Raise OptlangError where batches have other names, or other numbers of tensors or axes."""
    forms: dict[tuple[str, ...], str] = {}
    for piece in pieces:
        names = tuple(piece) if isinstance(piece, dict) else tuple(map(str, range(len(leaves(piece)))))
        axes_of = [len(item.shape) for item in leaves(piece)]
        shapes = ", ".join(str(list(item.shape[1:])) for item in leaves(piece))
        said = f"{', '.join(names)} of the shapes {shapes}" if isinstance(piece, dict) else f"of the shape {shapes}"
        forms.setdefault((*names, *map(str, axes_of)), said)
    if len(forms) > 1:
        one, other, *_ = forms.values()
        raise OptlangError(
            f"{what} are {one} in some batches and {other} in others",
            help="give all samples the same names and the same number of axes; the sizes of axes may differ",
        )


def _preprocessing(answer: Mapping[str, Any], what: str) -> JSON:
    said: JSON = answer.get("preprocessing")
    try:
        json.dumps(said)
    except (TypeError, ValueError) as error:
        raise OptlangError(
            f"'preprocessing' of {what} is not plain JSON: {error}", help="a text, or a dictionary of texts and numbers"
        ) from error
    return said


def load(factory: Factory, study: Path, metrics: Sequence[NamedMetric] = ()) -> Dataset:
    """The data that `factory` makes: a mapping with 'train' and 'validation', and what else there is.

    Its task has the study's own `metrics` too.

    Raises `UserCodeError` where the factory raises, OptlangError where its answer has the wrong form.
    """
    create = imports.find(factory.calls, study)
    what = f"the data {imports.split(factory.calls)[1]}"
    with seeded(_INITIAL_SEED), imports.user_code(what, study):
        answer = create(**factory.arguments)
    if not isinstance(answer, Mapping):
        raise OptlangError(
            f"{what} returned a {type(answer).__name__}, not a dictionary",
            help='return {"train": (inputs, targets), "validation": (inputs, targets)}',
        )
    for key in answer:
        if key not in _KEYS:
            near = closest(str(key), _KEYS)
            raise OptlangError(
                f"{what} returned '{key}', which is not a key of the data",
                help=f"did you mean '{near}'?" if near else f"the keys are {', '.join(_KEYS)}",
            )
    for key in ("train", "validation"):
        if key not in answer:
            raise OptlangError(
                f"{what} returned no '{key}'",
                help='return {"train": (inputs, targets), "validation": (inputs, targets)}',
            )
    labels = answer.get("labels", True)
    if not isinstance(labels, bool):
        raise OptlangError(
            f"'labels' of {what} is a {type(labels).__name__}", help='"labels": False says that samples have no targets'
        )
    splits = {name: split_of(name, answer[name], study, labels) for name in _SPLITS if answer.get(name) is not None}
    task = _task(answer.get("task"), splits, study).with_metrics(computed(metrics, study))
    said = answer.get("fingerprint")
    loaded = Dataset(
        splits, task, None if said is None else str(said), preprocessing=_preprocessing(answer, what),
        dynamic=axes.of_factory(answer.get("dynamic"), what),
    )
    for name, split in splits.items():
        for targets in split.known_targets():
            task.check_targets(targets, f"the targets of '{name}'")
    return loaded


def _task(said: Any, splits: Mapping[str, Split], study: Path) -> Task:
    """The task that the data say, else classification; without labels one that has no metrics but agreement."""
    if said is None:
        return task_of(None, study) if any(splits[name].labeled for name in ("train", "validation")) else Unlabeled()
    task = task_of(said, study)
    if isinstance(task, Own) and not splits["validation"].labeled:
        raise OptlangError(
            "the task is an object of your own, which compares answers with targets, and 'validation' has none",
            help=f'leave "task" out: {WITHOUT_LABELS}; or return targets: those of an autoencoder are its inputs',
        )
    return task
