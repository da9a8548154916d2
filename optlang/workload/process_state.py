"""What libraries read from the whole process, changed for the length of a block and restored after it, also on errors.

Builds run in a worker, whose next trial would find what they have left, as would a program that calls a technique
itself. A process of its own would cost each build an import of torch and of the library, 6 seconds and more; where a
library leaves what cannot be restored, as threads, it gets one all the same (see child_process.py).
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

Remark: TypeAlias = "tuple[str] | tuple[str, type[Warning]] | tuple[str, type[Warning], str]"
"""A warning: patterns of its message (and of the module that it names), and its category."""


@contextmanager
def quiet(loggers: Iterable[str] = (), remarks: Iterable[Remark] = (), level: int = logging.ERROR) -> Iterator[None]:
    """Without these warnings, and without what these loggers say below `level`."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(level)
        with warnings.catch_warnings():
            for remark in remarks:
                warnings.filterwarnings("ignore", *remark)
            yield
    finally:
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)


@contextmanager
def attributes(owner: object, **values: object) -> Iterator[None]:
    """With these attributes of a module."""
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name in values:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """With these variables in the environment."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """`tempfile` makes its files in a folder inside `folder`, which goes with all that is left in it."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch, attributes(tempfile, tempdir=scratch):
        yield


@contextmanager
def without_standard_output() -> Iterator[None]:
    """Standard output goes nowhere, by its descriptor: libraries in C++ print past `sys.stdout`."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
