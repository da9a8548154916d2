"""Folders of a run that other machines have too, where the machines share none: what is missing is brought, what is
kept is sent. On one machine, and in a folder that all machines share, nothing has to be done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Exchange(Protocol):
    """Brings folders from where all of a run is kept, and sends them there."""

    def bring(self, folder: Path) -> bool:
        """Have the folder here as it is there; whether there is one."""

    def send(self, folder: Path) -> None:
        """Have it there as it is here."""

    def drop(self, folder: Path) -> None:
        """Have it there no longer."""


_exchange: Exchange | None = None


def exchange_by(exchange: Exchange | None) -> None:
    """From now on this process has what it lacks brought so; None: it has all."""
    global _exchange
    _exchange = exchange


def bring(folder: Path) -> bool:
    """Have a folder that is not here as another machine has it; whether one does."""
    return _exchange is not None and _exchange.bring(folder)


def send(folder: Path) -> None:
    """Keep a folder where the other machines find it."""
    if _exchange is not None:
        _exchange.send(folder)


def drop(folder: Path) -> None:
    """Keep it there no longer."""
    if _exchange is not None:
        _exchange.drop(folder)
