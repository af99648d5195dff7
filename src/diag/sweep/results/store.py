"""The results file: rows, placement tables and twins' answers of a matrix, in one SQLite file. The only SQL here.

It holds text, JSON and raw bytes and nothing that is executed when it is read. It uses SQLite's rollback journal and
not its write-ahead log: that one needs shared memory, which network file systems do not have, and leaves part of
the results in a second file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diag.errors import DiagError
from diag.values.units import format_seconds

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
APPLICATION = 0x64696167  # "diag", in the file's header
BUSY_SECONDS = 60.0
_USES = 50  # how many uses of a row are remembered
_TABLES = """
CREATE TABLE IF NOT EXISTS cells (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, saved_at REAL NOT NULL,
    row TEXT NOT NULL, extra TEXT NOT NULL, placement BLOB);
CREATE INDEX IF NOT EXISTS cells_by_spec ON cells (spec, number);
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer BLOB NOT NULL);
"""
_PATH_ERRORS = "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM"

# A row as JSON values: the columns of the matrix, and beside them spec, facts, load_key, cell_seconds and tries.
Row = dict[str, Any]
Json = Mapping[str, Any]


class Store:
    """One results file. Every save is one short transaction: when it returns, the row survives a kill.

    Several processes may use the file at once; each waits up to a minute for the others. `must_exist` opens a file
    that is there, for reading only: it need not be writable, and is never changed. Raises DiagError for a file that
    is not diag's, is newer than this diag, or can't be read or written, and says what to do.
    """

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = False) -> None:
        self.path, self.read_only = Path(path), must_exist
        self._check_place()
        with self._named("opened"):
            self._database = self._connect()
            try:
                self._check_ours()
                if not self.read_only:
                    self._create()
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def rows(self) -> dict[str, Row]:
        """Every saved row by its key, oldest first. NaN, None, True and 1 come back as what they were."""
        return {key: json.loads(row) for key, row in self._read("SELECT key, row FROM cells ORDER BY number")}

    def save(
        self, key: str, spec: Json, row: Json, placement: pd.DataFrame | None = None, extra: Json | None = None
    ) -> None:
        """Save a row with its table; one with the same key is replaced, and this one is then the newest."""
        from diag.sweep.results.tables import table_to_bytes

        data = None if placement is None else table_to_bytes(placement)
        insert = "INSERT OR REPLACE INTO cells (key, spec, saved_at, row, extra, placement) VALUES (?, ?, ?, ?, ?, ?)"
        self._write(insert, key, _canonical(spec), time.time(), _json(row), _json(extra or {}), data)

    def find(self, spec: Json) -> str | None:
        """The key of the newest row that was saved or used for exactly this spec."""
        return next(iter(self.keys_of(spec)), None)

    def keys_of(self, spec: Json) -> tuple[str, ...]:
        """The keys of all rows of exactly this spec, the newest first: its files or libraries may have changed."""
        found = self._read("SELECT key FROM cells WHERE spec = ? ORDER BY number DESC", _canonical(spec))
        return tuple(key for (key,) in found)

    def note_use(self, keys: Iterable[str]) -> None:
        """Notes that a run took these rows as they are: they are then the newest, and `times` tells when."""
        newest = "(SELECT max(number) + 1 FROM cells)"
        with self._named("written"), self._transaction():
            for key in keys:
                (text,) = self._database.execute("SELECT extra FROM cells WHERE key = ?", (key,)).fetchone()
                extra = json.loads(text)
                extra["used"] = [*extra.get("used", [])[1 - _USES :], time.time()]
                values = _json(extra), key
                self._database.execute(f"UPDATE cells SET extra = ?, number = {newest} WHERE key = ?", values)

    def times(self, key: str) -> tuple[float, ...]:
        """When a row was saved, and when runs took it as it was, in seconds since the epoch."""
        found = self._read("SELECT saved_at, extra FROM cells WHERE key = ?", key)
        return tuple(time for saved, extra in found for time in (saved, *json.loads(extra).get("used", [])))

    def extra(self, key: str) -> dict[str, Any] | None:
        """What else was saved with a row."""
        return json.loads(self._one("SELECT extra FROM cells WHERE key = ?", key) or "null")

    def placement(self, key: str) -> pd.DataFrame | None:
        """The placement table of a row, None if it has none: same columns, types, tuples and missing values."""
        from diag.sweep.results.tables import table_from_bytes

        data = self._one("SELECT placement FROM cells WHERE key = ?", key)
        return None if data is None else table_from_bytes(data)

    def reference(self, key: str) -> bytes | None:
        """The answer of a twin that was saved under this key."""
        return self._one("SELECT answer FROM answers WHERE key = ?", key)

    def save_reference(self, key: str, answer: bytes) -> None:
        self._write("INSERT OR REPLACE INTO answers (key, answer) VALUES (?, ?)", key, answer)

    def _check_place(self) -> None:
        """What SQLite would only call 'unable to open database file'."""
        folder = self.path.absolute().parent
        if self.path.is_dir():
            raise self._error("is a folder.", "results are one file.", "give a file, for example 'results.sqlite'.")
        if self.read_only and not self.path.exists():
            raise self._error("does not exist.", "", "run diag.matrix(…, results=…) first, or check the path.")
        if not folder.is_dir():
            raise self._error("can't be made.", f"the folder {str(folder)!r} is not there.", "make the folder first.")

    def _connect(self) -> sqlite3.Connection:
        # A reader may have to roll back what a killed writer left half done, which takes write access.
        writable = os.access(self.path, os.W_OK) and os.access(self.path.absolute().parent, os.W_OK)
        mode = "rwc" if not self.read_only else ("rw" if writable else "ro")
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        database = sqlite3.connect(address, BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True)
        if self.read_only:
            database.execute("PRAGMA query_only = ON")
        return database

    def _check_ours(self) -> None:
        asked = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        application, version, tables = (self._database.execute(one).fetchone()[0] for one in asked)
        empty = tables == 0
        if application != APPLICATION and not (empty and application == 0 and not self.read_only):
            why = "it is an SQLite database of another program." if not empty else "it is empty."
            raise self._error("is not a results file of diag.", why, "give another path.")
        if version > SCHEMA:
            why = f"its format is {version}, and this version reads up to {SCHEMA}."
            raise self._error("was written by a newer diag.", why, "upgrade diag, or give another path.")

    def _create(self) -> None:
        """Make the tables if they are not there; writes in any case, so that a place that can't be written shows."""
        self._database.execute("PRAGMA journal_mode = DELETE")
        marks = [f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {SCHEMA}"]
        with self._transaction():
            for statement in [*_TABLES.split(";"), *marks]:
                self._database.execute(statement)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _write(self, statement: str, *values: object) -> None:
        with self._named("written"), self._transaction():
            self._database.execute(statement, values)

    def _read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._named("read"):
            return self._database.execute(statement, values).fetchall()

    def _one(self, statement: str, *values: object) -> Any:
        found = self._read(statement, *values)
        return found[0][0] if found else None

    @contextlib.contextmanager
    def _named(self, done: str) -> Iterator[None]:
        """Say what an error of SQLite means for the results."""
        try:
            yield
        except sqlite3.Error as e:
            raise self._error(f"could not be {done}.", *_meaning(e)) from e

    def _error(self, what: str, why: str, next_step: str) -> DiagError:
        return DiagError(f"The results file {str(self.path)!r} {what}", why=why, next_step=next_step)


def _canonical(spec: Json) -> str:
    """Equal for equal specs, whatever the order of their fields."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"))


def _meaning(error: sqlite3.Error) -> tuple[str, str]:
    """Why, and what to do, for the errors that happen to people."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and name.endswith(("WRITE", "FSYNC", "TRUNCATE"))):
        why = f"the disk is full or has a quota ({error}); what was saved before is intact."
        return why, "make room there, or copy the file to another disk and go on with the copy."
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        why = f"another process has held it for {format_seconds(BUSY_SECONDS)} ({error})."
        return why, "let the other run finish, or give this one a file of its own."
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return f"it is not an SQLite database, or it is damaged ({error}).", "give another path."
    if name.startswith(_PATH_ERRORS):
        why = f"it, or its folder, is not writable ({error})."
        return why, "give a path in a folder of yours, or change the permissions."
    return f"SQLite says {name or type(error).__name__}: {error}.", "try a file on a local disk."


def _json(values: Json) -> str:
    return json.dumps(values, default=_python_number)


def _python_number(value: object) -> int | float | bool:
    """numpy's numbers as Python's; anything else that JSON does not know is refused."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"a row holds numbers, texts, truth values and None, not a {type(value).__name__}.")
