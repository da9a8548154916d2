"""Names of what is being written or removed, next to where it will be or was: nobody takes it for whole."""

from __future__ import annotations

import uuid
from pathlib import Path

PARTIAL = ".partial"
"""What the name of such a folder or file ends with."""


def aside(folder: Path) -> Path:
    """A path in the folder under which nothing is yet."""
    return folder / f".{uuid.uuid4().hex}{PARTIAL}"
