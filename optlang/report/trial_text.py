"""A trial in words: its steps with what was searched in them, and its runtime."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optlang.plan.model import Dimension, Knob, Plan
from optlang.plan.quantities import digits, in_bytes, in_percent, in_seconds


@dataclass(frozen=True, slots=True)
class Part:
    """A step or a runtime: its name, and the text of each setting that was searched, by the setting's name."""

    name: str
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """Its name and its settings."""
        return " ".join([self.name, *(text for _, text in self.settings)])


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a trial is: its steps in order (None for the baseline, whose are the same in every trial), and a runtime for
    each target."""

    steps: tuple[Part, ...] | None
    runtimes: tuple[Part, ...]

    @property
    def work(self) -> str:
        """The steps: `2 × (channels ratio 30%, finetune lr 0.002), static entropy samples 256`."""
        if self.steps is None:
            return "baseline"
        return ", ".join(repeated([part.text for part in self.steps])) or "as it is"

    @property
    def place(self) -> str:
        """The runtimes: `onnxruntime all`."""
        return ", ".join(part.text for part in self.runtimes if part.name)

    @property
    def text(self) -> str:
        """The steps and the runtimes."""
        return " · ".join(part for part in (self.work, self.place) if part)


def describe(
    plan: Plan, trial: int, point: Mapping[str, Any], runtime: str | None, steps: Sequence[Mapping[str, Any]]
) -> str:
    """Describe a trial: `2 × (channels 30%, finetune lr 0.002), static entropy samples 256 · onnxruntime graph all`.

    `steps` are its steps in order, each with path, technique and settings.
    """
    return recipe(plan, trial, point, runtime, steps).text


def recipe(
    plan: Plan, trial: int, point: Mapping[str, Any], runtime: str | None, steps: Sequence[Mapping[str, Any]]
) -> Recipe:
    """The same in its parts."""
    knobs = {knob.path: knob for knob in plan.knobs}
    # How the baseline was made is the same in every trial.
    done = [_step(step, knobs, point) for step in steps if not str(step["path"]).startswith("baseline.")]
    runtimes = [_runtime(label, knobs, point) for label in (runtime or "").split(", ")]
    return Recipe(None if trial == 0 else tuple(done), tuple(runtimes))


def shortened(recipes: Iterable[Recipe]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Recipes next to each other in few words: a text each, and lines with what they have in common, which is in none.

    The runtime of all but the baseline is said once, as is a setting that is the same wherever its step or runtime is;
    a share that is all that is searched of a step needs no name (`channels 30%`).
    """
    rows = list(recipes)
    others = [row for row in rows if row.steps is not None]
    places = {row.place for row in others}
    alike = _alike([(*(row.steps or ()), *row.runtimes) for row in others])
    lines = []
    together = len(others) > 1 and len(places) == 1 and places != {""}
    if together:
        base = next((row.place for row in rows if row.steps is None), None)
        lines.append(f"Runtime: {places.pop()}" + (f"; of the baseline: {base}" if base else ""))
    said = [part.name for row in others for part in (row.steps or ()) + (() if together else row.runtimes)]
    same = [f"{name} {' '.join(texts.values())}" for name in dict.fromkeys(said) if (texts := alike.get(name))]
    if same:
        lines.append(f"The same wherever used: {', '.join(same)}")
    short = [
        Recipe(
            None if row.steps is None else tuple(_short(part, alike) for part in row.steps),
            () if together else tuple(_short(part, alike) for part in row.runtimes),
        ).text
        for row in rows
    ]
    return tuple(short), tuple(lines)


def _alike(rows: Sequence[Sequence[Part]]) -> dict[str, dict[str, str]]:
    """By the name of a step or runtime its settings that are the same in all of several rows."""
    found: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys(part.name for row in rows for part in row):
        named = [dict(part.settings) for row in rows for part in row if part.name == name]
        if sum(any(part.name == name for part in row) for row in rows) > 1:
            found[name] = {key: text for key, text in named[0].items() if all(one.get(key) == text for one in named)}
    return found


def _short(part: Part, alike: Mapping[str, Mapping[str, str]]) -> Part:
    left = [(key, text) for key, text in part.settings if key not in alike.get(part.name, {})]
    shares = [key for key, text in part.settings if text.endswith("%")]
    return Part(part.name, tuple(
        (key, text.removeprefix("ratio ") if shares == ["ratio"] else text) for key, text in left
    ))


def dependence(notes: Mapping[str, Any]) -> dict[str, str]:
    """How a trial's answers depend on the other samples of a call, by target ("" for the only one); {} if they do not.

    `notes` are the trial's, as `run/batch_dependence.py` writes them.
    """
    return {
        name.rpartition("batch_dependent")[0].rstrip("."): _apart(
            {key.removeprefix(f"{name}."): item for key, item in notes.items() if key.startswith(f"{name}.")}
        )
        for name, value in notes.items()
        if value is True and name.rpartition(".")[2] == "batch_dependent"
    }


def uncounted(notes: Mapping[str, Any]) -> tuple[str, ...]:
    """The operators that a trial's `macs` leave out, by its notes; they are the same on all targets."""
    found = {
        item for name, value in notes.items() if name.endswith("macs.uncounted") and isinstance(value, list)
        for item in value
    }
    return tuple(sorted(map(str, found)))


def left_whole(notes: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The layers that a pruning step left as they were though they were open to it, each with the reason."""
    found: dict[str, str] = {}
    for name, value in notes.items():
        if name.endswith("prune.left") and isinstance(value, Mapping):
            found |= {str(layer): str(why).partition(" (")[0] for layer, why in value.items()}
    return tuple(found.items())


def _apart(seen: Mapping[str, Any]) -> str:
    batch, other, apart = seen.get("batch"), seen.get("other"), seen.get("difference")
    where = f"in calls of {other}" if other != batch else f"with other samples in a call of {batch}"
    by = "other answers are NaN" if apart is None else f"answers are {in_percent(apart)} of their spread apart"
    return (
        f"an answer depends on the other samples of its call ({seen.get('cause')} does that): {where} {by}; "
        f"measured in calls of {batch}"
    )


def _runtime(label: str, knobs: Mapping[str, Knob], point: Mapping[str, Any]) -> Part:
    """A runtime with its settings that were searched; in a study with several targets the target stands before it."""
    target, _, name = label.rpartition(".")
    settings = {
        key: _setting(key, value, knobs.get(path))
        for path, value in point.items()
        if path.endswith(f"{target}.runtime.{name}.{(key := path.rsplit('.', 1)[-1])}")
    }
    return Part(label, tuple(settings.items()))


def _step(step: Mapping[str, Any], knobs: Mapping[str, Knob], point: Mapping[str, Any]) -> Part:
    """The technique, with the settings of it that the search decided; all rounds of a `repeat` share their knobs."""
    name = str(step["technique"] or step["path"]).rsplit(".", 1)[-1]
    settings: Mapping[str, Any] = step.get("settings") or {}
    path = re.sub(r"\[\d+\]", "", str(step["path"]))
    said: dict[str, str] = {}
    for key, value in settings.items():
        if f"{path}.{key}" in point and f"{path}.{key}" in knobs:
            said[key] = _setting(key, value, knobs[f"{path}.{key}"])
        # The arguments of a model that the setting names have paths below the setting's.
        for knob in point:
            if knob.startswith(f"{path}.{key}.") and knob in knobs:
                inside = knob.removeprefix(f"{path}.")
                said[inside] = _setting(inside, point[knob], knobs[knob])
    return Part(name, tuple(said.items()))


def _setting(name: str, value: Any, knob: Knob | None) -> str:
    dimension: Dimension | None = knob.dimension if knob is not None else None
    if isinstance(value, bool) or value is None:
        return f"{name} {'yes' if value else 'no'}"
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return f"{name} {'→'.join(map(str, value))}"
    if dimension == "ratio":
        return f"{name} {round(100 * value, 2):g}%"
    if dimension == "bytes":
        return f"{name} {in_bytes(value)}"
    if dimension == "time":
        return f"{name} {in_seconds(value)}"
    return f"{name} {value if isinstance(value, int) else digits(value, 2)}"


def repeated(words: Sequence[str]) -> list[str]:
    """The words with blocks that come several times in a row written once: a, b, a, b, c is `2 × (a, b)`, c."""
    found: list[str] = []
    at = 0
    while at < len(words):
        best, turns = 1, 1
        for length in range(1, (len(words) - at) // 2 + 1):
            count = 1
            while list(words[at + count * length : at + (count + 1) * length]) == list(words[at : at + length]):
                count += 1
            if count > 1 and count * length > best * turns:
                best, turns = length, count
        block = list(words[at : at + best])
        text = ", ".join(block)
        found.append(text if turns == 1 else f"{turns} × ({text})" if best > 1 else f"{turns} × {text}")
        at += best * turns
    return found
