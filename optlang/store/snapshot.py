"""A database file's copy that a reader attaches: made within milliseconds, so that no writer waits for a question."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from optlang.interfaces import OutsideError
from optlang.store import database

if TYPE_CHECKING:
    import duckdb


class Snapshots:
    """Copies of database files in a folder of their own.

    DuckDB has two rules between processes: while one has a file open to write, no other opens it at all; while one
    has it open to read, no other opens it to write. So a question asked of the file itself would hold up a run for as
    long as it takes. The system copies a file's bytes many times faster than SQL copies its rows.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="optlang-sql-", ignore_cleanup_errors=True)

    def attach(self, connection: duckdb.DuckDBPyConnection, db: Path, name: str) -> int:
        """Attach a copy of `db` to read and write; returns the version of its tables, 0 where it is not one of ours.

        HeldError while a writer has the file open. OutsideError: it is no database, or there is no space for the copy.
        """
        database.attach(connection, db, "source")
        try:
            version = database.stored_version(connection, "source")
            if not 0 < version <= len(database.SCRIPTS):
                return version
            copy = Path(self._folder.name) / f"{name}.duckdb"
            _copy(db, copy)
        finally:
            connection.execute("DETACH source")
        database.attach(connection, copy, name, to_write=True)
        return version

    def remove(self) -> None:
        """Remove the files; what has them open reads on where the system allows that, else they go the next time."""
        self._folder.cleanup()


def _copy(db: Path, copy: Path) -> None:
    # A process loses its locks of a file when it closes any descriptor of it: the file itself is copied last.
    for end in (".wal", ""):
        try:
            shutil.copyfile(f"{db}{end}", f"{copy}{end}")
        except FileNotFoundError:
            if not end:
                raise
        except OSError as error:
            raise OutsideError(
                f"cannot copy {db} to {copy.parent}, where its copy is queried: {error.strerror}",
                help="free some space there, or name another folder in the environment variable TMPDIR",
            ) from error
