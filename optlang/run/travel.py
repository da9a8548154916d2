"""What a job needs to be carried out on another machine: other paths in it, and folders as one piece of bytes."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from optlang.run import partial

T = TypeVar("T")


def moved(value: T, roots: Sequence[tuple[Path, Path]]) -> T:
    """The value with each path below the first folder of a pair below the second instead; the first pair that fits.

    Looks into dataclasses, mappings, lists and tuples.
    """
    given: Any = value
    changed: Any = value
    if isinstance(value, Path):
        for old, new in roots:
            if value.is_relative_to(old):
                return new / value.relative_to(old)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {item.name: getattr(value, item.name) for item in fields(value) if item.init}
        other = {name: new for name, old in parts.items() if (new := moved(old, roots)) is not old}
        changed = replace(value, **other) if other else value
    elif isinstance(value, Mapping):
        values = {name: moved(item, roots) for name, item in value.items()}
        changed = values if any(values[name] is not item for name, item in value.items()) else value
    elif type(value) in (list, tuple):
        items = [moved(item, roots) for item in given]
        same = all(new is old for new, old in zip(items, given, strict=True))
        changed = value if same else type(given)(items)
    found: T = changed
    return found


def within(kind: type[T], value: Any) -> Iterator[T]:
    """All of this kind in a value: see `moved` for where they are looked for."""
    if isinstance(value, kind):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from within(kind, getattr(value, item.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from within(kind, item)
    elif type(value) in (list, tuple):
        for item in value:
            yield from within(kind, item)


def packed(folder: Path) -> bytes:
    """A folder with all that is in it, but what is still being written."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname=".", filter=lambda item: None if item.name.endswith(partial.PARTIAL) else item)
    return buffer.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """Have the folder as it was packed: it appears as a whole; where it is there, each file is replaced as a whole."""
    aside = partial.aside(folder.parent)
    aside.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(aside, filter="data")
        try:
            aside.rename(folder)
        except OSError:
            for path in sorted(aside.rglob("*")):
                place = folder / path.relative_to(aside)
                if path.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                else:
                    path.replace(place)
        # It is new here: what was used last is removed last.
        os.utime(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
