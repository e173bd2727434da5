"""That each item of a batch has a name of its own, however many there are."""

import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


class UniqueKeys:
    """Holds keys on disk, so that a million take no memory. Use as a context manager."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="agent-pipelines-keys-")
        self._known = sqlite3.connect(Path(self._directory.name) / "keys.db", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1024"):
            self._known.execute(f"PRAGMA {pragma}")
        self._known.execute("CREATE TABLE keys (key TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID")

    def __enter__(self) -> "UniqueKeys":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._known.close()
        self._directory.cleanup()

    def add(self, keys: Sequence[tuple[str, int]]) -> tuple[str, int, int] | None:
        """Take keys with their positions; returns the first that was there before, with both positions."""
        self._known.execute("BEGIN")
        try:
            for key, position in keys:
                taken = self._known.execute("INSERT INTO keys VALUES (?, ?) ON CONFLICT DO NOTHING", (key, position))
                if taken.rowcount == 0:
                    (first,) = self._known.execute("SELECT position FROM keys WHERE key = ?", (key,)).fetchone()
                    return key, first, position
        finally:
            self._known.execute("COMMIT")
        return None
