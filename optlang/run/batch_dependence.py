"""Whether a trial's answers depend on the other samples of a call, and the cause: the model, or its artifact.

The artifact's answers to several kinds of calls are compared with those of the torch module it was made of. The result
is stored in the trial's notes, or is the reason why it failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Arrays, ModelState, OptlangError
from optlang.measure import quality
from optlang.measure.answers import LARGER, Answers, difference

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

DEPENDENT = "batch_dependent"
"""The note that says so; what it was seen by stands in further notes that begin with it."""

FEW = 16
"""Samples that a module is called with where its artifact takes one a call, to see whether that makes a difference."""

SHOWN = 0.02
"""A difference up to here is what 16 bits round; a larger one shows where it exceeds twice the artifact's own error."""


class Reference:
    """The answers of the torch module that an artifact was made of, to the first samples of `inputs`."""

    def __init__(self, module: Callable[[], ModelState | None], inputs: Arrays, study: Path) -> None:
        self._module, self._inputs, self._study = module, inputs, study
        self._known: dict[tuple[int, int | None], dict[str, Array] | None] = {}
        self._subject: ModelState | None = None

    def answers(self, batch: int, first: int | None = None) -> dict[str, Array] | None:
        """In calls of `batch` samples, by output name, to the first so many, or all.

        None where there is no such module any more, or it cannot be called so.
        """
        key = (batch, first)
        if key not in self._known:
            self._subject = self._subject or self._module()
            self._known[key] = None if self._subject is None else self._called(self._subject.model, batch, first)
        return self._known[key]

    def _called(self, module: Any, batch: int, first: int | None) -> dict[str, Array] | None:
        import torch

        from optlang.workload import imports
        from optlang.workload.data import ragged
        from optlang.workload.model.call import call

        pieces: list[tuple[Array, dict[str, Array]]] = []
        try:
            for places, arrays in ragged.calls(ragged.taken(self._inputs, slice(first)), batch):
                inputs = {name: torch.from_numpy(item) for name, item in arrays.items()}
                with torch.inference_mode(), imports.user_code("running the model", self._study):
                    found = call(module, inputs)
                values = {
                    name: (item.float() if item.is_floating_point() else item).numpy()[: len(places)]
                    for name, item in found.items()
                }
                pieces.append((places, values))
        except OptlangError:
            # A module in half precision, or one that takes no such batch: it is compared with nothing.
            return None
        return ragged.in_order(pieces)


def check_finite(answers: Answers, reference: Reference, runtime: str) -> None:
    """OptlangError where an answer at the target's batch is NaN or infinity, with the cause where it is known."""
    try:
        quality.check_finite(answers.outputs)
    except OptlangError as error:
        batch = answers.batch
        calls = f"in calls of {batch} sample{'s' if batch > 1 else ''}, the target's `batch`"
        elsewhere = [size for size, other in answers.others.items() if size != batch and _finite(other)]
        module = reference.answers(batch)
        if not elsewhere and module is not None and not _finite(module) and batch != LARGER:
            elsewhere = [LARGER] if _finite(reference.answers(LARGER)) else []
        if elsewhere:
            raise OptlangError(
                f"{error.message} {calls}, and numbers in calls of {max(elsewhere)}: an answer depends on the other "
                "samples of its call",
                help="a normalization over the batch does that: normalize over each sample's own values, or give the "
                f"target the `batch` that the model is called with, such as `batch = {max(elsewhere)}`",
            ) from None
        if module is not None and _finite(module):
            raise OptlangError(
                f"{error.message} {calls}, where the torch module answers with numbers: {runtime} overflows",
                help="a gentler setting or another precision may help",
            ) from None
        raise


def _finite(answers: Arrays | None) -> bool:
    if answers is None:
        return False
    try:
        quality.check_finite(answers)
    except OptlangError:
        return False
    return True


def notes(answers: Answers, reference: Reference) -> dict[str, JSON]:
    """Whether the answers depend on the batch by more than the artifact is off anyway, as notes of the trial.

    Nothing where that is not known: the artifact takes one sample a call, and its module cannot be called with more.
    """
    if not answers.others:
        one, other = (reference.answers(size, FEW) for size in (answers.batch, FEW))
        if one is None or other is None:
            return {}
        return _noted(answers.batch, FEW, difference(one, other), 0.0, "the model")
    if answers.uniform:
        return {DEPENDENT: False}
    size, apart = max(
        ((size, difference(answers.alike, other)) for size, other in answers.others.items()), key=lambda item: item[1]
    )
    if apart <= SHOWN:
        return {DEPENDENT: False}
    here, there = reference.answers(answers.batch), reference.answers(size)
    own, cause = answers.noise, "the artifact"
    if here is not None and there is not None:
        # An artifact that takes a fixed number of samples was called with others of them, not with another number.
        if size == answers.batch or difference(here, there) > SHOWN:
            cause = "the model"
        apart_here, apart_there = (
            _from(module, found) for module, found in ((here, answers.alike), (there, answers.others[size]))
        )
        own = max(own, min(apart_here, apart_there))
    return _noted(answers.batch, size, apart, own, cause)


def _from(module: Arrays, found: Arrays) -> float:
    """How far an artifact's answers are from the module's, in the module's order: some formats rename them."""
    if len(module) != len(found):
        return 0.0
    named = found if set(found) == set(module) else dict(zip(module, found.values(), strict=True))
    if any(module[name][: len(item)].shape != item.shape for name, item in named.items()):
        return 0.0
    return difference(module, named)


def _noted(batch: int, size: int, apart: float, own: float, cause: str) -> dict[str, JSON]:
    if apart <= max(SHOWN, 2 * own):
        return {DEPENDENT: False}
    return {
        DEPENDENT: True, f"{DEPENDENT}.batch": batch, f"{DEPENDENT}.other": size, f"{DEPENDENT}.cause": cause,
        # Where one of them is NaN their distance is unknown.
        f"{DEPENDENT}.difference": apart if math.isfinite(apart) else None, f"{DEPENDENT}.own": own,
    }


def depends(noted: Mapping[str, JSON]) -> bool:
    """Whether the notes of a trial say that its answers depend on the batch, on any of its targets."""
    return any(value is True for name, value in noted.items() if name == DEPENDENT or name.endswith(f".{DEPENDENT}"))
