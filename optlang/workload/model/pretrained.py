"""Loads a user's file of weights into a model: finds the tensors that are the model's, under whatever wrapper's names.

What is not in the file, not in the model or of another shape is an error, or a note where the user has asked for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optlang.diagnostics.suggest import closest
from optlang.interfaces import JSON, OptlangError
from optlang.workload.model import checkpoints, weights
from optlang.workload.model.checkpoints import some

# What torch.compile, FSDP and activation checkpointing put into the names of what they wrap, wherever that stands.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Counts the batches of a training; absent in old files, and of no effect on answers.
_COUNTER = "num_batches_tracked"
_PREFIXES = 3
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Fit:
    """How one set of a file's tensors fits the model, with its names changed in one way.

    `place` is where the set stands in the file, `cut` what its names begin with before the model's, `below` what the
    model's begin with before those of the file. `state` has the tensors under the model's names, `outside` those that
    do not begin with `cut`.
    """

    place: str
    cut: str
    below: str
    state: State
    outside: State
    missing: Sequence[str]
    unexpected: Sequence[str]
    wrong: Sequence[str]
    taken: Sequence[str]

    @property
    def key(self) -> str:
        """The `weights_key` that chooses it; empty where none does."""
        return ".".join(part for part in (self.place, self.cut.removesuffix(".")) if part)

    @property
    def complete(self) -> bool:
        """Whether the model gets all of its tensors from it."""
        return not self.missing and not self.wrong

    @property
    def rank(self) -> tuple[int, int]:
        """The better of two fits has the higher one."""
        return len(self.taken), -len(self.missing) - len(self.unexpected) - len(self.wrong)

    def same(self, other: _Fit) -> bool:
        """Whether both give the model the same weights."""
        return self.taken == other.taken and all(
            self.state[name].dtype == other.state[name].dtype and torch.equal(self.state[name], other.state[name])
            for name in self.taken
        )


def load(module: nn.Module, file: str, study: Path, *, key: str | None = None, strict: bool = True) -> dict[str, JSON]:
    """Load the weights of `file` into `module`, in place; notes on what did not go in as it stands come back.

    `key` names the part of the file that holds them, or what the names in it begin with; without it that is what fits
    the model. Where not `strict`, tensors that the file lacks keep their initial values, and those that the model lacks
    or has in another shape are left out; both are noted. Raises OptlangError where the tensors do not fit, several sets
    of them do, or the file cannot be read.
    """
    path = Path(file) if Path(file).is_absolute() else study / file
    what = f"the weights {file}"
    own = {name: item for name, item in module.state_dict().items() if isinstance(item, Tensor)}
    fits = [
        fit for place, prefix, state in _asked(checkpoints.read(path), key, what)
        for fit in _renamings(place, prefix, _unwrapped(state, own), own)
    ]
    chosen = _chosen(fits, own, what, strict=strict)
    _check(chosen, own, what)
    with torch.no_grad():
        state = {name: chosen.state[name] for name in chosen.taken}
        module.load_state_dict(weights.versioned(state, module), strict=False)
    return _notes(chosen, own)


# ---- the sets of tensors that may be meant, under the model's names


def _asked(states: checkpoints.States, key: str | None, what: str) -> list[tuple[str, str | None, State]]:
    """The sets to choose from, and what their names must begin with where `key` says that."""
    if key is None:
        return [(place, None, state) for place, state in states.items()]
    found: list[tuple[str, str | None, State]] = []
    for place, state in states.items():
        rest = key.removeprefix(place).removeprefix(".") + "."
        if place == key:
            found.append((place, None, state))
        elif (not place or key.startswith(f"{place}.")) and any(name.startswith(rest) for name in state):
            found.append((place, rest, state))
    if not found:
        known = sorted({place for place in states if place} | {
            name.partition(".")[0] for state in states.values() for name in state if "." in name
        })
        near = closest(key, known)
        raise OptlangError(
            f"{what} have no `{key}`", help=f"did you mean `{near}`?" if near else f"they have {some(known)}"
        )
    return found


def _unwrapped(state: State, own: State) -> State:
    """`state` without the names of wrappers, wherever the model has them not."""
    if any(_WRAPPERS.intersection(name.split(".")) for name in own):
        return state
    return {".".join(part for part in name.split(".") if part not in _WRAPPERS): item for name, item in state.items()}


def _renamings(place: str, prefix: str | None, state: State, own: State) -> Iterator[_Fit]:
    """The ways to find the model's names in `state`: as they are, below one of the file's, above one of the model's."""
    if prefix is not None:
        yield _fit(place, prefix, "", state, own)
        return
    yield _fit(place, "", "", state, own)
    for cut in _begins(state, own):
        yield _fit(place, cut, "", state, own)
    for below in _begins(own, state):
        yield _fit(place, "", below, state, own)


def _begins(longer: State, shorter: State) -> list[str]:
    """What most names of `longer` begin with before those of `shorter`."""
    found = Counter(
        name[: index + 1] for name in longer for index, letter in enumerate(name)
        if letter == "." and name[index + 1:] in shorter
    )
    return [prefix for prefix, _ in found.most_common(_PREFIXES)]


def _fit(place: str, cut: str, below: str, state: State, own: State) -> _Fit:
    inside = {below + name.removeprefix(cut): item for name, item in state.items() if name.startswith(cut)}
    outside = {name: item for name, item in state.items() if not name.startswith(cut)}
    inside = weights.renamed(inside, own)
    # Of tensors that share memory a file may hold one name only.
    for names in weights.tied(own):
        present = [name for name in names if name in inside]
        if present:
            inside = {**dict.fromkeys(names, inside[present[0]]), **inside}
    lazy = {name for name, item in own.items() if is_lazy(item)}
    wrong = [name for name in own if name in inside and name not in lazy and own[name].shape != inside[name].shape]
    return _Fit(
        place, cut, below, inside, outside,
        missing=[name for name in own if name not in inside and not name.endswith(_COUNTER)],
        unexpected=[name for name in inside if name not in own],
        wrong=wrong, taken=[name for name in own if name in inside and name not in wrong],
    )


# ---- which of them


def _chosen(fits: Sequence[_Fit], own: State, what: str, *, strict: bool) -> _Fit:
    complete = [fit for fit in fits if fit.complete]
    whole = [fit for fit in complete if not fit.unexpected]
    # Where names of the model stand in the file as they are and once more below a prefix, both may be meant.
    best = max(fits, key=lambda fit: fit.rank)
    found = (complete if whole else []) or [fit for fit in fits if fit.rank == best.rank]
    first = (whole or found)[0]
    others = [fit for fit in found if not fit.same(first)]
    if others and (whole or not strict):
        keys = [fit.key for fit in (first, *others) if fit.key]
        raise OptlangError(
            f"{what} hold {1 + len(others)} sets of tensors that fit the model: "
            + some([f"`{fit.key}`" if fit.key else "the names as they are" for fit in (first, *others)]),
            help=f'choose one: `weights_key = "{keys[0]}"`',
        )
    if whole or (not strict and first.taken):
        return first
    raise OptlangError(f"{what} do not fit the model; {_problems(first, own)}", help=_way_out(first, strict))


def _problems(fit: _Fit, own: State) -> str:
    missing = [f"{name} {_shape(own[name])}" for name in fit.missing]
    unexpected = [f"{name} {_shape(fit.state[name])}" for name in fit.unexpected]
    wrong = [f"{name} ({_shape(fit.state[name])}, the model has {_shape(own[name])})" for name in fit.wrong]
    kinds = {"missing": missing, "not in the model": unexpected, "of another shape": wrong}
    where = f"in `{fit.key}` " if fit.key else ""
    return where + "; ".join(f"{kind}: {some(names)}" for kind, names in kinds.items() if names)


def _shape(item: Tensor) -> str:
    return "without a shape yet" if is_lazy(item) else str(tuple(item.shape))


def _way_out(fit: _Fit, strict: bool) -> str:
    same = "check the factory's arguments against those that the weights were trained with"
    if not strict or not fit.taken:
        return same
    return f"{same}; `weights_strict = false` loads what fits, and lists what does not"


def _check(fit: _Fit, own: State, what: str) -> None:
    """OptlangError for tensors whose values mean something else in the model."""
    for names in weights.tied(own):
        given = [name for name in names if name in fit.taken]
        for name in given[1:]:
            if not torch.equal(fit.state[given[0]], fit.state[name]):
                raise OptlangError(
                    f"{what} hold different tensors for {given[0]} and {name}, which are one tensor in the model",
                    help="leave the two separate in the factory, or take one of them out of the file",
                )
    for name in fit.taken:
        given_type, has = fit.state[name].dtype, own[name].dtype
        if given_type != has and (given_type in _FLOATS) != (has in _FLOATS):
            raise OptlangError(
                f"{what} hold {name} in {_dtype(given_type)}, and the model has it in {_dtype(has)}",
                help="weights of a quantized model are not read: name those that it was quantized from",
            )


def _dtype(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _notes(fit: _Fit, own: State) -> dict[str, JSON]:
    notes: dict[str, JSON] = {}
    if fit.place:
        notes["weights.from"] = fit.place
    if fit.cut or fit.below:
        notes["weights.names"] = f"without {fit.cut}" if fit.cut else f"below {fit.below}"
    kinds = sorted({
        f"{_dtype(fit.state[name].dtype)} to {_dtype(own[name].dtype)}" for name in fit.taken
        if own[name].dtype in _FLOATS and fit.state[name].dtype != own[name].dtype
    })
    if kinds:
        notes["weights.converted"] = ", ".join(kinds)
    kept = [f"{name} {_shape(own[name])}" for name in own if name in fit.missing or name in fit.wrong]
    if kept:
        notes["weights.initial"] = kept
    unused = [f"{name} {_shape(fit.state[name])}" for name in (*fit.unexpected, *fit.wrong)]
    unused += [f"{name} {_shape(item)}" for name, item in fit.outside.items()]
    if unused:
        notes["weights.unused"] = unused
    return notes


def said(notes: Mapping[str, JSON], file: str) -> str | None:
    """What `load` noted, in words; None where the file's tensors went in as they stand."""
    def listed(name: str) -> list[str]:
        found = notes.get(f"weights.{name}", ())
        return [str(item) for item in found] if isinstance(found, list | tuple) else []

    where = [f"from `{notes['weights.from']}`"] if "weights.from" in notes else []
    where += [f"names {notes['weights.names']}"] if "weights.names" in notes else []
    where += [f"{notes['weights.converted']}"] if "weights.converted" in notes else []
    parts = [", ".join(where)] if where else []
    parts += [f"not in the file, so with initial values: {some(listed('initial'))}"] if listed("initial") else []
    parts += [f"not used: {some(listed('unused'))}"] if listed("unused") else []
    return f"the weights {file}: {'; '.join(parts)}" if parts else None
