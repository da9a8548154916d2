"""What of a sample, a batch or a split is inputs, and what is targets: labels may be absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optlang.interfaces import OptlangError

LABELS = ("labels", "label")
"""What targets are called where samples are dictionaries, as data sets for Transformers have them."""


def parted(item: Any, labels: bool, what: str, form: str) -> tuple[Any, Any]:
    """Inputs and targets of `item`; the targets are None where there are none, or where `labels` says so.

    A pair is (inputs, targets); a dictionary is inputs by name, and its "labels" are the targets; one tensor, or a
    tuple of one, is inputs. Raises OptlangError for anything else: `form` says how it should be.
    """
    if isinstance(item, Mapping):
        named = next((name for name in LABELS if name in item), None)
        inputs = {name: value for name, value in item.items() if name != named}
        return inputs, item[named] if named is not None and labels else None
    if isinstance(item, tuple | list):
        if len(item) == 1:
            return item[0], None
        if len(item) == 2:
            return item[0], item[1] if labels else None
        raise OptlangError(f"{what} is {len(item)} things", help=form)
    if hasattr(item, "shape"):
        return item, None
    raise OptlangError(f"{what} is a {type(item).__name__}", help=form)
