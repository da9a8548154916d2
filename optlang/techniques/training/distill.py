"""Distillation: a smaller model learns to answer as a larger one does."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from optlang.interfaces import JSON, Context, Factory, ModelState, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.recurrent_units import recurrent
from optlang.techniques.prune.units import units
from optlang.techniques.shared import masks
from optlang.techniques.shared.labels import apart
from optlang.techniques.training.hint_losses import Watch, attention_loss, matched
from optlang.techniques.training.train import task_loss
from optlang.techniques.training.trainer import Loss, fit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.workload.data.tasks import Task
    from optlang.workload.data.tensors import Tensors

# How channels and hidden units leave where only a width is asked for: what their techniques do if nothing else is said.
_SLIMMER = {
    "importance": "l2", "scope": "layer", "round_to": 4, "keep": (), "only": (), "recalibrate": 0, "samples": 256,
}


def distill(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Train a student on the teacher's answers and the targets (Hinton, Vinyals and Dean, 2015).

    The student is `student`, else the state with the share `width` of the hidden units of its recurrent layers and of
    its channels (removed as `units` and `channels` do, and recorded as their edits). The teachers are `teacher` and
    `teachers`, else the baseline; of several the mean answer is learned (see `ensemble`). The loss is (1 - `alpha`) of
    the task's own and `alpha` of the soft one (see `labels.apart`), plus `hint` times the mean squared error between
    the last layers before the answer, through a learned linear map where their widths differ (FitNets: Romero et al.,
    2015), and `attention` times the distance of the attention maps of convolutions (Zagoruyko and Komodakis, 2017).

    Without labels there is no loss of the task, and `alpha` is the weight of the soft one as it stands.

    The declared temperature of 4 is that of RepDistiller (Tian et al., ICLR 2020). The note `distill.parameters` is the
    student's parameters as a share of all teachers'.

    Raises `Refusal` where nothing would be learned from the teacher, where the answers of the two have other shapes,
    where layers are to be compared with those of several teachers, where no channel and no hidden unit can be removed,
    where there is no layer for `hint` or `attention`, or where `fit` does.
    """
    from optlang.workload.model.call import settled

    if state.form != "module":
        raise Refusal(f"only a module can be trained, and the model is in the form {state.form}")
    if not (settings["alpha"] or settings["hint"] or settings["attention"]):
        raise Refusal(
            "alpha, hint and attention are all 0: nothing is learned from the teacher",
            help="set one of them, or use finetune",
        )
    task = context.data.task
    own_loss = _own_loss(settings, context)
    # The baseline may be the state itself, and its layers are watched.
    teachers = [copy.deepcopy(item).to(context.device).eval() for item in _teachers(settings, context)]
    if len(teachers) > 1 and (settings["hint"] or settings["attention"]):
        raise Refusal(
            f"hint and attention compare layers with one teacher's, and there are {len(teachers)}",
            help="leave both at 0, or give one teacher",
        )
    student = _student(state, settings, context)
    module: nn.Module = copy.deepcopy(student.model).to(context.device)
    held = masks.ZeroMasks(module, masks.masked(student.notes))
    if settings["start"] == "fresh":
        _redraw(module, student, context)
        held.reapply()
    lesson = _Lesson(module, teachers, own_loss, task, settings, context)
    try:
        data = context.data.bind(module)
        fit(module, data, lesson.loss, settings, context, after_step=held.reapply, also=lesson.parameters)
    finally:
        lesson.close()
    share = _count(module) / sum(map(_count, teachers))
    notes = {**student.notes, "distill.parameters": share}
    return ModelState("module", settled(module.cpu()), student.factory, student.edits, notes)


def _own_loss(settings: Mapping[str, Any], context: Context) -> Loss | None:
    """The task's loss; None where there are no labels: the student learns from its teacher alone."""
    smoothing = float(settings["label_smoothing"])
    if context.data.labeled("train"):
        return task_loss(context.data.task, smoothing)
    if smoothing:
        raise Refusal("label_smoothing is for labels, and 'train' has none", help="leave label_smoothing at 0 %")
    return None


def ensemble(task: Task, several: Sequence[Mapping[str, Tensor]], t: float) -> Mapping[str, Tensor]:
    """The mean answer of several teachers, their answers of equal shapes and names.

    With labels it has the mean of their probabilities at the temperature `t` as its own ones there (Hinton, Vinyals and
    Dean, 2015); what are no labels is the mean of the numbers.
    """
    import torch

    from optlang.workload.data import tasks

    if len(several) == 1:
        return several[0]
    stacked = {name: torch.stack([item[name] for item in several]) for name in several[0]}
    mean = {name: item.mean(dim=0) if item.is_floating_point() else item[0] for name, item in stacked.items()}
    axis = task.axis(several[0]) if isinstance(task, tasks.Classification | tasks.Unlabeled) else None
    if axis is not None:
        name = "logits" if "logits" in stacked else next(iter(stacked))
        axis += 1  # the first axis is the teachers'
        mean[name] = t * ((stacked[name] / t).log_softmax(dim=axis).logsumexp(dim=0) - math.log(len(several)))
    return mean


def _teachers(settings: Mapping[str, Any], context: Context) -> list[nn.Module]:
    from optlang.workload.model.make import initial

    given = [item for item in (settings["teacher"], *(settings["teachers"] or ())) if item is not None]
    if given:
        return [initial(Factory(**item), context.study, context.data.example(1)).model for item in given]
    assert context.baseline is not None, "`distill` declares that it needs the baseline"
    baseline = context.baseline()
    if baseline.form != "module":
        raise Refusal(
            f"the teacher is the baseline, which is in the form {baseline.form} after its steps",
            help="a baseline whose steps end in a module, or a teacher of its own",
        )
    return [baseline.model]


def _count(module: nn.Module) -> int:
    from optlang.workload.model.parametrizations import plain_copy

    return sum(item.numel() for item in plain_copy(module).parameters())


def _student(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    from optlang.workload.model.make import initial

    if settings["student"] is not None:
        return initial(Factory(**settings["student"]), context.study, context.data.example(1))
    width = float(settings["width"])
    if width == 1:
        return state
    return _slimmer(state, width, context)


def _slimmer(state: ModelState, width: float, context: Context) -> ModelState:
    """The state with the share `width` of its hidden units and channels; what cannot be cut stays, and is noted."""
    settings = {**_SLIMMER, "ratio": 1 - width}
    layers = list(recurrent(state.model))
    found, refusals, left = state, list[Refusal](), dict[str, JSON]()
    for technique, kept in ((units, ()), (channels, layers)) if layers else ((channels, ()),):
        try:
            found = technique(found, {**settings, "keep": tuple(filter(None, kept))}, context)
            left |= cast("Mapping[str, JSON]", found.notes.get("prune.left", {}))
        except Refusal as error:
            refusals.append(error)
    if found is state:
        reasons = dict.fromkeys(item.message for item in refusals)
        raise Refusal(
            f"the model has no slimmer copy of width {width:g}: {'; '.join(reasons)}",
            help="another width, a student of your own, or width = 100 % to train the model as it stands",
        ) from refusals[0]
    if refusals:
        whole = ["other layers"] if "prune.removed_units" in found.notes else layers
        left |= dict.fromkeys(whole, refusals[0].message)
    return replace(found, notes={**found.notes, "prune.left": left}) if left else found


def _redraw(module: nn.Module, student: ModelState, context: Context) -> None:
    """Draw new weights, layer by layer; what no layer draws starts as the model's factory makes it."""
    import torch
    from torch.nn.utils import parametrize

    from optlang.workload.model.make import rebuild
    from optlang.workload.seeds import seeded

    initial = dict(rebuild(student.factory, student.edits, context.study).named_parameters())
    frozen = [(item, item.detach().clone()) for item in module.parameters() if not item.requires_grad]
    with seeded(context.seed), torch.no_grad():
        for prefix, layer in module.named_modules():
            if parametrize.is_parametrized(layer):
                raise Refusal(f"{prefix} has parametrized weights, which cannot be drawn again", help="start = kept")
            draw = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            own = dict(layer.named_parameters(recurse=False))
            if callable(draw):
                draw()
                continue
            for name, item in own.items():
                item.copy_(initial[f"{prefix}.{name}" if prefix else name])
        for item, kept in frozen:
            item.copy_(kept)


class _Lesson:
    """The loss of a student: holds the teachers, watches the layers of both, and owns the map between their widths."""

    def __init__(
        self, module: nn.Module, teachers: Sequence[nn.Module], own_loss: Loss | None, task: Task,
        settings: Mapping[str, Any], context: Context,
    ) -> None:
        self._teachers, self._own_loss, self._task, self._context = teachers, own_loss, task, context
        self._alpha, self._temperature = float(settings["alpha"]), float(settings["temperature"])
        self._hint, self._attention = float(settings["hint"]), float(settings["attention"])
        self._names = [context.data.bind(teacher).input_names for teacher in teachers]
        watched = bool(self._hint or self._attention)
        self._ours, self._theirs = (Watch(item) if watched else None for item in (module, teachers[0]))
        self._map: nn.Linear | None = None
        try:
            self._look(module)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave student and teacher as they were."""
        for watch in (self._ours, self._theirs):
            if watch is not None:
                watch.close()

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What the loss itself learns."""
        return [] if self._map is None else list(self._map.parameters())

    def _look(self, module: nn.Module) -> None:
        """Run both once on real inputs, and refuse what cannot be compared."""
        import torch

        from optlang.workload.imports import user_code
        from optlang.workload.model.call import call
        from optlang.workload.seeds import seeded

        inputs = {
            name: item.to(self._context.device) for name, item in self._context.data.bind(module).example(8).items()
        }
        with torch.no_grad(), user_code("the model's forward", self._context.study):
            answers = call(module.eval(), inputs)
        several = self._each(inputs)
        ours, *others = ({name: tuple(item.shape) for name, item in found.items()} for found in (answers, *several))
        for theirs in others:
            if ours != theirs:
                raise Refusal(f"the student answers with {_said(ours)} and the teacher with {_said(theirs)}")
        wanted = ensemble(self._task, several, self._temperature)
        if not any(item.is_floating_point() for item in wanted.values()):
            raise Refusal("the teacher's answers are whole numbers, which nothing can be learned from")
        if all(torch.equal(answers[name].to(item), item) for name, item in wanted.items()):
            raise Refusal(
                "the student answers just as the teacher does: there is nothing to learn",
                help="a smaller width, a step before this one that changes the model, or start = fresh",
            )
        if self._ours is None or self._theirs is None:
            return
        if self._attention:
            self._pairs = matched(self._ours, self._theirs)
        if self._hint:
            self._hidden = self._ours.hidden("student"), self._theirs.hidden("teacher")
            mine, other = (
                watch.channels_last(name) for watch, name in zip((self._ours, self._theirs), self._hidden, strict=True)
            )
            if mine.shape[:-1] != other.shape[:-1]:
                raise Refusal(
                    f"hint compares {self._hidden[0]} of the student, which gives {tuple(mine.shape[1:])}, with "
                    f"{self._hidden[1]} of the teacher, which gives {tuple(other.shape[1:])} (channels last)",
                    help="leave hint at 0: only the number of channels may differ",
                )
            if mine.shape[-1] != other.shape[-1]:
                with seeded(self._context.seed):
                    self._map = torch.nn.Linear(mine.shape[-1], other.shape[-1]).to(mine.device)

    def _each(self, inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The outputs of each teacher for the student's inputs."""
        import torch

        from optlang.workload.imports import user_code
        from optlang.workload.model.call import call

        with torch.no_grad(), user_code("the teacher's forward", self._context.study):
            several = [
                call(teacher, dict(zip(names, inputs.values(), strict=True)))
                for teacher, names in zip(self._teachers, self._names, strict=True)
            ]
        return [
            {name: item.float() if item.is_floating_point() else item for name, item in found.items()}
            for found in several
        ]

    def loss(self, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor], targets: Tensors) -> Tensor:
        """The loss of a batch whose `outputs` the student has just given."""
        import torch
        import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it

        with torch.no_grad():
            wanted = ensemble(self._task, self._each(inputs), self._temperature)
        total = torch.zeros((), device=next(iter(wanted.values())).device)
        if self._own_loss is not None:
            total = total + (1 - self._alpha) * self._own_loss(outputs, inputs, targets)
        if self._alpha:
            total = total + self._alpha * apart(self._task, outputs, wanted, targets, self._temperature)
        if self._ours is not None and self._theirs is not None:
            if self._hint:
                mine = self._ours.channels_last(self._hidden[0])
                mine = mine if self._map is None else self._map(mine)
                total = total + self._hint * F.mse_loss(mine, self._theirs.channels_last(self._hidden[1]))
            if self._attention:
                total = total + self._attention * attention_loss(self._ours.found, self._theirs.found, self._pairs)
        return total


def _said(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {tuple(shape[1:])}" for name, shape in shapes.items())
